"""What grpc.aio does that we build on: if one of these changes with a new version, something of ours must."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from midstream_server.rpc import server as our_server
from rpc.bare_server import Notes, bare_server, call_stream, call_unary, connected
from rpc.tcp_proxy import TcpProxy

MESSAGE = b"x" * 100
LARGE_MESSAGE = b"x" * 100_000
QUIET_SECONDS = 0.3
"""So long nothing happens where nothing is to happen."""


async def _ends(way: str, call: Any, server: grpc.aio.Server) -> None:
    """The client cancels, or the server stops; a deadline comes by itself."""
    if way == "cancel":
        call.cancel()
    elif way == "stop":
        await server.stop(None)


def _timeout(way: str) -> float | None:
    return 0.5 if way == "deadline" else None


WAYS = ["cancel", "deadline", "stop"]


# --- How a peer that leaves arrives in a handler -------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_handler_that_awaits_its_own_work_gets_cancelled_error(way: str):
    """In a streaming handler, whoever ends the call."""
    notes = Notes()

    async def stream(_request: bytes, context: Any) -> None:
        await context.write(MESSAGE)
        notes.add("waits")
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            notes.add(type(error))
            raise
        finally:
            notes.add(("cancelled", context.cancelled()))

    async with bare_server(stream=stream) as (server, target), connected(target) as channel:
        call = call_stream(channel, _timeout(way))
        await notes.until("waits")
        await _ends(way, call, server)
        await notes.count(3)

    assert notes.seen == ["waits", asyncio.CancelledError, ("cancelled", False)]


@pytest.mark.parametrize("way", WAYS)
async def test_handler_parked_at_yield_gets_generator_exit(way: str):
    """Under flow control; so `except CancelledError` alone is not enough, and nothing can be awaited in `finally`."""
    notes = Notes()

    async def stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield LARGE_MESSAGE
                notes.add("sent")
        except BaseException as error:
            notes.add(type(error))
            raise

    async with bare_server(stream=stream) as (server, target), connected(target) as channel:
        call = call_stream(channel, 2 * QUIET_SECONDS if way == "deadline" else None)
        await notes.settle(QUIET_SECONDS)
        await _ends(way, call, server)
        await notes.until(GeneratorExit)

    assert notes.seen[-1] is GeneratorExit
    assert asyncio.CancelledError not in notes.seen


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("cancel", ["ExecuteBatchError", "cancelled in finally"]),
        ("deadline", ["ExecuteBatchError", "cancelled in finally"]),
        ("stop", ["CancelledError"]),
    ],
)
async def test_handler_blocked_in_write_gets_an_internal_error(way: str, expected: list[str]):
    """And a cancel in `finally`; only where the server stops, it is a cancel from the beginning."""
    notes, released = Notes(), asyncio.Event()

    async def stream(_request: bytes, context: Any) -> None:
        try:
            while True:
                await context.write(LARGE_MESSAGE)
                notes.add("sent")
        except BaseException as error:
            notes.add(type(error).__name__)
            raise
        finally:
            try:
                await released.wait()
            except asyncio.CancelledError:
                notes.add("cancelled in finally")
                raise

    async with bare_server(stream=stream) as (server, target), connected(target) as channel:
        call = call_stream(channel, 2 * QUIET_SECONDS if way == "deadline" else None)
        await notes.settle(QUIET_SECONDS)
        await _ends(way, call, server)
        await notes.until(*expected)
        await notes.settle(QUIET_SECONDS)
        released.set()

    assert [note for note in notes.seen if note != "sent"] == expected


async def test_time_remaining_is_0_after_the_deadline():
    """That is how a deadline is told from a cancel."""
    notes = Notes()

    async def stream(_request: bytes, context: Any) -> None:
        await context.write(MESSAGE)
        try:
            await asyncio.Event().wait()
        finally:
            notes.add(context.time_remaining())

    async with bare_server(stream=stream) as (_, target), connected(target) as channel:
        for seconds, count in ((0.3, 1), (60.0, 2)):
            call = call_stream(channel, seconds)
            await call.read()
            if count == 2:
                call.cancel()
            await notes.count(count)

    assert notes.seen[0] <= 0.05
    assert notes.seen[1] > 30


# --- Flow control and lost calls ------------------------------------------------------------------------------------


async def test_a_client_that_never_reads_accepts_about_a_megabyte():
    """So a slow reader must be bounded by us, not by gRPC."""
    notes = Notes()

    async def stream(_request: bytes, context: Any) -> None:
        while True:
            await context.write(MESSAGE)
            notes.add(None)

    async with bare_server(stream=stream) as (_, target), connected(target) as channel:
        call = call_stream(channel)
        accepted = await notes.settle(QUIET_SECONDS)
        call.cancel()

    assert 1_000 < accepted < 100_000


@pytest.mark.parametrize("leave", ["break", "drop"])
async def test_a_client_that_stops_reading_does_not_end_the_call(leave: str):
    """Neither by leaving its loop, nor by dropping the call object: it must cancel (grpc/grpc#43462)."""
    notes, go_on = Notes(), asyncio.Event()

    async def stream(_request: bytes, context: Any) -> None:
        try:
            await context.write(MESSAGE)
            await go_on.wait()
            await context.write(MESSAGE)
            notes.add("went on")
            await asyncio.Event().wait()
        finally:
            notes.add("ended")

    async with bare_server(stream=stream) as (_, target), connected(target) as channel:
        call = call_stream(channel)
        async for _message in call:
            break
        if leave == "drop":
            del call
            gc.collect()
        go_on.set()
        await notes.count(1)
        if leave == "break":
            call.cancel()
            await notes.count(2)

        assert notes.seen == (["went on", "ended"] if leave == "break" else ["went on"])


async def test_a_handler_that_ends_with_cancelled_error_leaves_its_client_hanging():
    """To its deadline, if it has one (grpc/grpc#29248): a run is never stopped by cancelling its handler."""

    async def stream(_request: bytes, _context: Any) -> None:
        raise asyncio.CancelledError

    async with bare_server(stream=stream) as (_, target), connected(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_stream(channel, 0.5).read()

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


# --- Errors -----------------------------------------------------------------------------------------------------------


async def test_an_uncaught_exception_shows_its_text_to_the_client(caplog: pytest.LogCaptureFixture):
    """So one wrapper maps everything."""

    async def unary(_request: bytes, _context: Any) -> bytes:
        raise ValueError("the secret")

    async with bare_server(unary=unary) as (_, target), connected(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel)

    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert "the secret" in str(caught.value.details())
    assert "the secret" in caplog.text


async def test_abort_raises_an_ordinary_exception():
    """An `except Exception` around it would catch it."""
    notes = Notes()

    async def unary(_request: bytes, context: Any) -> bytes:
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        except Exception as error:
            notes.add(type(error))
            raise
        return b""

    async with bare_server(unary=unary) as (_, target), connected(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel)

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert notes.seen == [grpc.aio.AbortError]
    assert issubclass(grpc.aio.AbortError, Exception)


async def test_a_client_receives_at_most_4_mib_by_default():
    """So every Run must be smaller."""
    sizes = iter([4 * 1024 * 1024, 4 * 1024 * 1024 + 1])

    async def unary(_request: bytes, _context: Any) -> bytes:
        return bytes(next(sizes))

    async with bare_server(unary=unary) as (_, target), connected(target) as channel:
        assert len(await call_unary(channel)) == 4 * 1024 * 1024
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- Limits of a server -----------------------------------------------------------------------------------------------


async def _park(_request: bytes, context: Any) -> None:
    await context.write(MESSAGE)
    await asyncio.Event().wait()


async def _answer(_request: bytes, _context: Any) -> bytes:
    return MESSAGE


async def test_streams_at_the_stream_limit_block_calls_on_the_same_connection():
    """And on another default channel, which shares the connection; a subchannel pool of its own lets one through."""
    options = (("grpc.max_concurrent_streams", 2),)
    async with (
        bare_server(stream=_park, unary=_answer, options=options) as (_, target),
        connected(target, is_shared=True) as channel,
        connected(target, is_shared=True) as second,
        connected(target) as control,
    ):
        streams = [call_stream(channel) for _ in range(2)]
        for stream in streams:
            await stream.read()

        for blocked in (channel, second):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call_unary(blocked, QUIET_SECONDS)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call_unary(control, 10.0) == MESSAGE

        streams[0].cancel()
        assert await call_unary(channel, 10.0) == MESSAGE


async def test_maximum_concurrent_rpcs_refuses_everything():
    """Health and Cancel too: no means of admission."""
    async with (
        bare_server(stream=_park, unary=_answer, maximum_concurrent_rpcs=1) as (_, target),
        connected(target) as channel,
    ):
        stream = call_stream(channel)
        await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel, 10.0)
        stream.cancel()

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("is_raised", [False, True])
async def test_calls_beyond_the_pending_limit_are_refused(is_raised: bool):
    """Of many that start at once; with the limit raised all reach a handler. The server raises it."""
    limit = 100_000 if is_raised else 5
    options = (("grpc.server.max_pending_requests", limit), ("grpc.server.max_pending_requests_hard_limit", 2 * limit))
    async with bare_server(unary=_answer, options=options) as (_, target), connected(target) as channel:
        calls = [call_unary(channel, 30.0) for _ in range(500)]
        answers = await asyncio.gather(*calls, return_exceptions=True)

    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert bool(refused) != is_raised
    assert refused == [] or {grpc.StatusCode.OK}.isdisjoint({error.code() for error in refused})
    assert {"grpc.server.max_pending_requests", "grpc.server.max_pending_requests_hard_limit"} < dict(
        our_server.OPTIONS
    ).keys()


KEEPALIVE = (
    ("grpc.keepalive_time_ms", 300),
    ("grpc.keepalive_timeout_ms", 300),
    ("grpc.http2.ping_timeout_ms", 300),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


@pytest.mark.parametrize("is_frozen", [True, False])
async def test_a_frozen_client_is_noticed_with_all_three_keepalive_options(is_frozen: bool):
    """No FIN comes from it: only pings tell. One that is there is left alone."""
    notes = Notes()

    async def stream(_request: bytes, context: Any) -> None:
        try:
            await context.write(MESSAGE)
            await asyncio.Event().wait()
        finally:
            notes.add("gone")

    async with (
        bare_server(stream=stream, options=KEEPALIVE) as (_, target),
        TcpProxy(target) as proxy,
        connected(proxy.address) as channel,
    ):
        call = call_stream(channel)
        await call.read()
        if is_frozen:
            proxy.freeze()
            await notes.until("gone")
        else:
            assert await notes.settle(1.5) == 0
        call.cancel()
    assert {name for name, _ in KEEPALIVE} < dict(our_server.OPTIONS).keys()


# --- Stopping a server ------------------------------------------------------------------------------------------------


async def test_handlers_hear_nothing_of_a_stop_until_its_grace_ends():
    """New calls are refused at once all the same: so a drain is not `stop(grace)`."""
    notes = Notes()

    async def stream(_request: bytes, context: Any) -> None:
        await context.write(MESSAGE)
        try:
            await asyncio.Event().wait()
        finally:
            notes.add("cancelled")

    async with bare_server(stream=stream, unary=_answer) as (server, target), connected(target) as channel:
        call = call_stream(channel)
        await call.read()
        stopping = asyncio.ensure_future(server.stop(1.0))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with connected(target) as other:
                await call_unary(other, 0.5)
        unheard = not notes.seen
        await stopping

        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert unheard
        await notes.until("cancelled")


async def test_stop_can_return_while_a_finally_still_runs():
    """So what must be done when a stream ends is done without an await."""
    notes, release = Notes(), asyncio.Event()

    async def stream(_request: bytes, context: Any) -> None:
        await context.write(MESSAGE)
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            notes.add("cleaned up")

    async with bare_server(stream=stream) as (server, target), connected(target) as channel:
        call = call_stream(channel)
        await call.read()
        async with asyncio.timeout(5):
            await server.stop(None)

        assert notes.seen == []
        release.set()
        await notes.until("cleaned up")


async def test_an_open_watch_of_the_stock_health_servicer_uses_up_the_grace():
    """It is not ended by `enter_graceful_shutdown`: the reason for a health servicer of our own."""
    servicer, server = health.aio.HealthServicer(), grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with connected(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        await watch.read()
        await servicer.enter_graceful_shutdown()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await server.stop(0.5)

    assert loop.time() - begun >= 0.45
