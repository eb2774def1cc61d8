"""What Midstream is measured beside: a bare grpc.aio server that makes the tokens itself (the ceiling of anything built
on it), and the gateway that one writes in an afternoon. Both speak the contract, both listen and print their port.

usage: python -m bench.baselines bare | naive BASE_URL
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import httpx
import uvloop

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2

_SHAPE = re.compile(r"bench-n(\d+)-r(\d+)")


def _delta(sequence: int, text: str) -> run_pb2.RunEvent:
    return run_pb2.RunEvent(sequence=sequence, delta=run_pb2.MessageDelta(part_index=0, offset=0, text=text))


def _finished(sequence: int) -> run_pb2.RunEvent:
    run = run_pb2.Run(state=run_pb2.RUN_STATE_COMPLETED)
    return run_pb2.RunEvent(sequence=sequence, finished=run_pb2.RunFinished(run=run))


class Bare:
    """No upstream, no store: only gRPC."""

    async def generate(self, request: wire.GenerateRequest, context: Any) -> AsyncIterator[run_pb2.RunEvent]:
        """Paced tokens."""
        shape = _SHAPE.search(request.model)
        assert shape is not None, "the model's name is the shape"
        tokens, rate = int(shape[1]), int(shape[2])
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number in range(1, tokens + 1):
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            yield _delta(number, f"T{time.monotonic_ns():016x} ")
        yield _finished(tokens + 1)


class Naive:
    """A line at a time, a dictionary at a time, a message at a time; nothing is kept."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/chat/completions"
        self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))

    async def generate(self, request: wire.GenerateRequest, context: Any) -> AsyncIterator[run_pb2.RunEvent]:
        """Whatever the upstream says."""
        model = request.model.partition("/")[2]
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        sequence = 0
        async with self._client.stream("POST", self._url, json=body) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                choices = json.loads(line[6:])["choices"]
                if choices and (text := choices[0]["delta"].get("content")):
                    sequence += 1
                    yield _delta(sequence, text)
        yield _finished(sequence + 1)


async def _serve(generate: Callable[[wire.GenerateRequest, Any], AsyncIterator[run_pb2.RunEvent]]) -> None:
    options = [("grpc.max_concurrent_streams", 100_000), ("grpc.server.max_pending_requests", 100_000)]
    server = grpc.aio.server(options=options)
    handler = grpc.unary_stream_rpc_method_handler(
        generate,
        request_deserializer=wire.GenerateRequest.FromString,
        response_serializer=run_pb2.RunEvent.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("midstream.v1.GenerationService", {"Generate": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def _run_naive(base_url: str) -> None:
    await _serve(Naive(base_url).generate)


async def _run_bare() -> None:
    await _serve(Bare().generate)


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        uvloop.run(_run_bare())
    else:
        asyncio.run(_run_naive(sys.argv[2]))
