"""Replicas as processes of their own, and a way to call each."""

import asyncio
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc.aio

from command_line import LISTENING, command, environment
from midstream.v1 import generation_service_pb2_grpc as service_grpc

if TYPE_CHECKING:
    Stub = service_grpc.GenerationServiceAsyncStub

_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    """One server process."""

    process: asyncio.subprocess.Process
    channel: grpc.aio.Channel
    stub: "Stub"
    log: Path

    @property
    def is_alive(self) -> bool:
        """Whether nobody killed it."""
        return self.process.returncode is None

    async def kill(self) -> None:
        """As by kill -9."""
        self.process.kill()
        await self.process.wait()

    def pause(self) -> None:
        """It lives, and does nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)


class Fleet:
    """Replicas on one store and one upstream `up`; an async context manager that kills what is left."""

    def __init__(
        self,
        folder: Path,
        store: str,
        upstream_url: str,
        *,
        durability: str = "process",
        lease_seconds: float = 6.0,
        heartbeat_seconds: float = 2.0,
    ) -> None:
        self._folder = folder
        self._store = store
        self._settings = (
            f'listen = "127.0.0.1:0"\ndurability = "{durability}"\nlocal.enabled = false\n[log]\nlevel = "info"\n'
            f'[replica]\nlease = "{lease_seconds}s"\nheartbeat = "{heartbeat_seconds}s"\n'
            f'[upstreams.up]\ndialect = "openai-chat"\nbase_url = "{upstream_url}"\nidle_timeout = "10m"\n'
        )
        self.replicas: list[Replica] = []
        self.lease_seconds = lease_seconds
        self.heartbeat_seconds = heartbeat_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for replica in self.replicas:
            if replica.is_alive:
                await replica.kill()
            await replica.channel.close()

    @property
    def alive(self) -> list[Replica]:
        """Those that nobody killed."""
        return [replica for replica in self.replicas if replica.is_alive]

    async def add(self, count: int = 1) -> list[Replica]:
        """So many more, started at once."""
        return list(await asyncio.gather(*(self.start(self._store) for _ in range(count))))

    async def start(self, store: str) -> Replica:
        """One more, which reaches the store by an address of its own."""
        name = f"replica-{len(self.replicas)}-{len(list(self._folder.glob('*.toml')))}"
        config, log = self._folder / f"{name}.toml", self._folder / f"{name}.log"
        config.write_text(f'store = "{store}"\n{self._settings}')
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command("serve", "--config", str(config)),
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment({"NO_COLOR": "1"}),
            )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith(LISTENING), log.read_text()[-2000:]
        channel = grpc.aio.insecure_channel(line.removeprefix(LISTENING).strip(), options=_OWN_CONNECTION)
        stub = service_grpc.GenerationServiceStub(channel)
        replica = Replica(process=process, channel=channel, stub=stub, log=log)
        self.replicas.append(replica)
        return replica
