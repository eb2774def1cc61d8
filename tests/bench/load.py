"""A cheap gRPC client: just enough HTTP/2 to open many streams and to read the instants in their tokens.

A gRPC library as load generator costs more than the server that it measures.
usage: python -m bench.load PORT STREAMS TOKENS MODEL (prints one line of JSON)
"""

import asyncio
import json
import re
import struct
import sys
import time
from typing import cast

import uvloop

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2

_TOKEN = re.compile(rb"T([0-9a-f]{16})")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_FIRST_SEQUENCE, _DELTA, _FINISHED = 0x10, 0x22, 0x2A
"""Tags of RunEvent."""
_STREAMS_PER_CONNECTION = 50
_RAMP_SECONDS = 1.0


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name: bytes, value: bytes) -> bytes:
    """A literal header field, not indexed, not compressed (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _request_headers(path: bytes) -> bytes:
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"127.0.0.1",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    return b"".join(_header(name, value) for name, value in fields.items())


class Tally:
    """What all streams received."""

    def __init__(self) -> None:
        self.messages = 0
        self.finished = 0
        self.latencies: list[int] = []
        """Of every token, in ns."""

    def take(self, event: bytes) -> None:
        """Counts a RunEvent. The tokens of RunFinished are those of the deltas again."""
        self.messages += 1
        kind = event[_after_varint(event, 1)]
        if kind == _FIRST_SEQUENCE:
            kind = event[_after_varint(event, _after_varint(event, 1) + 1)]
        if kind == _DELTA:
            now = time.monotonic_ns()
            self.latencies.extend(now - int(instant, 16) for instant in _TOKEN.findall(event))
        elif kind == _FINISHED:
            self.finished += 1


def _after_varint(data: bytes, position: int) -> int:
    while data[position] & 0x80:
        position += 1
    return position + 1


class Connection(asyncio.Protocol):
    """One HTTP/2 connection with many streams."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._received = bytearray()
        self._tails: dict[int, bytes] = {}
        self._ends: dict[int, asyncio.Future[None]] = {}
        self._next_stream = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        settings = struct.pack(">HI", 4, 2**31 - 1) + struct.pack(">HI", 5, 2**20)
        window = _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + window)

    def open(self, path: bytes, message: bytes) -> asyncio.Future[None]:
        """Opens a stream; done when the server has ended it."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        end = self._ends[stream] = asyncio.get_running_loop().create_future()
        body = struct.pack(">BI", 0, len(message)) + message
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, stream, _request_headers(path)) + _frame(_DATA, _END_STREAM, stream, body)
        )
        return end

    def data_received(self, data: bytes) -> None:
        buffer = self._received
        buffer += data
        position = 0
        while len(buffer) - position >= 9:
            length = int.from_bytes(buffer[position : position + 3], "big")
            if len(buffer) - position - 9 < length:
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            stream = int.from_bytes(buffer[position + 5 : position + 9], "big")
            self._take(kind, flags, stream, bytes(buffer[position + 9 : position + 9 + length]))
            position += 9 + length
        del buffer[:position]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA and stream in self._ends:
            self._take_data(stream, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        if flags & _END_STREAM and kind in (_DATA, _HEADERS):
            self._end(stream)

    def _take_data(self, stream: int, payload: bytes) -> None:
        data = self._tails.pop(stream, b"") + payload
        position = 0
        while len(data) - position >= 5:
            length = int.from_bytes(data[position + 1 : position + 5], "big")
            if len(data) - position - 5 < length:
                break
            self._tally.take(data[position + 5 : position + 5 + length])
            position += 5 + length
        if position < len(data):
            self._tails[stream] = data[position:]

    def _end(self, stream: int) -> None:
        end = self._ends.pop(stream, None)
        if end is not None and not end.done():
            end.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        for end in self._ends.values():
            if not end.done():
                end.set_result(None)


def request(model: str) -> bytes:
    """A GenerateRequest for a model."""
    part = run_pb2.Part(text=run_pb2.Text(text="hi"))
    message = run_pb2.Message(role=run_pb2.ROLE_USER, parts=[part])
    return wire.GenerateRequest(model=model, messages=[message]).SerializeToString()


async def _load(port: int, streams: int, tokens: int, model: str) -> dict[str, float]:
    loop, tally = asyncio.get_running_loop(), Tally()
    connections: list[Connection] = []
    for _ in range(-(-streams // _STREAMS_PER_CONNECTION)):
        _, connection = await loop.create_connection(lambda: Connection(tally), "127.0.0.1", port)
        connections.append(connection)
    message, ends = request(model), []
    started = loop.time()
    for number in range(streams):
        connection = connections[number % len(connections)]
        ends.append(connection.open(b"/midstream.v1.GenerationService/Generate", message))
        await asyncio.sleep(max(0.0, started + number * _RAMP_SECONDS / streams - loop.time()))
    await asyncio.wait(ends)
    elapsed = loop.time() - started
    latencies = sorted(tally.latencies)
    return {
        "expected": streams * tokens,
        "tokens": len(latencies),
        "messages": tally.messages,
        "finished": tally.finished,
        "seconds": elapsed,
        "p50_ms": latencies[len(latencies) // 2] / 1e6 if latencies else float("nan"),
        "p99_ms": latencies[int(len(latencies) * 0.99)] / 1e6 if latencies else float("nan"),
    }


if __name__ == "__main__":
    _port, _streams, _tokens, _model = sys.argv[1:5]
    print(json.dumps(uvloop.run(_load(int(_port), int(_streams), int(_tokens), _model))), flush=True)
