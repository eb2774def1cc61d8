"""An error frame before any output is tried again like the HTTP status that it stands for; one after it never is."""

import asyncio
import json

import pytest

from http_calls import calling
from midstream_server.errors import UpstreamRateLimited, UpstreamRejected, UpstreamTruncated, UpstreamUnavailable
from midstream_server.model import FinishReason
from midstream_server.upstreams.base import (
    MetadataReported,
    ModelFinished,
    PartDelta,
    Profile,
    ResponseStarted,
    StartedOver,
    UpstreamEvent,
    UsageReported,
)
from midstream_server.upstreams.route import RouteCall
from raw_server import DONE, LAST_CHUNK, RawServer, chunk, stream_head, text_event, whole

GOOD = stream_head() + chunk(text_event("Hello", "stop") + DONE) + LAST_CHUNK
ROLE = b'data: {"id":"one","model":"m-1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = b'data: {"id":"one","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0,"total_tokens":9}}\n\n'
OVERLOADED = b'data: {"error":{"message":"busy","type":"overloaded_error"}}\n\n'
RATE_LIMITED = b'data: {"error":{"message":"slow down","type":"rate_limit_error","code":429}}\n\n'
USED_UP = b'data: {"error":{"message":"pay first","type":"insufficient_quota","code":"insufficient_quota"}}\n\n'
BLAMING = b'data: {"error":{"message":"bad","type":"invalid_request_error"}}\n\n'


def _stream(*events: bytes, **headers: str) -> bytes:
    return stream_head(connection="close", **headers) + b"".join(map(chunk, events)) + LAST_CHUNK


@pytest.fixture
async def server():
    """A server that does what the test says."""
    server = RawServer()
    await server.start()
    yield server
    await server.stop()


async def _served(server: RawServer, *answers: bytes) -> None:
    """Each on a connection of its own: one whose answer failed is not used again."""
    for answer in answers:
        connection = await server.accept()
        await connection.request()
        connection.send(answer)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_stream(OVERLOADED), id="overloaded"),
        pytest.param(_stream(RATE_LIMITED), id="rate limit"),
        pytest.param(_stream(b": ping\n\n", ROLE, USAGE, OVERLOADED), id="behind a role and usage"),
        pytest.param(_stream(ROLE + OVERLOADED), id="in one read with a role"),
        pytest.param(_stream(OVERLOADED.rstrip()), id="unterminated"),
        pytest.param(whole("200 OK", OVERLOADED.removeprefix(b"data: "), connection="close"), id="bare JSON"),
    ],
)
async def test_an_error_before_output_is_tried_again(server: RawServer, answer: bytes):
    """The second answer is the run's; both attempts are counted."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, answer, GOOD)
        await reading.ended()

        assert reading.failure is None
        assert reading.folded.failure is None
        assert reading.folded.text() == "Hello"
        assert reading.call.attempts == 2


async def test_what_the_failed_attempt_told_is_taken_back_before_the_next_one_speaks(server: RawServer):
    """Its id, its usage and its headers are not those of the answer."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, _stream(ROLE, USAGE, OVERLOADED, x_request_id="req-1"), GOOD)
        await reading.ended()

        kinds = [type(event) for event in reading.events]
        taken_back = kinds.index(StartedOver)
        assert {MetadataReported, ResponseStarted, UsageReported} <= set(kinds[:taken_back])
        assert kinds[taken_back:].count(PartDelta) == kinds.count(PartDelta) == 1


async def test_an_error_that_stays_is_told_after_the_last_attempt(server: RawServer):
    """As the frame that it is: with its own words, and once."""
    async with calling(server, max_attempts=2) as caller:
        reading = caller.start()
        await _served(server, _stream(OVERLOADED), _stream(RATE_LIMITED))
        await reading.ended()

        failure = reading.folded.failure
        assert isinstance(failure, UpstreamRateLimited)
        assert (failure.message, failure.upstream) == ("slow down", "test")
        assert reading.call.attempts == 2


async def test_attempts_are_one_budget_for_statuses_and_frames(server: RawServer):
    """Two of one kind and one of the other are three."""
    async with calling(server, max_attempts=3) as caller:
        reading = caller.start()
        await _served(server, whole("503 Trouble", b"{}", connection="close"), _stream(OVERLOADED))
        await _served(server, whole("529 Busy", b"{}", connection="close"))
        await reading.ended()

        assert isinstance(reading.failure, UpstreamUnavailable)
        assert reading.failure.http_status == 529
        assert reading.call.attempts == 3


@pytest.mark.parametrize("output", [text_event("Hel"), text_event("", "stop")], ids=["text", "a finish"])
async def test_an_error_after_output_is_not_tried_again(server: RawServer, output: bytes):
    """What was seen was paid for; a second answer behind it would be a seam."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, _stream(output, OVERLOADED))
        await reading.ended()

        assert isinstance(reading.folded.failure, UpstreamUnavailable)
        assert reading.call.attempts == 1


async def test_an_error_that_comes_after_output_in_a_read_of_its_own_is_not_tried_again(server: RawServer):
    """What an earlier read gave counts as well."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await server.accept()
        await connection.request()
        connection.send(stream_head() + chunk(text_event("Hel")))
        await reading.text("Hel")
        connection.send(chunk(OVERLOADED) + LAST_CHUNK)
        await reading.ended()

        assert isinstance(reading.folded.failure, UpstreamUnavailable)
        assert reading.call.attempts == 1


async def test_an_error_after_output_in_an_answer_that_is_no_stream_is_not_tried_again(server: RawServer):
    """It was written under another name, and paid for all the same."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, whole("200 OK", text_event("Hel") + OVERLOADED, "text/plain"))
        await reading.ended()

        assert isinstance(reading.failure, UpstreamUnavailable)
        assert reading.call.attempts == 1


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        pytest.param(_stream(BLAMING), UpstreamRejected, id="blames the request"),
        pytest.param(_stream(ROLE), UpstreamTruncated, id="just ends"),
        pytest.param(_stream(USED_UP), UpstreamRateLimited, id="quota used up"),
    ],
)
async def test_an_error_that_another_attempt_would_not_mend_is_not_tried_again(
    server: RawServer, answer: bytes, failure: type[Exception]
):
    """A request that is wrong stays wrong, a quota used up; a stream that just ends is no error frame."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, answer)
        await reading.ended()

        assert isinstance(reading.folded.failure, failure)
        assert reading.call.attempts == 1


async def test_a_cancel_ends_the_wait_after_an_error_frame(server: RawServer):
    """No further attempt is made."""
    async with calling(server, retry_initial_seconds=60, retry_max_seconds=60) as caller:
        reading = caller.start()
        connection = await server.accept()
        await connection.request()
        connection.send(_stream(OVERLOADED))
        await connection.hung_up()

        reading.call.abort()
        await reading.ended()

        assert reading.failure is None
        assert reading.call.attempts == 1


async def test_a_cancel_between_two_stops_of_a_route_calls_no_other(server: RawServer):
    """The first has failed, and what it told has just been taken back."""
    async with calling(server, max_attempts=1) as caller, asyncio.TaskGroup() as group:
        stops = [caller.call(), caller.call()]
        route = RouteCall("fast", stops)
        group.create_task(_served(server, _stream(ROLE, OVERLOADED)))
        seen: list[UpstreamEvent] = []
        async with route:
            async for batch in route.batches():
                seen += batch.events
                if StartedOver() in seen:
                    route.abort()

        assert isinstance(seen[-1], StartedOver)
        assert [stop.attempts for stop in stops] == [1, 0]


# --- A prompt that the provider blocks -------------------------------------------------------------------------------

BLOCKED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering the content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
    }
}


async def test_a_blocked_prompt_is_an_answer(server: RawServer):
    """Azure says it with a status 400: finished by the content filter, and nothing else."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, whole("400 Bad Request", json.dumps(BLOCKED).encode(), x_request_id="req-1"))
        await reading.ended()

        assert reading.failure is None
        assert reading.events == [
            MetadataReported(metadata={"x-request-id": "req-1"}),
            ModelFinished(reason=FinishReason.CONTENT_FILTER, raw="content_filter"),
        ]
        assert reading.call.attempts == 1


@pytest.mark.parametrize(
    ("status", "error", "settings"),
    [
        pytest.param("400 Bad Request", {"code": "context_length_exceeded"}, {}, id="another code"),
        pytest.param("403 Forbidden", {"code": "content_filter"}, {}, id="another status"),
        pytest.param(
            "400 Bad Request",
            {"code": "content_filter"},
            {"profile": Profile(blocked_prompt_codes=())},
            id="another profile",
        ),
    ],
)
async def test_other_refusals_of_a_request_are_failures(server: RawServer, status: str, error: object, settings):
    """Only this code under this status says that the prompt was blocked, and only where the profile knows it."""
    async with calling(server, **settings) as caller:
        reading = caller.start()
        await _served(server, whole(status, json.dumps({"error": error}).encode()))
        await reading.ended()

        assert isinstance(reading.failure, UpstreamRejected)
