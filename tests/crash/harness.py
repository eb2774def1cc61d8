"""Rounds of: start the server, hold what is left against what was seen, load it, kill it."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import grpc
import grpc.aio

from crash.witness import Broken, Reader, Witness
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import generation_service_pb2_grpc as service_grpc
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Simulator

RESTART_LIMIT_SECONDS = 2.0
_LISTENING = "midstream listening on "
_MODELS = (
    "count-20000-4000",
    "count-2000-400",
    "count-30-200",
    "reason-20-300",
    "stall-3",
    "cut-10",
    "error-frame-8",
    "tool-call-50",
)


@dataclass
class Report:
    """What happened."""

    kills: int = 0
    runs: int = 0
    endings: dict[str, int] = field(default_factory=dict)
    restart_seconds: list[float] = field(default_factory=list)
    reader_bytes: int = 0

    def lines(self) -> Sequence[str]:
        """For a person."""
        restarts = sorted(self.restart_seconds)
        return (
            f"{self.kills} kills, {self.runs} runs seen, {self.reader_bytes} bytes read, 0 lost",
            f"endings: {', '.join(f'{name} {count}' for name, count in sorted(self.endings.items()))}",
            f"restart to listening: median {restarts[len(restarts) // 2]:.2f} s, maximum {restarts[-1]:.2f} s",
        )


class Harness:
    """One store, many servers."""

    def __init__(self, folder: Path, seed: int, upstream_url: str) -> None:
        self._random = random.Random(seed)
        self._store = folder / "runs.db"
        self._config = folder / "midstream.toml"
        self._config.write_text(
            f'listen = "127.0.0.1:0"\nstore = "sqlite:///{self._store}"\n[log]\nlevel = "error"\n'
            f'[local]\nenabled = false\n[upstreams.up]\ndialect = "openai-chat"\nbase_url = "{upstream_url}"\n'
        )
        self._witnesses: dict[str, Witness] = {}
        self.report = Report()

    async def round(self) -> None:
        """One server's life.

        Raises:
            Broken: a promise was not kept.
        """
        process, address = await self._start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                stub = service_grpc.GenerationServiceStub(channel)
                await self._verify(stub)
                load = asyncio.create_task(self._load(stub))
                await asyncio.sleep(self._random.uniform(0.02, 1.0))
                process.send_signal(signal.SIGKILL)
                await process.wait()
                await load
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self.report.kills += 1

    async def finish(self) -> None:
        """The last restart, the last look, and the store's own check.

        Raises:
            Broken: a promise was not kept.
        """
        process, address = await self._start()
        async with grpc.aio.insecure_channel(address) as channel:
            await self._verify(service_grpc.GenerationServiceStub(channel), everything=True)
        process.send_signal(signal.SIGTERM)
        if await process.wait():
            raise Broken("the server did not end well")
        for (verdict,) in apsw.Connection(str(self._store)).execute("pragma integrity_check"):
            if verdict != "ok":
                raise Broken(f"integrity_check: {verdict}")
        for witness in self._witnesses.values():
            if witness.ending is not None:
                name = wire.RunState.Name(witness.ending.state).removeprefix("RUN_STATE_")
                self.report.endings[name] = self.report.endings.get(name, 0) + 1
                self.report.reader_bytes += sum(
                    len(payload) for reader in witness.readers for payload in reader.parts.values()
                )
        self.report.runs = sum(self.report.endings.values())

    async def _start(self) -> tuple[asyncio.subprocess.Process, str]:
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "midstream_server", "serve", "--config", str(self._config)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None, "the output is a pipe"
        line = (await process.stdout.readline()).decode().strip()
        if not line.startswith(_LISTENING):
            raise Broken("the server did not start again")
        self.report.restart_seconds.append(time.monotonic() - started)
        return process, line.removeprefix(_LISTENING)

    async def _verify(self, stub: "service_grpc.GenerationServiceAsyncStub", *, everything: bool = False) -> None:
        seen = [witness for witness in self._witnesses.values() if witness.was_seen]
        wanted = [witness for witness in seen if everything or witness.ending is None]
        settled = [witness for witness in seen if witness.ending is not None]
        wanted += self._random.sample(settled, min(10, len(settled)))
        for witness in wanted:
            witness.check(await stub.GetRun(service_wire.GetRunRequest(run_id=witness.run_id)))
        live = await stub.ListRuns(service_wire.ListRunsRequest(state=wire.RUN_STATE_RUNNING))
        if live.runs:
            raise Broken(f"{live.runs[0].run_id} is listed as RUNNING after a restart")

    # --- Load --------------------------------------------------------------------------------------------------------

    async def _load(self, stub: "service_grpc.GenerationServiceAsyncStub") -> None:
        """Callers that start, watch, ask and cancel until the server is gone."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._random.randint(3, 16)):
                witness = Witness(f"run-{len(self._witnesses)}")
                self._witnesses[witness.run_id] = witness
                group.create_task(_quietly(self._start_run(stub, witness)))
                if self._random.random() < 0.5:
                    group.create_task(_quietly(self._watch(stub, witness)))
                if self._random.random() < 0.3:
                    group.create_task(_quietly(self._cancel(stub, witness)))
                if self._random.random() < 0.3:
                    group.create_task(_quietly(self._ask(stub, witness)))
                await asyncio.sleep(self._random.uniform(0, 0.03))

    async def _start_run(self, stub: "service_grpc.GenerationServiceAsyncStub", witness: Witness) -> None:
        part = wire.Part(text=wire.Text(text="hi"))
        request = service_wire.GenerateRequest(
            run_id=witness.run_id,
            model=f"up/{self._random.choice(_MODELS)}",
            messages=[wire.Message(role=wire.ROLE_USER, parts=[part])],
            on_detach=wire.DetachPolicy(action=self._random.choice(wire.DetachPolicy.Action.values()[1:3])),
        )
        reader = Reader()
        witness.readers.append(reader)
        async for event in stub.Generate(request):
            reader.take(event)

    async def _watch(self, stub: "service_grpc.GenerationServiceAsyncStub", witness: Witness) -> None:
        await asyncio.sleep(self._random.uniform(0, 0.2))
        reader = Reader()
        witness.readers.append(reader)
        async for event in stub.WatchRun(service_wire.WatchRunRequest(run_id=witness.run_id)):
            reader.take(event)

    async def _cancel(self, stub: "service_grpc.GenerationServiceAsyncStub", witness: Witness) -> None:
        await asyncio.sleep(self._random.uniform(0, 0.3))
        answer = await stub.Cancel(service_wire.CancelRequest(run_id=witness.run_id, reason="test"))
        witness.answers.append(answer.run)

    async def _ask(self, stub: "service_grpc.GenerationServiceAsyncStub", witness: Witness) -> None:
        await asyncio.sleep(self._random.uniform(0, 0.3))
        witness.answers.append(await stub.GetRun(service_wire.GetRunRequest(run_id=witness.run_id)))


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """Work that the kill may end: what it saw until then counts."""
    try:
        await work
    except grpc.aio.AioRpcError as error:
        expected = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED)
        if error.code() not in expected:
            raise Broken(f"{error.code()}: {error.details()}") from error


async def crash(folder: Path, kills: int, seed: int) -> Report:
    """Kills a server so many times.

    Raises:
        Broken: a promise was not kept; the seed reproduces the load, though not the scheduler's moments.
    """
    async with Simulator() as simulator:
        harness = Harness(folder, seed, simulator.base_url)
        for _ in range(kills):
            await harness.round()
        await harness.finish()
        return harness.report
