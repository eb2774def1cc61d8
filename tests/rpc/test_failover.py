"""An alias is a route: the next stop is tried as long as nobody has said anything, and only for what it could mend."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from google.protobuf.duration_pb2 import Duration

from midstream.v1 import run_pb2
from midstream_server.app import serving
from midstream_server.settings import AliasSettings, UpstreamSettings
from midstream_simulator import Done, Error, Finish, Respond, Role, Simulator, Stall, Text, Usage, streamed
from rpc.dialect_service import CASES, DialectCase, dialect_service
from rpc.served import Service, Stream, opened, request_for, settings_for, text_of


@asynccontextmanager
async def routed(*models: str):
    """A server whose alias `fast` is a route through these models of one simulator; each stop is tried once."""
    async with Simulator() as simulator:
        upstream = UpstreamSettings.model_validate(
            {"dialect": "openai-chat", "base_url": simulator.base_url, "max_attempts": 1}
        )
        alias = AliasSettings(route=tuple(f"sim/{model}" for model in models))
        settings = settings_for(simulator.base_url, upstreams={"sim": upstream}, models={"fast": alias})
        async with serving(settings) as application, opened(application.address) as (channel, stub):
            yield Service(application.address, simulator, application, stub, channel)


async def _run(service, **fields) -> run_pb2.Run:
    request = request_for("", run_id="run", **fields)
    request.model = "fast"
    stream = Stream(service.stub.Generate(request))
    return (await stream.until(lambda event: event.HasField("finished"))).finished.run


@pytest.mark.parametrize("first", ["error-503", "error-429", "error-500", "error-529"])
async def test_the_next_stop_answers_when_the_first_is_unavailable(first):
    """One run, two upstream calls, counted; the answer is the second's."""
    async with routed(first, "count-3") as service:
        run = await _run(service)

        assert run.state == run_pb2.RUN_STATE_COMPLETED
        assert run.message.parts[0].text.text == "1 2 3"
        assert run.attempts == 2
        assert [request.model for request in service.simulator.requests] == [first, "count-3"]


@pytest.mark.parametrize("kind", ["overloaded_error", "rate_limit_error", "insufficient_quota"])
async def test_the_next_stop_answers_when_the_first_fails_in_its_stream_before_any_output(kind: str):
    """A status 200, a role and a count of the prompt are no output; nothing of them is the answer's."""
    async with routed("busy", "plain") as service:
        service.simulator.play("busy", [Role(), Usage(prompt_tokens=77), Error(type=kind)])
        service.simulator.play("plain", [Role(), Text(["Hello"]), Finish(), Done()])
        run = await _run(service)

        assert (run.state, text_of(run), run.attempts) == (run_pb2.RUN_STATE_COMPLETED, "Hello", 2)
        assert run.upstream_request_id == "chatcmpl-simulated-2"
        assert not run.usage.HasField("input")


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
async def test_an_error_in_the_stream_is_tried_again_at_the_same_upstream(case: DialectCase):
    """In every dialect: before any output it is what the HTTP status would be; all attempts are counted."""
    async with dialect_service(case, max_attempts=2) as service:
        service.simulator.play("m", [Role(), Error(type="server_error")], streamed(Text(["Hello"])))
        run = await (await service.generate("m")).to_end()

        assert (run.state, text_of(run), run.attempts) == (run_pb2.RUN_STATE_COMPLETED, "Hello", 2)


async def test_an_error_in_the_stream_after_output_is_the_end():
    """The text is kept, and nothing is asked again."""
    async with routed("error-frame-2", "count-3") as service:
        run = await _run(service)

        assert run.state == run_pb2.RUN_STATE_FAILED
        assert run.attempts == 1
        assert text_of(run)
        assert "UPSTREAM_UNAVAILABLE" in str(run.error)


async def test_an_error_in_the_stream_that_blames_the_request_is_not_tried_elsewhere():
    """It would only be asked the same wrong thing."""
    async with routed("wrong", "count-3") as service:
        service.simulator.play("wrong", [Role(), Error(type="invalid_request_error")])
        run = await _run(service)

        assert run.state == run_pb2.RUN_STATE_FAILED
        assert run.attempts == 1
        assert "UPSTREAM_REJECTED" in str(run.error)


async def test_a_prompt_that_the_first_stop_blocks_is_its_answer():
    """Azure's way of saying it, a status 400, is no failure: finished by the filter, with nothing said."""
    async with routed("blocked", "count-3") as service:
        body = {"error": {"code": "content_filter", "message": "filtered", "param": "prompt", "status": 400}}
        service.simulator.play("blocked", [Respond(400, body)])
        run = await _run(service)

        assert (run.state, run.finish_reason) == (run_pb2.RUN_STATE_COMPLETED, run_pb2.FINISH_REASON_CONTENT_FILTER)
        assert run.raw_finish_reason == "content_filter"
        assert not run.HasField("error")
        assert not run.message.parts
        assert not run.HasField("usage")
        assert run.attempts == 1


async def test_a_status_that_is_not_tried_again_is_not_tried_elsewhere():
    """501 says that it cannot be done, not that it cannot be done now."""
    async with routed("error-501", "count-3") as service:
        run = await _run(service)

        assert (run.state, run.attempts) == (run_pb2.RUN_STATE_FAILED, 1)
        assert "UPSTREAM_UNAVAILABLE" in str(run.error)


async def test_a_rejected_request_is_not_tried_elsewhere():
    """Another stop would only be asked the same wrong thing."""
    async with routed("error-400", "count-3") as service:
        run = await _run(service)

        assert run.state == run_pb2.RUN_STATE_FAILED
        assert run.attempts == 1


async def test_after_output_there_is_no_other_stop():
    """What was said is kept; a second answer behind it would be a seam."""
    async with routed("reset-3", "count-3") as service:
        run = await _run(service)

        assert run.state == run_pb2.RUN_STATE_FAILED
        assert run.message.parts[0].text.text
        assert run.attempts == 1


async def test_a_first_token_timeout_fails_over():
    """The silent stop is closed before the next is called: one attempt at a time."""
    async with routed("stall", "count-3") as service:
        run = await _run(service, limits=run_pb2.RunLimits(first_token=Duration(nanos=500_000_000)))

        silent = await service.simulator.received(1)
        assert run.state == run_pb2.RUN_STATE_COMPLETED
        assert await silent.closed() <= (await service.simulator.received(2)).received_ns


async def test_all_stops_unavailable_is_the_last_ones_failure():
    """And all of them were counted."""
    async with routed("error-503", "error-429") as service:
        run = await _run(service)

        assert run.state == run_pb2.RUN_STATE_FAILED
        assert run.attempts == 2
        assert "UPSTREAM_RATE_LIMITED" in str(run.error)


async def test_cancel_at_the_second_stop_closes_it_and_calls_no_third():
    """The stop button is the same behind an alias."""
    async with routed("error-503", "quiet", "count-3") as service:
        service.simulator.play("quiet", [Role(), Text(["half"]), Stall(), Finish()])
        running = asyncio.create_task(_run(service))
        second = await service.simulator.received(2)

        answer = await service.cancel("run")
        await second.closed()

        assert answer.run.state == run_pb2.RUN_STATE_CANCELLED
        assert (await running) == answer.run
        assert len(service.simulator.requests) == 2
