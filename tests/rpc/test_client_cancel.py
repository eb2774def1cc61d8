"""Leaving a stream stops its run, however it is left; so does `cancel`, from any thread or task."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from midstream.v1 import run_pb2
from midstream_client import AsyncClient, AsyncRunStream, Client, RunStream, StreamClosed
from midstream_client.stream import LEAVE_REASON
from rpc.scripted_server import Refusal, ScriptedServer, text_log


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """Streams "ab", and then nothing until it is told to."""
    async with ScriptedServer(text_log("ab", "cd", state=run_pb2.RUN_STATE_CANCELLED)) as scripted:
        scripted.hold_after(2)
        yield scripted


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.target) as made:
        yield made


def assert_stopped(server: ScriptedServer, run: AsyncRunStream | RunStream) -> None:
    """By one cancel that did not wait for the ending."""
    (cancel,) = server.cancels
    assert (cancel.run_id, cancel.reason) == (run.run_id, LEAVE_REASON)
    assert cancel.HasField("wait")
    assert cancel.wait.ToNanoseconds() == 0


# --- Leaving, async --------------------------------------------------------------------------------------------------


async def test_leaving_stops_the_run_and_the_call(server: ScriptedServer, client: AsyncClient):
    """A break out of the loop, and then the block."""
    async with client.generate("a/b", "hi") as run:
        async for delta in run:
            assert delta.text == "ab"
            break

    assert_stopped(server, run)
    await server.until_left()
    assert run.text == "ab"


async def test_leaving_before_the_first_answer_stops_the_run(server: ScriptedServer, client: AsyncClient):
    """The cancel may be there first; the server remembers it."""
    server.hold_after(0)

    async with client.generate("a/b", "hi") as run:
        pass

    assert_stopped(server, run)


async def test_an_exception_stops_the_run(server: ScriptedServer, client: AsyncClient):
    """And goes on."""
    run = client.generate("a/b", "hi")

    with pytest.raises(ZeroDivisionError):
        await _fail_inside(run)

    assert_stopped(server, run)
    await server.until_left()


async def _fail_inside(run: AsyncRunStream) -> None:
    async with run:
        await anext(run)
        raise ZeroDivisionError


async def test_a_cancelled_task_stops_the_run(server: ScriptedServer, client: AsyncClient):
    """While it waits for the next delta."""
    reading = asyncio.Event()

    async def follow() -> None:
        async with client.generate("a/b", "hi") as run:
            streams.append(run)
            await anext(run)
            reading.set()
            await anext(run)

    streams: list[AsyncRunStream] = []
    task = asyncio.create_task(follow())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert_stopped(server, streams[0])
    await server.until_left()


async def test_a_timeout_around_the_block_stops_the_run(server: ScriptedServer, client: AsyncClient):
    """The cancel that it sends is sent, and TimeoutError comes out."""
    run = client.generate("a/b", "hi")

    with pytest.raises(TimeoutError):
        await _time_out_inside(run)

    assert_stopped(server, run)


async def _time_out_inside(run: AsyncRunStream) -> None:
    async with asyncio.timeout(None) as timeout, run:
        await anext(run)
        timeout.reschedule(0)
        await anext(run)


async def test_a_cancel_as_the_block_ends_still_sends_the_stop(server: ScriptedServer, client: AsyncClient):
    """It lands at the first thing that leaving waits for."""
    run = client.generate("a/b", "hi")

    async def follow() -> None:
        async with run:
            await anext(run)
            task.cancel()

    task = asyncio.create_task(follow())
    with pytest.raises(asyncio.CancelledError):
        await task

    assert_stopped(server, run)


async def test_cancels_while_leaving_wait_until_the_stop_is_sent(server: ScriptedServer, client: AsyncClient):
    """However many come; then they are obeyed."""
    await server.hold_cancels(are_held=True)

    async def follow() -> None:
        async with client.generate("a/b", "hi") as run:
            streams.append(run)
            await anext(run)

    streams: list[AsyncRunStream] = []
    task = asyncio.create_task(follow())
    await server.until_cancelled()
    task.cancel()
    task.cancel()
    assert server.left == 0
    await server.hold_cancels(are_held=False)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert_stopped(server, streams[0])
    await server.until_left()
    assert [each.get_name() for each in asyncio.all_tasks() if each.get_name().startswith("midstream")] == []


async def test_leaving_gives_up_on_a_server_that_does_not_answer(server: ScriptedServer, client: AsyncClient):
    """After a second; the call is cancelled all the same."""
    await server.hold_cancels(are_held=True)
    loop = asyncio.get_running_loop()

    async with client.generate("a/b", "hi") as run:
        await anext(run)
        begin = loop.time()

    assert 0.9 < loop.time() - begin < 5
    await server.until_left()


async def test_a_cancel_of_a_turn_loses_nothing(server: ScriptedServer, client: AsyncClient):
    """The next turn goes on with the same call."""
    async with client.generate("a/b", "hi") as run:
        await anext(run)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(run)
        await server.release()
        rest = [delta.text async for delta in run]

    assert rest == ["cd"]
    assert len(server.requests) == 1
    assert server.cancels == []


async def test_leaving_after_the_end_does_nothing(server: ScriptedServer, client: AsyncClient):
    """There is nothing to stop."""
    server.hold_after(None)

    async with client.generate("a/b", "hi") as run:
        await run.result()

    assert server.cancels == []
    assert server.left == 0


async def test_leaving_a_watch_never_stops_the_run(server: ScriptedServer, client: AsyncClient):
    """It ends its own call only."""
    async with client.watch("run") as run:
        await anext(run)

    await server.until_left()
    assert server.cancels == []


async def test_leaving_a_watch_with_a_claim_stops_the_run(server: ScriptedServer, client: AsyncClient):
    """As leaving `generate` does."""
    async with client.watch("run", claim=True) as run:
        await anext(run)

    assert_stopped(server, run)


async def test_a_refusal_that_nobody_read_stops_nothing(server: ScriptedServer, client: AsyncClient):
    """The run with this id is somebody else's."""
    server.refusals.append(Refusal(grpc.StatusCode.ALREADY_EXISTS, "RUN_ID_CONFLICT"))

    async with client.generate("a/b", "hi", run_id="theirs") as run:
        call = run._call
        assert isinstance(call, grpc.aio.Call)
        await call.code()

    assert server.cancels == []


async def test_after_leaving_the_result_is_the_run_as_it_ended(server: ScriptedServer, client: AsyncClient):
    """Asked for, since the stream is gone."""
    ended = server.log[-1].finished.run
    server.runs.append(ended)

    async with client.generate("a/b", "hi") as run:
        await anext(run)
    with pytest.raises(StreamClosed):
        await anext(run)

    assert await run.result() == ended
    assert run.message == ended.message


async def test_a_client_that_is_closed_first_ends_its_streams(server: ScriptedServer):
    """With a typed error, not with a cancel that nobody asked for."""
    client = AsyncClient(server.target)
    async with client.generate("a/b", "hi") as run:
        await anext(run)
        turn = asyncio.ensure_future(anext(run))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(StreamClosed):
            await turn


# --- Cancel ----------------------------------------------------------------------------------------------------------


async def test_cancel_answers_the_partial_and_the_stream_goes_on_to_the_end(
    server: ScriptedServer, client: AsyncClient
):
    """Leaving then stops nothing again."""
    async with client.generate("a/b", "hi") as run:
        await anext(run)
        partial = await run.cancel("enough", wait=2)
        await server.release()
        final = await run.result()

    assert partial.message.parts[0].text.text == "abcd"
    assert final.state == run_pb2.RUN_STATE_CANCELLED
    (cancel,) = server.cancels
    assert (cancel.reason, cancel.wait.seconds) == ("enough", 2)


async def test_leaving_after_cancel_sends_no_second_cancel(server: ScriptedServer, client: AsyncClient):
    """The first one stopped it."""
    async with client.generate("a/b", "hi") as run:
        await anext(run)
        await run.cancel()

    assert len(server.cancels) == 1
    await server.until_left()


async def test_cancel_is_repeated_while_the_server_is_away(server: ScriptedServer, client: AsyncClient):
    """It changes nothing to cancel twice, so a lost one is sent again."""
    server.cancel_refusals.extend([Refusal(grpc.StatusCode.UNAVAILABLE)] * 2)

    result = await client.cancel("run")

    assert result.run.run_id == "run"
    assert len(server.cancels) == 3


async def test_control_calls_do_not_wait_behind_streams():
    """They have a connection of their own."""
    async with ScriptedServer(text_log("ab", "cd")) as server, AsyncClient(server.target) as client:
        server.hold_after(2)
        async with client.generate("a/b", "hi") as run:
            await anext(run)
            await run.cancel()

    assert len(set(server.peers)) == 2


# --- Threads ---------------------------------------------------------------------------------------------------------


async def test_leaving_stops_the_run_and_the_call_in_a_thread(server: ScriptedServer):
    """A break out of the loop, and then the block."""

    def follow() -> RunStream:
        with Client(server.target) as client, client.generate("a/b", "hi") as run:
            for _ in run:
                break
        return run

    run = await asyncio.to_thread(follow)

    assert_stopped(server, run)
    await server.until_left()
    assert run.text == "ab"


async def test_ctrl_c_stops_the_run(server: ScriptedServer):
    """As any exception does."""

    with Client(server.target) as client:
        run = client.generate("a/b", "hi")
        assert await asyncio.to_thread(_is_interrupted_inside, run)

    assert_stopped(server, run)
    await server.until_left()


def _is_interrupted_inside(run: RunStream) -> bool:
    try:
        with run:
            next(run)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return True


async def test_another_thread_may_cancel(server: ScriptedServer):
    """While one iterates; that one goes on to the end."""
    with Client(server.target) as client, client.generate("a/b", "hi") as run:
        first = asyncio.Event()
        loop = asyncio.get_running_loop()

        def follow() -> list[str]:
            texts = []
            for delta in run:
                texts.append(delta.text)
                loop.call_soon_threadsafe(first.set)
            return texts

        following = asyncio.create_task(asyncio.to_thread(follow))
        await first.wait()
        partial = await asyncio.to_thread(run.cancel, "enough")
        await server.release()
        texts = await following

    assert partial.message.parts[0].text.text == "abcd"
    assert texts == ["ab", "cd"]
    assert [each.reason for each in server.cancels] == ["enough"]


async def test_another_thread_may_close(server: ScriptedServer):
    """The iteration ends with a typed error, and the run is stopped."""
    client = Client(server.target)
    with client, client.generate("a/b", "hi") as run:
        await asyncio.to_thread(next, run)
        following = asyncio.create_task(asyncio.to_thread(_next_error, run))
        await asyncio.to_thread(run.close)
        error = await following

    assert isinstance(error, StreamClosed)
    assert_stopped(server, run)


def _next_error(run: RunStream) -> Exception | None:
    try:
        next(run)
    except StreamClosed as error:
        return error
    return None
