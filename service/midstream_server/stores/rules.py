"""What each conditional write does to a record: pure, for the stores that decide in this process.

A function takes the record as it is (None: unknown) and returns it as it shall be. The very same object back means that
nothing changes. `last_sequence` of the given record is that of the log.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from midstream_server.model import CancelIntent, CancelReason, DetachAction, DetachPolicy, Instant, RunState
from midstream_server.stores.base import (
    Append,
    EarlyCancel,
    IntentOutcome,
    IntentResult,
    ListQuery,
    RecordIntent,
    RecordPhase,
    RunRecord,
    Seal,
    SealResult,
    StartOutcome,
    StartResult,
    StartRun,
)

NO_EPOCH = 0
"""Of an early cancel: nobody has ever owned it."""

Change = Callable[[RunRecord], RunRecord | None]
"""What an operation makes of a known record. None: the operation does not apply."""

_NANOSECONDS = 1_000_000_000


def after_seconds(instant: Instant, seconds: float) -> Instant:
    """The instant so much later."""
    return instant + round(seconds * _NANOSECONDS)


# --- Start and claims ------------------------------------------------------------------------------------------------


def start(record: RunRecord | None, command: StartRun) -> StartResult:
    """Creates the run, or says what is there instead."""
    if record is None:
        return StartResult(outcome=StartOutcome.CREATED, record=_created(command))
    if record.phase is RecordPhase.EXPIRED:
        return StartResult(outcome=StartOutcome.EXPIRED, record=record)
    if not record.fingerprint:
        return StartResult(outcome=StartOutcome.ENDED, record=replace(record, fingerprint=command.fingerprint))
    if record.fingerprint != command.fingerprint:
        return StartResult(outcome=StartOutcome.CONFLICT, record=record)
    if record.phase is RecordPhase.SEALED:
        return StartResult(outcome=StartOutcome.ENDED, record=record)
    return StartResult(outcome=StartOutcome.ATTACHED, record=claim(record, command.claim_id, command.owner))


def _created(command: StartRun) -> RunRecord:
    return RunRecord(
        key=command.key,
        phase=RecordPhase.LIVE,
        state=command.state,
        fingerprint=command.fingerprint,
        epoch=command.epoch,
        owner=command.owner,
        last_sequence=1,
        claims={command.claim_id: command.owner},
        on_detach=command.on_detach,
        conversation_id=command.conversation_id,
        parent_run_id=command.parent_run_id,
        labels=dict(command.labels),
        retention_seconds=command.retention_seconds,
        create_time=command.now,
        start_time=command.now if command.state is RunState.RUNNING else None,
        summary=command.summary,
    )


def set_running(record: RunRecord, epoch: int, now: Instant) -> RunRecord | None:
    """The record as RUNNING; None if it is not this epoch's to run."""
    if record.phase is not RecordPhase.LIVE or record.epoch != epoch:
        return None
    if record.state is RunState.RUNNING:
        return record
    return replace(record, state=RunState.RUNNING, start_time=now)


def claim(record: RunRecord, claim_id: str, replica: str) -> RunRecord:
    """Adds a claim to a live run and stops its grace clock."""
    if record.phase is not RecordPhase.LIVE:
        return record
    return replace(record, claims={**record.claims, claim_id: replica}, detach_time=None, detach_reason=None)


def release(record: RunRecord, claim_id: str, reason: CancelReason, now: Instant) -> RunRecord:
    """Removes a claim; the last one of a live run sets off `on_detach`."""
    if record.phase is not RecordPhase.LIVE or claim_id not in record.claims:
        return record
    claims = {each: replica for each, replica in record.claims.items() if each != claim_id}
    if claims or record.on_detach.action is DetachAction.CONTINUE:
        return replace(record, claims=claims)
    if record.on_detach.action is DetachAction.GRACE:
        detach_time = after_seconds(now, record.on_detach.grace_seconds)
        return replace(record, claims=claims, detach_time=detach_time, detach_reason=reason)
    intent = CancelIntent(reason=reason, requested_by="client", request_time=now)
    return replace(record, claims=claims, intent=record.intent or intent)


# --- The log and the end ---------------------------------------------------------------------------------------------


def accepts_append(epoch: int, last_sequence: int, command: Append) -> bool:
    """Whether a live log takes these entries, or has them already."""
    if command.epoch != epoch:
        return False
    return command.expected_last_sequence == last_sequence or command.last_sequence <= last_sequence


def is_behind(epoch: int, last_sequence: int, command: Append | Seal) -> bool:
    """Whether the store lacks what an owner knows to be in it: it lost what it had acknowledged.

    Then a run may even look like one that was cancelled early (epoch 0): it was unknown when its cancel came.
    """
    if command.epoch != epoch:
        return command.epoch > epoch
    return command.expected_last_sequence > last_sequence


def seal(record: RunRecord, command: Seal) -> SealResult:
    """Ends a live run; recognises its own repeat."""
    own = command.epoch == record.epoch
    behind = is_behind(record.epoch, record.last_sequence, command)
    if record.phase is not RecordPhase.LIVE:
        is_repeat = own and command.last_sequence == record.last_sequence
        return SealResult(accepted=is_repeat, record=record, is_behind=behind)
    if not own or command.expected_last_sequence != record.last_sequence:
        return SealResult(accepted=False, record=record, is_behind=behind)
    if command.from_log and record.intent != command.intent:
        return SealResult(accepted=False, record=record)
    sealed = replace(
        record,
        phase=RecordPhase.SEALED,
        state=command.state,
        last_sequence=command.last_sequence,
        intent=record.intent or command.intent,
        claims={},
        detach_time=None,
        detach_reason=None,
        start_time=command.start_time,
        end_time=command.end_time,
        expire_time=command.expire_time,
        summary=command.summary,
    )
    return SealResult(accepted=True, record=sealed)


def take_over(record: RunRecord, owner: str, seen_epoch: int) -> RunRecord | None:
    """The record under its new owner; None if it is not live or has another epoch by now."""
    if record.phase is not RecordPhase.LIVE or record.epoch != seen_epoch:
        return None
    return replace(record, owner=owner, epoch=seen_epoch + 1)


def restore(known: RunRecord | None, has_prefix: bool, record: RunRecord) -> RunRecord | None:
    """The record of a run that is put back, with what the store knows more of it; None: the store has the better one.

    Args:
        known: as it is. An early cancel is one that came while the run was lost: it stops the run.
        has_prefix: whether the known log is the beginning of the one that is put back.
        record: as its owner knows it.
    """
    if known is None:
        return record
    if known.phase is RecordPhase.SEALED and known.epoch == NO_EPOCH:
        return record if record.phase is RecordPhase.SEALED else replace(record, intent=record.intent or known.intent)
    if known.phase is not RecordPhase.LIVE:
        same = (
            known.phase is record.phase and known.epoch == record.epoch and known.last_sequence == record.last_sequence
        )
        return known if same and has_prefix else None
    if known.epoch > record.epoch or not has_prefix:
        return None
    if record.phase is not RecordPhase.LIVE:
        return replace(record, intent=known.intent or record.intent)
    return replace(record, intent=known.intent or record.intent, claims={**known.claims, **record.claims})


# --- Intents ---------------------------------------------------------------------------------------------------------


def record_intent(
    record: RunRecord | None, command: RecordIntent, count_remembered: Callable[[], int], early_entries: int
) -> IntentResult:
    """Records the first intent of a live run, or remembers it for a run that is not known yet.

    Args:
        record: as it is.
        command: what is asked.
        count_remembered: tells how many early cancels of this tenant no Generate has met.
        early_entries: how many entries `command.early` holds.
    """
    if record is None:
        return _remember(command, count_remembered, early_entries)
    if record.phase is RecordPhase.EXPIRED:
        return IntentResult(outcome=IntentOutcome.EXPIRED, record=record)
    if record.phase is RecordPhase.SEALED:
        outcome = IntentOutcome.ENDED if record.fingerprint else IntentOutcome.REMEMBERED
        return IntentResult(outcome=outcome, record=record)
    if record.intent is not None:
        return IntentResult(outcome=IntentOutcome.ALREADY, record=record)
    if command.unclaimed_since is not None and not _grace_over(record, command.unclaimed_since):
        return IntentResult(outcome=IntentOutcome.CLAIMED, record=record)
    return IntentResult(outcome=IntentOutcome.RECORDED, record=replace(record, intent=command.intent))


def _grace_over(record: RunRecord, instant: Instant) -> bool:
    return not record.claims and record.detach_time is not None and record.detach_time <= instant


def _remember(command: RecordIntent, count_remembered: Callable[[], int], early_entries: int) -> IntentResult:
    early = command.early
    if early is None or command.unclaimed_since is not None:
        return IntentResult(outcome=IntentOutcome.UNKNOWN, record=None)
    if count_remembered() >= early.max_remembered:
        return IntentResult(outcome=IntentOutcome.FULL, record=None)
    return IntentResult(outcome=IntentOutcome.REMEMBERED, record=_early_cancel(command, early, early_entries))


def _early_cancel(command: RecordIntent, early: EarlyCancel, entries: int) -> RunRecord:
    return RunRecord(
        key=command.key,
        phase=RecordPhase.SEALED,
        state=RunState.CANCELLED,
        fingerprint="",
        epoch=NO_EPOCH,
        owner="",
        last_sequence=entries,
        intent=command.intent,
        on_detach=DetachPolicy(),
        retention_seconds=0.0,
        create_time=command.intent.request_time,
        end_time=command.intent.request_time,
        expire_time=early.expire_time,
        summary=early.summary,
    )


# --- After the end ---------------------------------------------------------------------------------------------------


def settle(record: RunRecord, settlement: bytes) -> RunRecord:
    """Adds what became known of the usage of a sealed run."""
    return replace(record, settlement=settlement) if record.phase is RecordPhase.SEALED else record


def expire(record: RunRecord, expire_time: Instant, forget_time: Instant) -> RunRecord:
    """Deletes the content of a sealed run: all but id, fingerprint, state, fences and times."""
    if record.phase is not RecordPhase.SEALED:
        return record
    return replace(
        record,
        phase=RecordPhase.EXPIRED,
        intent=None,
        conversation_id="",
        parent_run_id="",
        labels={},
        expire_time=expire_time,
        forget_time=forget_time,
        summary=b"",
        settlement=b"",
    )


# --- Reading ---------------------------------------------------------------------------------------------------------


def matches(record: RunRecord, query: ListQuery) -> bool:
    """Whether a record is one that the query asks for, its place in the order aside."""
    return (
        record.key.tenant == query.tenant
        and record.phase is not RecordPhase.EXPIRED
        and (query.state is None or shown_state(record) is query.state)
        and query.conversation_id in ("", record.conversation_id)
        and query.parent_run_id in ("", record.parent_run_id)
        and query.labels.items() <= record.labels.items()
    )


def shown_state(record: RunRecord) -> RunState:
    """The state that callers see: a live run with an intent is STOPPING."""
    if record.phase is RecordPhase.LIVE and record.intent is not None:
        return RunState.STOPPING
    return record.state


def fit(entries: Iterable[bytes], max_bytes: int) -> list[bytes]:
    """The first entries that fit, at least one if there is one; takes no more than it must from the iterable."""
    taken: list[bytes] = []
    size = 0
    for entry in entries:
        size += len(entry)
        if taken and size > max_bytes:
            break
        taken.append(entry)
        if size >= max_bytes:
            break
    return taken
