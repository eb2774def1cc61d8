"""What servers of grpc.aio do that we build on: their limits, frozen peers, and how they stop."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from midstream_server.rpc import server as our_server
from rpc.bare_server import MESSAGE, QUIET_SECONDS, Notes, bare_server, call_stream, call_unary, connected
from rpc.tcp_proxy import TcpProxy

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
