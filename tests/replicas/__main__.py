"""usage: python -m replicas [SCENARIO …] [--seed N] [--trials 100] [--kills 20]"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

from crash.witness import Broken
from replicas import cancel, conversation, failover, randomly, reading
from replicas.figures import Options

SCENARIOS: Mapping[str, Callable[[Path, Options], Coroutine[None, None, list[str]]]] = {
    "cancel": cancel.pushed,
    "deaf": cancel.deaf,
    "dead": cancel.dead,
    "resumed": reading.resumed,
    "paused": reading.paused,
    "conversation": conversation.superseded,
    "failover": failover.failed_over,
    "killed": randomly.killed,
    "parted": randomly.parted,
}


def main() -> int:
    """Shows the scenarios that were asked for, or all."""
    parser = argparse.ArgumentParser(prog="replicas")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all; {', '.join(SCENARIOS)}")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.scenarios) - set(SCENARIOS)):
        parser.error(f"unknown: {', '.join(unknown)}")
    options = Options(seed=arguments.seed, trials=arguments.trials, kills=arguments.kills)
    print(f"seed {options.seed}", flush=True)
    broken = [name for name in arguments.scenarios or SCENARIOS if not _show(name, options)]
    if broken:
        print(f"not kept: {', '.join(broken)}")
    return 1 if broken else 0


def _show(name: str, options: Options) -> bool:
    began, lines = time.monotonic(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            lines = asyncio.run(SCENARIOS[name](Path(folder), options))
        except* Broken as group:
            lines = [f"BROKEN {error}" for error in group.exceptions]
            for log in sorted(Path(folder).glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-4000:]}", file=sys.stderr)
    print(f"\n{name} ({time.monotonic() - began:.0f} s)", *(f"  {line}" for line in lines), sep="\n", flush=True)
    return not any(line.startswith("BROKEN") for line in lines)


if __name__ == "__main__":
    sys.exit(main())
