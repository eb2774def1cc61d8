"""Replicas as processes on one real store: the owner is stopped, or killed, and the others go on."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from command_line import LISTENING, command, environment
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import generation_service_pb2_grpc as service_grpc
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Simulator
from valkey_server import single_server

if TYPE_CHECKING:
    Stub = service_grpc.GenerationServiceAsyncStub

LEASE_SECONDS = 2.0
LONG = Duration(seconds=20)


@dataclass(frozen=True, slots=True)
class Replica:
    """A server in a process of its own, and a way to call it."""

    process: asyncio.subprocess.Process
    stub: "Stub"


@asynccontextmanager
async def replica(config: Path) -> AsyncIterator[Replica]:
    """One replica; killed afterwards, whatever state it is in."""
    process = await asyncio.create_subprocess_exec(
        *command("serve", "--config", str(config)), stdout=subprocess.PIPE, env=environment()
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith(LISTENING), line
        async with grpc.aio.insecure_channel(line.removeprefix(LISTENING).strip()) as channel:
            yield Replica(process, service_grpc.GenerationServiceStub(channel))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as made:
        yield made


@pytest.fixture
async def replicas(tmp_path: Path, simulator: Simulator) -> AsyncIterator[list[Replica]]:
    """Two replicas on one store."""
    config = tmp_path / "midstream.toml"
    with single_server() as store:
        config.write_text(
            f"listen = '127.0.0.1:0'\nstore = '{store.url}'\nlocal.enabled = false\n[log]\nlevel = 'error'\n"
            f"[replica]\nlease = '{LEASE_SECONDS}s'\nheartbeat = '0.5s'\n"
            f"[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{simulator.base_url}'\n"
        )
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(replica(config)) for _ in range(2)]


def request(run_id: str, model: str) -> service_wire.GenerateRequest:
    """A start of a run that goes on without readers."""
    part = wire.Part(text=wire.Text(text="hi"))
    on_detach = wire.DetachPolicy(action=wire.DetachPolicy.ACTION_CONTINUE)
    messages = [wire.Message(role=wire.ROLE_USER, parts=[part])]
    return service_wire.GenerateRequest(run_id=run_id, model=f"sim/{model}", messages=messages, on_detach=on_detach)


def text_of(run: wire.Run) -> str:
    """The text of a run."""
    return "".join(part.text.text for part in run.message.parts)


async def rest(stream: "grpc.aio.UnaryStreamCall[object, wire.RunEvent]") -> list[wire.RunEvent]:
    """What comes until the stream ends well."""
    events: list[wire.RunEvent] = []
    while isinstance(event := await stream.read(), wire.RunEvent):
        events.append(event)
    return events


async def test_owner_that_was_stopped_for_longer_than_its_lease_tells_the_real_ending(replicas, simulator):
    """SIGSTOP, then SIGCONT: its upstream is closed, and its reader gets what the other one sealed."""
    owner, other = replicas
    stream = owner.stub.Generate(request("run", "count-100000-200"))
    events = [await stream.read() for _ in range(10)]
    owner.process.send_signal(signal.SIGSTOP)

    ending = await other.stub.GetRun(service_wire.GetRunRequest(run_id="run", wait_until_finished=True, max_wait=LONG))
    owner.process.send_signal(signal.SIGCONT)
    events += await rest(stream)
    await (await simulator.received()).closed()

    assert (ending.state, ending.error.message) == (wire.RUN_STATE_FAILED, "the process that owned the run was lost")
    assert [event.WhichOneof("event") for event in events].count("finished") == 1
    assert events[-1].finished.run == ending
    assert "".join(event.delta.text for event in events) == text_of(ending)
    assert await owner.stub.GetRun(service_wire.GetRunRequest(run_id="run")) == ending


async def test_cancel_of_a_run_whose_owner_was_killed_answers_with_the_partial_in_time(replicas):
    """SIGKILL: within the lease and a second, though nobody pushes anything."""
    owner, other = replicas
    stream = owner.stub.Generate(request("run", "stall-3"))
    seen = ""
    while seen != "1 2 3":
        seen += (await stream.read()).delta.text
    owner.process.kill()
    began = time.monotonic()

    answer = await other.stub.Cancel(service_wire.CancelRequest(run_id="run", wait=LONG))

    assert time.monotonic() - began <= LEASE_SECONDS + 1.0
    assert answer.outcome == service_wire.CancelResponse.OUTCOME_CANCELLED
    assert (answer.run.state, text_of(answer.run)) == (wire.RUN_STATE_CANCELLED, seen)
