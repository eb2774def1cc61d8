"""What a store that several replicas share may have to be told again, after a failover lost what it had acknowledged.

A live run: its record and its published log, the same bytes. One that ended here within the last minute: its record and
its whole log. Intents, releases and deletes of the last minute: once more, as they were. Who wins: the store, wherever
it has more than we know, or another epoch; then the run is not ours any more.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.run_log import RunLog
from midstream_server.engine.store_guard import RETRY_SECONDS, StoreGuard
from midstream_server.model import RunKey, RunState
from midstream_server.stores.base import Append, AppendResult, RunRecord, RunStore, Seal, SealResult, unframe

KEEP_SECONDS = 60.0
MAX_KEPT_BYTES = 64 * 1024 * 1024
MAX_KEPT_WRITES = 10_000
MAX_ATTEMPTS = 5
"""How often a run is put back that the store goes on to lack, before it is given up."""
AT_ONCE = 20

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that was sealed here a short while ago."""

    sealed_at: float
    record: RunRecord
    log: RunLog
    last_entries: Sequence[bytes]
    size: int

    @property
    def entries(self) -> list[bytes]:
        before = self.record.last_sequence - len(self.last_entries)
        return [*self.log.read_all()[:before], *self.last_entries]


@dataclass(frozen=True, slots=True)
class _Write:
    """Something small that was written a short while ago."""

    written_at: float
    again: Callable[[], Awaitable[object]]
    is_late: bool


async def in_parts(items: Iterable[T], work: Callable[[T], Awaitable[object]]) -> None:
    """Does work for each of many, a few at a time: one by one they would take as many turns of the store."""
    rest = list(items)
    while rest:
        part, rest = rest[:AT_ONCE], rest[AT_ONCE:]
        await asyncio.gather(*map(work, part))


class Restorer:
    """Knows what to tell again. With an exclusive store it keeps nothing."""

    def __init__(self, store: RunStore, guard: StoreGuard, replica: str) -> None:
        self.on_loss: Callable[[], None] = lambda: None
        """Told when the store lacks something that it had acknowledged."""
        self.claims_of: Callable[[RunKey], Iterable[str]] = lambda key: ()
        """The claims that streams of this process hold on a run."""
        self._store = store
        self._guard = guard
        self._replica = replica
        self._is_shared = not store.exclusive
        self._created: dict[RunKey, RunRecord] = {}
        self._ended: deque[_Ended] = deque()
        self._ended_bytes = 0
        self._writes: deque[_Write] = deque(maxlen=MAX_KEPT_WRITES)

    def adopt(self, record: RunRecord) -> None:
        """A run begins here."""
        if self._is_shared:
            self._created[record.key] = record

    def forget(self, key: RunKey) -> None:
        """A run is not live here any more."""
        self._created.pop(key, None)

    def remember(self, write: Callable[[], Awaitable[object]], *, is_late: bool = False) -> None:
        """Something small was written, which changes nothing if it is written again.

        With `is_late` only when the other replicas, too, have written what they know.
        """
        if self._is_shared:
            self._writes.append(_Write(asyncio.get_running_loop().time(), write, is_late))

    def keep_sealed(self, record: RunRecord, entries: Sequence[bytes]) -> None:
        """A run that nobody drove was sealed from here, with these entries."""
        if not self._is_shared:
            return
        log = RunLog()
        log.publish(entries)
        log.publish(())  # what was published last is held twice
        self._keep(log, record, ())

    # --- a live run -----------------------------------------------------------------------------------------------

    async def append(self, run: LiveRun, command: Append) -> AppendResult:
        """Appends to a run that the store has lost in part, once it is put back."""
        for _ in range(MAX_ATTEMPTS):
            await self.restore(run)
            (result,) = await self._guard.insist(lambda: self._store.append([command]))
            if not result.is_behind:
                return result
            await asyncio.sleep(RETRY_SECONDS)
        return AppendResult(accepted=False)

    async def seal(self, run: LiveRun, command: Seal) -> SealResult:
        """Seals a run; puts it back first if the store has lost it in part."""
        result = await self._guard.insist(lambda: self._store.seal(command))
        for _ in range(MAX_ATTEMPTS):
            if not result.is_behind:
                break
            self.on_loss()
            await self.restore(run)
            result = await self._guard.insist(lambda: self._store.seal(command))
        if result.accepted and result.record is not None and self._is_shared:
            self._keep(run.output.log, result.record, unframe(command.entries))
        return result

    async def restore(self, run: LiveRun) -> None:
        """Puts a live run back, as far as it is published. If the store has more, the next append tells."""
        created = self._created.get(run.key)
        if created is None:
            return
        entries = run.output.log.read_all()
        record = replace(
            created,
            state=RunState.QUEUED if run.is_queued else RunState.RUNNING,
            start_time=run.start_time,
            epoch=run.epoch,
            owner=self._replica,
            last_sequence=len(entries),
            intent=run.verdict.intent or created.intent,
            claims=dict.fromkeys(self.claims_of(run.key), self._replica),
        )
        is_restored = await self._guard.insist(lambda: self._store.restore(record, entries))
        if is_restored and record.conversation_id:
            await self._rejoin(record)
        _log.warning("run.restored", run_id=run.key.run_id, tenant=run.key.tenant, is_restored=is_restored)

    async def rejoin(self) -> None:
        """Takes the places of all live runs in their conversations again: these may be lost while the runs are not."""
        records = [record for record in self._created.values() if record.conversation_id]
        await in_parts(records, self._rejoin)

    async def _rejoin(self, record: RunRecord) -> None:
        tenant, run_id = record.key.tenant, record.key.run_id
        await self._guard.insist(
            lambda: self._store.join_conversation(tenant, record.conversation_id, run_id, record.create_time)
        )

    # --- what is over ---------------------------------------------------------------------------------------------

    async def repeat(self, *, is_late: bool = False) -> None:
        """Puts back what ended here within the last minute, and writes again what was written in it."""
        self._drop_old()
        await in_parts(self._ended, self._restore_ended)
        writes = [write.again for write in self._writes if is_late or not write.is_late]
        await in_parts(writes, self._guard.insist)

    async def _restore_ended(self, ended: _Ended) -> None:
        record = ended.record
        known = await self._guard.insist(lambda: self._store.get(record.key))
        if known is not None and known.phase >= record.phase and known.epoch >= record.epoch:
            return
        entries = ended.entries
        is_restored = await self._guard.insist(lambda: self._store.restore(record, entries))
        _log.info("run.resealed", run_id=record.key.run_id, tenant=record.key.tenant, is_restored=is_restored)

    def _keep(self, log: RunLog, record: RunRecord, last_entries: Sequence[bytes]) -> None:
        size = log.size + sum(map(len, last_entries))
        now = asyncio.get_running_loop().time()
        self._ended.append(_Ended(now, record, log, last_entries, size))
        self._ended_bytes += size
        self._drop_old()

    def _drop_old(self) -> None:
        oldest = asyncio.get_running_loop().time() - KEEP_SECONDS
        while self._ended and (self._ended[0].sealed_at < oldest or self._ended_bytes > MAX_KEPT_BYTES):
            self._ended_bytes -= self._ended.popleft().size
        while self._writes and self._writes[0].written_at < oldest:
            self._writes.popleft()
