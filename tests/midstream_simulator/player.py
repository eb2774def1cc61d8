"""Plays a script on a connection."""

import asyncio
import time
import zlib
from collections.abc import Iterator

import msgspec

from midstream_simulator.connection import Connection
from midstream_simulator.dialect import Dialect, Encoder
from midstream_simulator.http_request import encode_head
from midstream_simulator.recording import RecordedRequest
from midstream_simulator.steps import (
    ContentStep,
    Cut,
    End,
    Gate,
    Head,
    Paced,
    Raw,
    Reset,
    Respond,
    Script,
    Stall,
    Step,
    Wait,
)

_GZIP = 16 + zlib.MAX_WBITS


class Player:
    """One answer. Cancelled when the peer leaves; what had been sent is in `recorded`."""

    def __init__(
        self, connection: Connection, recorded: RecordedRequest, dialect: Dialect, *, keep_alive: bool
    ) -> None:
        self._connection = connection
        self._recorded = recorded
        self._dialect = dialect
        self._encoder: Encoder = dialect.encoder(recorded.body, recorded.number)
        self._keep_alive = keep_alive
        self._head: Head | None = None
        self._compressor: zlib._Compress | None = None
        self._ended = False
        recorded.pieces = self._encoder.pieces

    async def play(self, script: Script) -> None:
        """Plays it, then ends the body."""
        try:
            for step in script:
                await self._step(step)
                if isinstance(step, Cut | Reset):
                    return
            await self._end()
            if not self._keep_alive:
                await self._connection.finish()
        finally:
            self._recorded.note_over()

    async def _step(self, step: Step) -> None:
        match step:
            case Head():
                await self._send_head(step)
            case Respond():
                await self._respond(step)
            case Raw():
                await self._send_body(step.data)
            case Wait(milliseconds=milliseconds):
                await asyncio.sleep(milliseconds / 1000)
            case Gate(name=name):
                await self._recorded.pass_gate(name)
            case Stall():
                await asyncio.get_running_loop().create_future()
            case End():
                await self._end()
            case Cut(inside_chunk=inside_chunk):
                await self._cut(inside_chunk=inside_chunk)
            case Reset():
                await self._connection.reset()
            case _:
                await self._send_content(step)

    async def _send_content(self, step: ContentStep) -> None:
        frames = self._encoder.frames(step)
        interval, per_write = (step.interval_seconds, step.per_write) if isinstance(step, Paced) else (0.0, 1)
        start = asyncio.get_running_loop().time()
        for first in range(0, frames.count, per_write):
            await self._wait_until(start + first * interval)
            last = min(first + per_write, frames.count)
            await self._send_body(b"".join(map(frames.render, range(first, last))))
            self._recorded.note_tokens(self._encoder.output_tokens)

    async def _wait_until(self, due: float) -> None:
        """A pace is kept on average: what is late is sent at once."""
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    async def _send_head(self, head: Head) -> None:
        if self._head is not None:
            raise ValueError("the head has been sent already")
        self._head = head
        headers = {
            "content-type": head.content_type or self._dialect.content_type,
            "cache-control": "no-cache",
            "x-request-id": f"req_simulated_{self._recorded.number}",
        }
        if head.gzip:
            self._compressor = zlib.compressobj(wbits=_GZIP)
            headers["content-encoding"] = "gzip"
        if head.framing == "chunked":
            headers["transfer-encoding"] = "chunked"
        else:
            self._keep_alive = False
        if not self._keep_alive:
            headers["connection"] = "close"
        await self._write_head(head.status, headers | head.headers)

    async def _write_head(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self._recorded.headers_sent_ns = time.monotonic_ns()
        await self._connection.write(encode_head(status, headers) + body)

    async def _respond(self, step: Respond) -> None:
        body = self._dialect.error_body(step.status) if step.body is None else step.body
        data = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
        headers = {
            "content-type": step.content_type or "application/json",
            "content-length": str(len(data)),
            "x-request-id": f"req_simulated_{self._recorded.number}",
        }
        if not self._keep_alive:
            headers["connection"] = "close"
        self._head = Head()
        await self._write_head(step.status, headers | step.headers, data)
        self._note_whole()

    async def _send_body(self, data: bytes) -> None:
        if self._ended:
            raise ValueError("the body has been ended already")
        if self._head is None:
            await self._send_head(Head())
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        await self._write_framed(data)

    async def _write_framed(self, data: bytes) -> None:
        assert self._head is not None
        for piece in _split(data, self._head.split_bytes):
            if self._head.framing == "chunked":
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            await self._connection.write(piece)

    async def _end(self) -> None:
        if self._ended:
            return
        if self._head is None:
            await self._send_head(Head())
        assert self._head is not None
        if self._compressor is not None:
            await self._write_framed(self._compressor.flush())
        if self._head.framing == "chunked":
            await self._connection.write(b"0\r\n\r\n")
        self._note_whole()

    def _note_whole(self) -> None:
        self._ended = True
        self._recorded.finished_ns = time.monotonic_ns()

    async def _cut(self, *, inside_chunk: bool) -> None:
        if inside_chunk:
            if self._head is None:
                await self._send_head(Head())
            await self._connection.write(b"40\r\ndata: {")
        await self._connection.finish()


def _split(data: bytes, size: int) -> Iterator[bytes]:
    """Pieces of at most `size` bytes; 0: as it is. Nothing of nothing: an empty HTTP chunk would end the body."""
    for start in range(0, len(data), size or len(data) or 1):
        yield data[start : start + (size or len(data))]
