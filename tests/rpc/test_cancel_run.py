"""Cancel through the RPCs: it stops the meter in every position, cannot miss, and answers with the partial."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from flaky_store import FlakyStore
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_simulator import Comment, Head, Raw, Role, Script, Stall, Text, ToolCall
from rpc.served import (
    PATIENCE_SECONDS,
    Service,
    Stream,
    flaky_service,
    opened,
    reason,
    refused,
    request_for,
    stepwise,
    text_of,
)

CANCELLED = wire.CancelResponse.OUTCOME_CANCELLED
HALF_A_CHUNK = 'data: {"id":"c","choices":[{"index":0,"delta":{"content":"lost'

POSITIONS: dict[str, tuple[Script, str]] = {
    "before headers": ([Stall()], ""),
    "after headers": ([Head(), Stall()], ""),
    "before the first token": ([Role(), Stall()], ""),
    "mid token": ([Role(), Text(["Hel"]), Raw(HALF_A_CHUNK), Stall()], "Hel"),
    "between tokens": ([Role(), Text(["Hel", "lo"]), Stall()], "Hello"),
    "inside a tool call": ([Role(), Text(["Hel"]), ToolCall(['{"a":'], id="c1", name="f"), Stall()], "Hel"),
    "in a flood": ([Role(), Text(["Hel"]), Comment(count=1_000_000)], "Hel"),
}


# --- P3: the meter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", POSITIONS)
async def test_cancel_closes_the_upstream(service: Service, position: str):
    """P3, P5: wherever it stands; the reply, the stream and GetRun are the same run, with all that was streamed."""
    script, text = POSITIONS[position]
    service.simulator.play("m", script)
    stream = await service.generate("m", run_id="run-1")
    request = await service.simulator.received()
    await stream.says(text)

    answer = await service.cancel("run-1", reason="enough")
    await _closed(service)

    assert answer.outcome == CANCELLED
    assert answer.run.state == run_pb2.RUN_STATE_CANCELLED
    assert answer.run.cancel_reason == run_pb2.CANCEL_REASON_REQUESTED
    assert answer.run.cancel.reason == "enough"
    assert answer.run.finish_reason == run_pb2.FINISH_REASON_UNSPECIFIED
    assert not answer.run.HasField("error")
    assert text_of(answer.run) == text
    assert answer.run == await stream.to_end() == await service.get("run-1")
    assert stream.text == text
    assert request.interrupted
    assert request.closed_by == "client"


async def test_cancel_closes_the_upstream_while_our_reader_is_blocked(service: Service):
    """P3: the caller's stream takes nothing, and its flow control is used up."""
    service.simulator.play("m", [Role(), Text(["x" * 10_000] * 200), Stall()])
    async with opened(service.target, ("grpc.http2.bdp_probe", 0)) as (_, stub):
        call = stub.Generate(request_for("m", run_id="run-1"))
        await _reached_by_a_watcher(service, "run-1", 2_000_000)

        answer = await service.cancel("run-1")
        await _closed(service)

        await service.watch("run-1").to_end()
        assert answer.outcome == CANCELLED
        assert len(text_of(answer.run)) == 2_000_000
        assert service.application.supervisor.open_readers == 1
        call.cancel()


async def test_cancel_closes_the_upstream_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch):
    """P3: it says that it is not durable, the meter stands still all the same; the run is sealed when it is back."""
    async with flaky_service(monkeypatch) as (service, store):
        service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
        stream = await service.generate("m", run_id="run-1")
        await stream.says("Hel")
        store.fail()

        error = await refused(service.stub.Cancel(wire.CancelRequest(run_id="run-1")))
        await _closed(service)
        store.heal()
        run = await stream.to_end()

        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert (run.state, text_of(run)) == (run_pb2.RUN_STATE_CANCELLED, "Hel")


async def test_a_call_that_is_cancelled_closes_the_upstream(service: Service):
    """P3: by the caller's own cancel too; why, and the partial, are in GetRun."""
    service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
    stream = await service.generate("m", run_id="run-1")
    await stream.says("Hel")

    stream.call.cancel()
    await _closed(service)
    run = await service.finished("run-1")

    assert (run.state, run.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, run_pb2.CANCEL_REASON_CLIENT_GONE)
    assert (text_of(run), run.cancel.requested_by) == ("Hel", "client")


async def test_a_call_whose_deadline_passes_closes_the_upstream(service: Service):
    """P3, P9: told apart from a caller that left."""
    service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
    call = service.stub.Generate(request_for("m", run_id="run-1"), timeout=0.5)

    error = await refused(call)
    await _closed(service)
    run = await service.finished("run-1")

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (run.state, run.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, run_pb2.CANCEL_REASON_DEADLINE)
    assert text_of(run) == "Hel"


async def test_the_cancel_report_tells_when_the_upstream_was_closed(service: Service):
    """P3: between request and end; nothing is said to be discarded that did not arrive; the cut part says so."""
    service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
    stream = await service.generate("m", run_id="run-1")
    await stream.says("Hel")

    run = (await service.cancel("run-1")).run

    assert run.cancel.request_time.ToNanoseconds() <= run.cancel.upstream_close_time.ToNanoseconds()
    assert run.cancel.upstream_close_time.ToNanoseconds() <= run.end_time.ToNanoseconds()
    assert (run.cancel.discarded_events, run.cancel.discarded_bytes) == (0, 0)
    assert run.message.parts[0].state == run_pb2.PART_STATE_TRUNCATED


# --- P4: it cannot miss -----------------------------------------------------------------------------------------------


async def test_a_cancel_that_comes_first_is_remembered(service: Service):
    """P4: the Generate that it overtook replays two events, calls no upstream, and has no usage."""
    early = await service.cancel("run-1", reason="changed my mind")
    stream = await service.generate("count-3", run_id="run-1")
    run = await stream.to_end()
    late = await service.cancel("run-1")

    assert early.outcome == wire.CancelResponse.OUTCOME_REMEMBERED
    assert late.outcome == CANCELLED
    assert early.run.state == run.state == run_pb2.RUN_STATE_CANCELLED
    assert run.cancel.reason == "changed my mind"
    assert stream.sequences == [1, 2]
    assert not run.HasField("start_time")
    assert not run.HasField("usage")
    assert not run.HasField("message")
    assert service.simulator.requests == []


async def test_a_cancel_that_was_remembered_answers_the_same_again(service: Service):
    """P4: as long as no Generate has come, it is REMEMBERED."""
    outcomes = [(await service.cancel("run-1")).outcome for _ in range(2)]

    assert outcomes == [wire.CancelResponse.OUTCOME_REMEMBERED] * 2
    assert (await service.get("run-1")).state == run_pb2.RUN_STATE_CANCELLED


async def test_cancel_and_generate_at_once_end_cancelled_in_either_order(service: Service):
    """P4: sent in the same moment over two connections, whichever arrives first."""
    service.simulator.play("m", [Role(), Stall()])
    async with opened(service.target) as (_, other):
        for number in range(20):
            run_id = f"run-{number}"
            stream = Stream(service.stub.Generate(request_for("m", run_id=run_id)))
            answer, run = await asyncio.gather(other.Cancel(wire.CancelRequest(run_id=run_id)), stream.to_end())

            assert run.state == run_pb2.RUN_STATE_CANCELLED
            assert answer.outcome in (CANCELLED, wire.CancelResponse.OUTCOME_REMEMBERED)
    for request in service.simulator.requests:
        await request.closed()


async def test_a_repeated_cancel_changes_nothing_and_the_first_reason_wins(service: Service):
    """P4: each answers the same run."""
    service.simulator.play("m", [Stall()])
    await service.generate("m", run_id="run-1")

    first = await service.cancel("run-1", reason="first")
    second = await service.cancel("run-1", reason="second")

    assert first == second
    assert second.run.cancel.reason == "first"


async def test_many_cancels_at_once_have_one_answer(service: Service):
    """P1, P4: whoever is late gets what the first one got."""
    service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
    stream = await service.generate("m", run_id="run-1")
    await stream.says("Hel")

    answers = await asyncio.gather(*(service.cancel("run-1", reason=str(number)) for number in range(20)))

    assert all(answer == answers[0] for answer in answers)
    assert answers[0].outcome == CANCELLED
    assert answers[0].run == await stream.to_end()


# --- P5: how long it waits --------------------------------------------------------------------------------------------


async def test_cancel_without_a_wait_answers_as_soon_as_it_is_durable(monkeypatch: pytest.MonkeyPatch):
    """P5: STOPPING with the partial so far; readers are told, and the one who waits for the end gets it."""
    async with flaky_service(monkeypatch) as (service, store):
        stream = await _stopping_run(service, store)

        answer = await service.cancel("run-1", wait=Duration())
        told = await stream.until(lambda event: event.HasField("progress"))
        waiting = asyncio.ensure_future(service.get("run-1", wait_until_finished=True))
        await store.thaw("seal")
        run = await waiting

        assert answer.outcome == wire.CancelResponse.OUTCOME_STOPPING
        assert (answer.run.state, text_of(answer.run)) == (run_pb2.RUN_STATE_STOPPING, "Hel")
        assert answer.run.cancel_reason == run_pb2.CANCEL_REASON_REQUESTED
        assert (told.progress.state, told.sequence) == (run_pb2.RUN_STATE_STOPPING, 2)
        assert told.progress.cancel_reason == run_pb2.CANCEL_REASON_REQUESTED
        assert run.state == run_pb2.RUN_STATE_CANCELLED
        assert await stream.to_end() == run


async def test_a_wait_that_runs_out_answers_stopping(monkeypatch: pytest.MonkeyPatch):
    """P5: of Cancel, and of GetRun, which waits through STOPPING; upstream closed meanwhile."""
    async with flaky_service(monkeypatch) as (service, store):
        await _stopping_run(service, store)
        short = Duration(nanos=50_000_000)

        answer = await service.cancel("run-1", wait=short)
        await _closed(service)
        run = await service.get("run-1", wait_until_finished=True, max_wait=short)

        assert answer.outcome == wire.CancelResponse.OUTCOME_STOPPING
        assert run.state == run_pb2.RUN_STATE_STOPPING


@pytest.mark.parametrize("wait", [None, Duration(seconds=60)], ids=["absent", "long"])
async def test_a_wait_ends_with_the_seal(monkeypatch: pytest.MonkeyPatch, wait: Duration | None):
    """P5: not before, and not when the wait is over."""
    async with flaky_service(monkeypatch) as (service, store):
        stream = await _stopping_run(service, store)
        cancelling = asyncio.ensure_future(service.cancel("run-1", wait=wait))
        await store.asked("seal")

        assert not cancelling.done()
        await store.thaw("seal")
        answer = await cancelling

        assert answer.outcome == CANCELLED
        assert answer.run == await stream.to_end()


async def test_get_run_waits_for_the_end_of_a_run_that_goes_on(service: Service):
    """It answers when the run has ended, with all of it; without the wait at once, with the message so far."""
    service.simulator.play("m", stepwise("Hel", "lo"))
    stream = await service.generate("m", run_id="run-1")
    request = await service.simulator.received()
    request.release("Hel")
    await stream.says("Hel")
    waiting = asyncio.ensure_future(service.get("run-1", wait_until_finished=True))

    so_far = await service.get("run-1")
    assert (so_far.state, text_of(so_far)) == (run_pb2.RUN_STATE_RUNNING, "Hel")
    assert not so_far.HasField("end_time")
    assert not waiting.done()
    request.release("lo")
    request.release("finish")

    assert await waiting == await stream.to_end()
    assert text_of(await waiting) == "Hello"


# --- Helpers ----------------------------------------------------------------------------------------------------------


async def _closed(service: Service) -> None:
    """A bound for what takes milliseconds; how many is the benchmark's matter."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await (await service.simulator.received()).closed()


async def _stopping_run(service: Service, store: FlakyStore) -> Stream:
    """A run whose seal will not come back before it is thawed."""
    service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
    stream = await service.generate("m", run_id="run-1")
    await stream.says("Hel")
    store.freeze("seal")
    return stream


async def _reached_by_a_watcher(service: Service, run_id: str, size: int) -> None:
    """Waits until another reader has so much text."""
    await service.simulator.received()
    stream = service.watch(run_id)
    while len(stream.text) < size:
        await stream.next()
    stream.call.cancel()
