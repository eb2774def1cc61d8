"""One life of the process: the engine, those who call it, and what goes wrong meanwhile."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from engine_scenario import LoopClock
from midstream_server.codec import decode_event
from midstream_server.engine.supervisor import Reader, Supervisor, SupervisorOptions
from midstream_server.errors import (
    ConversationBusy,
    Draining,
    RunIdConflict,
    RunNotFound,
    StoreUnavailable,
)
from midstream_server.model import DEFAULT_TENANT, RunSpec
from midstream_server.stores.base import ListQuery
from race.plan import QUEUE_SECONDS, RUN_SECONDS, AskPlan, StreamPlan, Trouble
from race.scene import Answer, RaceUpstreams, Scene, View
from race.store import RaceStore

EXPECTED = (StoreUnavailable, Draining, ConversationBusy, RunIdConflict, RunNotFound)
QUIET_SECONDS = QUEUE_SECONDS + RUN_SECONDS + 40.0
"""After so long without an outage nothing may be live."""
READERS_LAST_SECONDS = 1.5


class Life:
    """Runs the plan against one supervisor, to the end of the plan or of the process."""

    def __init__(self, scene: Scene, store: RaceStore, clock: LoopClock, name: str) -> None:
        self.came_to_rest = False
        """Whether everything that can happen by itself had happened, with the store in order."""
        self.live_at_rest = 0
        """How many runs were live when all should have ended by themselves."""
        self.callers_at_rest = 0
        """How many calls had no answer by then."""
        self.expected: tuple[type[Exception], ...] = EXPECTED
        """What a caller may be told."""
        self.quiet_seconds = QUIET_SECONDS
        self.on_rest: Callable[[], None] = lambda: None
        """Told when all should have ended by themselves."""
        self._scene = scene
        self._store = store
        self._clock = clock
        self._name = name
        self._leave = asyncio.Event()
        self._actors: set[asyncio.Task[None]] = set()

    async def live(self) -> None:
        """The whole of it."""
        scene, options = (
            self._scene,
            SupervisorOptions(replica=self._name, max_run_seconds=RUN_SECONDS, queue_seconds=QUEUE_SECONDS),
        )
        ids = (f"id-{number}" for number in itertools.count(1))
        supervisor = Supervisor(
            self._store, RaceUpstreams(scene), self._clock, lambda: f"{self._name}-{next(ids)}", options
        )
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(supervisor)
                stack.push_async_callback(supervisor.wait_for_readers, READERS_LAST_SECONDS)
                stack.push_async_callback(self._seal_all, supervisor)
                self._begin(supervisor)
                await self._to_the_end(supervisor)
        except EXPECTED:
            pass  # the store was away when the process came up
        await self._end_actors()

    # --- the order of things ----------------------------------------------------------------------------------------

    def _begin(self, supervisor: Supervisor) -> None:
        for run in self._scene.plan.runs:
            for stream in run.streams:
                self._act(partial(self._follow, supervisor, run.spec, stream), stream.at)
            for ask in run.asks:
                self._act(partial(self._ask, supervisor, run.spec.run_id, ask), ask.at)
        trouble = self._scene.plan.trouble
        if trouble.outage is not None:
            self._act(lambda: self._be_away(trouble), trouble.outage_at)
        if trouble.seal_at is not None:
            self._act(lambda: self._seal_all(supervisor), trouble.seal_at)
        if trouble.drain_at is not None:
            self._act(lambda: supervisor.drain(0.5, asyncio.Event()), trouble.drain_at)
        if trouble.leave_at is not None:
            self._act(self._go, trouble.leave_at)
        if trouble.jump_at is not None:
            self._act(lambda: self._jump(trouble.jump_seconds), trouble.jump_at)

    async def _to_the_end(self, supervisor: Supervisor) -> None:
        """Until the process shall go, or everything that can happen by itself has happened."""
        trouble = self._scene.plan.trouble
        seconds = self.quiet_seconds + trouble.outage_at + trouble.outage_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._leave.wait()
        except TimeoutError:
            self.live_at_rest = supervisor.live_runs
            self.callers_at_rest = len(self._actors)
            self.came_to_rest = not self._store.is_away
            self.on_rest()

    async def _end_actors(self) -> None:
        for task in tuple(self._actors):
            task.cancel()
        if self._actors:
            await asyncio.wait(tuple(self._actors))

    def _act(self, work: Callable[[], Coroutine[Any, Any, None]], at: float) -> None:
        task = asyncio.create_task(self._later(work, at), name="actor")
        self._actors.add(task)
        task.add_done_callback(self._actors.discard)

    async def _later(self, work: Callable[[], Coroutine[Any, Any, None]], at: float) -> None:
        try:
            if at:
                await asyncio.sleep(at)
            await work()
        except self.expected:
            return
        except Exception as error:
            self._scene.problems.append(f"a caller got {error!r}")

    # --- what goes wrong --------------------------------------------------------------------------------------------

    async def _be_away(self, trouble: Trouble) -> None:
        assert trouble.outage is not None, "there is an outage in this plan"
        self._scene.note("outage", "", trouble.outage)
        self._scene.note("away", "", (trouble.outage, trouble.outage_seconds))
        self._store.begin(trouble.outage)
        try:
            await asyncio.sleep(trouble.outage_seconds)
        finally:
            self._store.heal()

    async def _seal_all(self, supervisor: Supervisor) -> None:
        self._scene.note("shutdown", "")
        await supervisor.seal_all()

    async def _go(self) -> None:
        self._leave.set()

    async def _jump(self, seconds: float) -> None:
        self._clock.jumped_seconds += seconds

    # --- who calls --------------------------------------------------------------------------------------------------

    async def _follow(self, supervisor: Supervisor, spec: RunSpec, plan: StreamPlan) -> None:
        """As a stream handler does it: whatever happens, one synchronous call at the end."""
        scene, run_id = self._scene, spec.run_id
        claim = supervisor.new_claim(DEFAULT_TENANT, run_id) if plan.claims else None
        reader: Reader | None = None
        if claim is not None:
            scene.note("wants", run_id, claim.claim_id)
        try:
            async with asyncio.timeout(plan.leaves_at):
                if plan.generates:
                    assert claim is not None, "every Generate holds a claim"
                    reader = await supervisor.start(spec, plan.fingerprint, claim)
                else:
                    reader = await supervisor.watch(DEFAULT_TENANT, run_id, 0, from_snapshot=plan.snapshot, claim=claim)
                if claim is not None:
                    scene.note("holds", run_id, claim.claim_id)
                await self._read(reader, run_id, plan)
        except TimeoutError:
            return
        finally:
            if claim is not None:
                scene.note("leaves", run_id, (claim.claim_id, plan.reason, plan.by_server))
            supervisor.detach(claim, reader, plan.reason, by_server=plan.by_server)

    async def _read(self, reader: Reader, run_id: str, plan: StreamPlan) -> None:
        view = View(run_id)
        self._scene.views.append(view)
        await self.read_on(reader, view, plan.leaves_after_events, plan.pause)

    async def read_on(self, reader: Reader, view: View, leaves_after_events: int | None, pause: float) -> None:
        """Reads until it leaves, or to the end."""
        view.process = self._name
        try:
            while events := await reader.next():
                view.events.extend(map(decode_event, events))
                if leaves_after_events is not None and len(view.events) >= leaves_after_events:
                    return
                if pause:
                    await asyncio.sleep(pause)
            view.has_ended = True
        finally:
            view.process = ""

    async def _ask(self, supervisor: Supervisor, run_id: str, plan: AskPlan) -> None:
        answers = self._scene.answers
        match plan.kind:
            case "cancel":
                self._scene.note("cancel", run_id, plan.text)
                outcome, run = await supervisor.cancel(DEFAULT_TENANT, run_id, plan.text, "alice", plan.wait or 0.0)
                self._scene.note("cancelled", run_id, outcome)
                answers.append(Answer("cancel", run, outcome))
            case "get":
                answers.append(Answer("get", await supervisor.get(DEFAULT_TENANT, run_id, plan.wait)))
            case _:
                query = ListQuery(tenant=DEFAULT_TENANT, limit=10, labels={"kind": "race"})
                answers.extend(Answer("list", run) for run in await supervisor.list_runs(query))
