"""The same promises through every dialect: the whole server, with the simulator on the other side."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_simulator import (
    Comment,
    Cut,
    Error,
    Finish,
    Head,
    Raw,
    Reasoning,
    Reset,
    Respond,
    Role,
    Script,
    Stall,
    Step,
    Text,
    ToolCall,
)
from recordings import recordings_folder
from rpc.dialect_service import CASES, KEY, DialectCase, dialect_service
from rpc.served import PATIENCE_SECONDS, Service, text_of

SPOKEN: list[Step] = [Role(), Text(["Hel", "lo"])]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> DialectCase:
    """Each dialect in turn."""
    return CASES[request.param]


@pytest.fixture
async def service(case: DialectCase) -> AsyncIterator[Service]:
    """A server in front of it."""
    async with dialect_service(case) as made:
        yield made


def _failure(run: run_pb2.Run) -> error_details_pb2.ErrorInfo:
    [detail] = run.error.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    return info


# --- Cancel ----------------------------------------------------------------------------------------------------------

POSITIONS: dict[str, tuple[Script, str]] = {
    "before headers": ([Stall()], ""),
    "after headers": ([Head(), Stall()], ""),
    "before the first token": ([Role(), Stall()], ""),
    "mid token": ([Role(), Text(["Hel"]), Stall()], "Hel"),
    "between tokens": ([*SPOKEN, Stall()], "Hello"),
    "while thinking": ([Role(), Reasoning(["Hm"]), Stall()], ""),
    "inside a tool call": ([*SPOKEN, ToolCall(['{"a":'], id="c1", name="f"), Stall()], "Hello"),
    "in a flood of keep-alives": ([*SPOKEN, Comment(count=1_000_000)], "Hello"),
}


@pytest.mark.parametrize("position", POSITIONS)
async def test_cancel_closes_the_upstream(service: Service, case: DialectCase, position: str):
    """P3, P5: wherever it stands; the reply, the stream and GetRun are the same run, with all that was streamed."""
    script, text = POSITIONS[position]
    if position == "mid token":
        script = [*script[:-1], Raw(case.half_an_event), script[-1]]
    service.simulator.play("m", script)
    stream = await service.generate("m", run_id="run-1")
    request = await service.simulator.received()
    await stream.says(text)

    answer = await service.cancel("run-1")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await request.closed()

    assert answer.outcome == wire.CancelResponse.OUTCOME_CANCELLED
    assert text_of(answer.run) == text
    assert answer.run == await stream.to_end() == await service.get("run-1")
    assert request.closed_by == "client"
    assert {part.state for part in answer.run.message.parts} <= {
        run_pb2.PART_STATE_TRUNCATED,
        run_pb2.PART_STATE_COMPLETE,
    }


async def test_usage_of_a_cancelled_run_is_no_invention(service: Service):
    """P12: what the upstream did not count is estimated from what came, and says so."""
    service.simulator.play("m", [Role(), Text(["word "] * 40), Stall()])
    stream = await service.generate("m", run_id="run-1")
    await stream.says("word " * 40)

    run = (await service.cancel("run-1")).run

    assert (run.usage.output.value, run.usage.output.source) == (50, run_pb2.USAGE_SOURCE_ESTIMATED)


async def test_a_budget_stops_the_run(service: Service):
    """A limit of the caller's holds although the upstream has not counted the output yet."""
    service.simulator.play("m", [Role(), *(Text(["word "]) for _ in range(40)), Stall()])

    stream = await service.generate("m", limits=run_pb2.RunLimits(output_tokens=10))
    run = await stream.to_end()

    assert (run.state, run.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, run_pb2.CANCEL_REASON_BUDGET)


# --- Endings ---------------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[Script, str, str]] = {
    "error before text": ([Role(), Error()], "UPSTREAM_UNAVAILABLE", ""),
    "error after text": ([*SPOKEN, Error()], "UPSTREAM_UNAVAILABLE", "Hello"),
    "error after the finish": ([*SPOKEN, Finish(), Error()], "UPSTREAM_UNAVAILABLE", "Hello"),
    "rate limit": ([*SPOKEN, Error(type="rate_limit_error")], "UPSTREAM_RATE_LIMITED", "Hello"),
    "blame": ([*SPOKEN, Error(type="invalid_request_error")], "UPSTREAM_REJECTED", "Hello"),
    "no finish": ([*SPOKEN], "UPSTREAM_TRUNCATED", "Hello"),
    "nothing at all": ([Head()], "UPSTREAM_TRUNCATED", ""),
    "cut": ([*SPOKEN, Cut()], "UPSTREAM_TRUNCATED", "Hello"),
    "reset": ([*SPOKEN, Reset()], "UPSTREAM_UNAVAILABLE", "Hello"),
    "no JSON": ([*SPOKEN, Raw("\n\ndata: {]\n\n"), Stall()], "UPSTREAM_MALFORMED", "Hello"),
    "HTML": ([Respond(200, body="<html>", content_type="text/html")], "UPSTREAM_MALFORMED", ""),
    "bad request": ([Respond(400)], "UPSTREAM_REJECTED", ""),
    "bad key": ([Respond(401)], "UPSTREAM_REJECTED", ""),
    "too many": ([Respond(429)], "UPSTREAM_RATE_LIMITED", ""),
    "broken": ([Respond(500)], "UPSTREAM_UNAVAILABLE", ""),
    "overloaded": ([Respond(529)], "UPSTREAM_UNAVAILABLE", ""),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_an_outage_is_a_failure_with_the_partial(service: Service, name: str):
    """P9: FAILED for one reason; the text stays, and a finish that came before it too."""
    script, reason, text = FAILURES[name]
    service.simulator.play("m", script)

    run = await (await service.generate("m")).to_end()

    assert run.state == run_pb2.RUN_STATE_FAILED
    assert (_failure(run).reason, text_of(run)) == (reason, text)
    assert (run.finish_reason == run_pb2.FINISH_REASON_STOP) == (name == "error after the finish")


async def test_keep_alives_are_no_output(service: Service):
    """They keep no clock from running: neither that of the first token nor that of silence."""
    pings = Comment(count=100_000, interval_ms=5)
    service.simulator.play("m", [Role(), pings], [*SPOKEN, pings])

    first = await (
        await service.generate("m", limits=run_pb2.RunLimits(first_token=Duration(nanos=200_000_000)))
    ).to_end()
    later = await (await service.generate("m", limits=run_pb2.RunLimits(idle=Duration(nanos=200_000_000)))).to_end()

    assert _failure(first).reason == "FIRST_TOKEN_TIMEOUT"
    assert (_failure(later).reason, text_of(later)) == ("IDLE_TIMEOUT", "Hello")


async def test_the_key_is_sent_and_never_shown(service: Service):
    """An upstream that echoes it, under a status or in a frame, makes an error without it."""
    echo = f"the key {KEY} is no key"
    body = {"error": {"type": KEY, "message": echo, "code": KEY}}
    service.simulator.play("m", [Respond(401, body=body)], [*SPOKEN, Error(echo, type=KEY, code=KEY)])

    runs = [await (await service.generate("m")).to_end() for _ in range(2)]

    for request in service.simulator.requests:
        assert KEY in " ".join(request.headers.values())
    assert [run.state for run in runs] == [run_pb2.RUN_STATE_FAILED] * 2
    assert all("is no key" in run.error.message for run in runs)
    assert KEY not in str(runs)


# --- Whole answers ---------------------------------------------------------------------------------------------------


def _kinds(run: run_pb2.Run) -> list[str | None]:
    assert {part.state for part in run.message.parts} == {run_pb2.PART_STATE_COMPLETE}
    return [part.WhichOneof("part") for part in run.message.parts]


async def test_thinking_and_text(service: Service, case: DialectCase):
    """Two parts, the provider's word for the end, and its account."""
    run = await (await service.generate("reason-5")).to_end()

    assert run.state == run_pb2.RUN_STATE_COMPLETED
    assert _kinds(run) == ["reasoning", "text"]
    assert run.message.parts[0].reasoning.text == "1 2 3 4 5"
    assert text_of(run) == "Done."
    assert (run.finish_reason, run.raw_finish_reason) == (run_pb2.FINISH_REASON_STOP, case.stop)
    assert (run.usage.output.value, run.usage.output.source) == (6, run_pb2.USAGE_SOURCE_UPSTREAM_FINAL)
    assert run.usage.input.source == run_pb2.USAGE_SOURCE_UPSTREAM_FINAL
    assert run.usage.input.value > 0


async def test_a_tool_call(service: Service, case: DialectCase):
    """Its name is that of the request's tool, its arguments come in pieces."""
    tools = [wire.Tool(name="find", parameters_schema='{"type":"object"}')]

    run = await (await service.generate("tool-call", tools=tools)).to_end()

    assert _kinds(run) == ["tool_call"]
    call = run.message.parts[0].tool_call
    assert (call.id, call.name, call.arguments) == ("call_simulated_1", "find", case.arguments)
    assert run.finish_reason == run_pb2.FINISH_REASON_TOOL_CALLS


async def test_a_refusal(service: Service, case: DialectCase):
    """It is an answer; its words are kept."""
    run = await (await service.generate("refuse")).to_end()

    assert run.state == run_pb2.RUN_STATE_COMPLETED
    assert _kinds(run) == ["refusal" if case.refusal_is_a_part else "text"]


async def test_the_limit_of_the_request(service: Service):
    """It reaches the upstream, which stops there."""
    parameters = wire.GenerationParameters(max_output_tokens=3)

    run = await (await service.generate("count-10", parameters=parameters)).to_end()

    assert (text_of(run), run.finish_reason) == ("1 2 3", run_pb2.FINISH_REASON_LENGTH)


# --- Recorded answers ------------------------------------------------------------------------------------------------


def _recorded() -> list[tuple[str, str]]:
    """All of them, each with its dialect: one of a folder that has none fails."""
    folder = recordings_folder()
    if folder is None:
        return [("anthropic", "absent/absent")]
    dialects = {case.recordings: case.name for case in CASES.values()}
    names = sorted(json.loads((folder / "EXPECTED.json").read_text()))
    return [(dialects.get(name.partition("/")[0], "none"), name) for name in names]


@pytest.mark.recorded
@pytest.mark.parametrize("head", [Head(), Head(gzip=True), Head(split_bytes=7)], ids=["plain", "gzip", "in sevens"])
@pytest.mark.parametrize(("dialect", "name"), _recorded())
async def test_a_recorded_answer_through_the_whole_server(recordings: Path, dialect: str, name: str, head: Head):
    """GetRun has what a reference reader says of the same bytes, also compressed, and in small pieces."""
    expected = json.loads((recordings / "EXPECTED.json").read_text())[name]
    async with dialect_service(CASES[dialect]) as service:
        service.simulator.play("m", [head, Raw((recordings / name).read_bytes().decode())])

        streamed = await (await service.generate("m", run_id="run-1")).to_end()
        run = await service.get("run-1")

    assert run == streamed
    said = _said(run)
    for ours, theirs in zip(said["tool_calls"], expected["tool_calls"], strict=True):
        assert ours["id"]
        ours["id"] = theirs["id"] and ours["id"]  # where the provider gives none it is made
    assert said == {each: expected[each] for each in ("text", "reasoning", "refusal", "tool_calls")}
    assert run.raw_finish_reason == expected["finish_reason"]
    assert run.state == (run_pb2.RUN_STATE_FAILED if expected["outcome"] == "error" else run_pb2.RUN_STATE_COMPLETED)


def _said(run: run_pb2.Run) -> dict[str, Any]:
    parts = run.message.parts
    return {
        "text": "".join(part.text.text for part in parts),
        "reasoning": "".join(part.reasoning.text for part in parts),
        "refusal": "".join(part.refusal.text for part in parts),
        "tool_calls": [
            {"id": part.tool_call.id, "name": part.tool_call.name, "arguments": part.tool_call.arguments}
            for part in parts
            if part.HasField("tool_call")
        ],
    }
