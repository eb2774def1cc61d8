"""`continue_from` through the RPCs: what the upstream is sent, and what is refused before it is sent anything."""

from typing import Any

import grpc
import pytest

from midstream.v1 import run_pb2
from midstream_simulator import Cut, Role, Stall, Text, ToolCall, streamed
from rpc.dialect_service import CASES, dialect_service
from rpc.served import Service, reason, refused, request_for, text_of

PREFIX = "Grüße, \u2028das ist "

FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "assistant_prefill": ({}, {}),
    "continue_final_message": ({}, {"add_generation_prompt": False, "continue_final_message": True}),
    "prefix_flag": ({"prefix": True}, {}),
}


@pytest.mark.parametrize("form", FORMS)
async def test_the_cut_text_is_sent_as_the_beginning_of_the_answer(form: str):
    """In the form of the upstream's profile, byte for byte; the new run holds the new text, and says whose it is."""
    async with dialect_service(CASES["openai-chat"], profile={"continue_prefix": form}) as service:
        service.simulator.play("m", [Role(), Text([PREFIX]), Stall()])
        stream = await service.generate("m", run_id="old")
        await stream.says(PREFIX)
        await service.cancel("old")
        service.simulator.play("m", streamed(Text(["alles."])))

        run = await (await service.generate("m", run_id="new", continue_from="old")).to_end()

        in_the_message, beside_it = FORMS[form]
        body = (await service.simulator.received(2)).body
        assert body["messages"][-1] == {"role": "assistant", "content": PREFIX} | in_the_message
        assert {name: body.get(name) for name in beside_it} == beside_it
        assert (text_of(run), run.continued_from, run.state) == ("alles.", "old", run_pb2.RUN_STATE_COMPLETED)
        assert text_of(await service.get("old")) == PREFIX


async def test_what_cannot_be_continued_is_refused_before_anything_is_sent(service: Service):
    """Each in its own words; no upstream call, and no run of that id."""
    async with dialect_service(CASES["openai-chat"], profile={"continue_prefix": "assistant_prefill"}) as able:
        able.simulator.play("call", [Role(), ToolCall(['{"a"'], id="c", name="f"), Cut()])
        able.simulator.play("long", [Role(), Stall()])
        await (await able.generate("call", run_id="call")).to_end()
        await able.generate("long", run_id="live")
        await able.simulator.received(2)
        answers = [await _refusal(able, run_id) for run_id in ("call", "live", "nobody")]
        assert len(able.simulator.requests) == 2
    await (await service.generate("count-2", run_id="plain")).to_end()
    answers.append(await _refusal(service, "plain"))

    assert answers == [
        (grpc.StatusCode.FAILED_PRECONDITION, "CONTINUE_UNSUPPORTED"),
        (grpc.StatusCode.FAILED_PRECONDITION, "RUN_LIVE"),
        (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"),
        (grpc.StatusCode.FAILED_PRECONDITION, "CONTINUE_UNSUPPORTED"),
    ]
    assert len(service.simulator.requests) == 1


async def _refusal(service: Service, run_id: str) -> tuple[grpc.StatusCode, str]:
    error = await refused(service.stub.Generate(request_for("count-2", run_id="new", continue_from=run_id)))
    return error.code(), reason(error)
