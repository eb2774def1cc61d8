"""A stream that ends well before RunFinished: the run is asked for, and the answer is checked, and not waited for."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client import AsyncClient, AsyncRunStream, Client, DeadlineExceeded, RunStream, StreamClosed
from midstream_client.errors import StreamGapError
from rpc.client_transcripts import Follow, follow_async, follow_sync
from rpc.scripted_server import ScriptedServer, text_log

both = pytest.mark.parametrize("follow", [follow_async, follow_sync], ids=["async", "sync"])
LOG = text_log("He", "llo", "!")


class CutOff(ScriptedServer):
    """Its Generate ends well after three events, and GetRun is answered once it may be."""

    def __init__(self) -> None:
        super().__init__(LOG)
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def Generate(self, request, context):
        async for event in super().Generate(request, context):
            yield event
            if event.sequence == 3:
                return

    async def GetRun(self, request, context):
        self.asked.set()
        await self.may_answer.wait()
        return await super().GetRun(request, context)


@pytest.fixture
async def server() -> AsyncIterator[CutOff]:
    async with CutOff() as scripted:
        yield scripted


@both
async def test_an_ending_that_is_not_what_was_received_is_told(server: CutOff, follow: Follow):
    """Though its sequence is right: a store that failed over may have lost what it had told."""
    message = run_pb2.Message(parts=[run_pb2.Part(text=run_pb2.Text(text="Goodbye"))])
    server.runs.append(run_pb2.Run(state=run_pb2.RUN_STATE_FAILED, last_sequence=3, message=message))
    server.may_answer.set()

    with pytest.raises(StreamGapError) as caught:
        await follow(server.target)

    assert (caught.value.last_sequence, bool(caught.value.run_id)) == (3, True)
    assert server.cancels == []


async def test_leaving_from_elsewhere_does_not_wait_for_the_answer(server: CutOff):
    """Whoever iterates is told, and the run is stopped."""
    async with AsyncClient(server.target) as client, client.generate("a/b", "hi") as run:
        reading = asyncio.create_task(_read(run))
        await server.asked.wait()

        async with asyncio.timeout(5):
            await run.aclose()
            with pytest.raises(StreamClosed):
                await reading

    assert len(server.cancels) == 1


async def test_closing_from_another_thread_does_not_wait_for_the_answer(server: CutOff):
    """Whoever iterates is told, and the run is stopped."""
    with Client(server.target) as client, client.generate("a/b", "hi") as run:
        reading = asyncio.create_task(asyncio.to_thread(_drain, run))
        await server.asked.wait()

        async with asyncio.timeout(5):
            await asyncio.to_thread(run.close)
            with pytest.raises(StreamClosed):
                await reading

    assert len(server.cancels) == 1


async def test_a_turn_that_is_cancelled_asks_again(server: CutOff):
    """It loses nothing: the next one goes on where it was."""
    server.runs.append(run_pb2.Run(state=run_pb2.RUN_STATE_RUNNING))
    async with AsyncClient(server.target) as client, client.generate("a/b", "hi") as run:
        reading = asyncio.create_task(_read(run))
        await server.asked.wait()
        reading.cancel()
        await asyncio.wait({reading})
        server.may_answer.set()

        rest = [delta.text async for delta in run]

    assert rest == ["!"]
    assert (run.text, server.cancels) == ("Hello!", [])


@both
async def test_the_deadline_does_not_wait_for_the_answer(server: CutOff, follow: Follow):
    """It is the caller's, also here."""
    async with asyncio.timeout(5):
        with pytest.raises(DeadlineExceeded):
            await follow(server.target, "generate", "a/b", "hi", timeout=0.5)

    assert server.asked.is_set()
    assert len(server.cancels) == 1


async def test_a_wait_for_an_ending_does_not_hurry_a_server_that_answers_early(server: CutOff):
    """There is a pause between its calls."""
    server.runs.append(run_pb2.Run(state=run_pb2.RUN_STATE_RUNNING))
    server.may_answer.set()
    async with AsyncClient(server.target) as client:
        await client.get("run", wait=0.25)
        with Client(server.target) as sync_client:
            await asyncio.to_thread(sync_client.get, "run", wait=0.25)

    assert 4 <= len(server.unary_requests) <= 8
    assert all(isinstance(each, generation_service_pb2.GetRunRequest) for each in server.unary_requests)


async def test_a_wait_ends_when_its_client_is_closed(server: CutOff):
    """With the error of a closed client, from another thread as from another task."""
    client = Client(server.target)
    waiting = asyncio.create_task(asyncio.to_thread(_error_of, lambda: client.get("run", wait=60)))
    await server.asked.wait()

    async with asyncio.timeout(5):
        await asyncio.to_thread(client.close)
        error = await waiting

    assert isinstance(error, StreamClosed)


async def _read(run: AsyncRunStream) -> None:
    async for _ in run:
        pass


def _drain(run: RunStream) -> None:
    for _ in run:
        pass


def _error_of(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except StreamClosed as error:
        return error
    return None
