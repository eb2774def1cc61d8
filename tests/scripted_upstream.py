"""An upstream that says what the test tells it to say, when it tells it: the engine's port, without a wire."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from midstream_server.errors import ModelNotFound, RunFailure
from midstream_server.model import FinishReason, ModelInfo, Prompt, TextDelta
from midstream_server.upstreams.base import (
    CallOptions,
    DrainCaps,
    ModelFinished,
    PartDelta,
    Upstream,
    UpstreamBatch,
    UpstreamCall,
    UpstreamEvent,
)

MODEL = "scripted/model"


def text(piece: str, part: str = "text") -> PartDelta:
    """A piece of text."""
    return PartDelta(part=part, payload=TextDelta(piece))


def finish(reason: FinishReason = FinishReason.STOP) -> ModelFinished:
    """The finish marker."""
    return ModelFinished(reason=reason, raw=reason.name.lower())


@dataclass(eq=False)
class ScriptedCall:
    """One call. `say` gives a batch, `end` ends the body, `break_off` raises; `closed` is set by an abort.

    With `ignores_abort` the iteration goes on all the same, as that of a broken connection might. With `drain_caps` it
    is one that is drained: it accepts as long as it is open.
    """

    prompt: Prompt
    options: CallOptions
    upstream: str = "scripted"
    attempts: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    ignores_abort: bool = False
    drain_caps: DrainCaps | None = None
    _batches: asyncio.Queue[UpstreamBatch | RunFailure | None] = field(default_factory=asyncio.Queue)

    def say(self, *events: UpstreamEvent, wire_bytes: int = 100) -> None:
        """One read of the socket."""
        self._batches.put_nowait(UpstreamBatch(events=events, wire_bytes=wire_bytes))

    def end(self) -> None:
        """The end of the body."""
        self._batches.put_nowait(None)

    def break_off(self, failure: RunFailure) -> None:
        """The connection breaks, or a clock runs out."""
        self._batches.put_nowait(failure)

    @property
    def unread_batches(self) -> int:
        """What the upstream has sent and nobody has read yet."""
        return self._batches.qsize()

    async def __aenter__(self) -> UpstreamCall:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.left.set()

    async def batches(self) -> AsyncIterator[UpstreamBatch]:
        self.attempts = 1
        self.started.set()
        while True:
            batch = await self._batches.get()
            if batch is None:
                return
            if isinstance(batch, RunFailure):
                raise batch
            yield batch

    def abort(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            if not self.ignores_abort:
                self._batches.put_nowait(None)

    def drain(self) -> DrainCaps | None:
        return self.drain_caps if self.attempts and not self.closed.is_set() else None


class ScriptedUpstream:
    """An endpoint that keeps its calls."""

    name = "scripted"
    supports_continue = False

    def __init__(self) -> None:
        self.calls: list[ScriptedCall] = []
        self.drain_caps: DrainCaps | None = None

    def call(self, model: str, prompt: Prompt, options: CallOptions) -> ScriptedCall:
        call = ScriptedCall(prompt, options, drain_caps=self.drain_caps)
        self.calls.append(call)
        return call

    @property
    def started_calls(self) -> list[ScriptedCall]:
        """The calls that reached the upstream."""
        return [call for call in self.calls if call.attempts]

    async def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo(name=MODEL, upstream=self.name, dialect="scripted")]


class ScriptedRegistry:
    """Knows one upstream with one model."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream

    def resolve(self, model: str) -> tuple[Upstream, str]:
        if model != MODEL:
            raise ModelNotFound
        return self.upstream, "model"

    async def models(self) -> tuple[Sequence[ModelInfo], Sequence[str]]:
        return await self.upstream.models(), []
