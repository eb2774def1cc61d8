"""Calls over HTTP: what is sent, what comes out of each ending, and which clocks run."""

import asyncio
import gzip
import json

import pytest

from http_calls import KEY, Reading, calling, passed
from midstream_server.errors import (
    FirstTokenTimeout,
    IdleTimeout,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.upstreams.base import CallOptions, EventIgnored, Profile, UpstreamFailed
from raw_server import (
    DONE,
    LAST_CHUNK,
    PATIENCE_SECONDS,
    RawConnection,
    RawServer,
    chunk,
    head,
    stream_head,
    text_event,
    whole,
)
from stream_folding import fold

ANSWER = text_event("Hel") + text_event("lo", "stop") + DONE


@pytest.fixture
async def server():
    """A server that does what the test says."""
    server = RawServer()
    await server.start()
    yield server
    await server.stop()


async def _served(server: RawServer, reading: Reading, *pieces: bytes) -> RawConnection:
    """Serves a call with these bytes, and leaves the connection open."""
    connection = await server.accept()
    await connection.request()
    for piece in pieces:
        connection.send(piece)
    return connection


# --- Requests --------------------------------------------------------------------------------------------------------


async def test_request_on_the_wire(server: RawServer):
    """Path, key, and no compression asked for."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await server.accept()
        first, headers, body = await connection.request()
        connection.send(stream_head() + chunk(ANSWER) + LAST_CHUNK)
        await reading.ended()

        assert first == "POST /v1/chat/completions HTTP/1.1"
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["accept-encoding"] == "identity"
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"] == "midstream"
        assert json.loads(body)["stream"] is True
        assert reading.folded.text() == "Hello"
        assert reading.wire_bytes == len(ANSWER)


async def test_query_of_the_base_url_stays(server: RawServer):
    """Azure's api-version is part of its address."""
    async with calling(server, base_url=f"{server.url}/?api-version=1") as caller:
        reading = caller.start()
        connection = await server.accept()
        first, _, _ = await connection.request()
        connection.send(stream_head() + chunk(ANSWER) + LAST_CHUNK)
        await reading.ended()

    assert first == "POST /v1/chat/completions?api-version=1 HTTP/1.1"


async def test_nothing_of_the_environment_is_used(server: RawServer, monkeypatch: pytest.MonkeyPatch):
    """No proxy, and no cookie that an answer sets."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with calling(server) as caller:
        first = caller.start()
        connection = await _served(server, first, stream_head(set_cookie="a=b; Path=/"), chunk(ANSWER), LAST_CHUNK)
        await first.ended()
        second = caller.start()
        _, headers, _ = await connection.request()
        connection.send(stream_head() + chunk(ANSWER) + LAST_CHUNK)
        await second.ended()

        assert first.failure is None
        assert "cookie" not in headers
        assert len(server.connections) == 1


async def test_connection_close_of_the_profile(server: RawServer):
    """An endpoint that drops pooled connections gets a new one each time."""
    async with calling(server, profile=Profile(connection_close=True)) as caller:
        for _ in range(2):
            reading = caller.start()
            connection = await server.accept()
            _, headers, _ = await connection.request()
            connection.send(stream_head() + chunk(ANSWER) + LAST_CHUNK)
            await reading.ended()
            await connection.hung_up()

            assert headers["connection"] == "close"


async def test_large_request_arrives_whole(server: RawServer):
    """A body of many pieces has its length, and every byte."""
    async with calling(server, profile=Profile(extra_body={"filler": "x" * 1_500_000})) as caller:
        reading = caller.start()
        connection = await server.accept()
        body = await connection.json()
        connection.send(stream_head() + chunk(ANSWER) + LAST_CHUNK)
        await reading.ended()

        assert body["filler"] == "x" * 1_500_000
        assert reading.folded.text() == "Hello"


async def test_request_id_of_the_answer(server: RawServer):
    """The provider's own number of the request is kept for its support."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, reading, stream_head(x_request_id="req_1") + chunk(ANSWER) + LAST_CHUNK)
        await reading.ended()

        assert reading.folded.metadata["x-request-id"] == "req_1"


# --- Endings of a stream ---------------------------------------------------------------------------------------------


async def test_compressed_answer(server: RawServer):
    """An answer that is compressed though nobody asked is read; its bytes are counted as they came."""
    body = gzip.compress(ANSWER)
    async with calling(server) as caller:
        reading = caller.start()
        await _served(
            server, reading, stream_head(content_encoding="gzip"), *map(chunk, (body[:30], body[30:])), LAST_CHUNK
        )
        await reading.ended()

        assert reading.folded.text() == "Hello"
        assert reading.wire_bytes == len(body)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_unreadable_compression(server: RawServer, encoding: str):
    """Bytes that are not what they say, or in a way that we do not know."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, reading, stream_head(content_encoding=encoding), chunk(b"no such thing"), LAST_CHUNK)
        await reading.ended()

        assert isinstance(reading.failure, UpstreamMalformed)


async def test_stream_without_a_length(server: RawServer):
    """The end of the connection is the end of the answer."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _served(server, reading, head(), ANSWER)
        connection.finish()
        await reading.ended()

        assert reading.failure is None
        assert reading.folded.text() == "Hello"


CUT = [stream_head() + chunk(text_event("Hel")), head(content_length="9999") + text_event("Hel")]


@pytest.mark.parametrize("begun", CUT, ids=["chunked", "length"])
async def test_early_end_is_a_truncation(server: RawServer, begun: bytes):
    """A FIN where more was announced: the text is kept, and the run is not taken for whole."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _served(server, reading, begun)
        connection.finish()
        await reading.ended()

        assert isinstance(reading.failure, UpstreamTruncated)
        assert reading.folded.text() == "Hel"


async def test_early_end_still_counts_a_whole_last_event(server: RawServer):
    """A last event without its blank line, in a chunk without its end: what is whole counts."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _served(server, reading, stream_head(), chunk(text_event("Hello", "stop").rstrip()))
        connection.finish()
        await reading.ended()

        assert isinstance(reading.failure, UpstreamTruncated)
        assert reading.folded.text() == "Hello"
        assert [finish.raw for finish in reading.folded.finishes] == ["stop"]


async def test_early_end_is_no_finish_where_none_is_required(server: RawServer):
    """A provider that sends no finish reason still has to end its body."""
    async with calling(server, profile=Profile(finish_reason_required=False)) as caller:
        reading = caller.start()
        connection = await _served(server, reading, stream_head(), chunk(text_event("Hel")))
        connection.finish()
        await reading.ended()

        assert isinstance(reading.failure, UpstreamTruncated)
        assert reading.folded.finishes == []


async def test_what_arrived_before_the_end_is_kept_though_nobody_read(server: RawServer):
    """The upstream dies while we are busy: the bytes in our buffer are output all the same."""
    async with calling(server) as caller, caller.call() as call:
        batches = call.batches()
        first = asyncio.ensure_future(anext(batches))
        connection = await _served(server, Reading(call), stream_head(), chunk(text_event("Hel")))
        before = list((await first).events)
        connection.send(chunk(text_event("lo")))
        connection.finish()
        await connection.hung_up()
        await passed(0.05)

        rest = await anext(batches)
        with pytest.raises(UpstreamTruncated):
            await anext(batches)

        assert fold(before).text() == "Hel"
        assert fold(rest.events).text() == "lo"


@pytest.mark.parametrize("begun", [CUT[0], head() + text_event("Hel")], ids=["chunked", "until close"])
async def test_reset_is_an_outage(server: RawServer, begun: bytes):
    """A reset keeps the text too; where the answer says nothing of its length it is no clean end."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _served(server, reading, begun)
        await reading.text("Hel")
        connection.reset()
        await reading.ended()

        assert isinstance(reading.failure, UpstreamUnavailable)
        assert reading.folded.text() == "Hel"


async def test_broken_chunks_are_malformed(server: RawServer):
    """A chunk whose length is no number."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _served(server, reading, stream_head(), chunk(text_event("Hel")))
        await reading.text("Hel")
        connection.send(b"zz\r\nxx\r\n")
        await reading.ended()

        assert isinstance(reading.failure, UpstreamMalformed)
        assert reading.folded.text() == "Hel"


async def test_answer_that_is_not_http(server: RawServer):
    """Some other service listens there."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, reading, b"220 mail.example.com ESMTP\r\n")
        await reading.ended()

        assert isinstance(reading.failure, UpstreamMalformed)
        assert reading.call.attempts == 1


# --- Answers that are no stream --------------------------------------------------------------------------------------

JSON_ERROR = b'{"error": {"message": "No credit on ' + KEY.encode() + b'", "type": "insufficient_quota", "code": 402}}'


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/event-stream", "text/html"])
async def test_bare_error_under_200(server: RawServer, content_type: str):
    """An error object is an error, whatever it is called, and does not show our key."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, reading, whole("200 OK", JSON_ERROR, content_type))
        await reading.ended()

        failure = reading.failure or reading.folded.failure
        assert isinstance(failure, UpstreamRateLimited)
        assert failure.message == "No credit on [redacted]"
        assert failure.upstream == "test"
        assert KEY not in repr(failure.args)


async def test_error_event_does_not_show_the_key(server: RawServer):
    """Nor does an error after text."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, reading, stream_head(), chunk(text_event("Hel") + b"data: " + JSON_ERROR + b"\n\n"))
        await reading.ended()

        assert isinstance(reading.events[-1], UpstreamFailed)
        assert reading.folded.failure is not None
        assert reading.folded.failure.message == "No credit on [redacted]"
        assert reading.folded.failure.upstream == "test"
        assert reading.failure is None


NO_STREAMS = {
    "html": (whole("200 OK", b"<html>Sign in</html>", "text/html"), UpstreamMalformed),
    "html called a stream": (whole("200 OK", b"<html>Sign in</html>", "text/event-stream"), UpstreamMalformed),
    "whole completion": (whole("200 OK", b'{"choices": [{"message": {"content": "Hi"}}]}'), UpstreamMalformed),
    "empty": (whole("200 OK", b"", "text/event-stream"), UpstreamTruncated),
    "empty json": (whole("200 OK", b""), UpstreamTruncated),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", UpstreamTruncated),
    "redirect": (whole("302 Found", b"", location="http://127.0.0.1:9/"), UpstreamMalformed),
    "bad request": (whole("400 Bad Request", JSON_ERROR), UpstreamRejected),
    "unauthorized": (whole("401 Unauthorized", b"<html>"), UpstreamRejected),
    "not found": (whole("404 Not Found", b""), UpstreamRejected),
    "not implemented": (whole("501 Not Implemented", b""), UpstreamUnavailable),
}


@pytest.mark.parametrize("name", NO_STREAMS)
async def test_answer_that_is_no_stream(server: RawServer, name: str):
    """Each is the failure that DESIGN §3 says, and is not tried again."""
    answer, expected = NO_STREAMS[name]
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, reading, answer)
        await reading.ended()

        failure = reading.failure or reading.folded.failure
        assert type(failure) is expected
        assert failure.upstream == "test"
        assert reading.call.attempts == 1


async def test_status_error_says_what_the_provider_said(server: RawServer):
    """Status, code and words, without the key."""
    async with calling(server) as caller:
        reading = caller.start()
        await _served(server, reading, whole("402 Payment Required", JSON_ERROR))
        await reading.ended()

        failure = reading.only_failure()
        assert (failure.http_status, failure.provider_code) == (402, "insufficient_quota")
        assert failure.message == "No credit on [redacted]"


async def test_error_body_without_end_is_bounded(server: RawServer):
    """An error as long as a book is read only so far."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _served(server, reading, stream_head().replace(b"200 OK", b"400 No"))
        connection.send(chunk(b"x" * 1_000_000))
        await connection.hung_up()
        await reading.ended()

        assert isinstance(reading.failure, UpstreamRejected)
        assert len(reading.failure.message) < 1100


# --- Clocks ----------------------------------------------------------------------------------------------------------


async def test_no_head_in_time(server: RawServer):
    """The first-token clock runs from the start, and closes the connection."""
    async with calling(server, first_token_seconds=0.1) as caller:
        reading = caller.start()
        connection = await server.accept()
        await connection.hung_up()
        await reading.ended()

        assert isinstance(reading.failure, FirstTokenTimeout)
        assert reading.call.attempts == 1


async def test_comments_and_roles_are_no_first_token(server: RawServer):
    """What is not output does not stop the clock."""
    async with calling(server, first_token_seconds=0.2) as caller:
        reading = caller.start()
        connection = await _served(server, reading, stream_head(), chunk(b": keep-alive\n\n"), chunk(text_event("")))
        await connection.hung_up()
        await reading.ended()

        assert isinstance(reading.failure, FirstTokenTimeout)


async def test_keep_alives_do_not_reset_idle(server: RawServer):
    """A stream of comments is an idle stream."""
    async with calling(server, idle_seconds=0.2) as caller:
        reading = caller.start()
        connection = await _served(server, reading, stream_head(), chunk(text_event("Hel")))
        loop = asyncio.get_running_loop()
        started = loop.time()

        def keep_alive() -> None:
            if not connection.gone.is_set() and loop.time() - started < 5:
                connection.send(chunk(b": keep-alive\n\n"))
                loop.call_later(0.03, keep_alive)

        keep_alive()
        await connection.hung_up()
        await reading.ended()

        assert isinstance(reading.failure, IdleTimeout)
        assert loop.time() - started < 4
        assert reading.folded.text() == "Hel"


async def test_output_resets_idle(server: RawServer):
    """Each piece of output gives the whole idle time again."""
    async with calling(server, first_token_seconds=5, idle_seconds=0.4) as caller:
        reading = caller.start()
        connection = await _served(server, reading, stream_head())
        for _ in range(6):
            connection.send(chunk(text_event("x")))
            await passed(0.15)
        connection.send(chunk(text_event("", "stop")) + LAST_CHUNK)
        await reading.ended()

        assert reading.failure is None
        assert reading.folded.text() == "xxxxxx"


async def test_time_in_which_nobody_reads_is_not_idle(server: RawServer):
    """We are slow, not the upstream."""
    async with calling(server, idle_seconds=0.3) as caller, caller.call() as call:
        batches = call.batches()
        first = asyncio.ensure_future(anext(batches))
        connection = await _served(server, Reading(call), stream_head(), chunk(text_event("Hel")))
        await first
        await passed(0.5)
        connection.send(chunk(text_event("lo", "stop")) + LAST_CHUNK)

        rest = [event async for batch in batches for event in batch.events if not isinstance(event, EventIgnored)]

        assert len(rest) == 2


async def test_answer_goes_on_after_our_buffers_were_full(server: RawServer):
    """More arrives than we hold while nobody reads, so that the connection is paused: reading on brings all of it."""
    piece = "x" * 32_768
    async with calling(server) as caller, caller.call() as call:
        batches = call.batches()
        first = asyncio.ensure_future(anext(batches))
        connection = await _served(server, Reading(call), stream_head(), chunk(text_event("Hel")))
        events = list((await first).events)
        connection.hold_little()
        connection.send(chunk(text_event(piece)) * 400 + chunk(text_event("lo", "stop")) + LAST_CHUNK)
        await passed(0.05)
        assert connection.transport.get_write_buffer_size() > 0, "the test is about a connection that is paused"

        async with asyncio.timeout(PATIENCE_SECONDS):
            async for batch in batches:
                events += batch.events

        assert fold(events).text() == "Hel" + piece * 400 + "lo"


async def test_smaller_clock_counts(server: RawServer):
    """The caller may ask for less time than the upstream's setting gives."""
    async with calling(server, first_token_seconds=60) as caller:
        reading = caller.start(CallOptions(first_token_seconds=0.05))
        connection = await server.accept()
        await connection.hung_up()
        await reading.ended()

        assert isinstance(reading.failure, FirstTokenTimeout)


async def test_connect_has_a_clock_of_its_own(server: RawServer):
    """A handshake that hangs is given up, tried again, and counted."""
    base_url = server.url.replace("http:", "https:")
    async with calling(server, base_url=base_url, connect_seconds=0.05, max_attempts=2) as caller:
        reading = caller.start()
        await (await server.accept()).hung_up()
        await (await server.accept()).hung_up()
        await reading.ended()

        assert isinstance(reading.failure, UpstreamUnavailable)
        assert reading.call.attempts == 2
