"""usage: python -m crash [--kills 200] [--seed N]"""

import argparse
import asyncio
import random
import tempfile
from pathlib import Path

from crash.harness import crash


def main() -> None:
    """Kills, checks, reports."""
    parser = argparse.ArgumentParser(prog="crash")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(crash(Path(folder), arguments.kills, arguments.seed))
    print("\n".join(report.lines()))


if __name__ == "__main__":
    main()
