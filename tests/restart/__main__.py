"""usage: python -m restart [--appends 180000] [--runs 100000] [--times 5] [--limit 10]"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from command_line import serving
from restart.history import fill


def main() -> int:
    """Fills a store; starts a server on copies of it, and on what that left, and tells how long each took to listen."""
    parser = argparse.ArgumentParser(prog="restart")
    parser.add_argument("--appends", type=int, default=180_000)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that no start may take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = asyncio.run(_measure(Path(folder), arguments))
    for what, each in times.items():
        print(f"{what}: median {statistics.median(each):.2f} s, maximum {max(each):.2f} s of {len(each)} starts")
    if max(map(max, times.values())) > arguments.limit:
        print(f"slower than {arguments.limit:.0f} s")
        return 1
    return 0


async def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    filled, path, config = folder / "filled.db", folder / "runs.db", folder / "midstream.toml"
    config.write_text(
        f'listen = "127.0.0.1:0"\nstore = "sqlite:///{path}"\nlocal.enabled = false\n[log]\nlevel = "error"\n'
    )
    began = time.monotonic()
    await fill(filled, arguments.appends, arguments.runs, time.time_ns())
    size = filled.stat().st_size >> 20
    print(f"{arguments.appends} appends and {arguments.runs} runs: {size} MiB, {time.monotonic() - began:.0f} s")
    times: dict[str, list[float]] = {"start that recovers the long run": [], "start after it": []}
    for _ in range(arguments.times):
        shutil.copy(filled, path)
        for each in times.values():
            each.append(await _start(config))
    return times


async def _start(config: Path) -> float:
    began = time.monotonic()
    async with serving(config):
        return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
