"""Following a run: resuming without a seam, snapshots, progress, and who keeps it alive."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server.engine import housekeeping, reader
from midstream_simulator import Role, Stall, Text
from rpc.served import (
    PATIENCE_SECONDS,
    Service,
    Stream,
    detail,
    opened,
    reason,
    refused,
    request_for,
    simulated_service,
    stepwise,
    text_of,
)
from rpc.tcp_proxy import TcpProxy

PIECES = ("Hel", "lo ", "☃", "!")
CONTINUE = run_pb2.DetachPolicy(action=run_pb2.DetachPolicy.ACTION_CONTINUE)


@pytest.fixture(params=["memory", "sqlite"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    """A server over either store."""
    store = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/runs.db"
    async with simulated_service(store) as made:
        yield made


# --- P7: resuming -----------------------------------------------------------------------------------------------------


async def test_a_reader_that_comes_back_after_any_sequence_sees_no_seam(service: Service):
    """P7: at every event of a live run, then at every event of the same run after its end."""
    stream = await _spoken(service, *PIECES)
    live = [service.watch("run-1", after_sequence=after) for after in range(len(PIECES) + 2)]
    for after, watcher in enumerate(live[:-1]):
        while (await watcher.next()).sequence < len(PIECES) + 1:
            pass
        assert watcher.events == stream.events[after:]

    (await service.simulator.received()).release("finish")
    run = await stream.to_end()
    ended = [service.watch("run-1", after_sequence=after) for after in range(run.last_sequence)]
    for after, watcher in [*enumerate(live), *enumerate(ended)]:
        assert await watcher.to_end() == run
        assert watcher.sequences == list(range(after + 1, run.last_sequence + 1))
        assert watcher.text == "".join(event.delta.text for event in stream.events[after:])


async def test_a_reader_that_has_seen_the_end_gets_an_empty_stream(service: Service):
    """P7: nothing is repeated."""
    run = await (await service.generate("count-3", run_id="run-1")).to_end()
    watcher = service.watch("run-1", after_sequence=run.last_sequence)

    await watcher.drain()

    assert watcher.events == []


@pytest.mark.parametrize("is_live", [True, False])
async def test_a_cursor_beyond_the_log_is_an_error_that_tells_where_it_ends(service: Service, is_live: bool):
    """P7: a gap is told, never silent."""
    stream = await _spoken(service, *PIECES)
    last = 5
    if not is_live:
        (await service.simulator.received()).release("finish")
        last = (await stream.to_end()).last_sequence

    error = await refused(service.watch("run-1", after_sequence=last + 1).call)

    assert (error.code(), reason(error)) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_AHEAD")
    assert detail(error, error_details_pb2.ErrorInfo).metadata["last_sequence"] == str(last)


async def test_an_unknown_run_is_not_found(service: Service):
    """To every method that reads."""
    for call in (
        service.watch("nobody").call,
        service.watch("nobody", claim=True).call,
        service.stub.GetRun(wire.GetRunRequest(run_id="nobody")),
        service.stub.GetRun(wire.GetRunRequest(run_id="nobody", wait_until_finished=True)),
        service.stub.DeleteRun(wire.DeleteRunRequest(run_id="nobody")),
    ):
        error = await refused(call)
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")


async def test_a_snapshot_is_the_run_so_far_and_what_follows_joins_it(service: Service):
    """P7: it carries the last sequence that it covers, and consumes none."""
    stream = await _spoken(service, "Hel", "lo")
    watcher = service.watch("run-1", from_snapshot=True)

    event = await watcher.next()
    (await service.simulator.received()).release("finish")
    run = await watcher.to_end()

    assert event.sequence == event.snapshot.run.last_sequence == 3
    assert (text_of(event.snapshot.run), event.snapshot.run.state) == ("Hello", run_pb2.RUN_STATE_RUNNING)
    assert event.snapshot.run.message.parts[0].state == run_pb2.PART_STATE_OPEN
    assert watcher.sequences == list(range(4, run.last_sequence + 1))
    assert run == await stream.to_end()


async def test_a_snapshot_of_an_ended_run_is_followed_by_its_end(service: Service):
    """P7: attaching just after the end is no error."""
    stream = await service.generate("count-3", run_id="run-1")
    run = await stream.to_end()
    watcher = service.watch("run-1", from_snapshot=True)

    assert await watcher.to_end() == run
    assert [event.WhichOneof("event") for event in watcher.events] == ["snapshot", "finished"]
    assert watcher.events[0].snapshot.run == run
    assert [event.sequence for event in watcher.events] == [run.last_sequence - 1, run.last_sequence]


async def test_silence_is_filled_with_progress(service: Service, monkeypatch: pytest.MonkeyPatch):
    """State and running usage, under the last sequence; it consumes none."""
    monkeypatch.setattr(housekeeping, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(reader, "SILENCE_SECONDS", 0.05)
    async with simulated_service() as fast:
        stream = await _spoken(fast, "Hel")

        event = await stream.until(lambda each: each.HasField("progress"))
        (await fast.simulator.received()).release("finish")
        await stream.to_end()

    assert (event.sequence, event.progress.state) == (2, run_pb2.RUN_STATE_RUNNING)
    assert event.progress.cancel_reason == run_pb2.CANCEL_REASON_UNSPECIFIED
    assert event.progress.usage.output.source == run_pb2.USAGE_SOURCE_ESTIMATED
    assert stream.sequences == list(range(1, stream.finished.last_sequence + 1))


# --- Who keeps it alive -----------------------------------------------------------------------------------------------


async def test_an_observer_neither_keeps_a_run_alive_nor_ends_it(service: Service):
    """Its coming and going changes nothing; when the starter leaves, the run is stopped."""
    stream = await _spoken(service, "Hel")
    staying, leaving = service.watch("run-1"), service.watch("run-1")
    for watcher in (staying, leaving):
        await watcher.says("Hel")

    leaving.call.cancel()
    assert (await service.get("run-1")).state == run_pb2.RUN_STATE_RUNNING
    stream.call.cancel()
    run = await staying.to_end()

    assert (run.state, run.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, run_pb2.CANCEL_REASON_CLIENT_GONE)


@pytest.mark.parametrize("kind", ["watch", "generate"])
async def test_a_claim_keeps_a_run_alive_until_the_last_one_is_gone(service: Service, kind: str):
    """P7: of a WatchRun that asked for it, and of every Generate that attached."""
    stream = await _spoken(service, "Hel", hold=("lo",))
    second = service.watch("run-1", claim=True) if kind == "watch" else await service.generate("m", run_id="run-1")
    await second.says("Hel")

    stream.call.cancel()
    (await service.simulator.received()).release("lo")
    await second.says("Hello")
    second.call.cancel()
    run = await service.finished("run-1")

    assert (run.cancel_reason, text_of(run)) == (run_pb2.CANCEL_REASON_CLIENT_GONE, "Hello")
    await (await service.simulator.received()).closed()


async def test_a_lost_connection_within_the_grace_is_resumed(service: Service):
    """P7: over real connections; the run goes on meanwhile, and stops nowhere."""
    policy = _grace(30.0)
    async with TcpProxy(service.target) as proxy, opened(proxy.address) as (_, stub):
        service.simulator.play("m", stepwise("Hel", "lo"))
        stream = Stream(stub.Generate(request_for("m", run_id="run-1", on_detach=policy)))
        request = await service.simulator.received()
        request.release("Hel")
        await stream.says("Hel")
        proxy.cut()
        error = await stream.error()
    request.release("lo")
    request.release("finish")
    back = service.watch("run-1", after_sequence=stream.events[-1].sequence, claim=True)
    run = await back.to_end()

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert (run.state, text_of(run)) == (run_pb2.RUN_STATE_COMPLETED, "Hello")
    assert stream.sequences + back.sequences == list(range(1, run.last_sequence + 1))
    assert len(service.simulator.requests) == 1


async def test_a_grace_that_nobody_uses_ends_the_run(service: Service):
    """For the reason that the last one saw."""
    stream = await _spoken(service, "Hel", on_detach=_grace(0.1))

    stream.call.cancel()
    run = await service.finished("run-1")

    assert (run.state, run.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, run_pb2.CANCEL_REASON_CLIENT_GONE)
    assert text_of(run) == "Hel"
    await (await service.simulator.received()).closed()


@pytest.mark.parametrize("way", ["cancel", "deadline", "connection"])
async def test_a_run_that_continues_outlives_its_reader(service: Service, way: str):
    """Whether it left, ran out of time, or lost its connection."""
    service.simulator.play("m", stepwise("Hel", "lo"))
    async with TcpProxy(service.target) as proxy, opened(proxy.address) as (_, stub):
        timeout = 0.5 if way == "deadline" else None
        stream = Stream(stub.Generate(request_for("m", run_id="run-1", on_detach=CONTINUE), timeout=timeout))
        request = await service.simulator.received()
        request.release("Hel")
        await stream.says("Hel")
        if way == "cancel":
            stream.call.cancel()
        elif way == "connection":
            proxy.cut()
        else:
            await stream.error()
        await service.application.supervisor.wait_for_readers(PATIENCE_SECONDS)
        assert service.application.supervisor.open_readers == 0
    request.release("lo")
    request.release("finish")
    run = await service.finished("run-1")

    assert (run.state, text_of(run)) == (run_pb2.RUN_STATE_COMPLETED, "Hello")
    assert run.cancel_reason == run_pb2.CANCEL_REASON_UNSPECIFIED


async def test_a_deadline_with_a_grace_is_told_as_a_deadline(service: Service):
    """P9: when the grace is over, the reason is what the last one saw."""
    service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
    call = service.stub.Generate(request_for("m", run_id="run-1", on_detach=_grace(0.1)), timeout=0.4)

    await refused(call)
    run = await service.finished("run-1")

    assert run.cancel_reason == run_pb2.CANCEL_REASON_DEADLINE


# --- Helpers ----------------------------------------------------------------------------------------------------------


async def _spoken(
    service: Service, *pieces: str, hold: tuple[str, ...] = (), on_detach: run_pb2.DetachPolicy | None = None
) -> Stream:
    """A run that has said the pieces, each in an event of its own, and stands before those it holds."""
    service.simulator.play("m", stepwise(*pieces, *hold))
    stream = await service.generate("m", run_id="run-1", on_detach=on_detach)
    request = await service.simulator.received()
    for number in range(len(pieces)):
        request.release(pieces[number])
        await stream.says("".join(pieces[: number + 1]))
    return stream


def _grace(seconds: float) -> run_pb2.DetachPolicy:
    return run_pb2.DetachPolicy(
        action=run_pb2.DetachPolicy.ACTION_GRACE, grace=Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    )
