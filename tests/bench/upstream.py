"""A cheap paced upstream: Chat Completions whose every token carries the instant at which it was sent.

The model's name is the shape: `paced-<tokens>-<tokens per second>`. One timer serves all streams, so that the upstream
costs little beside what is measured. usage: python -m bench.upstream (prints its port)
"""

import asyncio
import heapq
import re
import time

import uvloop

_SHAPE = re.compile(rb"paced-(\d+)-(\d+)")
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_TICK_SECONDS = 0.001


def _event(choice: bytes, usage: bytes = b"null") -> bytes:
    data = (
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench","choices":['
        + choice
        + b'],"usage":'
        + usage
        + b"}\n\n"
    )
    return b"%x\r\n%b\r\n" % (len(data), data)


def _choice(delta: bytes, finish: bytes = b"null") -> bytes:
    return b'{"index":0,"delta":' + delta + b',"finish_reason":' + finish + b"}"


_TOKEN = _event(_choice(b'{"content":"T0123456789abcdef "}'))
_BEFORE, _AFTER = _TOKEN.split(b"0123456789abcdef")
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class _Stream:
    """One answer in progress."""

    def __init__(self, transport: asyncio.Transport, tokens: int, period: float, first: float) -> None:
        self.transport = transport
        self.left = tokens
        self.tokens = tokens
        self.period = period
        self.due = first

    def send(self) -> bool:
        """Sends a token; whether there are more."""
        if self.transport.is_closing():
            return False
        self.transport.write(_BEFORE + b"%016x" % time.monotonic_ns() + _AFTER)
        self.left -= 1
        self.due += self.period
        if self.left:
            return True
        usage = b'{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}' % (self.tokens, self.tokens + 9)
        self.transport.write(_event(_choice(b"{}", b'"stop"')) + _event(b"", usage) + _DONE)
        return False


class _Wheel:
    """One timer for all streams."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, _Stream]] = []
        self._count = 0

    def add(self, stream: _Stream) -> None:
        self._count += 1
        heapq.heappush(self._queue, (stream.due, self._count, stream))

    def tick(self) -> None:
        loop, queue = asyncio.get_running_loop(), self._queue
        now = loop.time()
        while queue and queue[0][0] <= now:
            _, _, stream = heapq.heappop(queue)
            if stream.send():
                self.add(stream)
        loop.call_later(_TICK_SECONDS, self.tick)


class _Connection(asyncio.Protocol):
    """Answers one request after the other."""

    def __init__(self, wheel: _Wheel) -> None:
        self._wheel = wheel
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if not end or length is None or len(body) < int(length[1]):
            return
        self._received = b""
        shape = _SHAPE.search(body)
        assert shape is not None, "the model's name is the shape"
        tokens, rate = int(shape[1]), int(shape[2])
        self._transport.write(_HEAD + _event(_choice(b'{"role":"assistant","content":""}')))
        now = asyncio.get_running_loop().time()
        self._wheel.add(_Stream(self._transport, tokens, 1 / rate, now + 1 / rate))


async def _serve() -> None:
    wheel = _Wheel()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(wheel), "127.0.0.1", 0, backlog=4096)
    wheel.tick()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
