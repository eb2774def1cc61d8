"""A race of several processes on one store: stopped, woken and killed between any two steps, and hints get lost.

The oracle is smaller than that of one process, since nobody can say who saw what first: one ending, for everybody the
same, a prefix for everybody, nothing after it, a cause for it, nothing live once all leases are over, one call at most.
"""

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from random import Random

import structlog

from engine_scenario import LoopClock
from midstream_server.engine.supervisor import Supervisor, SupervisorOptions
from midstream_server.errors import CursorAhead, RunExpired
from midstream_server.model import DEFAULT_TENANT, CancelReason
from midstream_server.stores.base import RecordPhase, StoreListener
from race.audit import Audit, look, named, run_now
from race.checks import Fold
from race.fleet_checks import Lives, judge_after_failover, judge_conversation, judge_run
from race.fleet_plan import FleetPlan, ProcessPlan, Stop, make_fleet_plan
from race.life import EXPECTED, QUIET_SECONDS, Life
from race.loop import PROCESS, RaceLoop, Stuck, new_loop
from race.machine import Broken, Outcome, digest
from race.scene import RaceUpstreams, Scene
from race.store import RaceStore
from shared_store import ReplicaStore, SharedRuns

MAX_STEPS = 400_000
LEASES_OVER_SECONDS = 60.0
SENT_SECONDS = 10.0
"""How long what the dead had sent may be on its way."""
_BAD_LOGS = ("broken", "run.unsealed", "stuck")
_FAILOVER_LOGS = ("rolled_back", "restored", "resealed", "shrunk")


def race_fleet(seed: int, count: int, *, fails_over: bool = False, is_late: bool = False) -> Outcome:
    """Runs one race of so many processes.

    With `is_late` writes that a process has given up take effect later. With `fails_over` the store loses, once, what
    it had acknowledged a moment before. Then only this must hold: nothing is left live, nobody waits for ever, and
    everybody who asks afterwards is told the same.

    Raises:
        Broken: something does not hold.
    """
    with structlog.testing.capture_logs() as logs:
        fleet = _Fleet(seed, count, fails_over=fails_over, is_late=is_late)
        try:
            fleet.run()
        except Stuck as error:
            fleet.scene.problems.append(str(error))
    problems = fleet.scene.problems
    bad = _BAD_LOGS if fails_over else _BAD_LOGS + _FAILOVER_LOGS
    problems += [str(entry) for entry in logs if any(word in str(entry["event"]) for word in bad)]
    if problems:
        raise Broken(f"seed {seed} of {count}: " + "\n  ".join(problems[:10]))
    return fleet.outcome()


class _Handle(ReplicaStore):
    """One process's way to the store. Its hints come when the process runs, late, or not at all."""

    def __init__(self, shared: SharedRuns, plan: FleetPlan, random: Random) -> None:
        super().__init__(shared)
        shared.handles.append(self)
        self._plan = plan
        self._random = random
        self._process: contextvars.Context | None = None

    def listen(self, listener: StoreListener) -> None:
        super().listen(listener)
        self._process = contextvars.copy_context()

    def hear(self, tell: Callable[[StoreListener], None]) -> None:
        if self._listener is None or self._process is None or self._random.random() < self._plan.lost_hints:
            return
        loop, delay = asyncio.get_running_loop(), round(self._random.random() * self._plan.hint_seconds, 3)
        arrive = partial(loop.call_soon, tell, self._listener, context=self._process.copy())
        loop.call_later(delay, arrive, context=contextvars.Context())


class _Process:
    """One process of the race."""

    def __init__(self, fleet: "_Fleet", plan: ProcessPlan) -> None:
        self.plan = plan
        self.is_dead = False
        scene = fleet.scene
        self.scene = Scene(plan.plan, scene.notes, scene.views, scene.answers, scene.problems, scene.calls)
        self.handle = _Handle(fleet.shared, fleet.plan, fleet.random)
        self.store = RaceStore(self.handle, fleet.random, plan.plan.latency)
        self._clock = LoopClock()
        self._clock.jumped_seconds = plan.clock_ahead
        self.life = _FleetLife(self.scene, self.store, self._clock, plan)
        if fleet.plan.failovers:
            self.life.expected = (*EXPECTED, CursorAhead, RunExpired)

    async def run(self) -> None:
        """From its start to its end."""
        if self.plan.begins_at:
            await asyncio.sleep(self.plan.begins_at)
        await self.life.live()


class _FleetLife(Life):
    """A life among others: streams that were cut off elsewhere go on here."""

    def __init__(self, scene: Scene, store: RaceStore, clock: LoopClock, plan: ProcessPlan) -> None:
        super().__init__(scene, store, clock, plan.name)
        self._plan = plan
        self.quiet_seconds = QUIET_SECONDS + LEASES_OVER_SECONDS - plan.begins_at

    def _begin(self, supervisor: Supervisor) -> None:
        super()._begin(supervisor)
        for at in self._plan.resumes_at:
            self._act(lambda: self._resume(supervisor), at)

    async def _resume(self, supervisor: Supervisor) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, RaceLoop), "races are run by the race loop"
        for view in self._scene.views:
            is_read = view.process and not loop.is_stopped(view.process)
            if view.has_ended or view.has_gone_on or is_read or not view.events:
                continue
            fold = Fold()
            if any(fold.take(event) for event in view.events) or fold.finished is not None:
                continue
            # The stream that is cut off may still have events on its way; its client does not listen any more.
            view = self._scene.go_on(view)
            reader = await supervisor.watch(DEFAULT_TENANT, view.run_id, fold.cursor, from_snapshot=False, claim=None)
            try:
                await self.read_on(reader, view, None, 0.0)
            finally:
                supervisor.detach(None, reader, CancelReason.CLIENT_GONE, by_server=False)
            return


class _Fleet:
    def __init__(self, seed: int, count: int, *, fails_over: bool, is_late: bool) -> None:
        self.random = Random(seed)
        self.plan = make_fleet_plan(self.random, count, fails_over=fails_over, is_late=is_late)
        self.scene = Scene(self.plan.whole)
        self.shared = SharedRuns()
        run_now(self.shared.open())
        self.processes = [_Process(self, plan) for plan in self.plan.processes]
        self._audited = Audit(self.scene, self.shared)
        self._lives = Lives()
        self._copies: list[Callable[[], None]] = []

    def run(self) -> None:
        loop = new_loop(self.random, self.plan.whole.disorder, 0.0)
        with loop.running():
            mains = {process.plan.name: self._begin(loop, process) for process in self.processes}
        for at, happen in self._schedule(loop):
            loop.run(partial(self._is_over, loop, mains, at), MAX_STEPS)
            happen()
        loop.run(partial(self._is_over, loop, mains, MAX_STEPS), MAX_STEPS)
        for process in self.processes:
            if not process.is_dead:
                mains[process.plan.name].result()
        self._check_rest(loop)
        self._judge_what_was_seen(loop)

    def outcome(self) -> Outcome:
        """After `run`."""
        return digest(self.scene, self._audited.finals)

    # --- the processes ----------------------------------------------------------------------------------------------

    def _begin(self, loop: RaceLoop, process: _Process) -> "asyncio.Task[None]":
        context = contextvars.Context()
        context.run(PROCESS.set, process.plan.name)
        process.life.on_rest = lambda: self._check_live(loop, process)
        return loop.create_task(process.run(), name="main", context=context)

    def _schedule(self, loop: RaceLoop) -> list[tuple[int, Callable[[], None]]]:
        happens: list[tuple[int, Callable[[], None]]] = []
        for process in self.processes:
            happens += [(stop.after_steps, partial(self._stop, loop, process, stop)) for stop in process.plan.stops]
        for failover in self.plan.failovers:
            happens.append((failover.copied_after_steps, self._copy))
            happens.append((failover.lost_after_steps, self._fail_over))
        return sorted(happens, key=lambda each: each[0])

    def _copy(self) -> None:
        self._copies.append(self.shared.copy())

    def _fail_over(self) -> None:
        self._copies.pop(0)()

    def _is_over(self, loop: RaceLoop, mains: "dict[str, asyncio.Task[None]]", steps: int) -> bool:
        return loop.steps >= steps or all(
            process.is_dead or mains[process.plan.name].done() for process in self.processes
        )

    def _stop(self, loop: RaceLoop, process: _Process, stop: Stop) -> None:
        name = process.plan.name
        if process.is_dead or loop.is_stopped(name):
            return
        loop.stop_process(name)
        with loop.running():
            self.scene.note("stopped", "", name)
        if stop.seconds is None:
            process.is_dead = True
            self._lives.deaths += 1
            self._lives.dead.add(name)
        else:
            self._lives.stops += 1
            self._lives.stopped_seconds += stop.seconds
            loop.call_later(stop.seconds, loop.wake_process, name, context=contextvars.Context())

    def _check_live(self, loop: RaceLoop, process: _Process) -> None:
        """When all must have ended by itself: whoever is awake has seen to it."""
        if process.store.is_away or any(loop.is_stopped(each.plan.name) for each in self.processes if not each.is_dead):
            return
        for record in self.shared.records():
            if record.phase is RecordPhase.LIVE:
                self.scene.problems.append(f"{record.key.run_id} is live, of {record.owner}, when all leases are over")

    def _check_rest(self, loop: RaceLoop) -> None:
        problems, dead = self.scene.problems, {each.plan.name for each in self.processes if each.is_dead}
        problems += loop.complaints
        for process in self.processes:
            if not process.is_dead and process.life.came_to_rest:
                if process.life.live_at_rest:
                    problems.append(f"{process.life.live_at_rest} runs are live at {process.plan.name}")
                if process.handle.followed:
                    problems.append(f"{process.plan.name} still follows {process.handle.followed}")
                if process.life.callers_at_rest:
                    problems.append(f"{process.life.callers_at_rest} callers wait for ever at {process.plan.name}")
        tasks = {task for task, process in loop.processes_of(loop.tasks()).items() if process not in dead}
        if tasks:
            problems.append(f"tasks are left: {sorted(task.get_name() for task in tasks)}")
        timers = [timer for timer in loop.pending_timers() if loop.process_of(timer) not in dead | {""}]
        if timers:
            problems.append(f"timers are left: {timers}")
        if any(call.is_open and call.process not in dead for call in self.scene.calls):
            problems.append("an upstream is still open")

    # --- the verdict ------------------------------------------------------------------------------------------------

    def _judge_what_was_seen(self, loop: RaceLoop) -> None:
        if self.plan.failovers:
            self.scene.views.clear()
            self.scene.answers.clear()
        audit = loop.create_task(self._audit(), name="audit", context=contextvars.Context())
        loop.run(audit.done, loop.steps + MAX_STEPS)
        audit.result()
        for run in self.plan.whole.runs:
            run_id = run.spec.run_id
            if run_id in self._audited.expired:
                continue
            final, now = self._audited.finals.get(run_id), look(self.shared, run_id)
            judge = judge_after_failover if self.plan.failovers else judge_run
            problems = judge(self.scene, run, final, now, self._lives)
            self.scene.problems += [f"{run_id} ({named(final)}): {problem}" for problem in problems]
        if not self.plan.failovers:
            self.scene.problems += judge_conversation(self.scene, self._audited.finals, self._lives)
        self._dismantle(loop)

    async def _audit(self) -> None:
        store = RaceStore(_Handle(self.shared, self.plan, self.random), self.random, None)
        await asyncio.sleep(SENT_SECONDS)
        options = SupervisorOptions(replica="audit")
        async with Supervisor(store, RaceUpstreams(self.scene), LoopClock(), lambda: "audit", options) as supervisor:
            await self._audited.ask(supervisor, 60.0)

    def _dismantle(self, loop: RaceLoop) -> None:
        """What the dead would have done, nobody sees."""
        problems, notes = list(self.scene.problems), len(self.scene.notes)
        for process in self.processes:
            process.store.die()
            loop.wake_process(process.plan.name)
        loop.dismantle()
        self.scene.problems[:] = problems
        del self.scene.notes[notes:]
