"""What one runner meets: a server or replicas, the upstream behind, a proxy before, and a server from the future."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from interop.handles import Handles
from interop.proxy import Proxy
from interop.replicas import Replicas, replicas
from interop.scenarios import scripts
from interop.scripted import future_server
from interop.serving import SERVER_NAME, Certificates
from interop.upstream import UpstreamView
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import generation_service_pb2_grpc as service_grpc
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Simulator

_SETTLE_SECONDS = 8.0
_POLL_SECONDS = 0.05
_LIVE = (wire.RUN_STATE_QUEUED, wire.RUN_STATE_RUNNING, wire.RUN_STATE_STOPPING)


class World:
    """All of it. `runner_process_id` is set once there is one."""

    def __init__(self, replicas: Replicas, upstream: UpstreamView, proxy: Proxy, scripted_target: str) -> None:
        self.replicas = replicas
        self.upstream = upstream
        self.proxy = proxy
        self.scripted_target = scripted_target
        self.runner_process_id = 0
        self._marks: dict[str, Handles] = {}

    def configuration(self, certificates: Certificates | None) -> Mapping[str, Any]:
        """What the runner is told about it."""
        tls = {"ca_file": str(certificates.authority_file), "server_name": SERVER_NAME} if certificates else None
        return {
            "target": self.replicas.target,
            "proxy_target": f"127.0.0.1:{self.proxy.port}",
            "scripted_target": self.scripted_target,
            "tls": tls,
            "api_key": None,
            "models": {name: f"sim/{name}" for name in scripts()},
        }

    def mark(self) -> None:
        """Counts what the runner and the server hold."""
        self._marks = self._held()

    async def leaks(self) -> list[str]:
        """What they hold beyond the mark, once that stands still; and what of the runs is still there."""
        deadline = asyncio.get_running_loop().time() + _SETTLE_SECONDS
        while leaks := await self._leaks():
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_POLL_SECONDS)
        return leaks

    async def _leaks(self) -> list[str]:
        found = [leak for owner, held in self._held().items() for leak in held.beyond(self._marks[owner], owner)]
        async with self.replicas.servers[0].channel() as channel:
            stub = service_grpc.GenerationServiceStub(channel)
            for state in _LIVE:
                answer = await stub.ListRuns(service_wire.ListRunsRequest(state=state))
                found += [f"{run.run_id} is {wire.RunState.Name(run.state)}" for run in answer.runs[:3]]
        return found + [f"{run_id} has an open upstream request" for run_id in self.upstream.open_runs()[:3]]

    def _held(self) -> dict[str, Handles]:
        return {
            "runner": Handles.of(self.runner_process_id),
            **{each.name: Handles.of(each.process_id) for each in self.replicas.servers},
        }


@asynccontextmanager
async def world(folder: Path, certificates: Certificates | None, replica_count: int) -> AsyncIterator[World]:
    """Makes one, and ends it."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator())
        for name, script in scripts().items():
            simulator.play(name, script)
        servers = await stack.enter_async_context(replicas(folder, simulator.base_url, certificates, replica_count))
        proxy = await stack.enter_async_context(Proxy(*servers.ports))
        scripted = await stack.enter_async_context(future_server())
        yield World(servers, UpstreamView(simulator), proxy, scripted.target)
