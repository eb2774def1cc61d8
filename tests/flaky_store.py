"""A real store that a test can freeze, make refuse, or rob of its answers."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelReason, Instant, RunKey
from midstream_server.stores.base import (
    Append,
    AppendResult,
    Heartbeat,
    IntentResult,
    ListQuery,
    LogPage,
    LostClaim,
    RecordIntent,
    RunRecord,
    RunStore,
    Seal,
    SealResult,
    StartResult,
    StartRun,
    StoreListener,
)

T = TypeVar("T")

READS = frozenset({"get", "read_log", "read_finished", "list_records"})
WRITES = frozenset(
    {
        "start",
        "set_running",
        "claim",
        "release",
        "append",
        "record_intent",
        "seal",
        "settle",
        "take_over",
        "orphans",
        "lost_claims",
        "restore",
        "heartbeat",
        "retire",
        "join_conversation",
        "leave_conversation",
        "delete",
        "expire",
        "probe",
    }
)
EVERYTHING = READS | WRITES


class FlakyStore:
    """Delegates to a real store. What is frozen takes effect once it is thawed, in the order in which it was asked for,
    whether or not the caller still waits, as the port demands. `close` leaves the real store open, and forgets what is
    frozen: so a process dies."""

    def __init__(self, inner: RunStore) -> None:
        self.inner = inner
        self.exclusive = inner.exclusive
        self.calls: Counter[str] = Counter()
        """How often each operation was asked for."""
        self.appends: list[Sequence[Append]] = []
        """Every batch that was offered, repeats too."""
        self._frozen: set[str] = set()
        self._failing: set[str] = set()
        self._broken: dict[str, Exception] = {}
        self._mute: set[str] = set()
        self._withheld: set[str] = set()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[object]] = set()

    def freeze(self, *operations: str) -> None:
        """These (all, if none is named) do not come back, nor take effect, before `thaw`."""
        self._frozen |= set(operations or EVERYTHING)

    def withhold(self, *operations: str) -> None:
        """These take effect, but do not come back before `thaw`."""
        self._withheld |= set(operations)

    def fail(self, *operations: str) -> None:
        """These (all, if none is named) refuse until `heal`."""
        self._failing |= set(operations or EVERYTHING)

    def lose_answers(self, *operations: str) -> None:
        """These take effect, and say that they did not, until `heal`."""
        self._mute |= set(operations)

    def break_with(self, operation: str, error: Exception) -> None:
        """This raises something that the port does not promise, until `heal`."""
        self._broken[operation] = error

    def heal(self) -> None:
        """What refused, or lost its answers, works again."""
        self._failing.clear()
        self._mute.clear()
        self._broken.clear()

    async def thaw(self, *operations: str) -> None:
        """What is frozen, or withheld, goes on."""
        async with self._changed:
            self._frozen -= set(operations or EVERYTHING)
            self._withheld -= set(operations or EVERYTHING)
            self._changed.notify_all()

    async def asked(self, operation: str, times: int = 1) -> None:
        """Returns when an operation has been asked for so often, counted from the beginning."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.calls[operation] >= times)

    async def _pass(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        async with self._changed:
            self.calls[name] += 1
            self._changed.notify_all()
        if name in self._broken:
            raise self._broken[name]
        if name in self._failing:
            raise StoreUnavailable("refused by the test")
        if name in self._frozen or name in self._withheld:
            task: asyncio.Task[T] = asyncio.create_task(self._pass_late(name, operation), name=f"flaky {name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return await asyncio.shield(task)
        result = await operation()
        if name in self._mute:
            raise StoreUnavailable("the answer was lost by the test")
        return result

    async def _pass_late(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        async with self._changed:
            await self._changed.wait_for(lambda: name not in self._frozen)
        result = await operation()
        async with self._changed:
            await self._changed.wait_for(lambda: name not in self._withheld)
        if name in self._mute:
            raise StoreUnavailable("the answer was lost by the test")
        return result

    def listen(self, listener: StoreListener) -> None:
        self.inner.listen(listener)

    def follow(self, key: RunKey) -> None:
        self.inner.follow(key)

    def unfollow(self, key: RunKey) -> None:
        self.inner.unfollow(key)

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        self.calls["close"] += 1
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def start(self, command: StartRun) -> StartResult:
        return await self._pass("start", lambda: self.inner.start(command))

    async def set_running(self, key: RunKey, epoch: int, now: Instant) -> bool:
        return await self._pass("set_running", lambda: self.inner.set_running(key, epoch, now))

    async def claim(self, key: RunKey, claim_id: str, replica: str) -> RunRecord | None:
        return await self._pass("claim", lambda: self.inner.claim(key, claim_id, replica))

    async def release(self, key: RunKey, claim_id: str, reason: CancelReason, now: Instant) -> RunRecord | None:
        return await self._pass("release", lambda: self.inner.release(key, claim_id, reason, now))

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        self.appends.append(batch)
        return await self._pass("append", lambda: self.inner.append(batch))

    async def record_intent(self, command: RecordIntent) -> IntentResult:
        return await self._pass("record_intent", lambda: self.inner.record_intent(command))

    async def seal(self, command: Seal) -> SealResult:
        return await self._pass("seal", lambda: self.inner.seal(command))

    async def settle(self, key: RunKey, settlement: bytes) -> None:
        await self._pass("settle", lambda: self.inner.settle(key, settlement))

    async def take_over(self, key: RunKey, owner: str, seen_epoch: int) -> RunRecord | None:
        return await self._pass("take_over", lambda: self.inner.take_over(key, owner, seen_epoch))

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        return await self._pass("orphans", lambda: self.inner.orphans(owner, limit))

    async def lost_claims(self, owner: str, limit: int) -> Sequence[LostClaim]:
        return await self._pass("lost_claims", lambda: self.inner.lost_claims(owner, limit))

    async def restore(self, record: RunRecord, entries: Sequence[bytes]) -> bool:
        return await self._pass("restore", lambda: self.inner.restore(record, entries))

    async def heartbeat(self, owner: str) -> Heartbeat:
        return await self._pass("heartbeat", lambda: self.inner.heartbeat(owner))

    async def retire(self, owner: str) -> None:
        await self._pass("retire", lambda: self.inner.retire(owner))

    async def join_conversation(self, tenant: str, conversation_id: str, run_id: str, now: Instant) -> Sequence[str]:
        return await self._pass(
            "join_conversation", lambda: self.inner.join_conversation(tenant, conversation_id, run_id, now)
        )

    async def leave_conversation(self, tenant: str, conversation_id: str, run_id: str) -> None:
        await self._pass("leave_conversation", lambda: self.inner.leave_conversation(tenant, conversation_id, run_id))

    async def delete(self, key: RunKey, now: Instant, forget_time: Instant) -> RunRecord | None:
        return await self._pass("delete", lambda: self.inner.delete(key, now, forget_time))

    async def expire(self, now: Instant, remember_seconds: float, limit: int) -> int:
        return await self._pass("expire", lambda: self.inner.expire(now, remember_seconds, limit))

    async def get(self, key: RunKey) -> RunRecord | None:
        return await self._pass("get", lambda: self.inner.get(key))

    async def read_log(self, key: RunKey, after_sequence: int, max_bytes: int) -> LogPage:
        return await self._pass("read_log", lambda: self.inner.read_log(key, after_sequence, max_bytes))

    async def read_finished(self, key: RunKey) -> bytes | None:
        return await self._pass("read_finished", lambda: self.inner.read_finished(key))

    async def list_records(self, query: ListQuery) -> Sequence[RunRecord]:
        return await self._pass("list_records", lambda: self.inner.list_records(query))

    async def probe(self) -> None:
        await self._pass("probe", self.inner.probe)
