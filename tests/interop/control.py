"""How a runner moves its world: HTTP with JSON, as PROTOCOL.md says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from interop.serving import ServerBroken
from interop.world import World
from midstream_simulator import GateNotReached

_WAIT_SECONDS = 10.0
_START_SECONDS = 60.0
_Answer = dict[str, Any]


@asynccontextmanager
async def control(world: World) -> AsyncIterator[str]:
    """Serves until left; its address."""
    runner = web.AppRunner(_application(_Control(world)), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class _Control:
    """A method for each path."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def see(self, body: _Answer) -> _Answer:
        return self._world.upstream.see(body["run_id"])

    async def arrived(self, body: _Answer) -> _Answer:
        await self._world.upstream.arrived(body["run_id"])
        return await self.see(body)

    async def reached(self, body: _Answer) -> _Answer:
        await self._world.upstream.reached(body["run_id"], body["gate"])
        return await self.see(body)

    async def open(self, body: _Answer) -> _Answer:
        await self._world.upstream.open(body["run_id"], body["gate"])
        return await self.see(body)

    async def closed(self, body: _Answer) -> _Answer:
        await self._world.upstream.closed(body["run_id"])
        return await self.see(body)

    async def cut(self, body: _Answer) -> _Answer:
        return {"connections": self._world.proxy.cut()}

    async def kill(self, body: _Answer) -> _Answer:
        await self._world.replicas.kill()
        return {}

    async def drain(self, body: _Answer) -> _Answer:
        await self._world.replicas.drain()
        return {}

    async def start(self, body: _Answer) -> _Answer:
        await self._world.replicas.start()
        return {}

    async def mark(self, body: _Answer) -> _Answer:
        self._world.mark()
        return {}

    async def check(self, body: _Answer) -> _Answer:
        return {"leaks": await self._world.leaks()}


def _application(control: _Control) -> web.Application:
    application = web.Application()
    for path, answer in {
        "/upstream/see": control.see,
        "/upstream/arrived": control.arrived,
        "/upstream/reached": control.reached,
        "/upstream/open": control.open,
        "/upstream/closed": control.closed,
        "/proxy/cut": control.cut,
        "/leaks/mark": control.mark,
        "/leaks/check": control.check,
    }.items():
        application.router.add_post(path, _handler(answer, _WAIT_SECONDS))
    for path, answer in {
        "/server/kill": control.kill,
        "/server/drain": control.drain,
        "/server/start": control.start,
    }.items():
        application.router.add_post(path, _handler(answer, _START_SECONDS))
    return application


def _handler(
    answer: Callable[[_Answer], Awaitable[_Answer]], seconds: float
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        try:
            async with asyncio.timeout(seconds):
                return web.json_response(await answer(body))
        except TimeoutError:
            return web.json_response({"error": f"{request.path} {body}: not so within {seconds:.0f} s"}, status=504)
        except KeyError as error:
            return web.json_response({"error": f"{request.path}: {error} is missing in {body}"}, status=400)
        except (GateNotReached, ServerBroken) as error:
            return web.json_response({"error": f"{request.path} {body}: {error}"}, status=409)

    return handle
