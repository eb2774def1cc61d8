"""One race from its seed to its verdict: the lives of the process, the audit after them, and what must hold of it.

The process is a loop: a crash is a loop that is not run any more, at whichever handle. What it left in the store is
opened by the next one. The last one, the audit, starts nothing of its own; all that was ever seen is held against it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog

from engine_scenario import LoopClock
from midstream_server.codec import decode_event
from midstream_server.engine.supervisor import Supervisor, SupervisorOptions
from midstream_server.model import DEFAULT_TENANT, CancelReason, Run, RunState
from midstream_server.stores.base import RecordPhase
from midstream_server.stores.memory import MemoryRunStore
from race.audit import Audit, Left, look, named, run_now
from race.checks import Fold, check_answer, check_log, check_view, is_prefix, payloads_of
from race.life import Life
from race.loop import RaceLoop, Stuck, new_loop
from race.oracle import Ending, Oracle, Prediction
from race.plan import RunPlan, make_plan
from race.scene import Note, RaceCall, RaceUpstreams, Scene
from race.store import RaceStore

MAX_STEPS = 100_000
_EXPECTED_LOGS = {"store.unavailable", "runs.unsealed", "store.expiry_failed"}


class Broken(AssertionError):
    """A promise that was not kept; the seed shows it again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one race came to."""

    endings: tuple[str, ...]
    digest: str
    """Of everything that happened: the same seed gives the same one."""


def race(seed: int) -> Outcome:
    """Runs one race.

    Raises:
        Broken: something does not hold.
    """
    with structlog.testing.capture_logs() as logs:
        machine = _Machine(seed)
        try:
            machine.run()
        except Stuck as error:
            machine.scene.problems.append(str(error))
    problems = machine.scene.problems
    problems += [str(entry) for entry in logs if _is_bad(entry)]
    if problems:
        raise Broken(f"seed {seed}: " + "\n  ".join(problems[:10]))
    return machine.outcome()


def _is_bad(entry: Any) -> bool:
    return entry["log_level"] in ("error", "warning", "critical") and entry["event"] not in _EXPECTED_LOGS


def digest(scene: Scene, finals: Mapping[str, Run]) -> Outcome:
    """What a race came to, in short."""
    facts = hashlib.sha256()
    for note in scene.notes:
        detail = note.detail if isinstance(note.detail, str) else type(note.detail).__name__
        facts.update(f"{note.step} {note.time:.6f} {note.kind} {note.run_id} {detail}\n".encode())
    for run_id, final in sorted(finals.items()):
        facts.update(f"{run_id} {final}\n".encode())
    for view in scene.views:
        facts.update(repr([(each.sequence, each.first_sequence) for each in view.events]).encode())
    return Outcome(tuple(named(finals.get(run.spec.run_id)) for run in scene.plan.runs), facts.hexdigest())


class _Machine:
    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.scene = Scene(make_plan(self._random))
        self._inner = MemoryRunStore()
        self._clock = LoopClock()
        self._time = 0.0
        self._left: dict[str, Left] = {}
        self._audited = Audit(self.scene, self._inner)
        self._finals, self._settled = self._audited.finals, self._audited.settled
        self._crashed = False
        self._came_to_rest = False

    def run(self) -> None:
        plan = self.scene.plan
        run_now(self._inner.open())
        self._crashed = self._live("life-1", plan.trouble.crash_after_steps)
        self._left = {run.spec.run_id: self._look(run.spec.run_id) for run in plan.runs}
        if self._crashed and plan.second_crash_after_steps is not None:
            self._recover_and_crash(plan.second_crash_after_steps)
        self._audit()
        self._judge()

    def outcome(self) -> Outcome:
        """After `run`."""
        return digest(self.scene, self._finals)

    # --- the processes ----------------------------------------------------------------------------------------------

    def _live(self, name: str, crash_after: int | None) -> bool:
        """Whether it crashed."""
        scene, plan = self.scene, self.scene.plan
        loop = new_loop(self._random, plan.disorder, self._time)
        with loop.running():
            store = RaceStore(self._inner, self._random, plan.latency)
            life = Life(scene, store, self._clock, name)
            main = loop.create_task(life.live(), name="main")
        loop.run(lambda: main.done() or loop.steps == crash_after, MAX_STEPS)
        crashed = not main.done()
        notes = len(scene.notes)
        if crashed:
            store.die()
            kept = [list(view.events) for view in scene.views], len(scene.answers)
            loop.dismantle()
            # What the remains did, nobody saw.
            for view, events in zip(scene.views, kept[0], strict=False):
                view.events[:], view.has_ended = events, False
            del scene.notes[notes:], scene.views[len(kept[0]) :], scene.answers[kept[1] :]
            scene.problems.clear()
        else:
            main.result()
            loop.run_out()
            self._came_to_rest = life.came_to_rest
            self._check_rest(loop, life)
        self._time = loop.time() + 1.0
        return crashed

    def _check_rest(self, loop: RaceLoop, life: Life) -> None:
        problems = self.scene.problems
        problems += loop.complaints
        if loop.tasks():
            problems.append(f"tasks are left: {sorted(task.get_name() for task in loop.tasks())}")
        if loop.pending_timers():
            problems.append(f"timers are left: {loop.pending_timers()}")
        if life.live_at_rest:
            problems.append(f"{life.live_at_rest} runs are live long after all should have ended")
        if life.callers_at_rest:
            problems.append(f"{life.callers_at_rest} callers wait for ever")
        if any(call.is_open for call in self.scene.calls):
            problems.append("an upstream is still open")

    def _recover_and_crash(self, after: int) -> None:
        """A second process that dies while it recovers, or soon after."""
        loop = new_loop(self._random, self.scene.plan.disorder, self._time)
        with loop.running():
            store = RaceStore(self._inner, self._random, 0.0)
            main = loop.create_task(self._only_recover(store), name="main")
        loop.run(lambda: main.done() or loop.steps == after, MAX_STEPS)
        store.die()
        loop.dismantle()
        self._time = loop.time() + 1.0

    async def _only_recover(self, store: RaceStore) -> None:
        options = SupervisorOptions(replica="life-2")
        async with Supervisor(store, RaceUpstreams(self.scene), self._clock, str, options):
            pass

    # --- the audit --------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        loop = new_loop(self._random, 0.0, self._time)
        with loop.running():
            main = loop.create_task(self._ask_everything(), name="audit")
        loop.run(main.done, MAX_STEPS)
        main.result()
        self.scene.problems += loop.complaints

    async def _ask_everything(self) -> None:
        options = SupervisorOptions(replica="audit")
        store = RaceStore(self._inner, self._random, None)
        async with Supervisor(store, RaceUpstreams(self.scene), self._clock, lambda: "audit", options) as supervisor:
            await self._audited.ask(supervisor)

    # --- the verdict ------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        for run in self.scene.plan.runs:
            run_id = run.spec.run_id
            self.scene.problems += [f"{run_id}: {problem}" for problem in self._judge_run(run)]
        members = run_now(self._inner.join_conversation(DEFAULT_TENANT, "talk", "next", 0))
        # What a process that goes has no time to clear, a durable store clears when it is opened.
        if members and self._came_to_rest:
            self.scene.problems.append(f"the conversation still has {members}")
        self.scene.problems += self._judge_superseded()

    def _judge_run(self, run: RunPlan) -> Iterable[str]:
        run_id = run.spec.run_id
        final, now = self._finals.get(run_id), self._look(run_id)
        views = [view for view in self.scene.views if view.run_id == run_id]
        answers = [answer for answer in self.scene.answers if answer.run.run_id == run_id]
        started = [call for call in self.scene.calls if call.run_id == run_id and call.attempts]
        if final is None or now.record is None:
            if any(view.events for view in views) or answers or started:
                yield "somebody saw it, and it is unknown"
            return
        for view in views:
            yield from check_view(view, final)
        for answer in answers:
            yield from check_answer(answer, final)
        yield from check_log(now.entries, final)
        if now.record.phase is not RecordPhase.SEALED or now.record.claims or not final.state.is_ending:
            yield f"it is left {final.state.name}, {now.record.phase.name}, claims {dict(now.record.claims)}"
        if len(started) > 1:
            yield f"{len(started)} upstream calls"
        yield from self._judge_ending(run, final, started)

    def _judge_ending(self, run: RunPlan, final: Run, started: list[RaceCall]) -> Iterable[str]:
        left = self._left[run.spec.run_id]
        notes = self._notes_of(run.spec.run_id)
        if left.record is None:
            yield "it appeared after its process"
            return
        oracle = Oracle(self.scene.plan, run, started)
        predicted = oracle.read(notes)
        yield from predicted.problems
        kept = payloads_of(final.message)
        if started and not is_prefix(kept, predicted.payloads):
            yield f"kept is {kept}, the upstream said {predicted.payloads}"
        if left.record.phase is RecordPhase.LIVE or left.record.epoch > 1:
            yield from self._judge_orphan(left, final)
        elif left.record.epoch == 0 or not started:
            yield from _judge_unstarted(final, notes)
        else:
            if kept != predicted.payloads:
                yield f"kept is {kept}, the upstream said {predicted.payloads}"
            if final.attempts != 1:
                yield f"{final.attempts} attempts"
            if final.finish_reason != predicted.finish_reason:
                yield f"finish reason {final.finish_reason}, not {predicted.finish_reason}"
            if not any(_fits(each, final) for each in predicted.endings):
                yield f"it is {named(final)}, not {predicted.endings}"
            yield from self._judge_stop(final, predicted, is_drained=started[0].is_drained)

    def _judge_stop(self, final: Run, predicted: Prediction, *, is_drained: bool) -> Iterable[str]:
        """What is said of a stop: all that came after it, or of a drained upstream what was known at the seal."""
        if (is_drained or final.run_id in self._settled) and final.state is not RunState.CANCELLED:
            yield f"{named(final)} was drained, or settled"
        if final.run_id in self._settled and not is_drained:
            yield "it is settled, and was not drained"
        report = final.cancel
        if report is None:
            return
        if is_drained and report.upstream_close_time is not None:
            yield f"the upstream closed at {report.upstream_close_time}, and was drained"
        told, came = report.discarded_events, predicted.discarded_events
        if told > came or (told < came and not is_drained):
            yield f"{told} events discarded, not {came}"

    def _judge_orphan(self, left: Left, final: Run) -> Iterable[str]:
        """Nobody drove it to its end: from the log alone, an intent means CANCELLED."""
        record = left.record
        assert record is not None, "an orphan has a record"
        wanted = Ending(RunState.FAILED, error="OWNER_LOST")
        if record.intent is not None:
            wanted = Ending(RunState.CANCELLED, record.intent.reason, text=record.intent.text)
        if not _fits(wanted, final):
            yield f"recovered as {named(final)}, not {wanted}"
        fold = Fold()
        for entry in left.entries:
            fold.take(decode_event(entry))
        if fold.payloads != payloads_of(final.message):
            yield f"the log had {fold.payloads}, recovered is {payloads_of(final.message)}"

    def _judge_superseded(self) -> Iterable[str]:
        """Each names the other, if no process died between the two."""
        if self._crashed or any(left.record and left.record.phase is RecordPhase.LIVE for left in self._left.values()):
            return
        pairs = {(run_id, run.superseded_by_run_id) for run_id, run in self._finals.items() if run.superseded_by_run_id}
        named = {(old, run_id) for run_id, run in self._finals.items() for old in run.superseded_run_ids}
        if pairs != named:
            yield f"superseded {sorted(pairs)}, but named {sorted(named)}"

    def _notes_of(self, run_id: str) -> list[Note]:
        return [note for note in self.scene.notes if note.run_id in ("", run_id)]

    def _look(self, run_id: str) -> Left:
        return look(self._inner, run_id)


def _judge_unstarted(final: Run, notes: list[Note]) -> Iterable[str]:
    """Its upstream was never called."""
    if final.message is not None or final.attempts or final.usage is not None:
        yield "it has output without an upstream"
    if final.state is RunState.COMPLETED:
        yield "it completed without an upstream"
    if final.cancel_reason is CancelReason.REQUESTED and final.cancel is not None:
        words = [note.detail for note in notes if note.kind == "cancel"]
        if final.cancel.reason not in words:
            yield f"cancelled with {final.cancel.reason!r}, which nobody said"


def _fits(ending: Ending, final: Run) -> bool:
    if (final.state, final.cancel_reason) != (ending.state, ending.cancel_reason):
        return False
    if (final.error.reason if final.error else "") != ending.error:
        return False
    return ending.text is None or (final.cancel is not None and final.cancel.reason == ending.text)
