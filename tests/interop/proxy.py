"""A TCP proxy that spreads connections over servers, and loses them on demand. It looks at no byte: TLS passes."""

import asyncio
import contextlib
import itertools
import socket
import struct
from types import TracebackType
from typing import Self

_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Stands before ports of this machine, as an async context manager; `port` is where it listens.

    With two servers, of two connections each gets one, and the server that was second is first for the next two: so the
    connections of one client go to both, and those of the next one the other way round. A server that is not there is
    passed over.
    """

    def __init__(self, *target_ports: int) -> None:
        self.accepted = dict.fromkeys(target_ports, 0)
        self._turns = itertools.cycle((*target_ports, *reversed(target_ports)))
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
        if not self._server.is_serving():  # it was accepted as the proxy ended
            _reset(writer)
            return
        task = asyncio.get_running_loop().create_task(self._serve((reader, writer)), name="interop-proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also of one that is cancelled before it has begun

    async def _serve(self, client: _Ends) -> None:
        server = await self._connected()
        if server is None:
            _reset(client[1])
            return
        self._writers[id(client)] = (client[1], server[1])
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(client[0], server[1]))
                group.create_task(_pump(server[0], client[1]))
        finally:
            self._writers.pop(id(client), None)
            server[1].close()

    async def _connected(self) -> _Ends | None:
        first = next(self._turns)
        for port in (first, *(each for each in self.accepted if each != first)):
            with contextlib.suppress(OSError):
                server = await asyncio.open_connection("127.0.0.1", port)
                self.accepted[port] += 1
                return server
        return None


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
