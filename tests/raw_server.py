"""A TCP server for tests that decide themselves what is sent, byte by byte, and see when the client hangs up."""

import asyncio
import json
import socket
import ssl
import struct
from typing import Any, cast

from typing_extensions import override

PATIENCE_SECONDS = 5.0


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def head(status: str = "200 OK", **headers: str) -> bytes:
    """The head of an answer; a keyword `content_type` is the header `content-type`."""
    fields = {"content_type": "text/event-stream", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def stream_head(**headers: str) -> bytes:
    """The head of a chunked stream."""
    return head(transfer_encoding="chunked", **headers)


def whole(status: str, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """A whole answer with its length."""
    return head(status, content_type=content_type, content_length=str(len(body)), **headers) + body


def text_event(text: str, finish: str | None = None) -> bytes:
    """A Chat Completions event with a piece of text."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "chat-1", "model": "m", "choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


class RawConnection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: "RawServer") -> None:
        self._server = server
        self._received = bytearray()
        self._news = asyncio.Event()
        self.gone = asyncio.Event()
        """The client has closed, or reset, the connection."""
        self.transport: asyncio.Transport

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self._server.arrived(self)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        self._news.set()

    @override
    def eof_received(self) -> bool:
        self.gone.set()
        return False

    @override
    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """The next request: its first line, its headers by lower-case name, its body."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (parsed := self._parse()) is None:
                self._news.clear()
                await self._news.wait()
        return parsed

    def _parse(self) -> tuple[str, dict[str, str], bytes] | None:
        top, separator, rest = bytes(self._received).partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", "0")) if separator else 0
        if not separator or len(rest) < size:
            return None
        del self._received[: len(top) + 4 + size]
        return first, headers, rest[:size]

    async def json(self) -> Any:
        """The next request's body."""
        return json.loads((await self.request())[2])

    def send(self, data: bytes) -> None:
        """Sends bytes now."""
        self.transport.write(data)

    def hold_little(self) -> None:
        """The system keeps no more than 64 KiB of what was sent; how much the client's side takes is up to that."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)

    def finish(self) -> None:
        """Closes in good order: a FIN after what was sent."""
        self.transport.close()

    def reset(self) -> None:
        """Closes with a reset."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def hung_up(self) -> None:
        """Waits until the client has closed the connection; fails if it does not."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.gone.wait()


class RawServer:
    """Listens on a free port of this machine."""

    def __init__(self) -> None:
        self._arrivals: asyncio.Queue[RawConnection] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._scheme = "http"
        self.port = 0
        self.connections: list[RawConnection] = []

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Begins to listen."""
        self._scheme = "https" if tls else "http"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: RawConnection(self), "127.0.0.1", 0, ssl=tls)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Closes everything."""
        assert self._server is not None
        self._server.close()
        for connection in self.connections:
            connection.transport.abort()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{self._scheme}://127.0.0.1:{self.port}/v1"

    def arrived(self, connection: RawConnection) -> None:
        """Called by a new connection."""
        self.connections.append(connection)
        self._arrivals.put_nowait(connection)

    async def accept(self) -> RawConnection:
        """The next connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._arrivals.get()
