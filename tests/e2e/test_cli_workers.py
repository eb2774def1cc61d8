"""`midstream serve --workers`: several processes, one address, one Valkey."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest

from command_line import Server, midstream, serving
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import generation_service_pb2_grpc as service_grpc
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Role, Simulator, Stall, Text
from valkey_server import ValkeyServer, eventually, single_server

WORKERS = 2
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey server."""
    with single_server() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, valkey: ValkeyServer) -> Path:
    """A configuration with a store that processes share."""
    path = tmp_path / "midstream.toml"
    path.write_text(
        f'listen = "127.0.0.1:0"\nstore = "{valkey.url}"\nlocal.enabled = false\n[log]\nlevel = "error"\n'
        '[upstreams.up]\ndialect = "openai-chat"\nbase_url = "http://127.0.0.1:9/v1"\n'
    )
    return path


def workers_of(server: Server) -> set[int]:
    """The processes that serve."""
    return set(map(int, Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()))


def is_alive(pid: int) -> bool:
    """Whether there still is such a process."""
    return Path(f"/proc/{pid}").exists()


async def test_a_cancel_by_any_connection_stops_the_run_of_any_worker(config: Path):
    """Whichever worker gets it: the upstream is closed, the answer is what the stream had shown."""
    async with Simulator() as simulator:
        simulator.play("words", [Role(), Text(["kept"]), Stall()])
        upstream = {"MIDSTREAM_UPSTREAMS__UP__BASE_URL": simulator.base_url}
        async with serving(config, "--workers", str(WORKERS), extra=upstream) as server:
            for number in range(6):
                await _stop_from_elsewhere(server, simulator, number)


async def _stop_from_elsewhere(server: Server, simulator: Simulator, number: int) -> None:
    async with (
        grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION) as one,
        grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION) as other,
    ):
        run_id = f"run-{os.getpid()}-{number}"
        message = wire.Message(role=wire.ROLE_USER, parts=[wire.Part(text=wire.Text(text="hi"))])
        request = service_wire.GenerateRequest(run_id=run_id, model="up/words", messages=[message])
        events = service_grpc.GenerationServiceStub(one).Generate(request).__aiter__()
        while (await anext(events)).delta.text != "kept":
            pass
        upstream = await simulator.received(number + 1)
        answer = await service_grpc.GenerationServiceStub(other).Cancel(service_wire.CancelRequest(run_id=run_id))
        await upstream.closed()
        *_, last = [event async for event in events]

    assert answer.run.message.parts[0].text.text == "kept"
    assert last.finished.run == answer.run


async def test_a_worker_that_dies_is_replaced_and_sigterm_ends_them_all(config: Path):
    """The address stays; nobody is left behind."""
    async with serving(config, "--workers", str(WORKERS)) as server:
        before = workers_of(server)
        os.kill(min(before), signal.SIGKILL)
        await eventually(lambda: len(workers_of(server) - before) == 1)
        after = workers_of(server)

        async with asyncio.timeout(20):
            while (await midstream("health", "--server", server.address)).code:
                pass

    assert len(before) == len(after) == WORKERS
    assert not any(map(is_alive, before | after))


async def test_workers_need_a_store_that_they_share(config: Path):
    """One sentence, and nothing is started."""
    done = await midstream("serve", "--config", str(config), "--workers", "2", "--store", "memory:")

    assert (done.code, done.out) == (2, "")
    assert "workers: several processes need a store that they share" in done.err
    assert len(done.err.splitlines()) == 1


async def test_an_address_that_is_taken_is_one_sentence(config: Path):
    """A port of somebody else's is not shared."""
    async with serving(config, "--store", "memory:") as server:
        done = await midstream("serve", "--config", str(config), "--workers", "2", "--listen", server.address)

    assert (done.code, done.out) == (2, "")
    assert server.address in done.err
