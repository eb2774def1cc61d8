"""The real server in this process, with the simulator as its only upstream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from midstream_server.app import serving
from midstream_server.settings import LocalSettings, Settings, UpstreamSettings
from midstream_simulator import Simulator


class Service(NamedTuple):
    """`target` is what a client connects to; its models are `sim/…`."""

    target: str
    simulator: Simulator


@asynccontextmanager
async def simulated_service() -> AsyncIterator[Service]:
    """Serves until left."""
    async with Simulator() as simulator:
        settings = Settings(
            listen="127.0.0.1:0",
            store="memory:",
            local=LocalSettings(enabled=False),
            upstreams={"sim": UpstreamSettings(dialect="openai-chat", base_url=simulator.base_url)},
        )
        async with serving(settings) as application:
            yield Service(application.address, simulator)
