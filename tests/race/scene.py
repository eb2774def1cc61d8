"""What was done to the engine, what it did, and what everybody saw, in the order in which it happened."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from midstream_server.codec import DecodedEvent
from midstream_server.errors import ModelNotFound
from midstream_server.model import DEFAULT_TENANT, CancelOutcome, ModelInfo, Prompt, Run, RunKey
from midstream_server.upstreams.base import CallOptions, DrainCaps, Upstream, UpstreamBatch, UpstreamCall
from race.loop import PROCESS, RaceLoop
from race.plan import Plan, RunPlan


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened to one run, or (run_id empty) to all."""

    step: int
    time: float
    kind: str
    run_id: str
    detail: Any


@dataclass(eq=False)
class View:
    """What one stream got."""

    run_id: str
    events: list[DecodedEvent] = field(default_factory=list)
    has_ended: bool = False
    """The engine said that there is no more."""
    process: str = ""
    """Who is sending it, if anybody is."""
    has_gone_on: bool = False
    """Its client has come back elsewhere."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call got."""

    kind: str
    run: Run
    outcome: CancelOutcome | None = None
    waited: bool = False


@dataclass(eq=False)
class Scene:
    """One race, over all lives of its process."""

    plan: Plan
    notes: list[Note] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    calls: "list[RaceCall]" = field(default_factory=list)

    def note(self, kind: str, run_id: str, detail: Any = None) -> None:
        """Keeps what happens now."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, RaceLoop), "races are run by the race loop"
        self.notes.append(Note(loop.steps, loop.time(), kind, run_id, detail))

    def go_on(self, view: View) -> View:
        """The stream that goes on with what another one got, which gets nothing any more."""
        later = View(view.run_id, list(view.events))
        view.has_gone_on = True
        self.views.append(later)
        return later

    def of(self, run_id: str) -> RunPlan:
        """The plan of a run."""
        return next(each for each in self.plan.runs if each.spec.run_id == run_id)


def key_of(run_id: str) -> RunKey:
    """The key of a run of a race."""
    return RunKey(DEFAULT_TENANT, run_id)


class RaceCall:
    """The call of one run, which says what the plan has it say."""

    upstream = "race"

    def __init__(self, scene: Scene, run_id: str) -> None:
        self.run_id = run_id
        self.attempts = 0
        self.is_open = False
        self.is_drained = False
        self.process = PROCESS.get()
        self._scene = scene
        self._plan = scene.of(run_id)
        self._closed = asyncio.Event()
        self._is_aborted = False

    async def __aenter__(self) -> UpstreamCall:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.is_open = False

    async def batches(self) -> AsyncIterator[UpstreamBatch]:
        if self._is_aborted:
            return
        self.attempts += 1
        self.is_open = True
        self._scene.note("called", self.run_id, self)
        for read in self._plan.reads:
            if not await self._waits(read.after):
                return
            if read.failure is not None:
                self._scene.note("stream_end", self.run_id, read.failure)
                raise read.failure
            if read.is_end:
                self._scene.note("stream_end", self.run_id)
                return
            self._scene.note("batch", self.run_id, read.events)
            yield UpstreamBatch(events=read.events, wire_bytes=10 * len(read.events))
        await self._waits(None)

    async def _waits(self, seconds: float | None) -> bool:
        """Whether the upstream says more, so much later."""
        if self._plan.reads_on and seconds is not None:
            await asyncio.sleep(seconds)
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return not self._closed.is_set()
        return False

    def drain(self) -> DrainCaps | None:
        """Notes the decision, as the abort does that comes otherwise."""
        caps = self._plan.drain_caps
        if caps is None or self._is_aborted or not self.is_open:
            return None
        self._scene.note("abort", self.run_id, self)
        self.is_drained = True
        return caps

    def abort(self) -> None:
        if not self._is_aborted:
            self._is_aborted = True
            self._scene.note("abort", self.run_id, self)
            if not (self._plan.reads_on and self.attempts):
                self._closed.set()


class RaceUpstreams:
    """The registry and the one upstream in it; its models are the runs."""

    name = "race"
    supports_continue = False

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def resolve(self, model: str) -> tuple[Upstream, str]:
        if not model.startswith("run-"):
            raise ModelNotFound
        return _RaceUpstream(self._scene), model

    async def models(self) -> tuple[Sequence[ModelInfo], Sequence[str]]:
        return (), ()


class _RaceUpstream:
    name = "race"
    supports_continue = False

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def call(self, model: str, prompt: Prompt, options: CallOptions) -> RaceCall:
        call = RaceCall(self._scene, model)
        self._scene.calls.append(call)
        return call

    async def models(self) -> Sequence[ModelInfo]:
        return ()
