"""The Python client and the real server: connections are lost, runs are left, and nothing of them is."""

from collections.abc import AsyncIterator

import pytest

from midstream_client import AsyncClient, CancelReason, RunState
from midstream_client.errors import RunIdConflict, UpstreamUnavailable
from midstream_simulator import Finish, Gate, Role, Text
from rpc.client_transcripts import Follow, follow_async, follow_sync
from rpc.served import Service, simulated_service
from rpc.tcp_proxy import TcpProxy

both = pytest.mark.parametrize("follow", [follow_async, follow_sync], ids=["async", "sync"])
PIECES = ("1", " zwei", " drei €", " 4", "\n5 ☃")
TEXT = "".join(PIECES)
STEPS = [Role(), *(step for piece in PIECES for step in (Text([piece]), Gate(piece)))]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with simulated_service() as made:
        yield made


@both
@pytest.mark.parametrize("cut_after", range(8))
async def test_what_a_cut_stream_delivers_is_what_an_uncut_one_delivers(
    service: Service, follow: Follow, cut_after: int
):
    """The connection is lost after each message; the run lives on, and the upstream is called once."""
    async with TcpProxy(service.target) as proxy:
        proxy.cut_after = cut_after
        seen = await follow(proxy.address, "generate", "sim/reason-4-100", "hi")
    uncut = await follow(service.target, "watch", seen.final.run_id)

    assert proxy.cuts == 1
    assert seen.final.state == RunState.COMPLETED
    assert _joined(seen) == _joined(uncut) == [(0, "1 2 3 4"), (1, "Done.")]
    assert seen.message == uncut.message == uncut.final.message
    assert seen.final == uncut.final
    assert seen.final.attempts == 1
    assert len(service.simulator.requests) == 1


def _joined(seen) -> list[tuple[int, str]]:
    texts: dict[int, str] = {}
    for delta in seen.deltas:
        texts[delta.part_index] = texts.get(delta.part_index, "") + delta.reasoning + delta.text
    return sorted(texts.items())


@pytest.mark.parametrize("seen_pieces", range(1, len(PIECES) + 1))
async def test_a_connection_lost_at_any_delta_is_resumed_within_the_grace(service: Service, seen_pieces: int):
    """The upstream stands still at the cut: what follows can only come from the run that lived on."""
    service.simulator.play("steps", [*STEPS, Finish()])
    async with (
        TcpProxy(service.target) as proxy,
        AsyncClient(proxy.address) as client,
        client.generate("sim/steps", "hi") as run,
    ):
        upstream = await service.simulator.received()
        texts = []
        for piece in PIECES[:seen_pieces]:
            texts.append((await anext(run)).text)
            if piece != PIECES[seen_pieces - 1]:
                upstream.release(piece)
        proxy.cut()
        for piece in PIECES[seen_pieces - 1 :]:
            upstream.release(piece)
        texts += [delta.text async for delta in run]
        final = await run.result()

    assert "".join(texts) == final.message.parts[0].text.text == TEXT
    assert final.state == RunState.COMPLETED
    assert len(service.simulator.requests) == 1


async def test_leaving_stops_the_run_at_once(service: Service):
    """No grace: the upstream is closed, and the text is kept."""
    async with AsyncClient(service.target) as client:
        async with client.generate("sim/stall-3", "hi") as run:
            async for _ in run:
                if run.text == "1 2 3":
                    break
        upstream = await service.simulator.received()
        await upstream.closed()
        final = await client.get(run.run_id, wait=5)

    assert final.state == RunState.CANCELLED
    assert final.cancel_reason == CancelReason.REQUESTED
    assert final.message.parts[0].text.text == "1 2 3"


async def test_cancel_answers_with_what_was_streamed(service: Service):
    """And the stream ends with the same run."""
    async with AsyncClient(service.target) as client, client.generate("sim/stall-3", "hi") as run:
        async for _ in run:
            if run.text == "1 2 3":
                break
        partial = await run.cancel("enough")
        final = await run.result()

    assert partial == final
    assert final.state == RunState.CANCELLED
    assert final.cancel.reason == "enough"
    assert final.message.parts[0].text.text == "1 2 3"


async def test_leaving_before_the_first_answer_starts_nothing_that_lasts(service: Service):
    """Whichever of the two calls comes first."""
    async with AsyncClient(service.target) as client:
        async with client.generate("sim/stall", "hi") as run:
            pass
        final = await run.result()

    assert final.state == RunState.CANCELLED


async def test_a_refused_start_leaves_the_run_of_that_id_alone(service: Service):
    """Its owner goes on."""
    async with AsyncClient(service.target) as client, client.generate("sim/stall-3", "hi", run_id="taken") as run:
        await anext(run)
        with pytest.raises(RunIdConflict):
            await client.generate("sim/stall-3", "another", run_id="taken").result()
        live = await client.get("taken")

    assert live.state == RunState.RUNNING


async def test_a_failed_run_is_a_result_or_an_error(service: Service):
    """As the caller likes; the partial is in both."""
    async with AsyncClient(service.target) as client:
        run = await client.generate("sim/error-frame-2", "hi").result()
        with pytest.raises(UpstreamUnavailable) as caught:
            await client.generate("sim/error-frame-2", "hi").result(raise_for_failure=True)

    assert run.state == RunState.FAILED
    assert caught.value.partial is not None
    assert caught.value.partial.parts[0].text.text == run.message.parts[0].text.text == "1 2"
