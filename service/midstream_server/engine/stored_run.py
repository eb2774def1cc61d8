"""Runs as the store tells them: ended ones, those of other processes, and those whose process died."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from midstream_server.accumulator import MessageAccumulator
from midstream_server.clock import Clock
from midstream_server.codec import decode_event, decode_run, decode_usage, encode_event, encode_run, read_deltas
from midstream_server.errors import OwnerLost, RunExpired, RunNotFound
from midstream_server.model import (
    CancelIntent,
    CancelReport,
    Instant,
    Run,
    RunFinished,
    RunKey,
    RunState,
    TokenCount,
    Usage,
    UsageSource,
)
from midstream_server.stores.base import RecordPhase, RunRecord, RunStore, Seal, frame, unframe

REMEMBER_SECONDS = 24 * 3600.0
"""How long the id of a run whose content was deleted stays taken."""
_PAGE_BYTES = 1024 * 1024
_ORPHANS_PER_PAGE = 100
CONTENT_GRACE_SECONDS = 60.0
"""How long the content of a run with `retention = 0s` stays readable after its end."""

_log = structlog.get_logger(__name__)


async def known_record(store: RunStore, key: RunKey, now: Instant) -> RunRecord:
    """The record of a run that can be read now.

    Raises:
        RunNotFound: there is none.
        RunExpired: its content was deleted.
    """
    record = await store.get(key)
    if record is None:
        raise RunNotFound
    if record.phase is RecordPhase.EXPIRED or is_due(record, now):
        raise RunExpired
    return record


def is_due(record: RunRecord | None, now: Instant) -> bool:
    """Whether a run's time has come, though the expiry in the background has not got to it."""
    if record is None or record.phase is not RecordPhase.SEALED or record.expire_time is None:
        return False
    return record.expire_time <= now


async def expire_if_due(store: RunStore, record: RunRecord | None, now: Instant) -> bool:
    """Deletes the content of a run whose time has come, for whoever asks before the expiry in the background does."""
    if record is None or record.expire_time is None or not is_due(record, now):
        return False
    await store.delete(record.key, now, record.expire_time + round(REMEMBER_SECONDS * 1e9))
    return True


async def read_run(store: RunStore, record: RunRecord) -> Run:
    """The run with its message, from its last entry or, while it is live, from its log."""
    if record.phase is RecordPhase.SEALED:
        entry = await store.read_finished(record.key)
        if entry is None:
            raise RunExpired
        finished = decode_event(entry).payload
        assert isinstance(finished, RunFinished), "the last entry of a sealed run is RunFinished"
        return _settled(finished.run, record)
    message = await _fold_log(store, record)
    return replace(
        summary_run(record),
        message=message.message(),
        last_sequence=record.last_sequence,
        usage=_estimated(message.output_bytes),
    )


def summary_run(record: RunRecord) -> Run:
    """The run without its message."""
    run = _settled(decode_run(record.summary), record)
    if record.phase is not RecordPhase.LIVE:
        return run
    intent = record.intent
    return replace(
        run,
        state=RunState.STOPPING if intent else record.state,
        cancel_reason=intent.reason if intent else None,
        cancel=_report(intent),
        start_time=record.start_time,
        last_sequence=record.last_sequence,
    )


async def seal_orphans(store: RunStore, owner: str, clock: Clock) -> int:
    """Ends the runs whose process died: CANCELLED if they were to stop, else FAILED (OWNER_LOST). How many."""
    sealed = 0
    while keys := await store.orphans(owner, _ORPHANS_PER_PAGE):
        for key in keys:
            sealed += await seal_orphan(store, key, owner, clock)
    if sealed:
        _log.info("runs.recovered", count=sealed)
    return sealed


async def seal_orphan(
    store: RunStore,
    key: RunKey,
    owner: str,
    clock: Clock,
    on_sealed: Callable[[RunRecord, Sequence[bytes]], None] | None = None,
) -> int:
    """Ends a run that nobody drives, from its log. How many that were: 0 if it had ended, or found another owner.

    `on_sealed` is told of its record and its whole log.
    """
    seen = await store.get(key)
    if seen is None or seen.phase is not RecordPhase.LIVE:
        return 0
    record = await store.take_over(key, owner, seen.epoch)
    while record is not None:
        entries: list[bytes] = []
        command = await _seal_from_log(store, record, clock, entries)
        result = await store.seal(command)
        if result.accepted:
            if on_sealed is not None and result.record is not None:
                on_sealed(result.record, [*entries, *unframe(command.entries)])
            return 1
        # An intent that came meanwhile decides; it is the only thing that a live run of this epoch can have got.
        later = result.record
        is_ours = later is not None and later.phase is RecordPhase.LIVE and later.epoch == record.epoch
        record = later if is_ours else None
    return 0


async def _seal_from_log(store: RunStore, record: RunRecord, clock: Clock, entries: list[bytes]) -> Seal:
    run = await _ended_from_log(store, record, clock, entries)
    assert run.end_time is not None, "an ended run has its times"
    assert run.expire_time is not None, "an ended run has its times"
    return Seal(
        key=record.key,
        epoch=record.epoch,
        expected_last_sequence=record.last_sequence,
        last_sequence=run.last_sequence,
        entries=frame([encode_event(run.last_sequence, RunFinished(run=run))]),
        state=run.state,
        intent=record.intent,
        end_time=run.end_time,
        start_time=record.start_time,
        expire_time=run.expire_time,
        summary=encode_run(replace(run, message=None)),
        from_log=True,
    )


async def _ended_from_log(store: RunStore, record: RunRecord, clock: Clock, entries: list[bytes]) -> Run:
    message = await _fold_log(store, record, entries)
    intent, end_time = record.intent, max(clock.now(), record.create_time)
    return replace(
        decode_run(record.summary),
        state=RunState.CANCELLED if intent else RunState.FAILED,
        cancel_reason=intent.reason if intent else None,
        cancel=_report(intent),
        superseded_by_run_id=intent.superseded_by_run_id if intent else "",
        error=None if intent else OwnerLost().to_run_error(),
        message=message.final_message(None),
        usage=_estimated(message.output_bytes),
        last_sequence=record.last_sequence + 1,
        start_time=record.start_time,
        end_time=end_time,
        expire_time=expire_time(end_time, record.retention_seconds),
    )


async def _fold_log(store: RunStore, record: RunRecord, entries: list[bytes] | None = None) -> MessageAccumulator:
    """The message of a log; with `entries`, they are added to these."""
    accumulator = MessageAccumulator()
    sequence = 0
    while sequence < record.last_sequence:
        page = await store.read_log(record.key, sequence, _PAGE_BYTES)
        if not page.entries:
            break
        # The log may have grown since the record was read: what it does not cover is for those who read on.
        wanted = page.entries[: record.last_sequence - sequence]
        for delta in read_deltas(wanted):
            accumulator.add(delta)
        if entries is not None:
            entries += wanted
        sequence += len(page.entries)
    return accumulator


def expire_time(end_time: int, retention_seconds: float) -> int:
    """When the content of a run is deleted."""
    return end_time + round((retention_seconds or CONTENT_GRACE_SECONDS) * 1e9)


def _settled(run: Run, record: RunRecord) -> Run:
    return replace(run, settlement=decode_usage(record.settlement)) if record.settlement else run


def _report(intent: CancelIntent | None) -> CancelReport | None:
    if intent is None:
        return None
    return CancelReport(requested_by=intent.requested_by, reason=intent.text, request_time=intent.request_time)


def _estimated(output_bytes: int) -> Usage | None:
    if not output_bytes:
        return None
    return Usage(output=TokenCount(value=-(-output_bytes // 4), source=UsageSource.ESTIMATED))
