"""`midstream serve --workers N`: several servers of one machine on one port.

This process only keeps them: it holds the port (bound, never listening), starts every worker with the same command
line, starts one again that died, and passes SIGTERM and SIGINT on. The kernel spreads connections over them; a call
that meets the wrong one is settled over the store that they share. A worker that cannot start ends all; one that dies
later is another replica whose runs the others seal.
"""

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from midstream_server.errors import InvalidSettings
from midstream_server.logs import configure_logs
from midstream_server.settings import Settings

LISTENING = "midstream listening on "
SHARED_PORT = "MIDSTREAM_SHARE_PORT"
RESTART_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1

_log = structlog.get_logger(__name__)


def serve(settings: Settings) -> int:
    """Keeps the workers until SIGTERM or SIGINT; the exit code. The address was found to be nobody else's.

    Raises:
        InvalidSettings: the store is not one that processes share, or the address cannot be used.
    """
    if not settings.store.startswith("valkey"):
        raise InvalidSettings(
            "workers: several processes need a store that they share, such as valkey://localhost:6379/0"
        )
    configure_logs(settings.log.level, settings.log.format)
    with _held_port(settings.listen_host, settings.listen_port) as address:
        return asyncio.run(_Keeper(address, settings.workers).run())


@contextmanager
def _held_port(host: str, port: int) -> Iterator[str]:
    """The address with its port, which stays the same while workers come and go."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((host, port))
        except OSError as error:
            raise InvalidSettings(
                f"listen: cannot listen on {host}:{port}; is another process using the port?"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        yield f"{shown}:{holder.getsockname()[1]}"


class _Keeper:
    """The workers of this process."""

    def __init__(self, address: str, count: int) -> None:
        self._address = address
        self._count = count
        self._is_stopping = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def run(self) -> int:
        """Starts them, tells when all can be called, and keeps them until a signal; the worst of their exit codes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        starts = [asyncio.create_task(self._start(worker), name=f"worker {worker}") for worker in range(self._count)]
        if all(await asyncio.gather(*starts)):
            if not self._is_stopping.is_set():
                print(f"{LISTENING}{self._address}", flush=True)
                _log.info("workers.started", address=self._address, workers=self._count)
        else:
            self._stop()
        codes = await asyncio.gather(*(self._keep(worker) for worker in range(self._count)))
        return max(codes, key=abs)

    def _stop(self) -> None:
        """Also the second time: then they end at once."""
        self._is_stopping.set()
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()

    async def _start(self, worker: int) -> bool:
        """Whether it can be called."""
        parent = os.getpid()
        process = self._processes[worker] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "midstream_server", *sys.argv[1:], "--listen", self._address, "--workers", "1"),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {SHARED_PORT: "true"},
            start_new_session=True,
            preexec_fn=lambda: _end_with(parent),
        )
        if self._is_stopping.is_set():
            process.terminate()
        assert process.stdout is not None, "its output is a pipe"
        line = (await process.stdout.readline()).decode()
        return line.startswith(LISTENING)

    async def _keep(self, worker: int) -> int:
        """Starts it again whenever it ends, until all shall end; the exit code of one that could not end well."""
        while True:
            code = await self._processes[worker].wait()
            if self._is_stopping.is_set():
                return 0 if code == -signal.SIGTERM else code  # it was still starting
            _log.error("worker.ended", worker=worker, exit_code=code)
            try:
                async with asyncio.timeout(RESTART_SECONDS):
                    await self._is_stopping.wait()
                return 0
            except TimeoutError:
                await self._start(worker)


def _end_with(parent: int) -> None:
    """In the new process: the kernel is to end it with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
