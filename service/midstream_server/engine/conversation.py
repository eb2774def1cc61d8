"""Conversations: the ordered set of their live runs, and what a new run does about the ones before it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from weakref import WeakValueDictionary

from midstream_server.clock import Clock
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.store_guard import RETRY_SECONDS, StoreGuard
from midstream_server.errors import ConversationBusy, StoreUnavailable
from midstream_server.model import CancelIntent, CancelReason, ConversationPolicy, RunKey, RunSpec
from midstream_server.stores.base import RecordPhase

SUPERSEDED_BY = "conversation"


class JoinOrder:
    """Of one conversation, one run at a time is joined and created here, so that the next finds its record.

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


async def join(directory: RunDirectory, key: RunKey, spec: RunSpec, now: int) -> Sequence[RunKey]:
    """Makes a run the last member of its conversation; the live members before it that it has to wait for.

    Whatever it raises, the run may have joined.

    Raises:
        ConversationBusy: the policy is REJECT and there are some.
    """
    if not spec.conversation_id:
        return ()
    earlier = await directory.store.join_conversation(key.tenant, spec.conversation_id, key.run_id, now)
    if spec.on_conflict is ConversationPolicy.ALLOW:
        return ()
    members = [RunKey(key.tenant, run_id) for run_id in earlier]
    live = [member for member in members if await _is_live(directory, member)]
    if live and spec.on_conflict is ConversationPolicy.REJECT:
        raise ConversationBusy(metadata={"run_ids": ",".join(member.run_id for member in live)[:1024]})
    return live


async def _is_live(directory: RunDirectory, member: RunKey) -> bool:
    record = await directory.store.get(member)
    return record is not None and record.phase is RecordPhase.LIVE


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

    async def wait(self) -> None:
        """Returns when all of them have ended; with SUPERSEDE it stops them first. A cancel leaves them stopped."""
        if self._run.spec.on_conflict is ConversationPolicy.SUPERSEDE:
            await self._supersede()
        for member in self._predecessors:
            await self._end_of(member)

    async def _supersede(self) -> None:
        intent = CancelIntent(
            reason=CancelReason.SUPERSEDED,
            requested_by=SUPERSEDED_BY,
            request_time=self._clock.now(),
            superseded_by_run_id=self._run.key.run_id,
        )
        elsewhere = [member for member in self._predecessors if not self._supersede_here(member, intent)]
        for member in self._predecessors:
            result = await self._guard.insist(partial(self._directory.ask_to_stop, member, intent))
            if member in elsewhere and result.record is not None and result.record.intent == intent:
                self._run.superseded_run_ids.append(member.run_id)

    def _supersede_here(self, member: RunKey, intent: CancelIntent) -> bool:
        """Stops a run of this process at once. Each names the other, or, if it was stopped otherwise, neither does."""
        run = self._directory.live.get(member)
        if run is None:
            return False
        run.stop(intent)
        if run.verdict.intent is intent:
            self._run.superseded_run_ids.append(member.run_id)
        return True

    async def _end_of(self, member: RunKey) -> None:
        while True:
            try:
                return await self._directory.wait_for_end(member, None)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
