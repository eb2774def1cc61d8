"""A real server in a process of its own, which can be killed, drained and started again at the same address."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = "midstream.v1.GenerationService"
SERVER_NAME = "localhost"
LEASE_SECONDS = 3
HEARTBEAT_SECONDS = 1
_LISTENING = "midstream listening on "
_START_SECONDS = 55.0


class ServerBroken(Exception):
    """The server did not do what it was told."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Of one server: files of its chain, its key, and the authority that clients trust."""

    chain_file: Path
    key_file: Path
    authority_file: Path

    @classmethod
    def made_in(cls, folder: Path) -> "Certificates":
        """A new authority and a certificate for this machine."""
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", SERVER_NAME)
        made = cls(folder / "server.pem", folder / "server.key", folder / "authority.pem")
        for part in certificate.cert_chain_pems:
            part.write_to_path(str(made.chain_file), append=True)
        certificate.private_key_pem.write_to_path(str(made.key_file))
        authority.cert_pem.write_to_path(str(made.authority_file))
        return made

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """What a client that trusts the authority shows."""
        return grpc.ssl_channel_credentials(self.authority_file.read_bytes())


class ServerProcess:
    """`midstream serve` with one upstream, `sim`; its files in `folder` bear its name."""

    def __init__(
        self, folder: Path, name: str, store: str, upstream_url: str, certificates: Certificates | None
    ) -> None:
        self.name = name
        self._config = folder / f"{name}.toml"
        self.log = folder / f"{name}.log"
        self._certificates = certificates
        self._address = "127.0.0.1:0"
        self._process: asyncio.subprocess.Process | None = None
        self._config.write_text(_configuration(store, upstream_url, certificates))

    @property
    def address(self) -> str:
        """`HOST:PORT`, the same in every life."""
        return self._address

    @property
    def port(self) -> int:
        """Its port."""
        return int(self._address.rpartition(":")[2])

    @property
    def is_alive(self) -> bool:
        """Whether it was started, and has not exited."""
        return self._process is not None and self._process.returncode is None

    @property
    def process_id(self) -> int:
        """Of the life that it is in."""
        return self._running().pid

    async def start(self) -> None:
        """Starts it; once it listens.

        Raises:
            ServerBroken: it does not.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "midstream_server", "serve"),
                *("--config", str(self._config), "--listen", self._address),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("MIDSTREAM_")},
            )
        assert self._process.stdout is not None, "the output is a pipe"
        line = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                line = (await self._process.stdout.readline()).decode().strip()
        if not line.startswith(_LISTENING):
            raise ServerBroken(f"the server did not start: {self.log.read_text(errors='replace')[-2000:]}")
        self._address = line.removeprefix(_LISTENING)

    async def kill(self) -> None:
        """SIGKILL."""
        process = self._running()
        process.kill()
        await process.wait()

    def terminate(self) -> None:
        """SIGTERM."""
        self._running().send_signal(signal.SIGTERM)

    async def is_serving(self) -> bool:
        """Whether its health says so; false, too, if it does not answer."""
        async with self.channel() as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # its types do not know the asynchronous kind
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(request, timeout=_START_SECONDS)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    async def exited(self) -> None:
        """Waits until it has exited by itself.

        Raises:
            ServerBroken: not well.
        """
        if code := await self._running().wait():
            raise ServerBroken(f"the server exited with {code}: {self.log.read_text(errors='replace')[-2000:]}")

    async def stop(self) -> None:
        """Ends it, whatever it does."""
        if self.is_alive:
            await self.kill()

    def channel(self) -> grpc.aio.Channel:
        """A connection of the harness's own."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        if self._certificates is None:
            return grpc.aio.insecure_channel(self._address, options=options)
        return grpc.aio.secure_channel(self._address, self._certificates.channel_credentials(), options=options)

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ServerBroken("the server was not started")
        return self._process


def _configuration(store: str, upstream_url: str, certificates: Certificates | None) -> str:
    lines = [
        f'store = "{store}"',
        *("[log]", 'level = "warning"', "[local]", "enabled = false"),
        *("[replica]", f'lease = "{LEASE_SECONDS}s"', f'heartbeat = "{HEARTBEAT_SECONDS}s"'),
        *("[upstreams.sim]", 'dialect = "openai-chat"', f'base_url = "{upstream_url}"'),
    ]
    if certificates is not None:
        lines += ["[tls]", f'cert_file = "{certificates.chain_file}"', f'key_file = "{certificates.key_file}"']
    return "\n".join(lines) + "\n"
