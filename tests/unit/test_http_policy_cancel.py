"""Stopping a call over HTTP: one test per position. The server sees the close, and nothing is left behind."""

import asyncio
import ssl

import pytest
import trustme
import uvloop

from http_calls import Caller, calling, passed
from midstream_server.model import Message, Part, Prompt, Role, Text
from midstream_server.upstreams.base import CallOptions
from midstream_server.upstreams.http_call import HttpCall
from midstream_server.upstreams.http_exchange import HttpClient
from raw_server import PATIENCE_SECONDS, RawConnection, RawServer, chunk, stream_head, text_event, whole


@pytest.fixture
async def server():
    """A server that does what the test says."""
    server = RawServer()
    await server.start()
    yield server
    await server.stop()


async def _stall(server: RawServer, position: str) -> RawConnection:
    """Serves a call up to a position."""
    connection = await server.accept()
    await connection.request()
    if position != "before headers":
        connection.send(stream_head())
    if position in ("mid token", "between tokens"):
        connection.send(chunk(text_event("Hel")))
    if position == "mid token":
        connection.send(chunk(text_event("lo")[:40]))
    return connection


POSITIONS = ["before headers", "before first token", "mid token", "between tokens"]


async def _check_abort(server: RawServer, position: str) -> None:
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _stall(server, position)
        said = "Hel" if position in ("mid token", "between tokens") else ""
        await reading.text(said)

        reading.call.abort()
        await connection.hung_up()
        await reading.ended()

        assert reading.failure is None
        assert reading.folded.text() == said
        assert reading.call.attempts == 1
        assert len(server.connections) == 1


@pytest.mark.parametrize("position", POSITIONS)
async def test_abort_closes_the_connection(server: RawServer, position: str):
    """Wherever the upstream stalls, it sees the close, and the iteration ends by itself with what had come."""
    await _check_abort(server, position)


@pytest.mark.parametrize("position", POSITIONS)
def test_abort_closes_the_connection_on_uvloop(position: str):
    """The same on the loop that the server runs on."""

    async def check() -> None:
        server = RawServer()
        await server.start()
        await _check_abort(server, position)
        await server.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


@pytest.mark.parametrize("position", POSITIONS)
async def test_cancelling_the_task_closes_the_connection(server: RawServer, position: str):
    """The same for a task that is cancelled."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _stall(server, position)
        assert reading.task is not None

        reading.task.cancel()
        await connection.hung_up()

        with pytest.raises(asyncio.CancelledError):
            await reading.task


@pytest.mark.parametrize("position", POSITIONS)
async def test_abort_and_cancel_together(server: RawServer, position: str):
    """A task that is cancelled while the call is aborted ends cancelled: nothing swallows that."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _stall(server, position)
        assert reading.task is not None

        reading.call.abort()
        reading.task.cancel()
        await connection.hung_up()

        with pytest.raises(asyncio.CancelledError):
            await reading.task


async def test_abort_closes_while_nobody_reads(server: RawServer):
    """Between two reads no task waits for the connection: the abort alone closes it, before anything else runs."""
    async with calling(server) as caller, caller.call() as call:
        batches = call.batches()
        first = asyncio.ensure_future(anext(batches))
        connection = await _stall(server, "between tokens")
        await first

        call.abort()
        await connection.hung_up()

        assert [batch async for batch in batches] == []


async def test_leaving_the_call_closes_the_connection(server: RawServer):
    """A reader that breaks out of its loop leaves nothing open."""
    async with calling(server) as caller:
        async with caller.call() as call:
            batches = call.batches()
            first = asyncio.ensure_future(anext(batches))
            connection = await _stall(server, "between tokens")
            await first

        await connection.hung_up()


async def test_abort_closes_behind_unread_bytes(server: RawServer):
    """More has arrived than our buffers hold, so that the connection is paused: the abort closes it all the same."""
    async with calling(server) as caller, caller.call() as call:
        batches = call.batches()
        first = asyncio.ensure_future(anext(batches))
        connection = await _stall(server, "between tokens")
        await first
        connection.send(chunk(b": " + b"x" * 8_000_000 + b"\n"))

        call.abort()
        await connection.hung_up()

        assert [batch async for batch in batches] == []


async def test_abort_closes_while_the_request_is_being_sent(server: RawServer):
    """The upstream does not read the request: what is not sent yet is dropped."""
    part = Part(content=Text(text="x" * 16_000_000))
    prompt = Prompt(messages=(Message(role=Role.USER, parts=(part,)),))
    async with calling(server) as caller:
        call = caller.upstream.call("m", prompt, CallOptions())
        async with call:
            first = asyncio.ensure_future(anext(call.batches(), None))
            connection = await server.accept()
            connection.transport.pause_reading()
            await passed(0.05)

            call.abort()
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await first is None

        connection.transport.resume_reading()
        await connection.hung_up()


async def test_abort_ends_a_connect_that_hangs(server: RawServer):
    """The server accepts and never shakes hands: that is still connecting."""
    async with calling(server, base_url=server.url.replace("http:", "https:")) as caller:
        reading = caller.start()
        connection = await server.accept()

        reading.call.abort()
        await connection.hung_up()
        await reading.ended()

        assert reading.failure is None
        assert reading.events == []


async def test_abort_over_tls(server: RawServer):
    """No farewell of TLS is awaited: the socket is closed at once."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    secure, client = RawServer(), HttpClient(trust)
    await secure.start(context)
    async with calling(secure, client) as caller:
        reading = caller.start()
        connection = await _stall(secure, "mid token")
        await reading.text("Hel")

        reading.call.abort()
        await connection.hung_up()
        await reading.ended()

        assert reading.failure is None
    await client.aclose()
    await secure.stop()


async def test_abort_before_the_call_sends_nothing(server: RawServer):
    """A call that was aborted before it was iterated never reaches the upstream."""
    async with calling(server) as caller, caller.call() as call:
        call.abort()

        assert [batch async for batch in call.batches()] == []
        assert call.attempts == 0
    assert server.connections == []


async def test_abort_ends_the_wait_for_a_retry(server: RawServer):
    """Between two attempts nothing is open: the wait ends at once, and no other attempt is made."""
    async with calling(server, retry_initial_seconds=60, retry_max_seconds=120) as caller:
        reading = caller.start()
        connection = await server.accept()
        await connection.request()
        connection.send(whole("503 Service Unavailable", b"{}", connection="close"))
        await connection.hung_up()

        reading.call.abort()
        await reading.ended()

        assert reading.failure is None
        assert reading.call.attempts == 1


async def test_abort_ends_the_reading_of_an_error(server: RawServer):
    """The body of an error that never ends is cut off."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await server.accept()
        await connection.request()
        connection.send(stream_head().replace(b"200 OK", b"503 Oops") + chunk(b'{"error":'))
        await passed(0.05)

        reading.call.abort()
        await connection.hung_up()
        await reading.ended()

        assert reading.failure is None
        assert reading.call.attempts == 1


async def test_abort_after_the_end_leaves_the_pool_alone(server: RawServer):
    """A connection that went back to the pool, and carries another call now, is not ours to close."""
    end = chunk(text_event("", "stop")) + b"0\r\n\r\n"
    async with calling(server) as caller, caller.call() as first:
        reading = asyncio.ensure_future(_drain(first))
        connection = await _stall(server, "between tokens")
        connection.send(end)
        await reading
        second = caller.start()
        await connection.request()
        connection.send(stream_head() + chunk(text_event("again")))
        await second.text("again")

        first.abort()
        connection.send(end)
        await second.ended()

        assert second.failure is None
        assert [finish.raw for finish in second.folded.finishes] == ["stop"]
        assert len(server.connections) == 1


async def _drain(call: HttpCall) -> None:
    async for _ in call.batches():
        pass


async def test_abort_is_idempotent(server: RawServer):
    """Twice, and after the end, is the same as once."""
    async with calling(server) as caller:
        reading = caller.start()
        connection = await _stall(server, "between tokens")
        await reading.text("Hel")

        reading.call.abort()
        reading.call.abort()
        await connection.hung_up()
        await reading.ended()
        reading.call.abort()

        assert reading.failure is None


async def test_a_hundred_aborts_leave_the_pool_usable(server: RawServer):
    """No place in the pool is lost by a cancel."""
    async with calling(server) as caller:
        for _ in range(100):
            await _abort_one(caller, server)
        reading = caller.start()
        connection = await _stall(server, "between tokens")
        connection.send(chunk(text_event("lo", "stop")) + b"0\r\n\r\n")
        await reading.ended()

        assert reading.folded.text() == "Hello"


async def _abort_one(caller: Caller, server: RawServer) -> None:
    reading = caller.start()
    connection = await _stall(server, "before headers")
    reading.call.abort()
    await connection.hung_up()
    await reading.ended()
