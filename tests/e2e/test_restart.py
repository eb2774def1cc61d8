"""Starting again on what a crash, another process, a damaged disk or a full one has left."""

import resource
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from command_line import Server, midstream, serving, started
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import generation_service_pb2_grpc as service_grpc
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Finish, Gate, Role, Simulator, Step, Text
from restart.history import LONG_RUN, fill, piece

SERVICE = "midstream.v1.GenerationService"
if TYPE_CHECKING:
    Stub = service_grpc.GenerationServiceAsyncStub


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as made:
        yield made


@pytest.fixture
def config(tmp_path: Path, simulator: Simulator) -> Path:
    """A configuration with the simulator as its upstream."""
    path = tmp_path / "midstream.toml"
    path.write_text(
        f"listen = '127.0.0.1:0'\nstore = 'sqlite:///{tmp_path}/runs.db'\nlocal.enabled = false\n"
        f"[log]\nlevel = 'error'\n[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{simulator.base_url}'\n"
    )
    return path


@asynccontextmanager
async def connected(server: Server) -> "AsyncIterator[Stub]":
    """A stub."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield service_grpc.GenerationServiceStub(channel)


def request(run_id: str, model: str) -> service_wire.GenerateRequest:
    """A start."""
    part = wire.Part(text=wire.Text(text="hi"))
    return service_wire.GenerateRequest(
        run_id=run_id, model=f"sim/{model}", messages=[wire.Message(role=wire.ROLE_USER, parts=[part])]
    )


def text_of(run: wire.Run) -> str:
    """The text of a run."""
    return "".join(part.text.text for part in run.message.parts)


async def test_long_run_of_a_dead_server_is_sealed_whole_beside_many_that_ended(config: Path, tmp_path: Path):
    """Every append is there, in order; what had ended is as it was."""
    await fill(tmp_path / "runs.db", appends=3_000, runs=300, now=time.time_ns())
    async with serving(config) as server, connected(server) as stub:
        run = await stub.GetRun(service_wire.GetRunRequest(run_id=LONG_RUN))
        first = await stub.ListRuns(service_wire.ListRunsRequest(page_size=200, state=wire.RUN_STATE_COMPLETED))
        rest = await stub.ListRuns(
            service_wire.ListRunsRequest(
                page_size=200, state=wire.RUN_STATE_COMPLETED, page_token=first.next_page_token
            )
        )
        live = await stub.ListRuns(service_wire.ListRunsRequest(state=wire.RUN_STATE_RUNNING))

    assert (run.state, run.last_sequence) == (wire.RUN_STATE_FAILED, 3_002)
    assert run.error.message == "the process that owned the run was lost"
    assert text_of(run) == "".join(map(piece, range(3_000)))
    shown = [each.run_id for each in (*first.runs, *rest.runs)]
    assert shown == [f"short-{number}" for number in reversed(range(300))]
    assert not live.runs


async def test_store_of_a_running_server_is_refused_in_one_sentence(config: Path, tmp_path: Path):
    """The second one says why and ends; the first one goes on."""
    async with serving(config) as server, connected(server) as stub:
        second = await midstream("serve", "--config", str(config))
        models = await stub.ListModels(service_wire.ListModelsRequest())

    assert second.code == 1
    assert second.out == ""
    assert second.err == f"midstream: another process uses the store {tmp_path}/runs.db (STORE_LOCKED)\n"
    assert models is not None


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
async def test_damaged_store_is_refused_in_one_sentence_and_left_alone(config: Path, tmp_path: Path, damage: str):
    """Nothing of it is overwritten: somebody may want to save what is left."""
    path = tmp_path / "runs.db"
    await fill(path, appends=2_000, runs=200, now=time.time_ns())
    data = bytearray(path.read_bytes())
    start, end = {"header": (0, 64), "middle": (4096, len(data)), "text": (0, len(data))}[damage]
    data[start:end] = (b"not a database. " * len(data))[: end - start]
    path.write_bytes(data)
    damaged = bytes(data)

    done = await midstream("serve", "--config", str(config))

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("midstream: ")
    assert str(path) in done.err
    assert len(done.err.splitlines()) == 1
    assert path.read_bytes() == damaged


# --- A full disk -----------------------------------------------------------------------------------------------------


def fill_disk(server: Server) -> None:
    """No file of this process may grow any more."""
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


def free_disk(server: Server) -> None:
    """Files may grow again."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)


def health_stub(channel: grpc.aio.Channel) -> Any:
    """Its own types do not know the asynchronous kind."""
    return health_pb2_grpc.HealthStub(channel)


async def health_is(server: Server, wanted: int) -> None:
    """Returns when the health of the service is this."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_stub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE)):
            if answer.status == wanted:
                return


class Seen:
    """A stream of Generate, as one reader saw it."""

    def __init__(self, stub: "Stub", run_id: str, model: str) -> None:
        self.text = ""
        self.finished: wire.Run | None = None
        self._events = stub.Generate(request(run_id, model)).__aiter__()

    async def until(self, wanted: str) -> None:
        """Reads to exactly this text."""
        while self.text != wanted:
            await self._next()

    async def rest(self) -> wire.Run:
        """Reads to the end."""
        while self.finished is None:
            await self._next()
        return self.finished

    async def _next(self) -> None:
        event = await anext(self._events)
        self.text += event.delta.text
        if event.HasField("finished"):
            self.finished = event.finished.run


def play(simulator: Simulator) -> None:
    """Two words with a gate between them, and the end behind another."""
    steps: list[Step] = [Role(), Text(["kept"]), Gate("full"), Text([" too"]), Gate("end"), Text(["."]), Finish()]
    simulator.play("words", steps)


async def test_disk_that_is_full_for_a_while_costs_nothing_but_time(config: Path, simulator: Simulator):
    """NOT_SERVING, starts are refused, nothing unstored is shown; then SERVING, and the run ends as if nothing was.

    The server's standard error is a file here, which cannot grow either: what it would log is lost, and nothing else.
    """
    play(simulator)
    async with serving(config) as server, connected(server) as stub:
        seen = Seen(stub, "run", "words")
        await seen.until("kept")
        fill_disk(server)
        upstream = await simulator.received()
        await upstream.reached("full")
        upstream.release("full")
        await health_is(server, health_pb2.HealthCheckResponse.NOT_SERVING)
        shown = await stub.GetRun(service_wire.GetRunRequest(run_id="run"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Seen(stub, "other", "words").rest()
        free_disk(server)
        await health_is(server, health_pb2.HealthCheckResponse.SERVING)
        upstream.release("end")
        run = await seen.rest()
        again = await stub.GetRun(service_wire.GetRunRequest(run_id="run"))

    assert (shown.state, text_of(shown)) == (wire.RUN_STATE_RUNNING, "kept")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (run.state, text_of(run), seen.text) == (wire.RUN_STATE_COMPLETED, "kept too.", "kept too.")
    assert again == run


async def test_server_that_is_killed_while_its_disk_is_full_keeps_what_it_has_shown(config: Path, simulator: Simulator):
    """The cancel closed the upstream, and said that it is not durable; what was shown is there after the restart."""
    play(simulator)
    process = await started("serve", "--config", str(config))
    assert process.stdout is not None
    server = Server((await process.stdout.readline()).decode().split()[-1], process)
    async with connected(server) as stub:
        seen = Seen(stub, "run", "words")
        await seen.until("kept")
        fill_disk(server)
        upstream = await simulator.received()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Cancel(service_wire.CancelRequest(run_id="run", reason="stop"))
        await upstream.closed()
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    async with serving(config) as server, connected(server) as stub:
        run = await stub.GetRun(service_wire.GetRunRequest(run_id="run"))

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert run.state in (wire.RUN_STATE_FAILED, wire.RUN_STATE_CANCELLED)
    assert text_of(run) == "kept" == seen.text
