"""From the Cancel RPC to the closed upstream socket in the six positions of P3, through each dialect, on loopback.

The server is a process of its own, the upstream is the simulator, as in `bench.cancel`.
"""

import statistics
from collections.abc import Sequence

import grpc.aio

from bench.cancel import BLOCKING_BYTES, Position, Trial, try_cancel
from bench.processes import midstream, table
from midstream.v1 import generation_service_pb2_grpc as wire_grpc
from midstream_simulator import Role, Simulator, Stall, Text, ToolCall

_PATHS = {"openai-chat": "/v1", "openai-responses": "/v1", "anthropic": "", "gemini": "", "ollama": "", "cohere": ""}
"""The dialects, each with what follows the simulator's address in its base URL."""
_POSITIONS = (
    Position("before headers", "stall-headers", 0),
    Position("before the first token", "stall", 0),
    Position("mid token", "bench-n100000-r100", 85),
    Position("upstream stalls", "stall-5", 5),
    Position("inside a tool call", "half-a-call", 5),
    Position("our reader is blocked", "flood", 0, sent_bytes=BLOCKING_BYTES),
)


async def measure(trials: int) -> str:
    """The table: median and maximum per dialect and position."""
    rows = [["dialect", *(position.name for position in _POSITIONS)]]
    async with Simulator() as simulator:
        call = ToolCall(['{"ci', 'ty": "Pa'], id="call_1", name="weather")
        simulator.play("half-a-call", [Role(), Text(["Hello"]), call, Stall()])
        simulator.play("flood", [Role(), Text(["x" * 2000] * 1400, tokens_per_second=2000), Stall()])
        for dialect, path in _PATHS.items():
            rows.append([dialect, *map(_cell, await _trials(simulator, dialect, path, trials))])
    return table(rows)


async def _trials(simulator: Simulator, dialect: str, path: str, trials: int) -> list[list[Trial]]:
    """All trials by position; the first of each is left out."""
    with midstream(simulator.origin + path, dialect=dialect) as (_, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = wire_grpc.GenerationServiceStub(channel)
            return [
                [await try_cancel(simulator, stub, position) for _ in range(trials + 1)][1:] for position in _POSITIONS
            ]


def _cell(trials: Sequence[Trial]) -> str:
    closed = [trial.closed_ms for trial in trials]
    return f"{statistics.median(closed):.1f} / {max(closed):.1f}"
