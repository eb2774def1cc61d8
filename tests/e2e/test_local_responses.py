"""The real local model through the Responses dialect: llama.cpp answers POST /v1/responses too."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import pytest
import pytest_asyncio
from pydantic import SecretStr

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import generation_service_pb2_grpc, run_pb2
from midstream_server.app import serving
from midstream_server.settings import ProfileSettings, UpstreamSettings
from midstream_server.upstreams.local import EngineMetrics, LocalEngine
from rpc.served import Stream, opened, settings_for, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

Stub: TypeAlias = "generation_service_pb2_grpc.GenerationServiceAsyncStub"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[LocalEngine]:
    engine = LocalEngine()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stub(engine: LocalEngine) -> AsyncIterator[Stub]:
    """A whole server in front of the engine, which it knows as any other endpoint of the dialect."""
    address = await engine.start()
    upstream = UpstreamSettings(
        dialect="openai-responses",
        preset="llamacpp",
        base_url=address.base_url,
        profile=ProfileSettings(extra_body={"return_progress": True}),
    ).model_copy(update={"api_key": SecretStr(address.api_key)})
    settings = settings_for(address.base_url, upstreams={"llama": upstream})
    async with serving(settings) as application, opened(application.address) as (_, stub):
        yield stub


def _message(role: "run_pb2.Role.ValueType", *parts: run_pb2.Part) -> run_pb2.Message:
    return run_pb2.Message(role=role, parts=parts)


def _text(text: str) -> run_pb2.Part:
    return run_pb2.Part(text=run_pb2.Text(text=text))


def _request(*messages: run_pb2.Message, tokens: int, **fields: object) -> wire.GenerateRequest:
    parameters = wire.GenerationParameters(temperature=0, max_output_tokens=tokens)
    return wire.GenerateRequest(model="llama/smollm2", messages=messages, parameters=parameters, **fields)  # type: ignore[arg-type]  # the fields of a test


def _asked(text: str) -> run_pb2.Message:
    return _message(run_pb2.ROLE_USER, _text(text))


async def _metrics_when_idle(engine: LocalEngine, wanted: Callable[[EngineMetrics], bool] = bool) -> EngineMetrics:
    """Asks the engine until it is idle; each question is a request that takes its time."""
    async with asyncio.timeout(20):
        while (metrics := await engine.metrics()).requests_processing or not wanted(metrics):
            pass
    return metrics


async def test_a_whole_answer_and_its_account(engine: LocalEngine, stub: Stub):
    """Text in pieces, the finish, and usage that agrees with the engine's own counter."""
    before = await _metrics_when_idle(engine)

    stream = Stream(stub.Generate(_request(_asked("Count from 1 to 5."), tokens=20)))
    run = await stream.to_end()

    after = await _metrics_when_idle(engine)
    made = after.predicted_tokens - before.predicted_tokens
    assert (run.state, run.finish_reason) == (run_pb2.RUN_STATE_COMPLETED, run_pb2.FINISH_REASON_STOP)
    assert (run.raw_finish_reason, run.upstream_model) == ("completed", "smollm2")
    assert run.upstream_request_id.startswith("resp_")
    assert text_of(run).strip()
    assert stream.text == text_of(run)
    assert (run.usage.output.value, run.usage.output.source) == (made, run_pb2.USAGE_SOURCE_UPSTREAM_FINAL)
    assert run.usage.input.value > 0


async def test_a_conversation_with_tools_is_accepted(stub: Stub):
    """System, developer, text in parts, a call and its result, tools, a choice and a schema: it reads them all."""
    call = run_pb2.ToolCall(id="call_a", name="weather", arguments='{"city":"Paris"}')
    result = run_pb2.ToolResult(tool_call_id="call_a", parts=[_text("Rain, "), _text("12 degrees")])
    request = _request(
        _message(run_pb2.ROLE_SYSTEM, _text("You are brief.")),
        _message(run_pb2.ROLE_DEVELOPER, _text("Answer in English.")),
        _message(run_pb2.ROLE_USER, _text("What is "), _text("the weather in Paris?")),
        _message(run_pb2.ROLE_ASSISTANT, _text("Let me look."), run_pb2.Part(tool_call=call)),
        _message(run_pb2.ROLE_TOOL, run_pb2.Part(tool_result=result)),
        tokens=8,
        tools=[
            wire.Tool(name="weather", description="Tells it", parameters_schema='{"type":"object"}'),
            wire.Tool(name="time"),
        ],
        tool_choice=wire.ToolChoice(mode=wire.ToolChoice.MODE_NONE),
    )
    request.parameters.response_format.json_object.SetInParent()
    request.parameters.reasoning.include = True

    run = await Stream(stub.Generate(request)).to_end()

    assert run.state == run_pb2.RUN_STATE_COMPLETED, run.error
    assert run.usage.output.value == 8


async def test_a_cancel_stops_the_engine(engine: LocalEngine, stub: Stub):
    """It makes a token or two more at most; what it had counted by then is the account."""
    before = await _metrics_when_idle(engine)
    question = _request(_asked("Tell me a long story about a lighthouse."), tokens=200, run_id="story")
    stream = Stream(stub.Generate(question))
    received = 0
    while received < 20:
        received += bool((await stream.next()).delta.text)

    run = (await stub.Cancel(wire.CancelRequest(run_id="story"))).run
    after = await _metrics_when_idle(engine)

    made = after.predicted_tokens - before.predicted_tokens
    assert run.state == run_pb2.RUN_STATE_CANCELLED
    assert run == await stream.to_end()
    assert run.usage.output.source == run_pb2.USAGE_SOURCE_UPSTREAM_RUNNING
    assert run.usage.output.value <= made <= run.usage.output.value + 3
    assert run.usage.output.value >= 20


async def test_a_partial_is_continued(stub: Stub):
    """What was said goes before; the new run has only the new text."""
    asked = _asked("Name three colours.")
    whole = text_of(await Stream(stub.Generate(_request(asked, tokens=24))).to_end())
    first = await Stream(stub.Generate(_request(asked, tokens=10, run_id="first"))).to_end()

    run = await Stream(stub.Generate(_request(asked, tokens=14, continue_from="first"))).to_end()

    assert run.state == run_pb2.RUN_STATE_COMPLETED, run.error
    assert run.continued_from == "first"
    assert text_of(first) + text_of(run) == whole
