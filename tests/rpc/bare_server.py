"""A server of grpc.aio's with nothing of ours in it: what the facts are measured on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

SERVICE = "bare.Service"
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
MESSAGE = b"x" * 100
PATIENCE_SECONDS = 10.0
QUIET_SECONDS = 0.3
"""So long nothing happens where nothing is to happen."""
SLICES = 10

Options = tuple[tuple[str, int], ...]


class Notes:
    """What a handler has seen, in order; a test waits for it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._news = asyncio.Event()

    def add(self, note: Any) -> None:
        """Adds a note. Synchronous: a handler that is being ended may not await."""
        self.seen.append(note)
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, *notes: Any) -> None:
        """Waits until these are among what was seen."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(note in self.seen for note in notes):
                await self._news.wait()

    async def count(self, number: int) -> None:
        """Waits until so much was seen."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.seen) < number:
                await self._news.wait()

    async def settle(self, seconds: float) -> int:
        """Waits until nothing more is seen for a time; how much was.

        The time counts in slices: a process that did not run for so long has not been quiet.
        """
        quiet = 0
        while quiet < SLICES:
            before = len(self.seen)
            await asyncio.sleep(seconds / SLICES)
            quiet = quiet + 1 if len(self.seen) == before else 0
        return len(self.seen)


@asynccontextmanager
async def bare_server(
    *,
    stream: Callable[..., Any] | None = None,
    unary: Callable[..., Awaitable[bytes]] | None = None,
    options: Options = (),
    **server_options: Any,
) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    """A server with one method of each kind, and its address."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0), *options), **server_options)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    if stream is not None:
        handlers["Stream"] = grpc.unary_stream_rpc_method_handler(stream)
    if unary is not None:
        handlers["Unary"] = grpc.unary_unary_rpc_method_handler(unary)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def connected(target: str, *options: tuple[str, int], is_shared: bool = False) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with a connection of its own, unless it is to share that of others like it."""
    own = () if is_shared else (OWN_CONNECTION,)
    async with grpc.aio.insecure_channel(target, options=(*own, *options)) as channel:
        yield channel


def call_stream(channel: grpc.aio.Channel, timeout: float | None = None) -> Any:
    """Calls the streaming method."""
    method: Any = channel.unary_stream(f"/{SERVICE}/Stream")
    return method(b"", timeout=timeout)


def call_unary(channel: grpc.aio.Channel, timeout: float | None = None) -> Any:
    """Calls the unary method."""
    method: Any = channel.unary_unary(f"/{SERVICE}/Unary")
    return method(b"", timeout=timeout)
