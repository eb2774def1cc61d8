"""How runs end, through the RPCs: once, with three facts in three fields, with all that was streamed."""

import pytest
from google.rpc import error_details_pb2

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_simulator import (
    Cut,
    Error,
    Finish,
    Raw,
    Reset,
    Respond,
    Role,
    Script,
    Stall,
    Step,
    Text,
    ToolCall,
    Usage,
    streamed,
)
from rpc.served import Service, Stream, text_of

SPOKEN: list[Step] = [Role(), Text(["Hel", "lo"])]

FAILURES: dict[str, tuple[Script, str, str]] = {
    "cut": ([*SPOKEN, Cut()], "UPSTREAM_TRUNCATED", "Hello"),
    "cut inside a chunk": ([*SPOKEN, Cut(inside_chunk=True)], "UPSTREAM_TRUNCATED", "Hello"),
    "no finish": ([*SPOKEN], "UPSTREAM_TRUNCATED", "Hello"),
    "reset": ([*SPOKEN, Reset()], "UPSTREAM_UNAVAILABLE", "Hello"),
    "error frame": ([*SPOKEN, Error()], "UPSTREAM_UNAVAILABLE", "Hello"),
    "error after the finish": ([*SPOKEN, Finish(), Error()], "UPSTREAM_UNAVAILABLE", "Hello"),
    "no JSON": ([*SPOKEN, Raw("data: {]\n\n"), Stall()], "UPSTREAM_MALFORMED", "Hello"),
    "bad request": ([Respond(400)], "UPSTREAM_REJECTED", ""),
    "bad key": ([Respond(401)], "UPSTREAM_REJECTED", ""),
    "no such model": ([Respond(404)], "UPSTREAM_REJECTED", ""),
    "HTML": ([Respond(200, body="<html>", content_type="text/html")], "UPSTREAM_MALFORMED", ""),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_an_outage_is_a_failure_with_the_partial_and_never_a_cancel(service: Service, name: str):
    """P1, P2, P9: status OK, one RunFinished, FAILED for one reason, nobody is said to have cancelled."""
    script, reason, text = FAILURES[name]
    service.simulator.play("m", script)

    stream = await service.generate("m")
    run = await stream.to_end()

    assert run.state == run_pb2.RUN_STATE_FAILED
    assert run.cancel_reason == run_pb2.CANCEL_REASON_UNSPECIFIED
    assert not run.HasField("cancel")
    assert _failure(run) == reason
    assert stream.text == text_of(run) == text
    assert (run.finish_reason == run_pb2.FINISH_REASON_STOP) == (name == "error after the finish")
    await _check_ended(service, stream)


async def test_a_completed_run_is_what_was_streamed(service: Service):
    """P1, P2: COMPLETED, with the model's reason and the provider's own word."""
    stream = await service.generate("count-20")
    run = await stream.to_end()

    assert run.state == run_pb2.RUN_STATE_COMPLETED
    assert (run.finish_reason, run.raw_finish_reason) == (run_pb2.FINISH_REASON_STOP, "stop")
    assert stream.text == text_of(run) == " ".join(str(number) for number in range(1, 21))
    assert not run.HasField("error")
    await _check_ended(service, stream)


async def test_a_tool_call_is_whole_byte_for_byte(service: Service):
    """P2 for another kind of part."""
    fragments = ['{"ci', 'ty": "Zü', 'rich"}']
    service.simulator.play("m", streamed(ToolCall(fragments, id="c1", name="weather"), finish="tool_calls"))

    stream = await service.generate("m")
    run = await stream.to_end()

    streamed_arguments = "".join(event.delta.tool_call.arguments for event in stream.events)
    part = run.message.parts[0]
    assert streamed_arguments == part.tool_call.arguments == "".join(fragments)
    assert (part.tool_call.id, part.tool_call.name, part.state) == ("c1", "weather", run_pb2.PART_STATE_COMPLETE)
    assert run.finish_reason == run_pb2.FINISH_REASON_TOOL_CALLS


@pytest.mark.parametrize("name", ["cut", "no JSON"])
async def test_a_failed_run_shows_its_error_with_the_fixed_keys(service: Service, name: str):
    """One ErrorInfo, with the upstream's name, and whether a retry helps."""
    service.simulator.play("m", FAILURES[name][0])

    run = await (await service.generate("m")).to_end()

    info = error_details_pb2.ErrorInfo()
    assert len(run.error.details) == 1
    assert run.error.details[0].Unpack(info)
    assert info.domain == "midstream.v1"
    assert info.metadata["upstream"] == "sim"
    assert info.metadata["retryable"] == ("true" if name == "cut" else "false")


# --- Usage ------------------------------------------------------------------------------------------------------------


async def test_usage_of_the_upstream_is_passed_on(service: Service):
    """P12: its numbers, said to be its final ones; what it did not tell is absent."""
    usage = Usage(prompt_tokens=11, completion_tokens=7)
    service.simulator.play("m", [Role(), Text(["Hello"]), Finish(), usage])

    run = await (await service.generate("m")).to_end()

    assert _count(run.usage.input) == (11, run_pb2.USAGE_SOURCE_UPSTREAM_FINAL)
    assert _count(run.usage.output) == (7, run_pb2.USAGE_SOURCE_UPSTREAM_FINAL)
    assert not run.usage.HasField("cache_write_input")
    assert not run.HasField("settlement")


async def test_usage_of_a_run_that_was_cut_is_an_estimate_of_the_output_only(service: Service):
    """P12: a quarter of the bytes, rounded up, said to be estimated; of the input nothing is known."""
    service.simulator.play("m", [Role(), Text(["Hello"]), Cut()])

    run = await (await service.generate("m")).to_end()

    assert _count(run.usage.output) == (2, run_pb2.USAGE_SOURCE_ESTIMATED)
    assert not run.usage.HasField("input")


async def test_a_run_without_output_has_no_usage(service: Service):
    """P12: unknown is absent, not 0."""
    service.simulator.play("m", [Respond(400)])

    run = await (await service.generate("m")).to_end()

    assert run.state == run_pb2.RUN_STATE_FAILED
    assert not run.HasField("usage")


# --- Limits -----------------------------------------------------------------------------------------------------------


async def test_limits_of_the_caller_end_cancelled(service: Service):
    """P9: a rule that the caller set is a cancel, and its name is told."""
    service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
    by_time, by_budget = run_pb2.RunLimits(), run_pb2.RunLimits(output_tokens=1)
    by_time.total.FromMilliseconds(100)

    late = await (await service.generate("m", limits=by_time)).to_end()
    spent = await (await service.generate("m", limits=by_budget)).to_end()

    assert [late.state, spent.state] == [run_pb2.RUN_STATE_CANCELLED] * 2
    assert late.cancel_reason == run_pb2.CANCEL_REASON_TIME_LIMIT
    assert spent.cancel_reason == run_pb2.CANCEL_REASON_BUDGET
    assert (late.cancel.requested_by, spent.cancel.requested_by) == ("limits.total", "limits.output_tokens")
    assert text_of(late) == text_of(spent) == "Hel"
    for number in (1, 2):
        await (await service.simulator.received(number)).closed()


@pytest.mark.parametrize(
    ("limit", "reason", "text"), [("first_token", "FIRST_TOKEN_TIMEOUT", ""), ("idle", "IDLE_TIMEOUT", "Hel")]
)
async def test_clocks_on_the_upstream_end_failed(service: Service, limit: str, reason: str, text: str):
    """P9: silence is an outage, and it is no cancel that the upstream was closed."""
    service.simulator.play("m", [Role(), *([Text(["Hel"])] if text else []), Stall()])
    limits = run_pb2.RunLimits()
    getattr(limits, limit).FromMilliseconds(100)

    run = await (await service.generate("m", limits=limits)).to_end()

    assert (run.state, _failure(run), text_of(run)) == (run_pb2.RUN_STATE_FAILED, reason, text)
    assert run.cancel_reason == run_pb2.CANCEL_REASON_UNSPECIFIED
    await (await service.simulator.received(1)).closed()


# --- Helpers ----------------------------------------------------------------------------------------------------------


def _failure(run: run_pb2.Run) -> str:
    info = error_details_pb2.ErrorInfo()
    assert run.error.details[0].Unpack(info)
    return info.reason


def _count(count: run_pb2.TokenCount) -> tuple[int, int]:
    return count.value, count.source


async def _check_ended(service: Service, stream: Stream) -> None:
    """P1: what every ended run is, and stays."""
    run = stream.finished
    assert stream.sequences == list(range(1, run.last_sequence + 1))
    before = await service.get(run.run_id)
    answer = await service.cancel(run.run_id)
    again = service.watch(run.run_id)
    await again.to_end()

    assert before == run
    assert (answer.outcome, answer.run) == (wire.CancelResponse.OUTCOME_ALREADY_FINISHED, run)
    assert again.finished == await service.get(run.run_id) == run
    assert all(part.state != run_pb2.PART_STATE_OPEN for part in run.message.parts)
