"""The local upstream starts the engine when a call needs it, and can be aborted while it starts."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from midstream_server.errors import (
    FieldViolation,
    FirstTokenTimeout,
    InvalidRequest,
    ModelNotFound,
    UpstreamUnavailable,
)
from midstream_server.model import Message, ModelInfo, Part, Prompt, Role, Text
from midstream_server.upstreams.base import CallOptions, DrainCaps, EventIgnored, UpstreamBatch
from midstream_server.upstreams.local import LocalEngine
from midstream_server.upstreams.local_upstream import LocalUpstream

LISTENS = "import sys; print('local engine listening on http://127.0.0.1:9', flush=True); sys.stdin.read()"
CAPS = DrainCaps(seconds=1, output_tokens=1)
PROMPT = Prompt(messages=(Message(role=Role.USER, parts=(Part(content=Text(text="hello")),)),))


@dataclass
class FakeCall:
    """Gives batches until it is aborted."""

    options: CallOptions
    count: int = 2
    attempts: int = 0
    upstream: str = "inner"
    aborted: bool = False
    exits: int = 0
    iterator_closed: bool = False
    before: Callable[[], Awaitable[None]] | None = None
    """What happens when the first batch is asked for."""

    async def __aenter__(self) -> "FakeCall":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.exits += 1

    async def batches(self) -> AsyncIterator[UpstreamBatch]:
        self.attempts = 1
        try:
            if self.before is not None:
                await self.before()
            for number in range(self.count):
                if self.aborted:
                    return
                yield UpstreamBatch(events=[EventIgnored(kind=str(number))], wire_bytes=1)
        finally:
            self.iterator_closed = True

    def abort(self) -> None:
        self.aborted = True

    def drain(self) -> DrainCaps | None:
        return CAPS


@dataclass
class FakeUpstream:
    """Remembers its address and its calls."""

    base_url: str
    api_key: str
    name: str = "inner"
    supports_continue: bool = True
    calls: list[FakeCall] = field(default_factory=list)
    before: Callable[[], Awaitable[None]] | None = None

    def call(self, model: str, prompt: Prompt, options: CallOptions) -> FakeCall:
        if prompt.parameters.top_k:
            raise InvalidRequest(FieldViolation("parameters.top_k", "not here"))
        self.calls.append(FakeCall(options, before=self.before))
        return self.calls[-1]

    async def models(self) -> Sequence[ModelInfo]:
        return []


class Local:
    """A local upstream before a child that is a small script, and what its factory made."""

    def __init__(self, script: str = LISTENS) -> None:
        self.engine = LocalEngine(command=(sys.executable, "-I", "-S", "-c", script))
        self.made: list[FakeUpstream] = []
        self.before: Callable[[], Awaitable[None]] | None = None
        self.upstream = LocalUpstream("local", self.engine, self.make)

    def make(self, base_url: str, api_key: str) -> FakeUpstream:
        self.made.append(FakeUpstream(base_url, api_key, before=self.before))
        return self.made[-1]

    def call(self, options: CallOptions | None = None) -> Any:
        return self.upstream.call("smollm2", PROMPT, options or CallOptions())

    def kill(self) -> None:
        assert self.engine.process_id is not None
        os.kill(self.engine.process_id, signal.SIGKILL)

    async def run(self, options: CallOptions | None = None) -> list[str]:
        async with self.call(options) as call:
            return [event.kind async for batch in call.batches() for event in batch.events]


@pytest.fixture
async def local() -> AsyncIterator[Local]:
    local = Local()
    yield local
    await local.engine.close()


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Local]:
    """Its child listens once somebody has opened `fifo` in `tmp_path`."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    local = Local(f"open({str(fifo)!r}).read(); {LISTENS}")
    yield local
    await local.engine.close()


async def test_first_batch_starts_the_engine(local):
    """Preparing a call and listing models do not; the call then goes to the child's address with its key."""
    call = local.call()
    models = await local.upstream.models()
    before = local.engine.process_id

    async with call:
        kinds = [event.kind async for batch in call.batches() for event in batch.events]

    assert before is None
    assert [(model.name, model.supports_continue) for model in models] == [("local/smollm2", True)]
    assert kinds == ["0", "1"]
    assert local.made[-1].base_url == "http://127.0.0.1:9/v1"
    assert local.made[-1].api_key == local.engine.address.api_key
    assert (call.attempts, call.upstream) == (1, "local")
    assert local.made[-1].calls[0].exits == 1


async def test_address_is_asked_for_once_per_start(local):
    """Calls share the upstream that the factory made; after a restart there is another."""
    await local.run()
    await local.run()
    shared = len(local.made)
    local.kill()
    assert await local.engine.has_died()

    await local.run()

    assert shared == 2  # one at nowhere, for requests that cannot be expressed, and one at the child's address
    assert len(local.made) == 3
    assert local.made[1].api_key != local.made[2].api_key


async def test_what_cannot_be_expressed_is_refused_without_an_engine(local):
    """So is another model's name."""
    prompt = replace(PROMPT, parameters=replace(PROMPT.parameters, top_k=3))

    with pytest.raises(InvalidRequest, match="top_k"):
        local.upstream.call("smollm2", prompt, CallOptions())
    with pytest.raises(ModelNotFound, match="smollm2"):
        local.upstream.call("gpt", PROMPT, CallOptions())

    assert local.engine.process_id is None


async def test_abort_while_the_engine_starts_ends_the_call_quietly(slow, tmp_path):
    """At once, without an error, without an upstream call; the next call gets the engine that was starting."""
    async with slow.call() as call:
        reading = asyncio.create_task(collect(call))
        with await asyncio.to_thread((tmp_path / "fifo").open, "w"):
            while (process_id := slow.engine.process_id) is None:  # noqa: ASYNC110 (it has no event, and needs none)
                await asyncio.sleep(0)
            call.abort()
            batches = await reading
            still_starting = slow.engine.address is None

    kinds = await slow.run()

    assert batches == []
    assert still_starting
    assert call.attempts == 0
    assert not reading.cancelled()
    assert kinds == ["0", "1"]
    assert slow.engine.process_id == process_id


async def test_abort_before_the_first_batch_starts_nothing(local):
    """The iteration is empty, twice aborted too."""
    async with local.call() as call:
        call.abort()
        call.abort()
        batches = await collect(call)

    assert batches == []
    assert local.engine.process_id is None
    assert [len(made.calls) for made in local.made] == [1]  # the one that only checked the prompt


async def test_abort_during_the_answer_is_the_inner_calls(local):
    """The inner call decides what is still given."""
    async with local.call() as call:
        batches = call.batches()
        await anext(batches)
        call.abort()
        rest = [batch async for batch in batches]

    assert rest == []
    assert local.made[-1].calls[0].aborted


async def test_leaving_the_call_closes_what_is_inside(local):
    """Also when the iteration was left halfway, and its own clean-up ran."""
    async with local.call() as call:
        batches = call.batches()
        await anext(batches)
        await batches.aclose()

    assert local.made[-1].calls[0].exits == 1
    assert local.made[-1].calls[0].iterator_closed


async def test_starting_counts_as_waiting_for_the_first_token(slow):
    """A caller's limit ends it with the same failure; abort afterwards is harmless."""
    async with slow.call(CallOptions(first_token_seconds=0.05)) as call:
        with pytest.raises(FirstTokenTimeout):
            await collect(call)
        call.abort()


async def test_inner_call_gets_the_rest_of_the_time(local):
    """And the other clocks as they are."""
    await local.run(CallOptions(first_token_seconds=100.0, idle_seconds=7.0))

    options = local.made[-1].calls[0].options
    assert 90 < options.first_token_seconds < 100
    assert options.idle_seconds == 7.0


async def test_engine_that_dies_before_its_first_word_is_replaced(local):
    """A call that met it dying goes to another one, once, and both attempts count."""
    deaths: list[int | None] = []

    async def die() -> None:
        if len(deaths) < local.deaths:
            deaths.append(local.engine.process_id)
            local.kill()
            raise UpstreamUnavailable("connection refused")

    local.before = die
    local.deaths = 1
    async with local.call() as call:
        kinds = [event.kind async for batch in call.batches() for event in batch.events]
    local.deaths = 3
    with pytest.raises(UpstreamUnavailable, match="connection refused"):
        await local.run()

    assert kinds == ["0", "1"]
    assert call.attempts == 2
    assert len(set(deaths)) == 3
    assert [made.calls[0].exits for made in local.made[1:]] == [1, 1, 1]


async def test_drained_call_of_an_engine_that_dies_is_not_made_again(local):
    """Nobody wants its answer; before the engine was asked there is nothing to drain."""

    async def die() -> None:
        caps.append(call.drain())
        local.kill()
        assert await local.engine.has_died()
        raise UpstreamUnavailable("gone")

    call, caps = local.call(), []
    caps.append(call.drain())
    local.before = die

    async with call:
        with pytest.raises(UpstreamUnavailable, match="gone"):
            await collect(call)

    assert caps == [None, CAPS]
    assert call.attempts == 1


async def test_failure_of_an_engine_that_lives_is_the_calls(local):
    """Only its death is a reason to ask another."""

    async def fail() -> None:
        raise UpstreamUnavailable("503")

    local.before = fail

    with pytest.raises(UpstreamUnavailable, match="503"):
        await local.run()

    assert len(local.made) == 2


async def test_engine_that_cannot_run_fails_the_call():
    """With its own words, and nothing was called."""
    local = Local("print('local engine failed: not on this machine')")

    async with local.call() as call:
        with pytest.raises(UpstreamUnavailable, match="not on this machine"):
            await collect(call)

    assert call.attempts == 0


async def collect(call: Any) -> list[UpstreamBatch]:
    return [batch async for batch in call.batches()]
