"""From the Cancel RPC (or the dropped call) to the closed upstream socket, in the positions of P3, on loopback.

The server is a process of its own; the upstream is the simulator, which notes when its connection closed and what it
had sent by then. Both clocks are CLOCK_MONOTONIC of one machine.
"""

import asyncio
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from bench.processes import midstream, table
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import generation_service_pb2_grpc as wire_grpc
from midstream.v1 import run_pb2
from midstream_simulator import Role, Simulator, Stall, Text, ToolCall

BLOCKING_BYTES = 1_500_000
"""More than gRPC takes before a reader that does not read holds us up."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where the upstream is when the cancel comes."""

    name: str
    model: str
    read_bytes: int
    """How much of the output the caller reads before."""
    sent_bytes: int = 0
    """How much the upstream has sent before."""
    by_call: bool = False
    """Cancel the call instead of calling Cancel."""


POSITIONS = (
    Position("before headers", "stall-headers", 0),
    Position("before the first token", "stall", 0),
    Position("mid token, 100/s", "bench-n100000-r100", 85),
    Position("mid token, 1,000/s", "bench-n100000-r1000", 340),
    Position("upstream stalls", "stall-5", 5),
    Position("inside a tool call", "half-a-call", 5),
    Position("our reader is blocked", "flood", 0, sent_bytes=BLOCKING_BYTES),
    Position("dropped call, 100/s", "bench-n100000-r100", 85, by_call=True),
    Position("dropped call, 1,000/s", "bench-n100000-r1000", 340, by_call=True),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One cancel."""

    closed_ms: float
    overshoot: int


async def measure(trials: int) -> str:
    """The table: median and maximum per position."""
    async with Simulator() as simulator:
        simulator.play("half-a-call", [Role(), ToolCall(['{"ci', 'ty": "Pa'], id="call_1", name="weather"), Stall()])
        simulator.play("flood", [Role(), Text(["x" * 2000] * 1400, tokens_per_second=2000), Stall()])
        with midstream(simulator.base_url) as (_, port):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = wire_grpc.GenerationServiceStub(channel)
                rows = [["position", "median ms", "max ms", "overshoot median", "overshoot max"]]
                for position in POSITIONS:
                    done = [await try_cancel(simulator, stub, position) for _ in range(trials + 1)][1:]
                    rows.append(_row(position, done))
    return table(rows)


async def try_cancel(simulator: Simulator, stub: "wire_grpc.GenerationServiceAsyncStub", position: Position) -> Trial:
    """One run, stopped in this position."""
    seen = len(simulator.requests)
    run_id = str(uuid.uuid4())
    part = run_pb2.Part(text=run_pb2.Text(text="hi"))
    message = run_pb2.Message(role=run_pb2.ROLE_USER, parts=[part])
    call = stub.Generate(wire.GenerateRequest(run_id=run_id, model=f"up/{position.model}", messages=[message]))
    upstream = await simulator.received(seen + 1)
    read = 0
    while read < position.read_bytes:
        event = await call.read()
        assert isinstance(event, run_pb2.RunEvent), "the run goes on"
        read += len(event.delta.text) + len(event.delta.tool_call.arguments)
    while upstream.bytes_sent < position.sent_bytes:  # noqa: ASYNC110 (the flood has no event at this point)
        await asyncio.sleep(0.01)
    asked = time.monotonic_ns()
    if position.by_call:
        call.cancel()
    else:
        await stub.Cancel(wire.CancelRequest(run_id=run_id))
    closed = await upstream.closed()
    call.cancel()
    overshoot = sum(instant > asked for instant in upstream.token_times_ns)
    return Trial((closed - asked) / 1e6, overshoot)


def _row(position: Position, trials: Sequence[Trial]) -> list[str]:
    closed = [trial.closed_ms for trial in trials]
    overshoot = [trial.overshoot for trial in trials]
    return [
        position.name,
        f"{statistics.median(closed):.2f}",
        f"{max(closed):.2f}",
        f"{statistics.median(overshoot):.0f}",
        str(max(overshoot)),
    ]
