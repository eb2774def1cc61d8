"""Which calls are tried again, when, and how often."""

import asyncio

import pytest

from http_calls import calling
from midstream_server.errors import FirstTokenTimeout, UpstreamRateLimited, UpstreamTruncated, UpstreamUnavailable
from midstream_server.upstreams.http_errors import redact, retry_after_seconds
from raw_server import DONE, LAST_CHUNK, RawConnection, RawServer, chunk, stream_head, text_event, whole

GOOD = stream_head() + chunk(text_event("Hello", "stop") + DONE) + LAST_CHUNK


@pytest.fixture
async def server():
    """A server that does what the test says."""
    server = RawServer()
    await server.start()
    yield server
    await server.stop()


async def _answer(connection: RawConnection, answer: bytes) -> None:
    await connection.request()
    connection.send(answer)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
async def test_passing_trouble_is_tried_again(server: RawServer, status: int):
    """The second attempt succeeds, and both are counted."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await server.accept()
        await _answer(connection, whole(f"{status} Trouble", b"{}"))
        await _answer(connection, GOOD)
        await reading.ended()

        assert reading.folded.text() == "Hello"
        assert reading.call.attempts == 2


async def test_trouble_that_stays_is_told(server: RawServer):
    """After the last attempt the failure is the last one's."""
    async with calling(server, max_attempts=3) as caller:
        reading = caller.start()
        connection = await server.accept()
        for message in (b"one", b"two", b"three"):
            await _answer(connection, whole("503 Trouble", b'{"error": {"message": "' + message + b'"}}'))
        await reading.ended()

        assert isinstance(reading.failure, UpstreamUnavailable)
        assert reading.failure.message == "three"
        assert reading.failure.http_status == 503
        assert reading.call.attempts == 3


async def test_reset_before_the_head_is_tried_again(server: RawServer):
    """Nothing was parsed, so nothing is lost by another attempt."""
    async with calling(server) as caller:
        reading = caller.start()
        first = await server.accept()
        await first.request()
        first.reset()
        await _answer(await server.accept(), GOOD)
        await reading.ended()

        assert reading.folded.text() == "Hello"
        assert reading.call.attempts == 2


async def test_refused_connection_is_tried_again(server: RawServer):
    """Nobody listens: as many attempts as are allowed."""
    await server.stop()
    async with calling(server, max_attempts=2) as caller:
        reading = caller.start()
        await reading.ended()

        assert isinstance(reading.failure, UpstreamUnavailable)
        assert reading.call.attempts == 2
    await server.start()


async def test_nothing_is_tried_again_after_output(server: RawServer):
    """A stream that broke off is not begun anew: its text has been seen, and paid for."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await server.accept()
        await _answer(connection, stream_head() + chunk(text_event("Hel")))
        connection.finish()
        await reading.ended()

        assert isinstance(reading.failure, UpstreamTruncated)
        assert reading.call.attempts == 1
        assert len(server.connections) == 1


async def test_dead_pooled_connection_is_replaced_at_once(server: RawServer):
    """Once, and without the wait that a failure would cost."""
    async with calling(server, retry_initial_seconds=60, retry_max_seconds=60) as caller:
        first = caller.start()
        connection = await server.accept()
        await _answer(connection, GOOD)
        await first.ended()
        second = caller.start()
        await connection.request()
        connection.finish()
        await _answer(await server.accept(), GOOD)
        await second.ended()

        assert second.folded.text() == "Hello"
        assert second.call.attempts == 2


async def test_fresh_connection_that_dies_is_not_replaced_at_once(server: RawServer):
    """That is a failure, and a failure waits."""
    async with calling(server, retry_initial_seconds=60, retry_max_seconds=60) as caller:
        reading = caller.start()
        connection = await server.accept()
        await connection.request()
        connection.finish()
        await connection.hung_up()

        reading.call.abort()
        await reading.ended()

        assert reading.call.attempts == 1


async def test_retry_after_is_honoured(server: RawServer):
    """The upstream's own word replaces our backoff."""
    async with calling(server, retry_initial_seconds=60, retry_max_seconds=60) as caller:
        reading = caller.start()
        connection = await server.accept()
        started = asyncio.get_running_loop().time()
        await _answer(connection, whole("429 Slow", b"{}", retry_after_ms="200"))
        await _answer(connection, GOOD)
        await reading.ended()

        assert asyncio.get_running_loop().time() - started >= 0.2
        assert reading.call.attempts == 2


async def test_long_retry_after_is_left_to_the_caller(server: RawServer):
    """Nobody waits an hour here; the caller is told how long it would be."""
    async with calling(server) as caller:
        reading = caller.start()
        await _answer(await server.accept(), whole("429 Slow", b"{}", retry_after="3600"))
        await reading.ended()

        assert isinstance(reading.failure, UpstreamRateLimited)
        assert reading.failure.retry_after_seconds == 3600
        assert reading.call.attempts == 1


async def test_waiting_for_a_retry_counts_for_the_first_token(server: RawServer):
    """The caller's patience is one, whatever we do with it."""
    async with calling(server, retry_initial_seconds=60, retry_max_seconds=60, first_token_seconds=0.2) as caller:
        reading = caller.start()
        await _answer(await server.accept(), whole("503 Trouble", b"{}"))
        await reading.ended()

        assert isinstance(reading.failure, FirstTokenTimeout)
        assert reading.call.attempts == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-7"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "nan"}, None),
    ],
)
def test_forms_of_retry_after(headers: dict[str, str], expected: float | None):
    """Seconds, a date, or milliseconds; anything else says nothing."""
    assert retry_after_seconds(headers) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key sk-secret is wrong", "key [redacted] is wrong"),
        ("sk-secretsk-secret", "[redacted][redacted]"),
        ("cut in the middle of sk-sec", "cut in the middle of [redacted]"),
        ("nothing here", "nothing here"),
    ],
)
def test_secrets_are_removed(text: str, expected: str):
    """Also the beginning of one where a long text was cut."""
    assert redact(text, ["sk-secret"]) == expected
