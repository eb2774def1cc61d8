"""Conversations: the ordered set of their live runs, and what a new run does about the ones before it."""

from collections.abc import Sequence

from midstream_server.clock import Clock
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.live_run import LiveRun
from midstream_server.errors import ConversationBusy
from midstream_server.model import CancelIntent, CancelReason, ConversationPolicy, RunKey, RunSpec
from midstream_server.stores.base import IntentOutcome, RecordPhase

SUPERSEDED_BY = "conversation"


async def join(directory: RunDirectory, key: RunKey, spec: RunSpec, now: int) -> Sequence[RunKey]:
    """Makes a run the last member of its conversation; the live members before it that it has to wait for.

    Raises:
        ConversationBusy: the policy is REJECT and there are some; the run has left again.
    """
    if not spec.conversation_id:
        return ()
    store = directory.store
    earlier = await store.join_conversation(key.tenant, spec.conversation_id, key.run_id, now)
    live: list[RunKey] = []
    for run_id in earlier:
        member = RunKey(key.tenant, run_id)
        record = await store.get(member)
        if record is not None and record.phase is RecordPhase.LIVE:
            live.append(member)
    if live and spec.on_conflict is ConversationPolicy.REJECT:
        await store.leave_conversation(key.tenant, spec.conversation_id, key.run_id)
        raise ConversationBusy(metadata={"run_ids": ",".join(member.run_id for member in live)[:1024]})
    return [] if spec.on_conflict is ConversationPolicy.ALLOW else live


class Turn:
    """The wait of one run for the members of its conversation before it."""

    def __init__(self, directory: RunDirectory, clock: Clock, run: LiveRun, predecessors: Sequence[RunKey]) -> None:
        self._directory = directory
        self._clock = clock
        self._run = run
        self._predecessors = predecessors

    async def wait(self) -> None:
        """Returns when all of them have ended; with SUPERSEDE it stops them first. A cancel leaves them stopped."""
        if self._run.spec.on_conflict is ConversationPolicy.SUPERSEDE:
            for member in self._predecessors:
                await self._supersede(member)
        for member in self._predecessors:
            await self._directory.wait_for_end(member, None)

    async def _supersede(self, member: RunKey) -> None:
        run_id = self._run.key.run_id
        intent = CancelIntent(
            reason=CancelReason.SUPERSEDED,
            requested_by=SUPERSEDED_BY,
            request_time=self._clock.now(),
            superseded_by_run_id=run_id,
        )
        result = await self._directory.ask_to_stop(member, intent)
        if result.outcome is IntentOutcome.RECORDED:
            self._run.superseded_run_ids.append(member.run_id)
