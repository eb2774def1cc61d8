"""What a delta costs the store: calls, commands and bytes, as the number of concurrent runs grows.

The writer is the engine's rule, one append in flight and everything that arrives meanwhile in the next, on the real
store and a real server of its own.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import uvloop

from midstream_server.model import DetachPolicy, RunKey, RunState
from midstream_server.stores.base import Append, RunStore, StartRun, frame
from midstream_server.stores.sqlite import SqliteRunStore
from midstream_server.stores.valkey import ValkeyRunStore
from valkey_server import ValkeyServer, cluster_servers, single_server

ENTRY = b"x" * 60
"""About one delta of one token, encoded."""
LOADS = ((10, 50), (100, 50), (1000, 5))
"""Concurrent runs, and deltas a second of each."""
SECONDS = 4.0
COLUMNS = (
    "store",
    "runs x deltas/s",
    "appends/delta",
    "scripts/delta",
    "commands/delta",
    "bytes in/delta",
    "CPU us/delta",
    "store CPU us/delta",
    "p50 / p99 ms",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What servers have done so far."""

    scripts: int = 0
    commands: int = 0
    bytes_in: int = 0
    cpu_seconds: float = 0.0

    def since(self, before: "Counters") -> "Counters":
        """What they did in between."""
        return Counters(
            scripts=self.scripts - before.scripts,
            commands=self.commands - before.commands,
            bytes_in=self.bytes_in - before.bytes_in,
            cpu_seconds=self.cpu_seconds - before.cpu_seconds,
        )


class Load:
    """Runs that make deltas at an even pace, and the writer that appends them."""

    def __init__(self, store: RunStore, runs: int, rate: int) -> None:
        self._store = store
        self._rate = rate
        self._keys = [RunKey("bench", f"{runs}-{number}") for number in range(runs)]
        self._last = dict.fromkeys(self._keys, 1)
        self._pending: dict[RunKey, list[float]] = {}
        self._wake = asyncio.Event()
        self.appends = 0
        self.delays: list[float] = []

    async def start(self) -> None:
        """Starts the runs."""
        for key in self._keys:
            await self._store.start(_start_of(key))

    async def run(self) -> None:
        """Makes deltas for a while; returns when all are in the store."""
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(self._write())
            await self._produce()
            while self._pending:
                self._wake.set()
                await asyncio.sleep(0.01)
            writer.cancel()

    async def _produce(self) -> None:
        loop = asyncio.get_running_loop()
        began, interval = loop.time(), 1 / (len(self._keys) * self._rate)
        for number in range(round(SECONDS / interval)):
            if (wait := began + number * interval - loop.time()) > 0:
                await asyncio.sleep(wait)
            self._pending.setdefault(self._keys[number % len(self._keys)], []).append(time.perf_counter())
            self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            pending, self._pending = self._pending, {}
            if not pending:
                continue
            results = await self._store.append([self._append(key, len(times)) for key, times in pending.items()])
            assert all(result.accepted for result in results)
            now = time.perf_counter()
            self.appends += 1
            for key, times in pending.items():
                self._last[key] += 1
                self.delays += [now - each for each in times]

    def _append(self, key: RunKey, deltas: int) -> Append:
        """Deltas that waited together are one entry."""
        last = self._last[key]
        entries = frame([ENTRY * deltas])
        return Append(key=key, epoch=1, expected_last_sequence=last, last_sequence=last + 1, entries=entries)


def measure(stores: Sequence[str]) -> str:
    """A table of all loads on these stores."""
    rows = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    for name in stores:
        with _servers(name) as servers, tempfile.TemporaryDirectory() as folder:
            for runs, rate in LOADS:
                rows.append(uvloop.run(_row(name, servers, Path(folder, f"{runs}.db"), runs, rate)))
    return "\n".join(rows)


async def _row(name: str, servers: Sequence[ValkeyServer], path: Path, runs: int, rate: int) -> str:
    store: RunStore = SqliteRunStore(path, durability="process")
    if servers:
        store = ValkeyRunStore(servers[0].url, durability="process", lease_seconds=6.0)
    await store.open()
    load = Load(store, runs, rate)
    await load.start()
    before, cpu = _counters(servers), time.process_time()
    await load.run()
    cpu = time.process_time() - cpu
    done, deltas = _counters(servers).since(before), len(load.delays)
    await store.close()
    cuts = quantiles(load.delays, n=100)
    per_delta = [load.appends / deltas, done.scripts / deltas, done.commands / deltas]
    counts = [f"{each:.3f}" for each in per_delta] + [f"{done.bytes_in / deltas:.0f}"]
    store_cpu = f"{done.cpu_seconds * 1e6 / deltas:.0f}"
    if not servers:
        counts[1:], store_cpu = ["-"] * 3, "-"
    cells = [name, f"{runs} x {rate}", *counts, f"{cpu * 1e6 / deltas:.0f}", store_cpu]
    return f"| {' | '.join(cells)} | {cuts[49] * 1e3:.2f} / {cuts[98] * 1e3:.1f} |"


@contextmanager
def _servers(name: str) -> Iterator[Sequence[ValkeyServer]]:
    if name == "valkey":
        with single_server() as server:
            yield [server]
    elif name == "valkey-cluster":
        with cluster_servers() as servers:
            yield servers
    else:
        yield []


def _counters(servers: Sequence[ValkeyServer]) -> Counters:
    scripts = commands = bytes_in = 0
    cpu_seconds = 0.0
    for server in servers:
        calls = {name: each["calls"] for name, each in server.client.info("commandstats").items()}
        scripts += calls.get("cmdstat_evalsha", 0)
        commands += sum(count for name, count in calls.items() if name not in ("cmdstat_info", "cmdstat_ping"))
        bytes_in += int(server.info("total_net_input_bytes"))
        cpu_seconds += float(server.info("used_cpu_user")) + float(server.info("used_cpu_sys"))
    return Counters(scripts=scripts, commands=commands, bytes_in=bytes_in, cpu_seconds=cpu_seconds)


def _start_of(key: RunKey) -> StartRun:
    return StartRun(
        key=key,
        fingerprint="1:bench",
        state=RunState.RUNNING,
        owner="bench",
        claim_id="bench",
        on_detach=DetachPolicy(),
        conversation_id="",
        parent_run_id="",
        labels={},
        retention_seconds=60.0,
        now=time.time_ns(),
        summary=ENTRY,
        entry=ENTRY,
    )
