"""CPU per token and added latency: Midstream with its default SQLite log and without one, a bare grpc.aio server, and a
naive gateway, interleaved in one run.

Tokens per core-second against bare is what counts; it survives a noisy machine.
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

from bench.processes import MEASURED_CORE, child, cpu_seconds, load, midstream, other_cores, table

Server = tuple[Popen[str], int]


@contextmanager
def _baseline(*arguments: str) -> Iterator[Server]:
    with child(("-m", "bench.baselines", *arguments), MEASURED_CORE) as (process, line):
        yield process, int(line)


@contextmanager
def _server(kind: str, base_url: str) -> Iterator[Server]:
    contexts = {
        "bare grpc.aio": lambda: _baseline("bare"),
        "naive gateway": lambda: _baseline("naive", base_url),
        "midstream, sqlite": lambda: midstream(base_url),
        "midstream, memory": lambda: midstream(base_url, "memory:"),
    }
    with contexts[kind]() as server:
        yield server


KINDS = ("bare grpc.aio", "midstream, memory", "midstream, sqlite", "naive gateway")


def measure(streams: int, rate: int, seconds: int, rounds: int) -> str:
    """The table of one shape: medians of interleaved rounds."""
    figures: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    tokens = rate * seconds
    with child(("-m", "midstream_simulator", "--port", "0"), other_cores()) as (_, line):
        base_url = f"http://{line.rpartition(' ')[2]}/v1"
        for _ in range(rounds):
            for kind in KINDS:
                figures[kind].append(_round(kind, base_url, streams, tokens, rate))
    return _table(figures)


def _round(kind: str, base_url: str, streams: int, tokens: int, rate: int) -> dict[str, float]:
    with _server(kind, base_url) as (process, port):
        load(port, 1, 5, "up/bench-n5-r100")
        before = cpu_seconds(process)
        answer = load(port, streams, tokens, f"up/bench-n{tokens}-r{rate}")
        answer["cpu_us"] = (cpu_seconds(process) - before) * 1e6 / max(1.0, answer["tokens"])
        return answer


def _table(figures: dict[str, list[dict[str, float]]]) -> str:
    bare = statistics.median(each["cpu_us"] for each in figures["bare grpc.aio"])
    rows = [["server", "CPU us/token", "tokens per core-s / bare", "p50 ms", "p99 ms", "lost", "messages/token"]]
    for kind, rounds in figures.items():
        middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        rows.append(
            [
                kind,
                f"{middle['cpu_us']:.0f}",
                f"{bare / middle['cpu_us']:.2f}",
                f"{middle['p50_ms']:.2f}",
                f"{middle['p99_ms']:.1f}",
                f"{middle['expected'] - middle['tokens']:.0f}",
                f"{middle['messages'] / max(1.0, middle['tokens']):.2f}",
            ]
        )
    return table(rows)
