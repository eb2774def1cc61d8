"""Child processes of a benchmark: started on one core, accounted, stopped."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).parents[2]
MEASURED_CORE = {0}
"""The server's; everything else is on the others."""


@contextmanager
def child(arguments: Sequence[str], cores: set[int]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and the first line that it prints."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(_ROOT / "tests"), os.environ.get("PYTHONPATH", "")))},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{' '.join(arguments)} did not start")
        yield process, line
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def midstream(
    base_url: str, store: str = "", dialect: str = "openai-chat"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A real server in front of an upstream `up` at this address; store "" is a SQLite file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "midstream.toml")
        config.write_text(
            f'listen = "127.0.0.1:0"\nstore = "{store or f"sqlite:///{folder}/runs.db"}"\n'
            f'[log]\nlevel = "error"\n[local]\nenabled = false\n'
            f'[upstreams.up]\ndialect = "{dialect}"\nbase_url = "{base_url}"\n'
        )
        arguments = ("-m", "midstream_server", "serve", "--config", str(config))
        with child(arguments, MEASURED_CORE) as (process, line):
            match = re.search(r":(\d+)$", line)
            assert match is not None, line
            yield process, int(match[1])


def other_cores() -> set[int]:
    """The cores that are not measured; the same one if there is no other."""
    return (os.sched_getaffinity(0) - MEASURED_CORE) or MEASURED_CORE


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def load(port: int, streams: int, tokens: int, model: str) -> dict[str, float]:
    """Runs the load client to its end."""
    arguments = ("-m", "bench.load", str(port), str(streams), str(tokens), model)
    with child(arguments, other_cores()) as (_, line):
        answer: dict[str, float] = json.loads(line)
        return answer


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
