"""Which call may go on when nobody wants its answer any more: one that is billed all the same; no other attempt."""

import asyncio

import pytest

from http_calls import calling
from midstream_server.errors import RunFailure, UpstreamUnavailable
from midstream_server.upstreams.base import DrainCaps, Profile, UpstreamCall
from midstream_server.upstreams.route import RouteCall
from raw_server import DONE, LAST_CHUNK, RawConnection, RawServer, chunk, stream_head, text_event, whole

DRAIN = Profile(on_cancel="drain", drain_seconds=7, drain_output_tokens=9)
CAPS = DrainCaps(seconds=7, output_tokens=9)
OVERLOADED = b'data: {"error":{"message":"busy","type":"overloaded_error"}}\n\n'


@pytest.fixture
async def server():
    """A server that does what the test says."""
    server = RawServer()
    await server.start()
    yield server
    await server.stop()


async def _asked(server: RawServer, said: bytes = b"") -> RawConnection:
    connection = await server.accept()
    await connection.request()
    connection.send(said)
    return connection


async def test_a_drained_call_is_read_to_its_end(server: RawServer):
    """Amid its answer; abort would still end it."""
    async with calling(server, profile=DRAIN) as caller:
        reading = caller.start()
        connection = await _asked(server, stream_head() + chunk(text_event("Hel")))
        await reading.text("Hel")
        caps = reading.call.drain()
        connection.send(chunk(text_event("lo", "stop") + DONE) + LAST_CHUNK)
        await reading.ended()

        assert caps == CAPS
        assert reading.folded.text() == "Hello"
        assert reading.failure is None


async def test_a_call_that_waits_for_its_head_is_drained(server: RawServer):
    """The provider has the request, and works on it."""
    async with calling(server, profile=DRAIN) as caller:
        reading = caller.start()
        connection = await _asked(server)
        caps = reading.call.drain()
        connection.send(stream_head() + chunk(text_event("Hello", "stop") + DONE) + LAST_CHUNK)
        await reading.ended()

        assert caps == CAPS
        assert reading.folded.text() == "Hello"


async def test_a_drain_is_ended_by_abort(server: RawServer):
    """In the turn of the loop in which it is asked to, as ever."""
    async with calling(server, profile=DRAIN) as caller:
        reading = caller.start()
        connection = await _asked(server, stream_head() + chunk(text_event("Hel")))
        await reading.text("Hel")
        reading.call.drain()
        reading.call.abort()
        await connection.hung_up()
        await reading.ended()

        assert reading.failure is None


async def test_an_endpoint_that_stops_when_it_is_hung_up_on_is_not_drained(server: RawServer):
    """The default."""
    async with calling(server) as caller:
        reading = caller.start()
        await _asked(server, stream_head() + chunk(text_event("Hel")))
        await reading.text("Hel")
        caps = reading.call.drain()
        reading.call.abort()
        await reading.ended()

        assert caps is None


async def test_a_call_that_has_not_begun_or_is_over_is_not_drained(server: RawServer):
    """There is no bill to learn of."""
    async with calling(server, profile=DRAIN) as caller:
        fresh = caller.call()
        aborted = caller.start()
        await _asked(server, stream_head() + chunk(text_event("Hel")))
        await aborted.text("Hel")
        aborted.call.abort()

        assert fresh.drain() is None
        assert aborted.call.drain() is None
        await aborted.ended()


async def test_a_call_that_waits_for_its_next_attempt_is_not_drained(server: RawServer):
    """The attempt before is over, and the next is not made."""
    async with calling(server, profile=DRAIN, retry_initial_seconds=60, retry_max_seconds=60) as caller:
        reading = caller.start()
        connection = await _asked(server, whole("503 Trouble", b"{}", connection="close"))
        await connection.hung_up()
        caps = reading.call.drain()
        reading.call.abort()
        await reading.ended()

        assert caps is None
        assert reading.call.attempts == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(whole("503 Trouble", b"{}"), id="status"),
        pytest.param(stream_head() + chunk(OVERLOADED) + LAST_CHUNK, id="frame"),
        pytest.param(b"", id="no answer"),
    ],
)
async def test_a_drained_call_that_fails_is_not_tried_again(server: RawServer, answer: bytes):
    """Nobody wants another answer."""
    async with calling(server, profile=DRAIN) as caller:
        reading = caller.start()
        connection = await _asked(server)
        caps = reading.call.drain()
        connection.send(answer)
        connection.finish()
        await reading.ended()

        assert caps == CAPS
        assert isinstance(reading.failure or reading.folded.failure, UpstreamUnavailable)
        assert reading.call.attempts == 1


async def test_a_drained_stop_of_a_route_has_no_next_stop(server: RawServer):
    """As with an abort."""
    async with calling(server, profile=DRAIN, max_attempts=1) as caller, asyncio.TaskGroup() as group:
        stops = [caller.call(), caller.call()]
        route = RouteCall("fast", stops)
        reading = group.create_task(_failure_of(route))
        connection = await _asked(server)
        caps = route.drain()
        connection.send(whole("503 Trouble", b"{}"))

        assert isinstance(await reading, UpstreamUnavailable)
        assert caps == CAPS
        assert [stop.attempts for stop in stops] == [1, 0]


async def _failure_of(call: UpstreamCall) -> RunFailure:
    try:
        async with call:
            async for _ in call.batches():
                pass
    except RunFailure as failure:
        return failure
    raise AssertionError("it did not fail")
