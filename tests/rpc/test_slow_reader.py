"""P8: a reader that does not read delays nobody, costs a bounded amount, and is told when it has lost its place."""

import resource
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from midstream.v1 import generation_service_pb2_grpc, run_pb2
from midstream_server.engine import housekeeping, reader
from midstream_simulator import Gate, Text, Wait, streamed
from rpc.served import Service, Stream, detail, opened, reason, request_for, simulated_service, text_of

PIECE = "x" * 1_000
COUNT = 2_500
SMALL_WINDOW = ("grpc.http2.bdp_probe", 0)


async def test_a_reader_that_never_reads_delays_neither_the_run_nor_another_reader(service: Service):
    """It holds the first claim, its flow control is used up; by the upstream's own clock no token waited for it."""
    service.simulator.play("m", streamed(Text([PIECE] * COUNT, tokens_per_second=2_000)))
    async with opened(service.target, SMALL_WINDOW) as (_, stub):
        stuck = await _started(stub)
        request = await service.simulator.received()
        second = service.watch("run-1")
        run = await second.to_end()

        assert run.state == run_pb2.RUN_STATE_COMPLETED
        assert second.text == text_of(run) == PIECE * COUNT
        assert not request.interrupted
        assert request.tokens_sent == COUNT
        assert _longest_pause_seconds(request.token_times_ns) < 1.0
        assert service.application.supervisor.open_readers == 1
        stuck.call.cancel()


async def test_a_reader_that_reads_late_gets_everything_with_few_events(service: Service):
    """Adjacent deltas come merged, each with the span that it covers; the text is whole, byte for byte."""
    service.simulator.play("m", streamed(Text(["ab☃"] * 2_000)))
    async with opened(service.target, SMALL_WINDOW) as (_, stub):
        late = await _started(stub)
        run = await service.watch("run-1").to_end()
        again = service.watch("run-1")

        assert await late.to_end() == await again.to_end() == run
        for each in (late, again):
            assert each.text == text_of(run) == "ab☃" * 2_000
            assert each.sequences == list(range(1, run.last_sequence + 1))
    assert len(again.events) < run.last_sequence / 4
    assert all(len(event.delta.text.encode()) <= 64 * 1024 for event in again.events)


async def test_readers_that_never_read_cost_little_memory(service: Service):
    """Twenty of them on one run of 2.5 MB cost what gRPC has taken for each, not a copy of the run for each."""
    service.simulator.play("m", streamed(Gate("go"), Text([PIECE] * COUNT)))
    stream = await service.generate("m", run_id="run-1")
    async with opened(service.target, SMALL_WINDOW) as (_, stub):
        stuck = [stub.Generate(request_for("m", run_id="run-1")) for _ in range(20)]
        for call in stuck:
            await call.initial_metadata()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (await service.simulator.received()).release("go")
        run = await stream.to_end()

        assert len(text_of(run)) == COUNT * len(PIECE)
        assert service.application.supervisor.open_readers == len(stuck)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 60_000, f"{grown} KiB"
        for call in stuck:
            call.cancel()


async def test_a_reader_that_does_not_read_after_the_end_loses_its_place(monkeypatch: pytest.MonkeyPatch):
    """ABORTED after what it was sent, with the last sequence of that: it can go on from there."""
    monkeypatch.setattr(housekeeping, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(reader, "SLOW_READER_SECONDS", 0.2)
    async with simulated_service() as service, opened(service.target, SMALL_WINDOW) as (_, stub):
        service.simulator.play("m", streamed(Text([PIECE] * COUNT)))
        slow = await _started(stub)
        run = await service.watch("run-1").to_end()
        await _left(service)

        error = await slow.error()
        last = slow.sequences[-1]
        rest = service.watch("run-1", after_sequence=last)
        await rest.to_end()

        assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "SLOW_READER")
        assert last < run.last_sequence
        assert detail(error, error_details_pb2.ErrorInfo).metadata["last_sequence"] == str(last)
        assert slow.sequences + rest.sequences == list(range(1, run.last_sequence + 1))
        assert slow.text + rest.text == text_of(run)
        assert rest.finished == run


async def test_a_reader_that_is_slow_while_the_run_lives_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    """The bound counts from the end."""
    monkeypatch.setattr(housekeeping, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(reader, "SLOW_READER_SECONDS", 0.1)
    async with simulated_service() as service, opened(service.target, SMALL_WINDOW) as (_, stub):
        service.simulator.play("m", streamed(Text([PIECE] * COUNT), Wait(500), Text(["!"]), Gate("read")))
        slow = await _started(stub)
        await service.watch("run-1").says(PIECE * COUNT + "!")
        await slow.says(PIECE * COUNT + "!")
        (await service.simulator.received()).release("read")

        assert (await slow.to_end()).state == run_pb2.RUN_STATE_COMPLETED


async def _started(stub: "generation_service_pb2_grpc.GenerationServiceAsyncStub") -> Stream:
    """A run, and its stream, of which nothing is read."""
    stream = Stream(stub.Generate(request_for("m", run_id="run-1")))
    await stream.call.initial_metadata()
    return stream


def _longest_pause_seconds(times_ns: Any) -> float:
    return max((later - earlier for earlier, later in pairwise(times_ns)), default=0) / 1e9


async def _left(service: Service) -> None:
    """Waits until the server has given up on all readers."""
    await service.application.supervisor.wait_for_readers(30)
    assert service.application.supervisor.open_readers == 0
