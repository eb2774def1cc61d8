"""A TCP proxy that loses connections on demand, at any event of a gRPC stream."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

_DATA = 0
_FRAME_HEAD = 9
_MESSAGE_HEAD = 5


class TcpProxy:
    """Stands between a client and `target` (`host:port`), as an async context manager.

    `address` is what the client connects to. `cuts` counts the connections that were lost so far.
    """

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[_Link] = set()
        self._is_refusing = False
        self._accepted = asyncio.Event()
        self._flows = asyncio.Event()
        self._flows.set()
        self.cut_after: int | None = None
        """Lose the next connection that carried so many messages to the client. 0: before its first answer."""
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for link in tuple(self._links):
            link.reset()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Loses every connection at once."""
        for link in tuple(self._links):
            link.cut()

    def freeze(self) -> None:
        """Forwards nothing any more, and closes nothing: the peers are there, and silent."""
        self._flows.clear()

    async def may_forward(self) -> None:
        """Waits while nothing is forwarded."""
        await self._flows.wait()

    def refuse(self, *, is_refusing: bool = True) -> None:
        """Loses every new connection too, until told otherwise."""
        self._is_refusing = is_refusing
        if is_refusing:
            self.cut()

    async def refused(self) -> None:
        """Waits for the next connection that is refused."""
        self._accepted.clear()
        await self._accepted.wait()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing or not self._server.is_serving():  # it may be accepted as the proxy ends
            _reset(writer)
            self._accepted.set()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="proxy-link")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also of one that is cancelled before it has begun

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(self._host, self._port)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, (reader, writer), upstream)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            link.close()


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection of a client, and the one that it stands for."""

    def __init__(self, proxy: TcpProxy, client: _Ends, upstream: _Ends) -> None:
        self._proxy = proxy
        self._client_reader, self._client_writer = client
        self._upstream_reader, self._upstream_writer = upstream
        self._messages: dict[int, bytearray] = {}
        self._count = 0

    async def run(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with asyncio.TaskGroup() as group:
                group.create_task(_ignoring_loss(self._upward()))
                group.create_task(_ignoring_loss(self._downward()))

    def cut(self) -> None:
        self._proxy.cuts += 1
        self.reset()

    def reset(self) -> None:
        _reset(self._client_writer)
        _reset(self._upstream_writer)

    def close(self) -> None:
        self._client_writer.close()
        self._upstream_writer.close()

    async def _upward(self) -> None:
        while data := await self._client_reader.read(65536):
            await self._proxy.may_forward()
            self._upstream_writer.write(data)
            await self._upstream_writer.drain()
        self._upstream_writer.close()

    async def _downward(self) -> None:
        """Frame by frame, so that the connection can be lost after any message, though several share a frame."""
        while True:
            head = await self._upstream_reader.readexactly(_FRAME_HEAD)
            payload = await self._upstream_reader.readexactly(int.from_bytes(head[:3], "big"))
            await self._proxy.may_forward()
            stream_id = int.from_bytes(head[5:], "big")
            keep = self._bytes_before_the_cut(head[3], stream_id, payload)
            if keep is None:
                self._client_writer.write(head + payload)
                await self._client_writer.drain()
                continue
            if keep:
                self._client_writer.write(keep.to_bytes(3, "big") + head[3:4] + b"\0" + head[5:] + payload[:keep])
                await self._client_writer.drain()
            self._proxy.cut_after = None
            self.cut()
            return

    def _bytes_before_the_cut(self, frame_type: int, stream_id: int, payload: bytes) -> int | None:
        """How much of the payload comes before the cut; None if the cut is not here."""
        limit = self._proxy.cut_after
        if limit == 0 and stream_id:
            return 0
        if frame_type != _DATA:
            return None
        buffered = self._messages.setdefault(stream_id, bytearray())
        already = len(buffered)
        buffered += payload
        consumed = 0
        while (size := _message_size(buffered)) is not None:
            del buffered[:size]
            consumed += size
            self._count += 1
            if limit is not None and self._count >= limit:
                return consumed - already
        return None


def _message_size(buffered: bytearray) -> int | None:
    """The size of the first gRPC message with its head, if it is whole."""
    if len(buffered) < _MESSAGE_HEAD:
        return None
    size = _MESSAGE_HEAD + int.from_bytes(buffered[1:_MESSAGE_HEAD], "big")
    return size if len(buffered) >= size else None


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST, as a peer that is gone would."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _ignoring_loss(pump: Coroutine[None, None, None]) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await pump
