"""One TCP connection: requests in, bytes out, and who closed it.

Reading goes on all the time, so that a peer's FIN or RST is seen at once, also while the answer stalls or the peer does
not read. A FIN counts as leaving: clients of model APIs do not half-close.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import cast

from midstream_simulator.http_request import BadRequest, HttpRequest, encode_head, take_request
from midstream_simulator.recording import RecordedRequest

_COUNTED_AT_ONCE = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Serve = Callable[["Connection", HttpRequest], Coroutine[None, None, None]]
"""Answers a request; cancelled when the connection closes."""


class Connection(asyncio.Protocol):
    """Serves the requests of a connection, one after the other."""

    def __init__(
        self, serve: Serve, connections: "set[Connection]", failures: list[BaseException], send_buffer_bytes: int | None
    ) -> None:
        self._serve = serve
        self._connections = connections
        self._failures = failures
        self._send_buffer_bytes = send_buffer_bytes
        self._buffer = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self._recorded: list[RecordedRequest] = []
        self._leaving = False
        self.closed = False
        """Whether either side has closed it."""
        self.lost = asyncio.Event()

    # --- For whoever answers -----------------------------------------------------------------------------------------

    def record(self, recorded: RecordedRequest) -> None:
        """What is written from now on belongs to this request."""
        self._recorded.append(recorded)

    async def write(self, data: bytes) -> None:
        """Writes, and waits until the kernel has it all."""
        for start in range(0, len(data), _COUNTED_AT_ONCE):
            piece = data[start : start + _COUNTED_AT_ONCE]
            self._transport.write(piece)
            await self._writable.wait()
            if self._recorded:
                self._recorded[-1].bytes_sent += len(piece)

    async def finish(self) -> None:
        """Closes with a FIN."""
        await self._close(self._transport.close)

    async def reset(self) -> None:
        """Closes with a RST."""
        raw = cast(socket.socket, self._transport.get_extra_info("socket"))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        await self._close(self._transport.abort)

    async def _close(self, close: Callable[[], None]) -> None:
        self._leaving = True
        close()
        await self.lost.wait()

    async def stop(self) -> None:
        """Closes at once; everything is over when it returns."""
        self._leaving = True
        self._transport.abort()
        await self.lost.wait()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Writing blocks as soon as the kernel does not take everything."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        if self._send_buffer_bytes is not None:
            raw = cast(socket.socket, transport.get_extra_info("socket"))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; a pipelined one waits."""
        self._buffer += data
        self._serve_next()

    def eof_received(self) -> None:
        """The peer leaves; what it has not read it does not want."""
        self._note_closed()
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """After a FIN or RST of either side."""
        self._note_closed()
        self._connections.discard(self)
        self.lost.set()

    def pause_writing(self) -> None:
        """The kernel's buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The peer has read."""
        self._writable.set()

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _serve_next(self) -> None:
        if self._task is not None or self.closed:
            return
        try:
            request = take_request(self._buffer)
        except BadRequest:
            self._transport.write(encode_head(400, {"content-length": "0", "connection": "close"}))
            self._leaving = True
            self._transport.close()
            return
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._serve(self, request), name="simulator.answer")
            self._task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()):
            self._failures.append(failure)
            self._transport.abort()
        self._task = None
        self._serve_next()

    def _note_closed(self) -> None:
        if self.closed:
            return
        self.closed = True
        for recorded in self._recorded:
            recorded.note_closed("server" if self._leaving else "client")
        if self._task is not None and not self._leaving:
            self._task.cancel()
