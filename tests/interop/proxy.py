"""A TCP proxy that loses its connections on demand. It looks at no byte, so it may carry TLS."""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class LossyProxy:
    """Stands before a port of this machine, as an async context manager; `port` is where it listens."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: dict[int, tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> int:
        """Loses every connection; how many there were."""
        lost = list(self._writers.values())
        self._writers.clear()
        for pair in lost:
            for writer in pair:
                _reset(writer)
        return len(lost)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve((reader, writer)), name="interop-proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: _Ends) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(client[1])
            return
        self._writers[id(client)] = (client[1], server[1])
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(client[0], server[1]))
                group.create_task(_pump(server[0], client[1]))
        finally:
            self._writers.pop(id(client), None)
            client[1].close()
            server[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with RST, as a peer that is gone would."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
