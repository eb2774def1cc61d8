"""The whole public API, in any order, on every kind of store: it does what a small model of the rules says."""

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from api_model import SECOND, Model, ModelRun
from contract.store_cases import STORES
from engine_scenario import Engine, Follower, LoopClock, text_of
from flaky_store import FlakyStore
from midstream_server.engine.supervisor import Supervisor, SupervisorOptions
from midstream_server.errors import (
    ConversationBusy,
    CursorAhead,
    MidstreamError,
    RunExpired,
    RunIdConflict,
    RunIdExpired,
    RunLive,
    RunNotFound,
    UpstreamUnavailable,
)
from midstream_server.model import (
    DEFAULT_TENANT,
    ConversationPolicy,
    DetachAction,
    DetachPolicy,
    FinishReason,
    Run,
    RunState,
)
from midstream_server.stores.base import ListQuery, RunStore
from scripted_upstream import ScriptedCall, ScriptedRegistry, ScriptedUpstream, finish, text

T = TypeVar("T")
RUN_IDS = ("a", "b", "c", "d", "e")
run_ids = st.sampled_from(RUN_IDS)
REFUSALS: dict[str, type[MidstreamError]] = {
    "conflict": RunIdConflict,
    "expired": RunIdExpired,
    "busy": ConversationBusy,
}
JUMPS = (30, 61, 700, 4_000, 90_000)
"""Each well away from what a test takes, and between two of the times that count: 60 s, 10 min, 1 h, 24 h."""


class _OpenStore(FlakyStore):
    """A store that is open already, and stays so."""

    async def open(self) -> None:
        pass


class _Process:
    """One supervisor, entered and left by a task of its own."""

    def __init__(self, store: RunStore, clock: LoopClock, upstream: ScriptedUpstream, number: int) -> None:
        flaky, ids = _OpenStore(store), itertools.count(1)
        options = SupervisorOptions(replica=f"replica-{number}")
        supervisor = Supervisor(
            flaky, ScriptedRegistry(upstream), clock, lambda: f"claim-{number}-{next(ids)}", options
        )
        self.engine = Engine(supervisor, upstream, flaky, clock)
        self._leave = asyncio.Event()
        self._is_up = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="process")

    async def _run(self) -> None:
        async with self.engine.supervisor:
            self._is_up.set()
            await self._leave.wait()

    async def come_up(self) -> None:
        await self._is_up.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self._task


class ApiMachine(RuleBasedStateMachine):
    """Does what callers do, and holds the answers against the model. Every step is over before the next begins."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory()
        self._opened = STORES[self.kind](Path(self._folder.name))
        self.model = Model()
        self.streams: dict[int, tuple[Follower, str]] = {}
        self.calls: dict[str, ScriptedCall] = {}
        self._clock = LoopClock()
        self._upstream = ScriptedUpstream()
        self._numbers = itertools.count(1)
        self._store = self.do(self._opened.__aenter__())
        self._process = self.do(self._new_process())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs one step to its end."""

        async def bounded() -> T:
            async with asyncio.timeout(20):
                return await work

        return self._loop.run_until_complete(bounded())

    async def _new_process(self) -> _Process:
        process = _Process(self._store, self._clock, self._upstream, next(self._numbers))
        await process.come_up()
        return process

    @property
    def engine(self) -> Engine:
        return self._process.engine

    def teardown(self) -> None:
        """The last process goes, and nothing is left."""
        self.do(self._process.leave())
        left = {task.get_name() for task in asyncio.all_tasks(self._loop)}
        self.do(self._opened.__aexit__(None, None, None))
        self._loop.close()
        self._folder.cleanup()
        assert not left, f"tasks are left: {left}"

    # --- Generate, WatchRun, leaving ----------------------------------------------------------------------------------

    @rule(
        run_id=run_ids,
        fingerprint=st.sampled_from(["1:x", "1:x", "1:x", "1:y"]),
        conversation_id=st.sampled_from(["", "talk", "talk"]),
        policy=st.sampled_from(ConversationPolicy),
        detach=st.sampled_from([DetachAction.CANCEL, DetachAction.CONTINUE]),
        label=st.sampled_from(["x", "y"]),
        retention=st.sampled_from([0, 3600]),
    )
    def generate(self, run_id, fingerprint, conversation_id, policy, detach, label, retention):
        """Starts a run, attaches to it, or is refused."""
        wanted = ModelRun(
            run_id,
            fingerprint,
            RunState.RUNNING,
            conversation_id=conversation_id,
            detach=detach,
            labels={"label": label},
            retention=retention * SECOND,
        )
        calls_before = len(self._upstream.calls)
        expected = self.model.start(wanted, policy)
        starting = self.engine.start(
            run_id,
            fingerprint=fingerprint,
            conversation_id=conversation_id,
            on_conflict=policy,
            on_detach=DetachPolicy(action=detach),
            labels={"label": label},
            retention_seconds=float(retention),
        )
        if expected in REFUSALS:
            with pytest.raises(REFUSALS[expected]):
                self.do(starting)
            return
        stream = self.do(starting)
        number = next(self._numbers)
        self.streams[number] = (stream, run_id)
        run = self.model.runs[run_id]
        if run.is_live:
            run.claims.add(number)
        if expected == "created":
            self.calls[run_id] = self._upstream.calls[calls_before]
        else:
            assert not any(call.attempts for call in self._upstream.calls[calls_before:])
        self.catch_up()

    @rule(run_id=run_ids, offset=st.integers(-3, 1), snapshot=st.booleans(), claims=st.booleans())
    def watch(self, run_id, offset, snapshot, claims):
        """Follows a run from somewhere: dense from there, up to what is known of it."""
        run = self.model.runs.get(run_id)
        if run is None or run.is_expired:
            with pytest.raises(RunExpired if run else RunNotFound):
                self.do(self.engine.watch(run_id, claim=claims))
            return
        last = self.do(self.engine.get(run_id)).last_sequence
        after = max(0, last + offset)
        watching = self.engine.watch(run_id, after, snapshot=snapshot, claim=claims)
        if after > last:
            with pytest.raises(CursorAhead):
                self.do(watching)
            return
        stream = self.do(watching)
        number = next(self._numbers)
        if claims and run.is_live:
            run.claims.add(number)
        if snapshot or run.is_live or after < last:  # another one was told that there is no more
            self.streams[number] = (stream, run_id)
        if not snapshot and after < last:
            self.do(stream.until(lambda event: event.sequence == last))
            assert stream.sequences == list(range(after + 1, last + 1))

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def leave(self, data):
        """A stream goes; the last claim may take its run with it."""
        number = data.draw(st.sampled_from(sorted(self.streams)))
        stream, run_id = self.streams.pop(number)
        if run := self.model.runs.get(run_id):
            self.model.leave(run, number)
        self.do(_leave(stream))
        self.catch_up()

    # --- the upstream -------------------------------------------------------------------------------------------------

    def running(self) -> list[str]:
        """The runs whose upstream is open."""
        return [run.run_id for run in self.model.live() if run.state is RunState.RUNNING]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), said=st.text(st.characters(codec="utf-8"), min_size=1, max_size=5))
    def upstream_says(self, data, said):
        """More text, which every stream gets."""
        run = self.model.runs[data.draw(st.sampled_from(self.running()))]
        run.text += said
        self.calls[run.run_id].say(text(said))
        observer = self.do(self.engine.watch(run.run_id))
        self.do(observer.until_text(run.text))
        self.do(_leave(observer))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), how=st.sampled_from(["stop", "length", "cut", "reset"]))
    def upstream_ends(self, data, how):
        """The model finishes, or its stream breaks off."""
        run = self.model.runs[data.draw(st.sampled_from(self.running()))]
        call = self.calls[run.run_id]
        if how in ("stop", "length"):
            reason = FinishReason[how.upper()]
            call.say(finish(reason))
            self.model.end(run, RunState.COMPLETED, finish=reason)
        else:
            self.model.end(run, RunState.FAILED, "UPSTREAM_TRUNCATED" if how == "cut" else "UPSTREAM_UNAVAILABLE")
        if how == "reset":
            call.break_off(UpstreamUnavailable())
        else:
            call.end()
        self.do(self.engine.get(run.run_id, wait=10))
        self.catch_up()

    # --- Cancel, DeleteRun, ListRuns ----------------------------------------------------------------------------------

    @rule(run_id=run_ids, words=st.sampled_from(["enough", "stop"]))
    def cancel(self, run_id, words):
        """Stops it, remembers it, or finds it ended."""
        expected = self.model.cancel(run_id, words)
        if expected is None:
            with pytest.raises(RunExpired):
                self.do(self.engine.cancel(run_id, words))
            return
        outcome, run = self.do(self.engine.cancel(run_id, words))
        assert outcome is expected
        assert run == self.do(self.engine.get(run_id))
        self.catch_up()

    @rule(run_id=run_ids)
    def delete(self, run_id):
        """Deletes the content of one that has ended."""
        run = self.model.runs.get(run_id)
        deleting = self.engine.supervisor.delete(DEFAULT_TENANT, run_id)
        refusal = RunNotFound if run is None else RunExpired if run.is_expired else RunLive if run.is_live else None
        if refusal is not None:
            with pytest.raises(refusal):
                self.do(deleting)
            return
        assert run is not None
        self.do(deleting)
        self.model.delete(run, self.do(self._now()))

    @rule(
        state=st.one_of(st.none(), st.sampled_from(RunState)),
        conversation_id=st.sampled_from(["", "talk"]),
        labels=st.sampled_from([{}, {"label": "x"}]),
        page=st.integers(1, 3),
    )
    def list_runs(self, state, conversation_id, labels, page):
        """All pages: newest first, each run once."""
        shown: list[Run] = []
        while True:
            before = (shown[-1].create_time, shown[-1].run_id) if shown else None
            query = ListQuery(
                tenant=DEFAULT_TENANT,
                limit=page,
                before=before,
                state=state,
                conversation_id=conversation_id,
                labels=labels,
            )
            runs = self.do(self.engine.supervisor.list_runs(query))
            shown += runs
            if len(runs) < page:
                break
        assert [run.run_id for run in shown] == list(self.model.listed(state, conversation_id, labels))
        assert all(run.message is None for run in shown)

    # --- time and processes -------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from(JUMPS))
    def time_goes_by(self, seconds):
        """What has expired is purged; what is live does not mind."""
        self._clock.jumped_seconds += seconds
        now = self.do(self._now())
        while self.do(self._store.expire(now, 24 * 3600.0, 2)):
            pass
        self.model.expire(now)

    async def _now(self) -> int:
        return self._clock.now()

    @rule()
    def restart(self):
        """The process goes in good order; what was live is sealed with its partial."""
        self.model.end_all("SERVER_SHUTDOWN")
        self.do(self._process.leave())
        self._process = self.do(self._new_process())
        self.forget_streams()

    @rule()
    def be_replaced(self):
        """Another process takes the store over as after a crash; the old one, which does not know, changes nothing."""
        self.model.end_all("OWNER_LOST")
        old = self._process
        self._process = self.do(self._new_process())
        self.do(old.leave())
        self.forget_streams()

    def forget_streams(self) -> None:
        """They were the old process's."""
        self.streams.clear()

    # --- what always holds --------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Waits for what follows from the step: runs that were stopped end, runs whose turn it is are called."""
        for run in self.model.readable():
            if not run.is_live:
                self.do(self.engine.get(run.run_id, wait=10))
            elif run.state is RunState.RUNNING and not run.was_called:
                self.do(self._called(self.calls[run.run_id]))
                run.was_called = True

    @staticmethod
    async def _called(call: ScriptedCall) -> None:
        await call.started.wait()

    @invariant()
    def every_run_is_as_the_model_says(self):
        """GetRun of every id; one upstream call at most; streams of ended runs tell the same ending."""
        for run_id in RUN_IDS:
            run = self.model.runs.get(run_id)
            if run is None or run.is_expired:
                with pytest.raises(RunExpired if run else RunNotFound):
                    self.do(self.engine.get(run_id))
                continue
            shown = self.do(self.engine.get(run_id))
            self.compare(run, shown)
            self.model.settle_times(run, shown)
        for stream, run_id in self.streams.values():
            run = self.model.runs.get(run_id)
            if run is not None and not run.is_live and not run.is_expired:
                assert self.do(stream.rest()) == self.do(self.engine.get(run_id))

    def compare(self, run: ModelRun, shown: Run) -> None:
        """One run, fact by fact."""
        assert (shown.state, shown.cancel_reason, shown.finish_reason) == (
            run.state,
            run.cancel_reason,
            run.finish_reason,
        ), run.run_id
        assert (shown.error.reason if shown.error else "") == run.error
        assert text_of(shown.message) == run.text
        assert shown.superseded_by_run_id == run.superseded_by
        assert shown.labels == run.labels
        assert shown.conversation_id == run.conversation_id
        if run.cancel_reason is not None:
            assert shown.cancel is not None
            assert shown.cancel.reason == run.cancel_text
        if not run.is_live and run.run_id in self.calls and shown.attempts:
            assert self.calls[run.run_id].left.is_set()


async def _leave(stream: Follower) -> None:
    stream.leave()


def _machine(store: str) -> type[RuleBasedStateMachine]:
    return type("Machine", (ApiMachine,), {"kind": store})


@pytest.mark.parametrize(("kind", "examples"), [("memory", 60), ("sqlite-process", 30)])
def test_api_does_what_the_model_says(kind: str, examples: int):
    """Any order of calls, endings, time and processes."""
    run_state_machine_as_test(
        _machine(kind),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
