"""The start of a run: one record, one upstream call, however often and from wherever it is asked for.

Runs in a task of its own, so that a caller who leaves midway leaves either nothing or a whole run behind, whose claim is
then released like any other.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from midstream_server.clock import Clock
from midstream_server.codec import encode_event, encode_run
from midstream_server.engine import conversation
from midstream_server.engine.claims import Claim, ClaimKeeper
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.run_task import RunServices, RunTask
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.errors import RunIdConflict, RunIdExpired
from midstream_server.model import Run, RunKey, RunSpec, RunStarted, RunState
from midstream_server.stores.base import StartOutcome, StartResult, StartRun
from midstream_server.upstreams.base import UpstreamCall

_log = structlog.get_logger(__name__)


class RunStarter:
    """Creates runs and drives them."""

    def __init__(
        self, directory: RunDirectory, claims: ClaimKeeper, tasks: TaskKeeper, services: RunServices, replica: str
    ) -> None:
        self._directory = directory
        self._claims = claims
        self._tasks = tasks
        self._services = services
        self._clock: Clock = services.clock
        self._replica = replica
        self._starting: dict[RunKey, asyncio.Event] = {}

    async def start(self, spec: RunSpec, fingerprint: str, claim: Claim, call: UpstreamCall) -> None:
        """Creates the run, or finds the one that exists; afterwards the claim is held, or released if it was dropped.

        Raises:
            RunIdConflict, RunIdExpired: the id is taken.
            ConversationBusy: REJECT, and others are live.
            StoreUnavailable: nothing was started.
        """
        key = claim.key
        while key in self._starting:
            await self._starting[key].wait()
        done = self._starting[key] = asyncio.Event()
        try:
            result = await self._create(spec, fingerprint, claim, call)
        finally:
            del self._starting[key]
            done.set()
        self._check(result)
        if result.outcome is not StartOutcome.ENDED:
            self._claims.hold(claim)
            if claim.is_detached:
                self._claims.drop(claim)

    async def _create(self, spec: RunSpec, fingerprint: str, claim: Claim, call: UpstreamCall) -> StartResult:
        key, store, now = claim.key, self._directory.store, self._clock.now()
        is_known = await store.get(key) is not None
        predecessors = [] if is_known else await conversation.join(self._directory, key, spec, now)
        header = _header(spec, now, is_queued=bool(predecessors))
        run = LiveRun(key, spec, header, call, self._clock)
        entry = encode_event(1, _started(spec, now))
        self._directory.nascent[key] = run
        try:
            result = await store.start(
                StartRun(
                    key=key,
                    fingerprint=fingerprint,
                    state=header.state,
                    owner=self._replica,
                    claim_id=claim.claim_id,
                    on_detach=spec.on_detach,
                    conversation_id=spec.conversation_id,
                    parent_run_id=spec.parent_run_id,
                    labels=spec.labels,
                    retention_seconds=spec.retention_seconds,
                    now=now,
                    summary=encode_run(header),
                    entry=entry,
                )
            )
        finally:
            del self._directory.nascent[key]
        if result.outcome is StartOutcome.CREATED:
            self._launch(run, entry, predecessors)
        elif spec.conversation_id and not is_known and result.outcome is not StartOutcome.ATTACHED:
            await store.leave_conversation(key.tenant, spec.conversation_id, key.run_id)
        return result

    def _launch(self, run: LiveRun, entry: bytes, predecessors: Sequence[RunKey]) -> None:
        self._services.writer.adopt(run)
        run.output.log.publish([entry])
        self._directory.live[run.key] = run
        turn = conversation.Turn(self._directory, self._clock, run, predecessors) if predecessors else None
        _log.info("run.started", run_id=run.key.run_id, tenant=run.key.tenant, model=run.spec.model)
        self._tasks.spawn(self._drive(run, turn), f"run {run.key.run_id}")

    async def _drive(self, run: LiveRun, turn: conversation.Turn | None) -> None:
        try:
            await RunTask(run, self._services, turn).drive()
        finally:
            del self._directory.live[run.key]

    @staticmethod
    def _check(result: StartResult) -> None:
        if result.outcome is StartOutcome.CONFLICT:
            raise RunIdConflict
        if result.outcome is StartOutcome.EXPIRED:
            raise RunIdExpired


def _header(spec: RunSpec, now: int, *, is_queued: bool) -> Run:
    run = Run(
        run_id=spec.run_id,
        state=RunState.QUEUED if is_queued else RunState.RUNNING,
        model=spec.model,
        labels=spec.labels,
        conversation_id=spec.conversation_id,
        parent_run_id=spec.parent_run_id,
        continued_from=spec.continue_from,
        create_time=now,
    )
    return run if is_queued else replace(run, start_time=now)


def _started(spec: RunSpec, now: int) -> RunStarted:
    return RunStarted(
        run_id=spec.run_id,
        model=spec.model,
        on_detach=spec.on_detach,
        limits=spec.limits,
        retention_seconds=spec.retention_seconds,
        conversation_id=spec.conversation_id,
        on_conflict=spec.on_conflict if spec.conversation_id else None,
        create_time=now,
    )
