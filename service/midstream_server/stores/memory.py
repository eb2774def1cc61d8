"""The store of tests and of `memory:`: promises nothing after exit."""

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter

from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelReason, Instant, RunKey
from midstream_server.stores import rules
from midstream_server.stores.base import (
    Append,
    AppendResult,
    Heartbeat,
    IntentResult,
    ListQuery,
    LogPage,
    LostClaim,
    RecordIntent,
    RecordPhase,
    RunRecord,
    Seal,
    SealResult,
    StartOutcome,
    StartResult,
    StartRun,
    StoreListener,
    unframe,
)


class _StoredRun:
    """A record and its log. The log's length is the truth about `last_sequence` until it is deleted."""

    __slots__ = ("_record", "log")

    def __init__(self, record: RunRecord, log: list[bytes]) -> None:
        self._record = record
        self.log = log

    @property
    def record(self) -> RunRecord:
        if self._record.phase is RecordPhase.LIVE and self._record.last_sequence != len(self.log):
            self._record = replace(self._record, last_sequence=len(self.log))
        return self._record

    @record.setter
    def record(self, record: RunRecord) -> None:
        self._record = record
        if record.phase is RecordPhase.EXPIRED:
            self.log = []

    def append(self, command: Append) -> AppendResult:
        """Adds entries, if the run takes them. The record is left as it is: to bring it up to date is to copy it."""
        record = self._record
        is_live = record.phase is RecordPhase.LIVE
        accepted = is_live and rules.accepts_append(record.epoch, len(self.log), command)
        if accepted and command.last_sequence > len(self.log):
            self.log.extend(unframe(command.entries))
        behind = not accepted and rules.is_behind(record.epoch, len(self.log), command)
        return AppendResult(accepted=accepted, intent=record.intent, is_behind=behind)


class MemoryRunStore:
    """Runs in dictionaries. Every operation is over before another can begin, so there is nothing to cancel."""

    exclusive = True

    def __init__(self) -> None:
        self._runs: dict[RunKey, _StoredRun] = {}
        self._conversations: dict[tuple[str, str], list[str]] = {}
        self._is_open = False

    def listen(self, listener: StoreListener) -> None:
        """See `RunStore.listen`: there are no others."""

    def follow(self, key: RunKey) -> None:
        """See `RunStore.follow`."""

    def unfollow(self, key: RunKey) -> None:
        """See `RunStore.unfollow`."""

    async def open(self) -> None:
        """See `RunStore.open`."""
        self._is_open = True

    async def close(self) -> None:
        """See `RunStore.close`."""
        self._is_open = False

    async def start(self, command: StartRun) -> StartResult:
        """See `RunStore.start`."""
        stored = self._find(command.key)
        result = rules.start(stored.record if stored else None, command)
        if stored is not None:
            stored.record = result.record
        elif result.outcome is StartOutcome.CREATED:
            self._runs[command.key] = _StoredRun(result.record, [command.entry])
        return result

    async def set_running(self, key: RunKey, epoch: int, now: Instant) -> bool:
        """See `RunStore.set_running`."""
        return self._replace(key, lambda record: rules.set_running(record, epoch, now)) is not None

    async def claim(self, key: RunKey, claim_id: str, replica: str) -> RunRecord | None:
        """See `RunStore.claim`."""
        return self._replace(key, lambda record: rules.claim(record, claim_id, replica))

    async def release(self, key: RunKey, claim_id: str, reason: CancelReason, now: Instant) -> RunRecord | None:
        """See `RunStore.release`."""
        return self._replace(key, lambda record: rules.release(record, claim_id, reason, now))

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        """See `RunStore.append`."""
        return [self._append(command) for command in batch]

    def _append(self, command: Append) -> AppendResult:
        stored = self._find(command.key)
        return AppendResult(accepted=False, is_behind=True) if stored is None else stored.append(command)

    async def record_intent(self, command: RecordIntent) -> IntentResult:
        """See `RunStore.record_intent`."""
        stored = self._find(command.key)
        entries = unframe(command.early.entries) if command.early else []
        result = rules.record_intent(
            stored.record if stored else None, command, lambda: self._remembered(command.key.tenant), len(entries)
        )
        if stored is not None and result.record is not None:
            stored.record = result.record
        elif result.record is not None:
            self._runs[command.key] = _StoredRun(result.record, entries)
        return result

    def _remembered(self, tenant: str) -> int:
        records = (stored.record for stored in self._runs.values())
        return sum(
            record.key.tenant == tenant and record.phase is RecordPhase.SEALED and not record.fingerprint
            for record in records
        )

    async def seal(self, command: Seal) -> SealResult:
        """See `RunStore.seal`."""
        stored = self._find(command.key)
        if stored is None:
            return SealResult(accepted=False, record=None, is_behind=True)
        before = stored.record
        result = rules.seal(before, command)
        if result.record is not None and result.record is not before:
            stored.log.extend(unframe(command.entries))
            stored.record = result.record
            self._leave(command.key.tenant, before.conversation_id, command.key.run_id)
        return result

    async def settle(self, key: RunKey, settlement: bytes) -> None:
        """See `RunStore.settle`."""
        self._replace(key, lambda record: rules.settle(record, settlement))

    async def take_over(self, key: RunKey, owner: str, seen_epoch: int) -> RunRecord | None:
        """See `RunStore.take_over`."""
        return self._replace(key, lambda record: rules.take_over(record, owner, seen_epoch))

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        """See `RunStore.orphans`: with one process, all that have another owner."""
        self._check_open()
        records = (stored.record for stored in self._runs.values())
        lost = (each.key for each in records if each.phase is RecordPhase.LIVE and each.owner != owner)
        return list(islice(lost, limit))

    async def lost_claims(self, owner: str, limit: int) -> Sequence[LostClaim]:
        """See `RunStore.lost_claims`: with one process, those of an earlier one; its runs are orphans."""
        return ()

    async def restore(self, record: RunRecord, entries: Sequence[bytes]) -> bool:
        """See `RunStore.restore`."""
        stored = self._find(record.key)
        has_prefix = stored is None or stored.log == list(entries[: len(stored.log)])
        restored = rules.restore(stored.record if stored else None, has_prefix, record)
        if restored is None:
            return False
        self._runs[record.key] = _StoredRun(restored, list(entries))
        if restored.phase is not RecordPhase.LIVE:
            self._leave(record.key.tenant, record.conversation_id, record.key.run_id)
        return True

    async def heartbeat(self, owner: str) -> Heartbeat:
        """See `RunStore.heartbeat`: there are no others."""
        return Heartbeat(intents={}, generation="")

    async def retire(self, owner: str) -> None:
        """See `RunStore.retire`."""

    async def join_conversation(self, tenant: str, conversation_id: str, run_id: str, now: Instant) -> Sequence[str]:
        """See `RunStore.join_conversation`."""
        stored = self._find(RunKey(tenant, run_id))
        members = self._conversations.get((tenant, conversation_id), [])
        if run_id in members:
            return members[: members.index(run_id)]
        if stored is None or stored.record.phase is RecordPhase.LIVE:
            self._conversations[tenant, conversation_id] = [*members, run_id]
        return members

    async def leave_conversation(self, tenant: str, conversation_id: str, run_id: str) -> None:
        """See `RunStore.leave_conversation`."""
        self._check_open()
        self._leave(tenant, conversation_id, run_id)

    def _leave(self, tenant: str, conversation_id: str, run_id: str) -> None:
        members = self._conversations.get((tenant, conversation_id), [])
        if run_id in members:
            members.remove(run_id)
        if not members:
            self._conversations.pop((tenant, conversation_id), None)

    async def delete(self, key: RunKey, now: Instant, forget_time: Instant) -> RunRecord | None:
        """See `RunStore.delete`."""
        stored = self._find(key)
        before = stored.record if stored else None
        if stored is not None and before is not None:
            stored.record = rules.expire(before, now, forget_time)
        return before

    async def expire(self, now: Instant, remember_seconds: float, limit: int) -> int:
        """See `RunStore.expire`."""
        self._check_open()
        forgotten = self._due(RecordPhase.EXPIRED, now, limit)
        for key in forgotten:
            del self._runs[key]
        expired = self._due(RecordPhase.SEALED, now, limit)
        for key in expired:
            record = self._runs[key].record
            expire_time = record.expire_time or now
            forget_time = rules.after_seconds(expire_time, remember_seconds)
            self._runs[key].record = rules.expire(record, expire_time, forget_time)
        return len(forgotten) + len(expired)

    def _due(self, phase: RecordPhase, now: Instant, limit: int) -> list[RunKey]:
        times = [
            (record.forget_time if phase is RecordPhase.EXPIRED else record.expire_time, record.key)
            for record in (stored.record for stored in self._runs.values())
            if record.phase is phase
        ]
        due = [(instant, key) for instant, key in times if instant is not None and instant <= now]
        return [key for _, key in sorted(due, key=itemgetter(0))[:limit]]

    async def get(self, key: RunKey) -> RunRecord | None:
        """See `RunStore.get`."""
        stored = self._find(key)
        return stored.record if stored else None

    async def read_log(self, key: RunKey, after_sequence: int, max_bytes: int) -> LogPage:
        """See `RunStore.read_log`."""
        stored = self._find(key)
        log = stored.log if stored else []
        entries = rules.fit((log[index] for index in range(after_sequence, len(log))), max_bytes)
        return LogPage(first_sequence=after_sequence + 1, entries=entries, last_sequence=len(log))

    async def read_finished(self, key: RunKey) -> bytes | None:
        """See `RunStore.read_finished`."""
        stored = self._find(key)
        if stored is None or stored.record.phase is not RecordPhase.SEALED:
            return None
        return stored.log[-1]

    async def list_records(self, query: ListQuery) -> Sequence[RunRecord]:
        """See `RunStore.list_records`."""
        self._check_open()
        records = (stored.record for stored in self._runs.values())
        found = (
            each
            for each in records
            if rules.matches(each, query) and (query.before is None or _place(each) < query.before)
        )
        return heapq.nlargest(query.limit, found, key=_place)

    async def probe(self) -> None:
        """See `RunStore.probe`."""
        self._check_open()

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the run store is closed")

    def _find(self, key: RunKey) -> _StoredRun | None:
        self._check_open()
        return self._runs.get(key)

    def _replace(self, key: RunKey, change: rules.Change) -> RunRecord | None:
        stored = self._find(key)
        changed = change(stored.record) if stored else None
        if stored is not None and changed is not None:
            stored.record = changed
        return changed


def _place(record: RunRecord) -> tuple[Instant, str]:
    return record.create_time, record.key.run_id
