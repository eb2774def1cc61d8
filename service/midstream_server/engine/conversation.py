"""Conversations: the ordered set of their live runs, and what a new run does about the ones before it.

The order is the store's: of two that join, on whatever replicas, one is before the other. A member joins before its
record is written; who joins behind it waits for the record, or takes a member that has none out, since its start died.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from weakref import WeakValueDictionary

from midstream_server.clock import Clock
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.store_guard import RETRY_SECONDS, StoreGuard
from midstream_server.engine.stored_run import summary_run
from midstream_server.errors import ConversationBusy, StoreUnavailable
from midstream_server.model import CancelIntent, CancelReason, ConversationPolicy, Instant, RunKey, RunSpec
from midstream_server.stores.base import RecordPhase, RunRecord

SUPERSEDED_BY = "conversation"
UNKNOWN_SECONDS = 5.0
"""How long a member may have no record: so long may its start take on another replica."""
SHORTEST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.25
LOOK_AGAIN_SECONDS = 1.0
"""How often it is made sure that a run which is to be superseded has been told."""


class JoinOrder:
    """Of one conversation, one run at a time is joined and created here, so that the next finds its record at once.

    Two that waited for each other's records could wait for ever: one that left and joins again has changed its place.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def keep(self, tenant: str, conversation_id: str) -> AsyncIterator[None]:
        """Waits for the others of a conversation, and keeps them waiting. Nothing without a conversation."""
        if not conversation_id:
            yield
            return
        lock = self._locks.get((tenant, conversation_id))
        if lock is None:
            lock = self._locks[tenant, conversation_id] = asyncio.Lock()
        async with lock:
            yield


async def join(
    directory: RunDirectory, guard: StoreGuard, key: RunKey, spec: RunSpec, now: Instant
) -> Sequence[RunKey]:
    """Makes a run the last member of its conversation; the live members before it that it has to wait for.

    Whatever it raises, the run may have joined.

    Raises:
        ConversationBusy: the policy is REJECT and there are some.
    """
    if not spec.conversation_id:
        return ()
    place = _Place(directory, guard, key, spec.conversation_id, now)
    if spec.on_conflict is ConversationPolicy.ALLOW:
        await place.earlier()
        return ()
    live = await place.live_before()
    if live and spec.on_conflict is ConversationPolicy.REJECT:
        raise ConversationBusy(metadata={"run_ids": ",".join(member.run_id for member in live)[:1024]})
    return live


class _Place:
    """The place of one run in its conversation."""

    def __init__(
        self, directory: RunDirectory, guard: StoreGuard, key: RunKey, conversation_id: str, now: Instant
    ) -> None:
        self._store = directory.store
        self._guard = guard
        self._key = key
        self._conversation_id = conversation_id
        self._now = now

    async def earlier(self) -> Sequence[RunKey]:
        """Takes the place, or keeps it; the members before it."""
        key = self._key
        earlier = await self._guard.ask(
            lambda: self._store.join_conversation(key.tenant, self._conversation_id, key.run_id, self._now)
        )
        return [RunKey(key.tenant, run_id) for run_id in earlier]

    async def live_before(self) -> Sequence[RunKey]:
        """The live members before it, once it is known of each whether it is live."""
        loop, pause = asyncio.get_running_loop(), SHORTEST_PAUSE_SECONDS
        over_at = loop.time() + UNKNOWN_SECONDS
        while True:
            records = [(member, await self._record(member)) for member in await self.earlier()]
            unknown = [member for member, record in records if record is None]
            if not unknown or self._store.exclusive:
                break
            if loop.time() >= over_at:
                await self._take_out(unknown)
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return [member for member, record in records if record is not None and record.phase is RecordPhase.LIVE]

    async def _record(self, member: RunKey) -> RunRecord | None:
        return await self._guard.ask(lambda: self._store.get(member))

    async def _take_out(self, members: Sequence[RunKey]) -> None:
        for member in members:
            leave = partial(self._store.leave_conversation, member.tenant, self._conversation_id, member.run_id)
            await self._guard.ask(leave)


class Turn:
    """The wait of one run for the members of its conversation before it."""

    def __init__(
        self, directory: RunDirectory, guard: StoreGuard, clock: Clock, run: LiveRun, predecessors: Sequence[RunKey]
    ) -> None:
        self._directory = directory
        self._guard = guard
        self._clock = clock
        self._run = run
        self._predecessors = predecessors
        self._intent = CancelIntent(
            reason=CancelReason.SUPERSEDED,
            requested_by=SUPERSEDED_BY,
            request_time=clock.now(),
            superseded_by_run_id=run.key.run_id,
        )

    @property
    def _must_stop(self) -> bool:
        return self._run.spec.on_conflict is ConversationPolicy.SUPERSEDE

    async def wait(self) -> None:
        """Returns when all of them have ended; with SUPERSEDE it stops them first. A cancel leaves them stopped."""
        if self._must_stop:
            await self._supersede()
        for member in self._predecessors:
            await self._end_of(member)
        for run_id in tuple(self._run.superseded_run_ids):
            if not await self._is_superseded(run_id):
                self._run.superseded_run_ids.remove(run_id)

    async def _supersede(self) -> None:
        elsewhere = [member for member in self._predecessors if not self._supersede_here(member)]
        for member in self._predecessors:
            await self._ask_to_stop(member, is_elsewhere=member in elsewhere)

    def _supersede_here(self, member: RunKey) -> bool:
        """Stops a run of this process at once. Each names the other, or, if it was stopped otherwise, neither does."""
        run = self._directory.live.get(member)
        if run is None:
            return False
        run.stop(self._intent)
        if run.verdict.intent is self._intent:
            self._run.superseded_run_ids.append(member.run_id)
        return True

    async def _ask_to_stop(self, member: RunKey, *, is_elsewhere: bool) -> None:
        result = await self._guard.insist(partial(self._directory.ask_to_stop, member, self._intent))
        names, record = self._run.superseded_run_ids, result.record
        if is_elsewhere and record is not None and record.intent == self._intent and member.run_id not in names:
            names.append(member.run_id)

    async def _is_superseded(self, run_id: str) -> bool:
        """Whether it was this run that ended it: the intent of another replica's may have come too late."""
        member = RunKey(self._run.key.tenant, run_id)
        record = await self._guard.insist(lambda: self._directory.store.get(member))
        if record is None or record.phase is not RecordPhase.SEALED:
            return False
        return summary_run(record).superseded_by_run_id == self._run.key.run_id

    async def _end_of(self, member: RunKey) -> None:
        """Returns when it has ended, or the store does not know it for so long that its owner is gone as well."""
        loop, unknown_since = asyncio.get_running_loop(), None
        is_exclusive, supersedes = self._directory.store.exclusive, self._must_stop
        while True:
            try:
                await self._directory.wait_for_end(
                    member, LOOK_AGAIN_SECONDS if supersedes and not is_exclusive else None
                )
                if is_exclusive:
                    return
                record = await self._directory.store.get(member)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if record is not None and record.phase is not RecordPhase.LIVE:
                return
            if record is None:
                unknown_since = unknown_since or loop.time()
                if loop.time() - unknown_since >= UNKNOWN_SECONDS:
                    return
            else:
                unknown_since = None
                if supersedes and record.intent is None:
                    # It was put back after a failover, without what it had been told, or was not there to be told.
                    await self._ask_to_stop(member, is_elsewhere=True)
            await asyncio.sleep(LONGEST_PAUSE_SECONDS)
