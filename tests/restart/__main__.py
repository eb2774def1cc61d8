"""usage: python -m restart [--appends 180000] [--runs 100000] [--limit 10]"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from command_line import serving
from restart.history import fill


def main() -> int:
    """Fills a store, starts a server on it three times, tells how long each took to listen."""
    parser = argparse.ArgumentParser(prog="restart")
    parser.add_argument("--appends", type=int, default=180_000)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that no start may take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slowest = asyncio.run(_measure(Path(folder), arguments.appends, arguments.runs))
    if slowest > arguments.limit:
        print(f"slower than {arguments.limit:.0f} s")
        return 1
    return 0


async def _measure(folder: Path, appends: int, runs: int) -> float:
    path, config = folder / "runs.db", folder / "midstream.toml"
    config.write_text(
        f'listen = "127.0.0.1:0"\nstore = "sqlite:///{path}"\nlocal.enabled = false\n[log]\nlevel = "error"\n'
    )
    began = time.monotonic()
    await fill(path, appends, runs, time.time_ns())
    print(f"{appends} appends and {runs} runs: {path.stat().st_size >> 20} MiB, {time.monotonic() - began:.0f} s")
    times = []
    for what in ("recovers the long run", "again", "again"):
        began = time.monotonic()
        async with serving(config):
            times.append(time.monotonic() - began)
        print(f"start to listening: {times[-1]:.2f} s ({what})", flush=True)
    return max(times)


if __name__ == "__main__":
    sys.exit(main())
