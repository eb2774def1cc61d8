"""A bad network between a replica and its store: late, silent, or deaf to messages."""

import asyncio
import contextlib
import re
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65536
_SUBSCRIBES = re.compile(rb"\*\d+\r\n\$\d+\r\nS?SUBSCRIBE\r\n")
"""The beginning of a command, as it is sent; a command can also be asked about."""


class StoreProxy:
    """Stands before `port` of this machine, as an async context manager.

    What was on its way when the network fell silent arrives when it is well again, as TCP would have it.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.delay_seconds = 0.0
        """How late the store's answers come."""
        self.is_deaf = False
        """Whether connections that subscribe to channels hear nothing."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"valkey://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def part(self) -> None:
        """Nothing arrives any more, and nothing is closed."""
        self._flows.clear()

    def heal(self) -> None:
        """What waited arrives."""
        self._flows.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="store proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self._target)
            hears = asyncio.Event()
            pumps = {
                asyncio.create_task(self._upward(reader, store_writer, hears)),
                asyncio.create_task(self._downward(store_reader, writer, hears)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                store_writer.close()
        writer.close()

    async def _upward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hears: asyncio.Event) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if _SUBSCRIBES.search(data):
                hears.set()
            await self._flows.wait()
            writer.write(data)
            await writer.drain()

    async def _downward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hears: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._send_late(late, writer))
        try:
            while data := await reader.read(_CHUNK_BYTES):
                if not (self.is_deaf and hears.is_set()):
                    late.put_nowait((loop.time() + self.delay_seconds, data))
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send_late(self, late: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await late.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
