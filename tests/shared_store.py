"""A store that several replicas share, in one loop: leases by the loop's clock, hints that can be lost, failovers.

Each replica has a handle of its own. `FlakyStore` around a handle freezes or cuts off one replica.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from engine_scenario import Engine, run_key, running_engine
from midstream_server.model import CancelReason, Instant, RunKey
from midstream_server.stores.base import (
    Append,
    AppendResult,
    Heartbeat,
    IntentOutcome,
    IntentResult,
    LostClaim,
    RecordIntent,
    RecordPhase,
    RunRecord,
    Seal,
    SealResult,
    StoreListener,
)
from midstream_server.stores.memory import MemoryRunStore

LEASE_SECONDS = 6.0
HEARTBEAT_SECONDS = 2.0
LATENCY_SECONDS = 0.001


class SharedRuns(MemoryRunStore):
    """The server: the runs, the leases, the handles."""

    def __init__(self) -> None:
        super().__init__()
        self.handles: list[ReplicaStore] = []
        self.loses_hints = False
        self.generation = 1
        self._leases: dict[str, float] = {}

    def handle(self) -> "ReplicaStore":
        """What one replica opens."""
        handle = ReplicaStore(self)
        self.handles.append(handle)
        return handle

    def renew(self, owner: str) -> None:
        """A heartbeat has come."""
        self._leases[owner] = asyncio.get_running_loop().time() + LEASE_SECONDS

    def leave(self, owner: str) -> None:
        """A replica has left."""
        self._leases.pop(owner, None)

    def is_alive(self, owner: str) -> bool:
        """Whether its lease runs."""
        return self._leases.get(owner, 0.0) > asyncio.get_running_loop().time()

    def records(self) -> list[RunRecord]:
        """All records as they are."""
        return [stored.record for stored in self._runs.values()]

    def log(self, run_id: str = "run") -> list[bytes]:
        """The entries of a run."""
        return list(self._runs[run_key(run_id)].log)

    def lose(self, *run_ids: str) -> None:
        """A failover of the shard that has these runs, and nothing else."""
        for run_id in run_ids:
            del self._runs[run_key(run_id)]
        self.generation += 1

    def lose_conversations(self) -> None:
        """A failover of the shards that have the conversations, and no run."""
        self._conversations.clear()
        self.generation += 1

    def copy(self) -> Callable[[], None]:
        """A copy as it is now; calling it is a failover to the copy: what was acknowledged since is lost."""
        runs = {key: type(stored)(stored.record, list(stored.log)) for key, stored in self._runs.items()}
        conversations = {key: list(members) for key, members in self._conversations.items()}

        def fail_over() -> None:
            self._runs.clear()
            self._runs.update(runs)
            self._conversations.clear()
            self._conversations.update(conversations)
            self.generation += 1

        return fail_over


class ReplicaStore(MemoryRunStore):
    """One replica's way to the server."""

    exclusive = False

    def __init__(self, shared: SharedRuns) -> None:
        super().__init__()
        self._shared = shared
        self._runs, self._conversations = shared._runs, shared._conversations
        self._listener: StoreListener | None = None
        self.followed: set[RunKey] = set()
        """The runs whose news this replica asks for."""
        self.is_deaf = False
        """Whether it gets no hints: it is dead, or stopped."""

    # --- who is alive ---------------------------------------------------------------------------------------------

    async def heartbeat(self, owner: str) -> Heartbeat:
        self._shared.renew(owner)
        intents = {
            record.key: record.intent
            for record in self._shared.records()
            if record.phase is RecordPhase.LIVE and record.owner == owner and record.intent is not None
        }
        live = [record for record in self._shared.records() if record.phase is RecordPhase.LIVE]
        return Heartbeat(
            intents=intents,
            generation=str(self._shared.generation),
            owned=[record.key for record in live if record.owner == owner],
            claims=[
                LostClaim(key=record.key, claim_id=claim_id)
                for record in live
                for claim_id, replica in record.claims.items()
                if replica == owner
            ],
        )

    async def retire(self, owner: str) -> None:
        self._shared.leave(owner)

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        return [
            record.key
            for record in self._shared.records()
            if record.phase is RecordPhase.LIVE and record.owner != owner and not self._shared.is_alive(record.owner)
        ][:limit]

    async def lost_claims(self, owner: str, limit: int) -> Sequence[LostClaim]:
        return [
            LostClaim(key=record.key, claim_id=claim_id)
            for record in self._shared.records()
            for claim_id, replica in record.claims.items()
            if record.phase is RecordPhase.LIVE and replica != owner and not self._shared.is_alive(replica)
        ][:limit]

    # --- hints ----------------------------------------------------------------------------------------------------

    def listen(self, listener: StoreListener) -> None:
        self._listener = listener

    def follow(self, key: RunKey) -> None:
        self.followed.add(key)

    def unfollow(self, key: RunKey) -> None:
        self.followed.discard(key)

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        results = await super().append(batch)
        for command, result in zip(batch, results, strict=True):
            if result.accepted:
                self._hint_moved(command.key)
        return results

    async def seal(self, command: Seal) -> SealResult:
        result = await super().seal(command)
        self._hint_moved(command.key)
        return result

    async def set_running(self, key: RunKey, epoch: int, now: Instant) -> bool:
        is_running = await super().set_running(key, epoch, now)
        self._hint_moved(key)
        return is_running

    async def record_intent(self, command: RecordIntent) -> IntentResult:
        result = await super().record_intent(command)
        if result.outcome is IntentOutcome.RECORDED:
            self._hint_stop(result.record)
        return result

    async def release(self, key: RunKey, claim_id: str, reason: CancelReason, now: Instant) -> RunRecord | None:
        record = await super().release(key, claim_id, reason, now)
        self._hint_stop(record)
        return record

    def _hint_moved(self, key: RunKey) -> None:
        for other in self._shared.handles:
            if key in other.followed:
                other.hear(lambda listener: listener.run_moved(key))

    def _hint_stop(self, record: RunRecord | None) -> None:
        if record is None or record.intent is None or record.phase is not RecordPhase.LIVE:
            return
        key, intent = record.key, record.intent
        self._hint_moved(key)
        for other in self._shared.handles:
            if other is not self:
                other.hear(lambda listener: listener.stop_asked(key, intent))

    def hear(self, tell: Callable[[StoreListener], None]) -> None:
        """Is given a hint, a moment later."""
        if self._listener is not None and not self._shared.loses_hints and not self.is_deaf:
            asyncio.get_running_loop().call_later(LATENCY_SECONDS, tell, self._listener)


@dataclass(eq=False)
class Cluster:
    """Some replicas on one store."""

    shared: SharedRuns
    engines: list[Engine]

    def stop(self, engine: Engine) -> None:
        """SIGSTOP, as far as others see it; SIGKILL, if it is never woken."""
        engine.store.freeze()
        self._handle(engine).is_deaf = True

    async def wake(self, engine: Engine) -> None:
        """SIGCONT."""
        self._handle(engine).is_deaf = False
        await engine.store.thaw()

    def followed(self, engine: Engine) -> set[RunKey]:
        """The runs whose news a replica asks for."""
        return self._handle(engine).followed

    def _handle(self, engine: Engine) -> ReplicaStore:
        handle = engine.store.inner
        assert isinstance(handle, ReplicaStore)
        return handle


@asynccontextmanager
async def replicas(count: int = 2, **options: Any) -> AsyncIterator[Cluster]:
    """So many replicas on one store; afterwards nothing of them is left."""
    shared, before = SharedRuns(), asyncio.all_tasks()
    await shared.open()
    async with AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(
                running_engine(shared.handle(), f"replica-{number}", is_alone=False, **options)
            )
            for number in range(1, count + 1)
        ]
        yield Cluster(shared, engines)
    left = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not left, f"tasks are left: {left}"
