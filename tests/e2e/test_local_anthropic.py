"""The real local model through the Messages dialect: llama.cpp's server speaks it too, at /v1/messages."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from pydantic import SecretStr

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server.app import serving
from midstream_server.settings import UpstreamSettings
from midstream_server.upstreams.local import LocalEngine
from rpc.served import Stream, opened, request_for, settings_for, text_of

if TYPE_CHECKING:  # the name is in the stubs only
    from midstream.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = "Tell me a long story about a lighthouse."
PROFILE = {"connection_close": True, "continue_prefix": "assistant_prefill"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[LocalEngine]:
    engine = LocalEngine()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(engine: LocalEngine) -> "AsyncIterator[GenerationServiceAsyncStub]":
    """A server with the engine's two ways in: `sim` in this dialect, `chat` in the other."""
    address = await engine.start()
    origin = address.base_url.removesuffix("/v1")
    upstreams = {
        "sim": {"dialect": "anthropic", "base_url": origin, "profile": PROFILE},
        "chat": {"dialect": "openai-chat", "base_url": address.base_url, "preset": "llamacpp"},
    }
    settings = {
        name: UpstreamSettings.model_validate(each).model_copy(update={"api_key": SecretStr(address.api_key)})
        for name, each in upstreams.items()
    }
    async with (
        serving(settings_for(origin, upstreams=settings)) as application,
        opened(application.address) as (_, stub),
    ):
        yield stub


def _ask(stub, upstream: str, tokens: int, **fields: str) -> Stream:
    parameters = wire.GenerationParameters(max_output_tokens=tokens, temperature=0)
    request = request_for("", QUESTION, parameters=parameters, **fields)
    request.model = f"{upstream}/smollm2"
    return Stream(stub.Generate(request))


async def test_the_answer_is_that_of_the_other_dialect(stub):
    """Byte for byte, with the same account."""
    ours, theirs = [await _ask(stub, upstream, 24).to_end() for upstream in ("sim", "chat")]

    assert ours.state == run_pb2.RUN_STATE_COMPLETED, ours.error
    assert (ours.finish_reason, ours.raw_finish_reason) == (run_pb2.FINISH_REASON_LENGTH, "max_tokens")
    assert text_of(ours) == text_of(theirs) != ""
    assert (ours.usage.output.value, ours.usage.output.source) == (24, run_pb2.USAGE_SOURCE_UPSTREAM_FINAL)
    assert (ours.usage.input, ours.usage.output) == (theirs.usage.input, theirs.usage.output)


async def test_cancel_stops_the_engine(stub, engine: LocalEngine):
    """It makes a few of the four hundred tokens that it was asked for, and the text of them is kept."""
    before = (await engine.metrics()).predicted_tokens
    stream = _ask(stub, "sim", 400, run_id="cut")
    await stream.until(lambda event: len(stream.text) > 60)

    run = (await stub.Cancel(wire.CancelRequest(run_id="cut"))).run
    while (metrics := await engine.metrics()).requests_processing:
        pass

    assert run == await stream.to_end()
    assert run.state == run_pb2.RUN_STATE_CANCELLED
    assert text_of(run) == stream.text
    assert 0 < metrics.predicted_tokens - before < 60


async def test_a_partial_is_continued_where_it_was_cut(stub):
    """As an answer that the model finds begun."""
    whole = await _ask(stub, "sim", 24).to_end()
    begun = await _ask(stub, "sim", 8, run_id="begun").to_end()

    rest = await _ask(stub, "sim", 24, continue_from="begun").to_end()

    assert 0 < len(text_of(begun)) < len(text_of(whole))
    assert (text_of(begun) + text_of(rest)).startswith(text_of(whole))


async def test_the_engine_is_asked_for_its_models(stub):
    """At the address, and with the header for the key, that this dialect has for it."""
    models = (await stub.ListModels(wire.ListModelsRequest())).models

    assert {(model.name, model.dialect) for model in models} >= {("sim/smollm2", "anthropic")}
