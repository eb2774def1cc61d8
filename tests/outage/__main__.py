"""usage: python -m outage [--seconds 36]

A real server whose disk is full for longer than a run may wait for its store: what callers are told meanwhile, how soon
a cancel closes the upstream all the same, and what is left when there is room again.
"""

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from command_line import Server, serving
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import generation_service_pb2_grpc as service_grpc
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Finish, Gate, RecordedRequest, Role, Simulator, Text

CANCELS = 20
_KEPT = "kept"
_STORE_UNAVAILABLE = "STORE_UNAVAILABLE"


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclass(frozen=True, slots=True)
class _Followed:
    """A run whose upstream is parked behind its first word."""

    run_id: str
    request: RecordedRequest


class Outage:
    """One server, its full disk, and the runs that it happens to."""

    def __init__(self, server: Server, simulator: Simulator, channel: grpc.aio.Channel) -> None:
        self._server = server
        self._simulator = simulator
        self._stub = service_grpc.GenerationServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)  # its types do not know the asynchronous kind
        self._calls: list[grpc.aio.UnaryStreamCall[service_wire.GenerateRequest, wire.RunEvent]] = []

    async def run(self, seconds: float) -> None:
        """The whole story.

        Raises:
            Broken: a promise was not kept.
        """
        left_alone = await self._follow()
        stopped = [await self._follow() for _ in range(CANCELS)]
        upstreams = {each.run_id: each for each in stopped}
        self._limit_files(1)
        began = time.monotonic()
        closed = [await self._stop(each) for each in upstreams.values()]
        print(
            f"disk full; {len(closed)} cancels, upstream closed: "
            f"median {statistics.median(closed):.1f} ms, maximum {max(closed):.1f} ms"
        )
        await self._is_refused()
        closed_at = await left_alone.request.closed()
        print(f"run that nobody stops: upstream closed {closed_at / 1e9 - began:.1f} s after the disk was full")
        _hold(25 < closed_at / 1e9 - began < 35, "the upstream is closed after 30 s")
        state = (await self._get(left_alone.run_id)).state
        _hold(state == wire.RUN_STATE_STOPPING, f"the run waits as STOPPING, not {wire.RunState.Name(state)}")
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        self._limit_files(resource.RLIM_INFINITY)
        freed = time.monotonic()
        await self._check_failed(await self._finished(left_alone.run_id))
        for each in stopped:
            await self._check_cancelled(await self._finished(each.run_id))
        print(f"room again after {freed - began:.0f} s: every run sealed {time.monotonic() - freed:.1f} s later")

    async def _follow(self) -> _Followed:
        run_id, number = str(uuid.uuid4()), len(self._simulator.requests)
        part = wire.Part(text=wire.Text(text="hi"))
        messages = [wire.Message(role=wire.ROLE_USER, parts=[part])]
        call = self._stub.Generate(service_wire.GenerateRequest(run_id=run_id, model="up/words", messages=messages))
        self._calls.append(call)
        text = ""
        while text != _KEPT:
            event = await call.read()
            if not isinstance(event, wire.RunEvent):
                raise Broken("the stream ended before its time")
            text += event.delta.text
        request = await self._simulator.received(number + 1)
        await request.reached("full")
        return _Followed(run_id, request)

    async def _stop(self, followed: _Followed) -> float:
        followed.request.release("full")
        asked = time.monotonic_ns()
        answer = asyncio.ensure_future(self._cancel(followed.run_id))
        milliseconds = (await followed.request.closed() - asked) / 1e6
        _hold(await answer is grpc.StatusCode.UNAVAILABLE, "a cancel that is not durable says so")
        return milliseconds

    async def _cancel(self, run_id: str) -> grpc.StatusCode:
        try:
            await self._stub.Cancel(service_wire.CancelRequest(run_id=run_id))
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def _is_refused(self) -> None:
        service = "midstream.v1.GenerationService"
        answer = await self._health.Check(health_pb2.HealthCheckRequest(service=service))
        _hold(answer.status == health_pb2.HealthCheckResponse.NOT_SERVING, "the service is NOT_SERVING")
        alive = await self._health.Check(health_pb2.HealthCheckRequest())
        _hold(alive.status == health_pb2.HealthCheckResponse.SERVING, "liveness is not affected")
        try:
            await self._follow()
        except grpc.aio.AioRpcError as error:
            _hold(error.code() is grpc.StatusCode.UNAVAILABLE, f"a start is refused as UNAVAILABLE, not {error.code()}")
        else:
            raise Broken("a run started while the disk was full")

    async def _get(self, run_id: str) -> wire.Run:
        return await self._stub.GetRun(service_wire.GetRunRequest(run_id=run_id))

    async def _finished(self, run_id: str) -> wire.Run:
        return await self._stub.GetRun(service_wire.GetRunRequest(run_id=run_id, wait_until_finished=True))

    async def _check_failed(self, run: wire.Run) -> None:
        _hold(run.state == wire.RUN_STATE_FAILED, "a run whose store was away too long has FAILED")
        _hold(_STORE_UNAVAILABLE in str(run.error), "and says why")
        _hold(_text(run).startswith(_KEPT), "and what was shown is kept")

    async def _check_cancelled(self, run: wire.Run) -> None:
        _hold(run.state == wire.RUN_STATE_CANCELLED, "a run that was stopped while the store was away is CANCELLED")
        _hold(_text(run).startswith(_KEPT), "and what was shown is kept")

    def _limit_files(self, size: int) -> None:
        """No file of the server's may grow beyond this any more."""
        resource.prlimit(self._server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _text(run: wire.Run) -> str:
    return "".join(part.text.text for part in run.message.parts)


def _hold(condition: bool, promise: str) -> None:
    if not condition:
        raise Broken(promise)


async def _tell(folder: Path, seconds: float) -> None:
    async with Simulator() as simulator:
        simulator.play("words", [Role(), Text([_KEPT]), Gate("full"), Text([" too"]), Gate("end"), Finish()])
        config = folder / "midstream.toml"
        config.write_text(
            f'listen = "127.0.0.1:0"\nstore = "sqlite:///{folder}/runs.db"\nlocal.enabled = false\n'
            f'[log]\nlevel = "error"\n[upstreams.up]\ndialect = "openai-chat"\nbase_url = "{simulator.base_url}"\n'
            'idle_timeout = "5m"\n'
        )
        async with serving(config) as server, grpc.aio.insecure_channel(server.address) as channel:
            await Outage(server, simulator, channel).run(seconds)


def main() -> int:
    """Tells the story; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(prog="outage")
    parser.add_argument("--seconds", type=float, default=36.0, help="how long the disk is full")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_tell(Path(folder), arguments.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
