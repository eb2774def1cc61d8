"""The composition root: the only place that knows every concrete class.

Start: logs, store, upstreams, supervisor (recovers), server, health. Stop, in this order, each safe to repeat: health
NOT_SERVING and new runs refused; live runs may finish for the drain time; the rest is sealed; readers get their ending;
the server stops; upstreams, the local engine and the store are closed. A second signal skips the waits.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
import uuid_utils
import uvloop

from midstream_server.assembly import Upstreams, assemble_upstreams
from midstream_server.clock import SystemClock
from midstream_server.engine.supervisor import Supervisor, SupervisorOptions
from midstream_server.errors import InvalidSettings, MidstreamError
from midstream_server.logs import configure_logs, log_loop_error
from midstream_server.rpc.server import RpcServer
from midstream_server.rpc.servicer import GenerationServicer, ServicerOptions
from midstream_server.rpc.tls import TlsFiles, server_credentials
from midstream_server.settings import Settings
from midstream_server.stores.base import RunStore
from midstream_server.stores.memory import MemoryRunStore
from midstream_server.stores.sqlite import SqliteRunStore

READERS_LAST_SECONDS = 1.5
"""How long readers may take to read the ending of their run when the server stops."""
ANSWERS_LAST_SECONDS = 0.25
"""How long other calls may then take to be answered."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A server that is serving."""

    port: int
    address: str
    supervisor: Supervisor
    upstreams: Upstreams
    server: RpcServer

    async def report_store(self, is_available: bool) -> None:
        """Makes the service NOT_SERVING while the store is away."""
        self.server.set_serving(is_available and not self.supervisor.is_draining)

    async def drain(self, seconds: float, hurry: asyncio.Event) -> None:
        """Refuses new runs and waits for the live ones. Everything else is still served."""
        self.server.set_serving(False)
        _log.info("server.draining", live_runs=self.supervisor.live_runs)
        await self.supervisor.drain(seconds, hurry)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Application]:
    """A server that can be called; leaving stops it and seals what is live.

    Raises:
        MidstreamError: it cannot start; says which setting or part is the cause.
    """
    credentials = server_credentials(TlsFiles(**settings.tls.model_dump()))
    async with AsyncExitStack() as stack:
        upstreams = await stack.enter_async_context(assemble_upstreams(settings))
        supervisor = await stack.enter_async_context(
            Supervisor(
                make_store(settings),
                upstreams.registry,
                SystemClock(),
                new_id,
                SupervisorOptions(
                    replica=f"{socket.gethostname()}:{os.getpid()}:{new_id()}",
                    max_live_runs=settings.max_live_runs,
                    max_run_seconds=settings.max_run_time,
                    lease_seconds=settings.replica.lease,
                    heartbeat_seconds=settings.replica.heartbeat,
                    monotonic=time.monotonic,
                    max_drains=settings.max_drains,
                ),
            )
        )
        servicer = GenerationServicer(supervisor, new_id, ServicerOptions(default_retention_seconds=settings.retention))
        server = RpcServer(servicer, new_id, share_port=settings.share_port)
        port = await server.start(settings.listen_host, settings.listen_port, credentials)
        stack.push_async_callback(server.stop, ANSWERS_LAST_SECONDS)
        stack.push_async_callback(supervisor.wait_for_readers, READERS_LAST_SECONDS)
        stack.push_async_callback(supervisor.seal_all)
        host = f"[{settings.listen_host}]" if ":" in settings.listen_host else settings.listen_host
        application = Application(
            port=port, address=f"{host}:{port}", supervisor=supervisor, upstreams=upstreams, server=server
        )
        supervisor.watch_store(application.report_store)
        yield application


def make_store(settings: Settings) -> RunStore:
    """The store of these settings.

    Raises:
        InvalidSettings: there is no such store.
    """
    if settings.store == "memory:":
        return MemoryRunStore()
    if settings.sqlite_path is not None:
        return SqliteRunStore(settings.sqlite_path, durability=settings.durability)
    from midstream_server.stores.valkey import ValkeyRunStore  # its driver takes long to import, and most need none

    return ValkeyRunStore(settings.store, durability=settings.durability, lease_seconds=settings.replica.lease)


def new_id() -> str:
    """A UUIDv7."""
    return str(uuid_utils.uuid7())


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; the exit code: 2 if a setting is wrong, 1 if something else is."""
    configure_logs(settings.log.level, settings.log.format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except MidstreamError as error:
        print(f"midstream: {error.message} ({error.reason})", file=sys.stderr)
        return 2 if isinstance(error, InvalidSettings) else 1
    return 0


async def _serve(settings: Settings) -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with serving(settings) as application:
        gc.freeze()  # what was imported stays: looking through it for garbage would stop the loop for 50 ms
        print(f"midstream listening on {application.address}", flush=True)
        _log.info("server.started", address=application.address, store=settings.store_shown)
        await stop.wait()
        await application.drain(settings.drain_seconds, hurry)
    _log.info("server.stopped")
