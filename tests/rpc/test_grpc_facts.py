"""What grpc.aio does that we build on: if one of these changes with a new version, something of ours must."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from rpc.bare_server import MESSAGE, QUIET_SECONDS, Notes, bare_server, call_stream, call_unary, connected

LARGE_MESSAGE = b"x" * 100_000


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
        await notes.until("sent")
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
        await notes.until("sent")
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
