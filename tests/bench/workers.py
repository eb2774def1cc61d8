"""What a token costs on a Valkey: one process, and two workers on one port; theirs and the store's processor time.

Nothing is pinned: servers, store, upstream and load share the machine, so that tokens per second are those of all of
it; processor time per token is what carries over to a machine where the rest is elsewhere.
"""

import os
import re
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from bench.processes import child, cpu_seconds, load, table
from valkey_server import ValkeyServer, single_server

WORKERS = (1, 2)
COLUMNS = (
    "workers",
    "CPU us/token",
    "tokens per core-s",
    "store CPU us/token",
    "scripts/token",
    "bytes to / from the store per token",
    "tokens/s",
    "p50 / p99 ms",
    "messages/token",
)
_TICKS = os.sysconf("SC_CLK_TCK")


def measure(streams: int, rate: int, seconds: int, rounds: int) -> str:
    """The table of one shape: medians of interleaved rounds."""
    figures: dict[int, list[dict[str, float]]] = {workers: [] for workers in WORKERS}
    cores = os.sched_getaffinity(0)
    with child(("-m", "midstream_simulator", "--port", "0"), cores) as (_, line), single_server() as store:
        base_url = f"http://{line.rpartition(' ')[2]}/v1"
        for _ in range(rounds):
            for workers in WORKERS:
                figures[workers].append(_round(workers, store, base_url, streams, rate * seconds, rate))
    return table([COLUMNS, *(_row(workers, found) for workers, found in figures.items())])


def _round(workers: int, store: ValkeyServer, base_url: str, streams: int, tokens: int, rate: int) -> dict[str, float]:
    with _serving(workers, store, base_url) as (process, port):
        load(port, 8, 5, "up/bench-n5-r100")
        before, stored = _cpu_of_all(process), _counters(store)
        answer = load(port, streams, tokens, f"up/bench-n{tokens}-r{rate}")
        answer["cpu_us"] = (_cpu_of_all(process) - before) * 1e6 / answer["tokens"]
        for name, value in _counters(store).items():
            answer[name] = (value - stored[name]) / answer["tokens"]
        return answer


def _row(workers: int, rounds: list[dict[str, float]]) -> list[str]:
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    return [
        str(workers),
        f"{middle['cpu_us']:.0f}",
        f"{1e6 / middle['cpu_us']:.0f}",
        f"{middle['store_cpu'] * 1e6:.0f}",
        f"{middle['scripts']:.2f}",
        f"{middle['bytes_in']:.0f} / {middle['bytes_out']:.0f}",
        f"{middle['tokens'] / middle['seconds']:.0f}",
        f"{middle['p50_ms']:.1f} / {middle['p99_ms']:.0f}",
        f"{middle['messages'] / middle['tokens']:.2f}",
    ]


@contextmanager
def _serving(workers: int, store: ValkeyServer, base_url: str) -> Iterator[tuple[Popen[str], int]]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "midstream.toml")
        config.write_text(
            f'listen = "127.0.0.1:0"\nworkers = {workers}\nstore = "{store.url}"\nretention = "1m"\n'
            f'[log]\nlevel = "error"\n[local]\nenabled = false\n'
            f'[upstreams.up]\ndialect = "openai-chat"\nbase_url = "{base_url}"\n'
        )
        arguments = ("-m", "midstream_server", "serve", "--config", str(config))
        with child(arguments, os.sched_getaffinity(0)) as (process, line):
            match = re.search(r":(\d+)$", line)
            assert match is not None, line
            yield process, int(match[1])


def _cpu_of_all(process: Popen[str]) -> float:
    """Of a process and its workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    total = 0.0
    for pid in children:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total + cpu_seconds(process)


def _counters(store: ValkeyServer) -> dict[str, float]:
    calls = store.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    return {
        "scripts": float(calls),
        "store_cpu": float(store.info("used_cpu_user")) + float(store.info("used_cpu_sys")),
        "bytes_in": float(store.info("total_net_input_bytes")),
        "bytes_out": float(store.info("total_net_output_bytes")),
    }
