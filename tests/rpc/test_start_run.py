"""Starting runs through the RPCs: one start, one bill, whoever asks and however often."""

import asyncio
import uuid
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server.rpc.servicer import RUN_ID_METADATA
from midstream_simulator import Gate, Role, Stall, Text, streamed
from rpc.served import Service, Stream, detail, opened, reason, refused, request_for, simulated_service, text_of


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_ten_identical_starts_at_once_make_one_upstream_call(kind: str, tmp_path: Path):
    """P6: over ten connections; all ten streams are the same."""
    store = "memory:" if kind == "memory" else f"sqlite:///{tmp_path}/runs.db"
    async with simulated_service(store) as service, asyncio.TaskGroup() as group:
        service.simulator.play("m", streamed(Text(["Hel", "lo"]), Gate("all"), Text(["!"])))
        following = [group.create_task(_follow_alone(service, "run-1")) for _ in range(10)]
        (await service.simulator.received()).release("all")
        runs = [await each for each in following]

        assert len(service.simulator.requests) == 1
    assert all(run == runs[0] for run in runs)
    assert (runs[0].attempts, text_of(runs[0])) == (1, "Hello!")


async def _follow_alone(service: Service, run_id: str) -> run_pb2.Run:
    async with opened(service.target) as (_, stub):
        stream = Stream(stub.Generate(request_for("m", run_id=run_id)))
        run = await stream.to_end()
        assert stream.sequences == list(range(1, run.last_sequence + 1))
        return run


@pytest.mark.parametrize("is_live", [True, False])
async def test_another_request_with_the_same_id_is_refused(service: Service, is_live: bool):
    """P6: ALREADY_EXISTS, and the run that has the id is left alone."""
    service.simulator.play("m", [Role(), Gate("go"), *streamed(Text(["Hello"]))[1:]])
    stream = await service.generate("m", run_id="run-1")
    request = await service.simulator.received()
    if not is_live:
        request.release("go")
        await stream.to_end()

    error = await refused(service.stub.Generate(request_for("m", "something else", run_id="run-1")))
    request.release("go")
    run = await stream.to_end() if is_live else stream.finished

    assert (error.code(), reason(error)) == (grpc.StatusCode.ALREADY_EXISTS, "RUN_ID_CONFLICT")
    assert (run.state, text_of(run)) == (run_pb2.RUN_STATE_COMPLETED, "Hello")
    assert len(service.simulator.requests) == 1


async def test_a_repeat_after_the_end_replays_the_run(service: Service):
    """P6: event for event, without another upstream call."""
    first = await service.generate("count-5", run_id="run-1")
    await first.to_end()
    second = await service.generate("count-5", run_id="run-1")
    await second.to_end()

    assert text_of(first.finished) == text_of(second.finished)
    assert second.finished == first.finished
    assert len(service.simulator.requests) == 1


async def test_without_an_id_every_call_is_a_run_of_its_own(service: Service):
    """With a UUIDv7, told in the initial metadata before any event is read."""
    calls = [service.stub.Generate(request_for("count-2")) for _ in range(2)]
    told = [dict(await call.initial_metadata())[RUN_ID_METADATA] for call in calls]
    streams = [Stream(call) for call in calls]
    runs = [await stream.to_end() for stream in streams]

    assert told == [run.run_id for run in runs] == [stream.run_id for stream in streams]
    assert [uuid.UUID(str(each)).version for each in told] == [7, 7]
    assert len(set(told)) == len(service.simulator.requests) == 2


async def test_the_id_is_told_before_the_upstream_says_anything(service: Service):
    """So that the caller can stop it."""
    service.simulator.play("m", [Stall()])
    call = service.stub.Generate(request_for("m", run_id="run-1"))

    metadata = dict(await call.initial_metadata())

    assert metadata[RUN_ID_METADATA] == "run-1"
    await service.cancel("run-1")


async def test_run_started_tells_the_policies_in_effect(service: Service):
    """Sequence 1, with defaults filled in and what was asked for."""
    policy = run_pb2.DetachPolicy(action=run_pb2.DetachPolicy.ACTION_GRACE, grace=Duration(seconds=5))
    limits = run_pb2.RunLimits(output_tokens=1000)
    stream = await service.generate("count-2", on_detach=policy, limits=limits, retention=Duration(seconds=60))
    await stream.to_end()

    started = stream.events[0].started
    assert stream.events[0].sequence == 1
    assert (started.model, started.on_detach, started.limits) == ("sim/count-2", policy, limits)
    assert started.retention == Duration(seconds=60)
    assert stream.finished.expire_time.seconds - stream.finished.end_time.seconds in (59, 60)


async def test_an_id_whose_run_was_deleted_stays_taken(service: Service):
    """P6: reads answer NOT_FOUND, a start FAILED_PRECONDITION, and no upstream is called."""
    await (await service.generate("count-2", run_id="run-1")).to_end()
    await service.stub.DeleteRun(wire.DeleteRunRequest(run_id="run-1"))

    for call in (
        service.stub.GetRun(wire.GetRunRequest(run_id="run-1")),
        service.stub.WatchRun(wire.WatchRunRequest(run_id="run-1")),
        service.stub.Cancel(wire.CancelRequest(run_id="run-1")),
    ):
        error = await refused(call)
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "RUN_EXPIRED")
    error = await refused(service.stub.Generate(request_for("count-2", run_id="run-1")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "RUN_EXPIRED")
    assert len(service.simulator.requests) == 1


async def test_a_live_run_cannot_be_deleted(service: Service):
    """FAILED_PRECONDITION; cancel it first."""
    service.simulator.play("m", [Stall()])
    await service.generate("m", run_id="run-1")

    error = await refused(service.stub.DeleteRun(wire.DeleteRunRequest(run_id="run-1")))

    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "RUN_LIVE")
    assert (await service.get("run-1")).state == run_pb2.RUN_STATE_RUNNING


async def test_more_live_runs_than_allowed_are_refused_with_a_time_to_come_back():
    """RESOURCE_EXHAUSTED; an attach to one that exists costs nothing."""
    async with simulated_service(max_live_runs=1) as service:
        service.simulator.play("m", [Stall()])
        await service.generate("m", run_id="run-1")

        error = await refused(service.stub.Generate(request_for("m", run_id="run-2")))
        again = await service.generate("m", run_id="run-1")

        assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_RUNS")
        assert detail(error, error_details_pb2.RetryInfo).retry_delay.seconds >= 1
        await service.cancel("run-1")
        assert (await again.to_end()).state == run_pb2.RUN_STATE_CANCELLED


async def test_models_are_listed_with_the_upstreams_that_do_not_answer(service: Service):
    """What there is by name."""
    answer = await service.stub.ListModels(wire.ListModelsRequest())

    assert "sim/echo" in {model.name for model in answer.models}
    assert {model.upstream for model in answer.models} == {"sim"}
    assert list(answer.unreachable_upstreams) == []


async def test_pages_of_runs_are_newest_first_and_whole(service: Service):
    """Through all pages, without messages; a token of another filter is refused."""
    for number in range(5):
        await (await service.generate("count-1", run_id=f"run-{number}", labels={"k": str(number % 2)})).to_end()

    first = await service.stub.ListRuns(wire.ListRunsRequest(page_size=2, labels={"k": "0"}))
    token = first.next_page_token
    second = await service.stub.ListRuns(wire.ListRunsRequest(page_size=2, labels={"k": "0"}, page_token=token))
    error = await refused(service.stub.ListRuns(wire.ListRunsRequest(page_size=2, page_token=token)))

    assert [run.run_id for run in (*first.runs, *second.runs)] == ["run-4", "run-2", "run-0"]
    assert not second.next_page_token
    assert not any(run.HasField("message") for run in first.runs)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
