"""The start of a run: one record, one upstream call, however often and from wherever it is asked for.

Runs in a task of its own, so that a caller who leaves midway leaves either nothing or a whole run behind, whose claim
is then released like any other. Of one id there is one start at a time. What a start leaves behind that fails midway, a
place in a conversation or a record that the store did not tell of, is cleared by a task of its own.
"""

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import structlog

from midstream_server.codec import encode_event, encode_run
from midstream_server.engine import conversation
from midstream_server.engine.claims import Claim, ClaimKeeper
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.run_task import RunServices, RunTask
from midstream_server.engine.stored_run import expire_if_due, is_due, seal_orphan
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.errors import RunIdConflict, RunIdExpired, StoreUnavailable, TooManyRuns
from midstream_server.model import Instant, Run, RunKey, RunSpec, RunStarted, RunState
from midstream_server.stores.base import RecordPhase, RunRecord, StartOutcome, StartResult, StartRun
from midstream_server.upstreams.base import UpstreamCall

_FOUND_LIVE = (StartOutcome.CREATED, StartOutcome.ATTACHED)

_log = structlog.get_logger(__name__)


class RunStarter:
    """Creates runs and drives them."""

    def __init__(
        self,
        directory: RunDirectory,
        claims: ClaimKeeper,
        tasks: TaskKeeper,
        services: RunServices,
        replica: str,
        max_live_runs: int,
    ) -> None:
        self._directory = directory
        self._claims = claims
        self._tasks = tasks
        self._services = services
        self._store, self._guard, self._clock = services.store, services.guard, services.clock
        self._replica = replica
        self._max_live_runs = max_live_runs
        self._creating = 0
        self._epoch = 0
        """Of the last start."""
        self._order = conversation.JoinOrder()

    async def start(self, spec: RunSpec, fingerprint: str, claim: Claim, call: UpstreamCall) -> None:
        """Creates the run, or finds the one that exists; afterwards the claim is held, or released if it was dropped.

        Raises:
            RunIdConflict, RunIdExpired: the id is taken.
            TooManyRuns, ConversationBusy, StoreUnavailable: nothing was started.
        """
        starting, key, outcome, is_known = self._directory.starting, claim.key, None, True
        while (earlier := starting.get(key)) is not None:
            await asyncio.wait({earlier})
        done = starting[key] = asyncio.get_running_loop().create_future()
        try:
            record = await self._guard.ask(lambda: self._store.get(key))
            self._check_lost(key, record)
            is_known = record is not None
            if is_due(record, self._clock.now()):
                await self._guard.ask(lambda: expire_if_due(self._store, record, self._clock.now()))
            outcome = await self._find_or_create(spec, fingerprint, claim, call, is_known=is_known)
        finally:
            del starting[key]
            done.set_result(None)
            if key not in self._directory.live and (not is_known or outcome in (None, StartOutcome.ATTACHED)):
                # Also what an earlier start left, whose own clearing found this one under way.
                self._tasks.spawn(self._clear(key, spec.conversation_id), f"clear {key.run_id}")
        self._check(outcome)
        if outcome in _FOUND_LIVE:
            self._claims.hold(claim)
            if claim.is_detached:
                self._claims.drop(claim)

    def _check_lost(self, key: RunKey, record: RunRecord | None) -> None:
        """A run that is live here and unknown to the store is not started again: it will be put back.

        Raises:
            StoreUnavailable: it is lost.
        """
        run = self._directory.live.get(key)
        if record is None and run is not None and not run.is_lost:
            self._services.restorer.on_loss()
            raise StoreUnavailable("the run store has lost this run for a moment")

    async def _find_or_create(
        self, spec: RunSpec, fingerprint: str, claim: Claim, call: UpstreamCall, *, is_known: bool
    ) -> StartOutcome:
        key, now = claim.key, self._clock.now()
        if is_known:
            return await self._create(spec, fingerprint, claim, call, now, ())
        with self._place():
            async with self._order.keep(key.tenant, spec.conversation_id):
                predecessors = await conversation.join(self._directory, self._guard, key, spec, now)
                return await self._create(spec, fingerprint, claim, call, now, predecessors)

    async def _create(
        self,
        spec: RunSpec,
        fingerprint: str,
        claim: Claim,
        call: UpstreamCall,
        now: Instant,
        predecessors: Sequence[RunKey],
    ) -> StartOutcome:
        run = LiveRun(claim.key, spec, _header(spec, now, is_queued=bool(predecessors)), call, self._clock)
        entry = encode_event(1, _started(spec, now))
        result = await self._write(run, entry, fingerprint, claim)
        if result.outcome is StartOutcome.CREATED:
            run.epoch = result.record.epoch
            earlier = self._directory.live.get(run.key)
            if earlier is not None:
                earlier.lose()  # the store has lost it this very moment, and has another one now
            self._services.restorer.adopt(result.record)
            self._launch(run, entry, predecessors)
            if spec.conversation_id and not self._store.exclusive:
                self._tasks.spawn(self._keep_place(run), f"place {run.key.run_id}")
        return result.outcome

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Holds a place for a run that is being created.

        Raises:
            TooManyRuns: there is none.
        """
        if len(self._directory.live) + self._creating >= self._max_live_runs:
            raise TooManyRuns
        self._creating += 1
        try:
            yield
        finally:
            self._creating -= 1

    async def _write(self, run: LiveRun, entry: bytes, fingerprint: str, claim: Claim) -> StartResult:
        command = self._command(run, entry, fingerprint, claim)
        is_live = False
        self._claims.expect(claim)
        self._directory.nascent[run.key] = run
        try:
            result = await self._guard.ask(lambda: self._store.start(command))
            is_live = result.outcome in _FOUND_LIVE
            return result
        except StoreUnavailable:
            claim.is_held = True  # it may be: `detach` will see to it, or has come already
            if claim.is_detached:
                self._claims.drop(claim)
            raise
        finally:
            del self._directory.nascent[run.key]
            if not is_live:
                self._claims.forget(claim)

    def _command(self, run: LiveRun, entry: bytes, fingerprint: str, claim: Claim) -> StartRun:
        spec, header = run.spec, run.header
        return StartRun(
            key=run.key,
            fingerprint=fingerprint,
            state=header.state,
            owner=self._replica,
            claim_id=claim.claim_id,
            on_detach=spec.on_detach,
            conversation_id=spec.conversation_id,
            parent_run_id=spec.parent_run_id,
            labels=spec.labels,
            retention_seconds=spec.retention_seconds,
            now=header.create_time,
            summary=encode_run(header),
            entry=entry,
            epoch=1 if self._store.exclusive else self._next_epoch(header.create_time),
        )

    def _next_epoch(self, now: Instant) -> int:
        """Milliseconds, then three digits of this replica's: until 2255 below 2 ** 53, where a script still counts."""
        digits = zlib.crc32(self._replica.encode()) % 1000
        self._epoch = max(now // 1_000_000 * 1000 + digits, self._epoch + 1000)
        return self._epoch

    def _launch(self, run: LiveRun, entry: bytes, predecessors: Sequence[RunKey]) -> None:
        self._services.writer.adopt(run)
        run.output.log.publish([entry])
        self._directory.live[run.key] = run
        self._directory.tails.turn_over(run.key)
        turn = None
        if predecessors:
            turn = conversation.Turn(self._directory, self._guard, self._clock, run, predecessors)
        _log.info("run.started", run_id=run.key.run_id, tenant=run.key.tenant, model=run.spec.model)
        self._tasks.spawn(self._drive(run, turn), f"run {run.key.run_id}")

    async def _drive(self, run: LiveRun, turn: conversation.Turn | None) -> None:
        try:
            await RunTask(run, self._services, turn).drive()
        finally:
            if not run.ended.done():
                run.lose()
            if self._directory.live.get(run.key) is run:
                del self._directory.live[run.key]
                self._services.restorer.forget(run.key)
            if run.is_lost:
                self._tasks.spawn(self._clear(run.key, ""), f"clear {run.key.run_id}")

    async def _keep_place(self, run: LiveRun) -> None:
        """Another replica may have taken it out: for one whose start had died, or for its own start of the same id."""
        tenant, run_id = run.key.tenant, run.key.run_id
        conversation_id, now = run.spec.conversation_id, run.header.create_time
        await self._guard.insist(lambda: self._store.join_conversation(tenant, conversation_id, run_id, now))

    async def _clear(self, key: RunKey, conversation_id: str) -> None:
        """Ends a run that the store has and nobody drives, or takes one that it has not out of its conversation."""
        clear = partial(self._clear_once, key, conversation_id)
        await self._guard.insist(clear)
        self._services.restorer.remember(clear, is_late=True)  # who took it over since puts it back first

    async def _clear_once(self, key: RunKey, conversation_id: str) -> None:
        record = await self._store.get(key)
        is_here = self._directory.is_here(key)
        if record is not None and record.phase is RecordPhase.LIVE:
            if record.owner == self._replica and not is_here:
                keep = self._services.restorer.keep_sealed
                await seal_orphan(self._store, key, self._replica, self._clock, keep)
                self._directory.tails.wake(key)
        elif conversation_id and (record is not None or not is_here):
            # One that has ended leaves even while another start asks for it: that one will not have joined.
            await self._store.leave_conversation(key.tenant, conversation_id, key.run_id)

    @staticmethod
    def _check(outcome: StartOutcome) -> None:
        if outcome is StartOutcome.CONFLICT:
            raise RunIdConflict
        if outcome is StartOutcome.EXPIRED:
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
