"""What becomes of the plan that Cohere's models make before they call tools: it is no part of the message."""

import json
from collections.abc import AsyncIterator

import pytest

from midstream.v1 import run_pb2
from midstream_simulator import Finish, Raw, Role, Script, Stall, Text, ToolCall
from rpc.dialect_service import CASES, dialect_service
from rpc.served import Service, text_of

CALL = ToolCall(['{"city":', ' "Paris"}'], id="c1", name="find")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A server in front of Cohere."""
    async with dialect_service(CASES["cohere"]) as made:
        yield made


def _plan(*pieces: str) -> Raw:
    """The events of a plan, sent at once, behind a text by which a test sees that they came."""
    text = {"type": "content-delta", "delta": {"message": {"content": {"text": "Hm."}}}}
    plan = [{"type": "tool-plan-delta", "delta": {"message": {"tool_plan": piece}}} for piece in pieces]
    return Raw("".join(f"data: {json.dumps(event)}\n\n" for event in (text, *plan)))


async def test_a_plan_is_kept_beside_the_message(service: Service):
    """Whole, also a long one; it is neither text nor reasoning."""
    pieces = ["I will look for the city. "] * 70
    service.simulator.play("m", [Role(), _plan(*pieces), CALL, Finish("tool_calls")])

    run = await (await service.generate("m")).to_end()

    assert run.provider_metadata["tool_plan"] == "".join(pieces)
    assert [part.WhichOneof("part") for part in run.message.parts] == ["text", "tool_call"]
    assert text_of(run) == "Hm."


@pytest.mark.parametrize(
    ("script", "plan"),
    [([_plan("I will ", "look"), Stall()], "I will look"), ([_plan("I will."), CALL, Stall()], "I will.")],
    ids=["in the plan", "in the call"],
)
async def test_a_stop_keeps_the_plan_so_far(service: Service, script: Script, plan: str):
    """Wherever it comes; the answer of the cancel has it."""
    service.simulator.play("m", [Role(), *script])
    stream = await service.generate("m", run_id="run-1")
    await stream.says("Hm.")
    if CALL in script:
        await stream.until(lambda event: event.delta.tool_call.id == CALL.id)

    run = (await service.cancel("run-1")).run

    assert run.state == run_pb2.RUN_STATE_CANCELLED
    assert run.provider_metadata["tool_plan"] == plan
    assert run == await service.get("run-1")


async def test_a_stream_that_breaks_off_keeps_the_plan_so_far(service: Service):
    """As it keeps the text."""
    service.simulator.play("m", [Role(), Text(["Hm."]), _plan("I will ", "look")])

    run = await (await service.generate("m")).to_end()

    assert run.state == run_pb2.RUN_STATE_FAILED
    assert run.provider_metadata["tool_plan"] == "I will look"
