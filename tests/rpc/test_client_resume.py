"""A lost connection is resumed by itself: no gap, no duplicate, with the claim, within the grace."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client import AsyncClient, AsyncRunStream, ConnectionLost, Delta
from midstream_client.errors import Draining, RunNotFound, StoreUnavailable
from rpc.client_transcripts import Follow, follow_async, follow_sync
from rpc.scripted_server import Refusal, ScriptedServer, retry_info, text_log
from rpc.tcp_proxy import TcpProxy

both = pytest.mark.parametrize("follow", [follow_async, follow_sync], ids=["async", "sync"])

AS_STREAMED = generation_service_pb2.MESSAGE_VIEW_AS_STREAMED
TEXTS = ("He", "llo ", "wörld", "", " ☃")
LOG = text_log(*TEXTS)


Request = generation_service_pb2.GenerateRequest | generation_service_pb2.WatchRunRequest


def is_resumed(request: Request, after: int) -> bool:
    return request == generation_service_pb2.WatchRunRequest(run_id=request.run_id, after_sequence=after, claim=True)


@both
@pytest.mark.parametrize("cut_after", range(len(LOG)))
async def test_a_connection_lost_after_any_message_is_resumed(follow: Follow, cut_after: int):
    """What is delivered equals what an uncut stream delivers."""
    async with ScriptedServer(LOG) as server, TcpProxy(server.target) as proxy:
        proxy.cut_after = cut_after
        seen = await follow(proxy.address)

    assert proxy.cuts == 1
    assert [each.sequence for each in seen.deltas] == [2, 3, 4, 5, 6]
    assert tuple(each.text for each in seen.deltas) == TEXTS
    assert seen.final == LOG[-1].finished.run
    assert len(server.requests) == 2
    assert server.cancels == []


@pytest.mark.parametrize("after", [2, 3, 4, 5, 6])
async def test_a_resumed_stream_claims_and_goes_on_after_what_was_seen(after: int):
    """The server had sent no more than this when the connection was lost."""
    async with ScriptedServer(LOG) as server, TcpProxy(server.target) as proxy, AsyncClient(proxy.address) as client:
        server.hold_after(after)
        async with client.generate("a/b", "hi") as run:
            deltas = [await anext(run) for _ in range(after - 1)]
            proxy.cut()
            await server.until_left()
            await server.release()
            deltas += [delta async for delta in run]

    assert tuple(each.text for each in deltas) == TEXTS
    first, second = server.requests
    assert isinstance(first, generation_service_pb2.GenerateRequest)
    assert is_resumed(second, after)


async def test_before_the_first_event_the_same_request_is_sent_again():
    """With the same id, so that it is the same run."""
    async with ScriptedServer(LOG) as server, TcpProxy(server.target) as proxy, AsyncClient(proxy.address) as client:
        server.hold_after(0)
        async with client.generate("a/b", "hi") as run:
            turn = asyncio.ensure_future(anext(run))
            await server.until_requested()
            proxy.cut()
            await server.until_left()
            await server.release()
            first = await turn
            await run.result()

    assert first.text == "He"
    assert len(server.requests) == 2
    assert server.requests[0] == server.requests[1]
    assert isinstance(server.requests[0], generation_service_pb2.GenerateRequest)


@both
async def test_many_losses_are_each_resumed(follow: Follow):
    """Also when every connection lives for one event only."""
    async with ScriptedServer(LOG) as server, TcpProxy(server.target) as proxy:
        server.refusals.extend(Refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING") for _ in range(3))
        proxy.cut_after = 2
        seen = await follow(proxy.address)

    assert tuple(each.text for each in seen.deltas) == TEXTS


@both
@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING", details=(retry_info(0.01),)),
        Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
        Refusal(grpc.StatusCode.ABORTED, "SLOW_READER"),
        Refusal(grpc.StatusCode.INTERNAL),
        Refusal(grpc.StatusCode.UNKNOWN),
        Refusal(grpc.StatusCode.CANCELLED),
    ],
    ids=["draining", "store", "slow reader", "reset", "unknown", "cancelled by a proxy"],
)
async def test_a_status_that_is_not_an_answer_is_resumed(follow: Follow, refusal: Refusal):
    """Of the server that goes away, of the transport, or of somebody between."""
    async with ScriptedServer(LOG) as server:
        server.refusals.append(refusal)
        seen = await follow(server.target)

    assert tuple(each.text for each in seen.deltas) == TEXTS
    assert len(server.requests) == 2


@both
async def test_a_stream_that_ends_without_an_ending_is_resumed(follow: Follow):
    """OK without RunFinished is a loss, not an end."""
    async with ScriptedServer(LOG[:3]) as server:
        with pytest.raises(ConnectionLost) as caught:
            await follow(server.target, "generate", "a/b", "hi", on_detach=0.2)

    assert caught.value.partial is not None
    assert caught.value.partial.parts[0].text.text == "Hello "
    assert caught.value.last_sequence == 3
    assert all(is_resumed(each, 3) for each in server.requests[1:])
    assert len(server.requests) >= 2


@both
async def test_a_merged_event_over_the_cursor_is_not_delivered_twice(follow: Follow):
    """A cursor inside a span: only what follows."""
    merged = run_pb2.RunEvent(sequence=6, first_sequence=2)
    merged.delta.text = "".join(TEXTS)
    merged.delta.part_end = run_pb2.PART_STATE_COMPLETE

    class Merging(ScriptedServer):
        def __init__(self) -> None:
            super().__init__(LOG[:3])

        async def WatchRun(self, request, context):
            self.log = [LOG[0], merged, LOG[-1]]
            async for event in super().WatchRun(request, context):
                yield event

    async with Merging() as server:
        seen = await follow(server.target)

    assert [each.text for each in seen.deltas] == ["He", "llo ", "wörld ☃"]
    assert (seen.deltas[-1].offset, seen.deltas[-1].first_sequence) == (6, 4)


async def test_a_server_that_stays_away_is_told_with_the_partial():
    """After the grace; leaving stops the run, if the server can be reached by then."""
    async with ScriptedServer(LOG) as server, TcpProxy(server.target) as proxy, AsyncClient(proxy.address) as client:
        server.hold_after(3)
        run = client.generate("a/b", "hi", on_detach=0.3)
        with pytest.raises(ConnectionLost) as caught:
            await _follow_past(run, proxy.refuse)

    assert (caught.value.run_id, caught.value.last_sequence) == (run.run_id, 3)
    assert caught.value.partial is not None
    assert caught.value.partial.parts[0].text.text == "Hello "


# --- Streams that end well before a last event ------------------------------------------------------------------------


@both
@pytest.mark.parametrize("claim", [False, True])
async def test_a_watch_from_the_end_of_an_ended_run_is_at_its_end(follow: Follow, claim: bool):
    """The server has nothing to send and says OK: the run is asked for once, and nothing is tried again or stopped."""
    final = LOG[-1].finished.run
    async with ScriptedServer(LOG) as server:
        server.runs.append(final)
        seen = await follow(server.target, "watch", "run", after_sequence=final.last_sequence, claim=claim)

    assert seen.deltas == []
    assert (seen.final, seen.message, seen.last_sequence) == (final, final.message, final.last_sequence)
    assert len(server.requests) == 1
    assert server.unary_requests == [generation_service_pb2.GetRunRequest(run_id="run", message_view=AS_STREAMED)]
    assert server.cancels == []


class CutOff(ScriptedServer):
    """Its Generate ends well after three events, as something between may make it."""

    async def Generate(self, request, context):
        async for event in super().Generate(request, context):
            yield event
            if event.sequence == 3:
                return


@both
@pytest.mark.parametrize(
    "answer",
    [
        run_pb2.Run(state=run_pb2.RUN_STATE_RUNNING, last_sequence=3),
        run_pb2.Run(state=run_pb2.RUN_STATE_COMPLETED, last_sequence=7),
        None,
    ],
    ids=["live", "ended later", "no answer"],
)
async def test_a_stream_that_was_cut_off_with_status_ok_is_resumed(follow: Follow, answer: run_pb2.Run | None):
    """The run goes on, or has more to send, or cannot be asked for: none of them is its end."""
    async with CutOff(LOG) as server:
        if answer is not None:
            server.runs.append(answer)
        seen = await follow(server.target)

    assert tuple(each.text for each in seen.deltas) == TEXTS
    assert seen.final == LOG[-1].finished.run
    assert [is_resumed(each, 3) for each in server.requests] == [False, True]


async def _follow_past(run: AsyncRunStream, accident: Callable[[], None]) -> None:
    async with run:
        await anext(run)
        await anext(run)
        accident()
        await anext(run)


async def test_a_server_that_comes_back_is_found():
    """Though connections were refused meanwhile."""
    async with ScriptedServer(LOG) as server, TcpProxy(server.target) as proxy, AsyncClient(proxy.address) as client:
        server.hold_after(3)
        async with client.generate("a/b", "hi") as run:
            deltas: list[Delta] = [await anext(run), await anext(run)]
            proxy.refuse()
            turn = asyncio.ensure_future(anext(run))
            await proxy.refused()
            await proxy.refused()
            proxy.refuse(is_refusing=False)
            await server.release()
            deltas.append(await turn)
            deltas += [delta async for delta in run]

    assert tuple(each.text for each in deltas) == TEXTS
    assert is_resumed(server.requests[-1], 3)


async def test_an_answer_to_the_resume_is_told_with_the_partial():
    """The run is gone: no retry helps."""
    async with ScriptedServer(LOG) as server, TcpProxy(server.target) as proxy, AsyncClient(proxy.address) as client:
        server.hold_after(3)
        run = client.generate("a/b", "hi")

        def forget() -> None:
            server.refusals.append(Refusal(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"))
            proxy.cut()

        with pytest.raises(RunNotFound) as caught:
            await _follow_past(run, forget)

    assert caught.value.partial is not None
    assert caught.value.partial.parts[0].text.text == "Hello "


@pytest.mark.parametrize(("reason", "expected"), [("DRAINING", Draining), ("STORE_UNAVAILABLE", StoreUnavailable)])
async def test_the_last_reason_is_told_when_the_grace_is_over(reason: str, expected: type[Exception]):
    """And a run that was refused each time is not stopped."""
    async with ScriptedServer(LOG) as server, AsyncClient(server.target, resume_seconds=0.2) as client:
        server.refusals.extend([Refusal(grpc.StatusCode.UNAVAILABLE, reason)] * 50)
        with pytest.raises(expected):
            await client.generate("a/b", "hi").result()

    assert len(server.requests) >= 2
    assert server.cancels == []


async def test_resuming_can_be_turned_off():
    """The first loss is then the last."""
    async with ScriptedServer(LOG) as server, AsyncClient(server.target, resume_seconds=0) as client:
        server.refusals.append(Refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING"))
        with pytest.raises(Draining):
            await client.generate("a/b", "hi").result()

    assert len(server.requests) == 1


async def test_leaving_while_resuming_stops_the_run_when_the_server_is_back():
    """A cancel is tried for a second, and finds a server that comes back meanwhile."""
    async with ScriptedServer(LOG) as server, TcpProxy(server.target) as proxy, AsyncClient(proxy.address) as client:
        server.hold_after(2)
        async with client.generate("a/b", "hi") as run:
            await anext(run)
            proxy.refuse()
            turn = asyncio.ensure_future(anext(run))
            await proxy.refused()
            turn.cancel()
            await asyncio.wait({turn})
            proxy.refuse(is_refusing=False)

    assert [each.run_id for each in server.cancels] == [run.run_id]
