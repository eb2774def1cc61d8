"""A server that is told to go: in two phases, with every run ended and every reader told, and nothing left behind."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from command_line import Server, serving
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server import app
from midstream_server.errors import InvalidSettings
from midstream_server.rpc.server import SERVICE
from midstream_simulator import Gate, Role, Simulator, Stall, Text, streamed
from rpc.served import (
    Service,
    Stream,
    detail,
    opened,
    reason,
    refused,
    request_for,
    settings_for,
    text_of,
)

if TYPE_CHECKING:
    from midstream.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub


@asynccontextmanager
async def _server(folder: Path, simulator: Simulator, *flags: str) -> AsyncIterator[Server]:
    config = folder / "midstream.toml"
    config.write_text(
        "listen = '127.0.0.1:0'\nstore = 'memory:'\n"
        f"[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{simulator.base_url}'\n"
    )
    async with serving(config, *flags) as server:
        yield server


async def _terminate(server: Server, channel: grpc.aio.Channel) -> None:
    """SIGTERM; returns when the server has begun to drain."""
    health: Any = health_pb2_grpc.HealthStub(channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
        server.process.send_signal(signal.SIGTERM)


async def _begun(stub: "GenerationServiceAsyncStub", run_id: str) -> Stream:
    stream = Stream(stub.Generate(request_for("m", run_id=run_id)))
    await stream.says("Hel")
    return stream


async def _refused_start(stub: "GenerationServiceAsyncStub") -> None:
    error = await refused(stub.Generate(request_for("m", run_id="too-late")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert detail(error, error_details_pb2.RetryInfo).HasField("retry_delay")


async def test_a_draining_server_refuses_starts_and_serves_the_rest(tmp_path: Path):
    """Runs end as they would; Cancel, GetRun and WatchRun work; it exits with the last run, not with the drain time."""
    async with Simulator() as simulator, _server(tmp_path, simulator, "--drain-seconds", "60", "--no-local") as server:
        simulator.play("m", streamed(Text(["Hel"]), Gate("go"), Text(["lo"])))
        async with opened(server.address) as (channel, stub):
            staying, stopped = await _begun(stub, "staying"), await _begun(stub, "stopped")
            await _terminate(server, channel)

            await _refused_start(stub)
            answer = await stub.Cancel(wire.CancelRequest(run_id="stopped"))
            so_far = await stub.GetRun(wire.GetRunRequest(run_id="staying"))
            watcher = Stream(stub.WatchRun(wire.WatchRunRequest(run_id="staying")))
            await watcher.says("Hel")
            (await simulator.received(1)).release("go")
            runs = [await each.to_end() for each in (staying, watcher, stopped)]
            code = await server.process.wait()

    assert answer.outcome == wire.CancelResponse.OUTCOME_CANCELLED
    assert (so_far.state, text_of(so_far)) == (run_pb2.RUN_STATE_RUNNING, "Hel")
    assert [run.state for run in runs] == [
        run_pb2.RUN_STATE_COMPLETED,
        run_pb2.RUN_STATE_COMPLETED,
        run_pb2.RUN_STATE_CANCELLED,
    ]
    assert text_of(runs[0]) == "Hello"
    assert code == 0


async def test_a_second_signal_seals_everything_at_once(tmp_path: Path):
    """P9: FAILED, SERVER_SHUTDOWN, with the partial, and no cancel; a reader that does not read holds up nothing."""
    async with Simulator() as simulator, _server(tmp_path, simulator, "--drain-seconds", "60", "--no-local") as server:
        simulator.play("m", [Role(), Text(["Hel"]), Stall()])
        simulator.play("flood", [Role(), Text(["x" * 10_000] * 200), Stall()])
        async with opened(server.address, ("grpc.http2.bdp_probe", 0)) as (channel, stub):
            stream = await _begun(stub, "run-1")
            stuck = stub.Generate(request_for("flood", run_id="run-2"))
            await stuck.initial_metadata()
            await _terminate(server, channel)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            server.process.send_signal(signal.SIGTERM)
            run = await stream.to_end()
            sealed = loop.time()
            code = await server.process.wait()
            gone = loop.time()
            for number in (1, 2):
                await (await simulator.received(number)).closed()
            stuck.cancel()

    assert (run.state, text_of(run)) == (run_pb2.RUN_STATE_FAILED, "Hel")
    assert run.cancel_reason == run_pb2.CANCEL_REASON_UNSPECIFIED
    assert _failure(run) == "SERVER_SHUTDOWN"
    assert code == 0
    assert sealed - begun < 2
    assert gone - begun < 10


async def test_runs_that_outlast_the_drain_time_are_sealed(tmp_path: Path):
    """With the partial; their readers read the end."""
    async with Simulator() as simulator, _server(tmp_path, simulator, "--drain-seconds", "0.3", "--no-local") as server:
        simulator.play("m", [Role(), Text(["Hel"]), Stall()])
        async with opened(server.address) as (_, stub):
            stream = await _begun(stub, "run-1")
            server.process.send_signal(signal.SIGTERM)
            run = await stream.to_end()
            code = await server.process.wait()

    assert (run.state, text_of(run), _failure(run)) == (run_pb2.RUN_STATE_FAILED, "Hel", "SERVER_SHUTDOWN")
    assert code == 0


async def test_the_local_engine_ends_with_the_server(tmp_path: Path):
    """Its process is gone when the server's is."""
    async with (
        Simulator() as simulator,
        _server(tmp_path, simulator, "--drain-seconds", "0") as server,
        opened(server.address) as (_, stub),
    ):
        request = request_for("m", run_id="run-1")
        request.model = "local/smollm2"
        stream = Stream(stub.Generate(request))
        await stream.until(lambda event: bool(event.delta.text))
        children = _children(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        run = await stream.to_end()
        await server.process.wait()

        assert _failure(run) == "SERVER_SHUTDOWN"
        assert text_of(run) == stream.text != ""
        assert children
        assert not any(_is_alive(child) for child in children)


async def test_leaving_a_server_in_process_ends_its_runs_first():
    """Who follows or waits gets the ending before the connections close."""
    async with Simulator() as simulator, AsyncExitStack() as stack:
        simulator.play("m", [Role(), Text(["Hel"]), Stall()])
        application = await stack.enter_async_context(app.serving(settings_for(simulator.base_url)))
        async with opened(application.address) as (_, stub), asyncio.TaskGroup() as group:
            stream = await _begun(stub, "run-1")
            waiting = group.create_task(_waited_for(stub, "run-1"))
            reading = group.create_task(stream.to_end())
            await stub.GetRun(wire.GetRunRequest(run_id="run-1"))
            await stack.aclose()
            run = await reading

            assert (run.state, _failure(run)) == (run_pb2.RUN_STATE_FAILED, "SERVER_SHUTDOWN")
            assert await waiting == run


async def test_a_reader_that_lags_gets_the_end_before_the_server_stops(monkeypatch: pytest.MonkeyPatch):
    """It has flow control between it and the end of its run when the server is told to go."""
    monkeypatch.setattr(app, "ANSWERS_LAST_SECONDS", 0.0)
    async with Simulator() as simulator, AsyncExitStack() as stack:
        simulator.play("m", [Role(), Text(["x" * 10_000] * 200), Stall()])
        application = await stack.enter_async_context(app.serving(settings_for(simulator.base_url)))
        async with opened(application.address, ("grpc.http2.bdp_probe", 0)) as (_, stub), asyncio.TaskGroup() as group:
            lagging = Stream(stub.Generate(request_for("m", run_id="run-1")))
            await lagging.call.initial_metadata()
            other = Stream(stub.WatchRun(wire.WatchRunRequest(run_id="run-1")))
            while len(other.text) < 2_000_000:
                await other.next()
            group.create_task(stack.aclose())
            run = await other.to_end()

            assert application.supervisor.open_readers == 1
            assert await lagging.to_end() == run


async def test_a_port_that_is_taken_is_told_in_a_sentence(service: Service):
    """Before anything else is started; the server that has it is left alone."""
    with pytest.raises(InvalidSettings) as caught:
        async with app.serving(settings_for("http://127.0.0.1:9/v1", listen=service.target)):
            pass

    assert service.target in caught.value.message
    assert "another process" in caught.value.message
    assert (await (await service.generate("count-2")).to_end()).state == run_pb2.RUN_STATE_COMPLETED


# --- Helpers ----------------------------------------------------------------------------------------------------------


async def _waited_for(stub: "GenerationServiceAsyncStub", run_id: str) -> run_pb2.Run:
    return await stub.GetRun(wire.GetRunRequest(run_id=run_id, wait_until_finished=True))


def _failure(run: run_pb2.Run) -> str:
    info = error_details_pb2.ErrorInfo()
    assert run.error.details[0].Unpack(info)
    return info.reason


def _children(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
