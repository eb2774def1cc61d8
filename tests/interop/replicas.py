"""The servers that stand for one: a single one, or replicas on one store, which live and die together."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from interop.proxy import Proxy
from interop.serving import Certificates, ServerBroken, ServerProcess
from valkey_server import single_server

_POLL_SECONDS = 0.02


class Replicas:
    """All of them, and one `target` that reaches each in turn; `connections` counts them by replica."""

    def __init__(self, servers: Sequence[ServerProcess], proxy: Proxy | None) -> None:
        self.servers = servers
        self.target = f"127.0.0.1:{proxy.port}" if proxy else servers[0].address
        self.connections: Collection[int] = proxy.accepted.values() if proxy else ()

    @property
    def ports(self) -> Sequence[int]:
        """Where each of them listens, in every life."""
        return [each.port for each in self.servers]

    def log(self) -> str:
        """What they said."""
        return "".join(each.log.read_text(errors="replace") for each in self.servers)

    async def kill(self) -> None:
        """SIGKILL and a new life, one after the other: no run that was live keeps its owner."""
        for server in self.servers:
            await server.kill()
            await server.start()

    async def drain(self) -> None:
        """SIGTERM for all; once none is left but the one that has a run to wait for, and its health says so.

        Raises:
            ServerBroken: none has a run to wait for, and all have exited.
        """
        for server in self.servers:
            server.terminate()
        while alive := [each for each in self.servers if each.is_alive]:
            if len(alive) == 1 and not await alive[0].is_serving() and alive[0].is_alive:
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise ServerBroken("no server had a run to wait for, and all have exited")

    async def start(self) -> None:
        """Once all have exited by themselves, their next life.

        Raises:
            ServerBroken: one did not exit well, or does not start.
        """
        for server in self.servers:
            await server.exited()
        await _start(self.servers)


@asynccontextmanager
async def replicas(
    folder: Path, upstream_url: str, certificates: Certificates | None, count: int
) -> AsyncIterator[Replicas]:
    """One server on a file, or several on a Valkey of their own behind a proxy that spreads connections."""
    async with AsyncExitStack() as stack:
        store = f"sqlite:///{folder / 'runs.db'}"
        if count > 1:
            store = stack.enter_context(single_server()).url
        names = ["server"] if count == 1 else [f"server {number}" for number in range(1, count + 1)]
        servers = [ServerProcess(folder, name, store, upstream_url, certificates) for name in names]
        for server in servers:
            stack.push_async_callback(server.stop)
        await _start(servers)
        proxy = None
        if count > 1:
            proxy = await stack.enter_async_context(Proxy(*(each.port for each in servers)))
        yield Replicas(servers, proxy)


async def _start(servers: Sequence[ServerProcess]) -> None:
    for failure in await asyncio.gather(*(each.start() for each in servers), return_exceptions=True):
        if failure is not None:
            raise failure
