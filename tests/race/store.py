"""A store that answers when the seed says so, if at all. Operations take effect in the order of their calls."""

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from midstream_server.errors import MidstreamError, StoreUnavailable
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

LATE_SECONDS = (0.02, 0.5, 2.5, 8.0)
"""How much later a write takes effect that was given up."""
_READS = frozenset({"open", "get", "read_log", "read_finished", "list_records", "orphans", "lost_claims", "probe"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What is wrong with the store.

    `refuse`: no effect. `lose`: an effect that is denied. `hang`: neither effect nor answer until it is over.
    `withhold`: an effect, and no answer until it is over. `late`: denied, and a write has its effect up to 8 s later.
    """

    kind: str
    operations: frozenset[str]
    """Of these operations; empty: of all."""


@dataclass(slots=True)
class _Request:
    name: str
    work: Coroutine[Any, Any, Any]
    answer: "asyncio.Future[Any]"


class RaceStore:
    """In front of a memory store, whose operations never suspend.

    Args:
        inner: survives.
        random: chooses the latencies.
        latency: the longest, in seconds; 0: a few turns of the loop; None: no turn at all.
    """

    def __init__(self, inner: RunStore, random: Random, latency: float | None) -> None:
        self.exclusive = inner.exclusive
        self.is_dead = False
        self._inner = inner
        self._random = random
        self._latency = latency
        self._outage: Outage | None = None
        self._queue: list[_Request] = []
        self._is_busy = False
        self._next_step: asyncio.Handle | None = None
        self._server = contextvars.Context()
        """Where operations take effect: what was sent does so, whatever becomes of the process that sent it."""
        self._withheld: list[tuple[_Request, Any]] = []

    def begin(self, outage: Outage) -> None:
        """The store goes wrong."""
        self._outage = outage

    def heal(self) -> None:
        """The store is right again; what hung, and what was withheld, goes on."""
        self._outage = None
        withheld, self._withheld = self._withheld, []
        for request, result in withheld:
            self._answer(request, result)
        if self._queue and not self._is_busy:
            self._kick()

    @property
    def is_away(self) -> bool:
        """Whether something is wrong with it now."""
        return self._outage is not None

    def die(self) -> None:
        """The process is gone: nothing takes effect any more."""
        self.is_dead = True
        for request in self._queue:
            request.work.close()
        self._queue.clear()
        if self._next_step is not None:
            self._next_step.cancel()

    async def _pass(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        if self._latency is None and self._outage is None and not self._queue and not self.is_dead:
            return _finish(work)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self.is_dead:
            work.close()
        else:
            self._queue.append(_Request(name, work, answer))
            if not self._is_busy and not self._is_stopped():
                self._kick()
        return await answer

    def _concerns(self, kind: str, name: str) -> bool:
        outage = self._outage
        return outage is not None and outage.kind == kind and (not outage.operations or name in outage.operations)

    def _is_stopped(self) -> bool:
        return bool(self._queue) and self._concerns("hang", self._queue[0].name)

    def _kick(self) -> None:
        self._is_busy = True
        loop = asyncio.get_running_loop()
        if self._latency and self._random.random() < 0.5:
            self._next_step = loop.call_later(
                round(self._random.random() * self._latency, 2), self._step, context=self._server
            )
        else:
            self._next_step = loop.call_soon(self._step, context=self._server)

    def _step(self) -> None:
        self._is_busy = False
        if not self._queue or self._is_stopped():
            return
        request = self._queue.pop(0)
        if self._concerns("refuse", request.name) or (self._concerns("late", request.name) and request.name in _READS):
            request.work.close()
            self._answer(request, StoreUnavailable("refused by the test"))
        elif self._concerns("late", request.name):
            # Whatever becomes of the process: it is on the way.
            seconds = self._random.choice(LATE_SECONDS)
            asyncio.get_running_loop().call_later(seconds, _arrive, request.work, context=self._server)
            self._answer(request, StoreUnavailable("given up by the test"))
        else:
            self._take_effect(request)
        if self._queue and not self._is_stopped():
            self._kick()

    def _take_effect(self, request: _Request) -> None:
        try:
            result = _finish(request.work)
        except Exception as error:
            result = error
        if self._concerns("lose", request.name):
            result = StoreUnavailable("the answer was lost by the test")
        if self._concerns("withhold", request.name):
            self._withheld.append((request, result))
        elif self._random.random() < 0.5:
            asyncio.get_running_loop().call_soon(self._answer, request, result)
        else:
            self._answer(request, result)

    @staticmethod
    def _answer(request: _Request, result: Any) -> None:
        if request.answer.done():
            return
        if isinstance(result, Exception):
            request.answer.set_exception(result)
        else:
            request.answer.set_result(result)

    # --- the port -------------------------------------------------------------------------------------------------

    def listen(self, listener: StoreListener) -> None:
        self._inner.listen(listener)

    def follow(self, key: RunKey) -> None:
        self._inner.follow(key)

    def unfollow(self, key: RunKey) -> None:
        self._inner.unfollow(key)

    async def open(self) -> None:
        await self._pass("open", self._inner.open())

    async def close(self) -> None:
        """Forgets what nobody waits for, as a process that ends does; the store itself stays."""
        self.die()

    async def start(self, command: StartRun) -> StartResult:
        return await self._pass("start", self._inner.start(command))

    async def set_running(self, key: RunKey, epoch: int, now: Instant) -> bool:
        return await self._pass("set_running", self._inner.set_running(key, epoch, now))

    async def claim(self, key: RunKey, claim_id: str, replica: str) -> RunRecord | None:
        return await self._pass("claim", self._inner.claim(key, claim_id, replica))

    async def release(self, key: RunKey, claim_id: str, reason: CancelReason, now: Instant) -> RunRecord | None:
        return await self._pass("release", self._inner.release(key, claim_id, reason, now))

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        return await self._pass("append", self._inner.append(batch))

    async def record_intent(self, command: RecordIntent) -> IntentResult:
        return await self._pass("record_intent", self._inner.record_intent(command))

    async def seal(self, command: Seal) -> SealResult:
        return await self._pass("seal", self._inner.seal(command))

    async def settle(self, key: RunKey, settlement: bytes) -> None:
        await self._pass("settle", self._inner.settle(key, settlement))

    async def take_over(self, key: RunKey, owner: str, seen_epoch: int) -> RunRecord | None:
        return await self._pass("take_over", self._inner.take_over(key, owner, seen_epoch))

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        return await self._pass("orphans", self._inner.orphans(owner, limit))

    async def lost_claims(self, owner: str, limit: int) -> Sequence[LostClaim]:
        return await self._pass("lost_claims", self._inner.lost_claims(owner, limit))

    async def restore(self, record: RunRecord, entries: Sequence[bytes]) -> bool:
        return await self._pass("restore", self._inner.restore(record, entries))

    async def heartbeat(self, owner: str) -> Heartbeat:
        return await self._pass("heartbeat", self._inner.heartbeat(owner))

    async def retire(self, owner: str) -> None:
        await self._pass("retire", self._inner.retire(owner))

    async def join_conversation(self, tenant: str, conversation_id: str, run_id: str, now: Instant) -> Sequence[str]:
        return await self._pass(
            "join_conversation", self._inner.join_conversation(tenant, conversation_id, run_id, now)
        )

    async def leave_conversation(self, tenant: str, conversation_id: str, run_id: str) -> None:
        await self._pass("leave_conversation", self._inner.leave_conversation(tenant, conversation_id, run_id))

    async def delete(self, key: RunKey, now: Instant, forget_time: Instant) -> RunRecord | None:
        return await self._pass("delete", self._inner.delete(key, now, forget_time))

    async def expire(self, now: Instant, remember_seconds: float, limit: int) -> int:
        return await self._pass("expire", self._inner.expire(now, remember_seconds, limit))

    async def get(self, key: RunKey) -> RunRecord | None:
        return await self._pass("get", self._inner.get(key))

    async def read_log(self, key: RunKey, after_sequence: int, max_bytes: int) -> LogPage:
        return await self._pass("read_log", self._inner.read_log(key, after_sequence, max_bytes))

    async def read_finished(self, key: RunKey) -> bytes | None:
        return await self._pass("read_finished", self._inner.read_finished(key))

    async def list_records(self, query: ListQuery) -> Sequence[RunRecord]:
        return await self._pass("list_records", self._inner.list_records(query))

    async def probe(self) -> None:
        await self._pass("probe", self._inner.probe())


def _arrive(work: Coroutine[Any, Any, Any]) -> None:
    """Nobody hears what became of it."""
    with contextlib.suppress(MidstreamError):
        _finish(work)


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("an operation of the memory store suspended")
