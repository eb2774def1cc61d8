"""usage: python -m race [--seeds 10000] [--first N] [--replicas 1] [--failovers] [--late]"""

import argparse
import sys
import time
from collections import Counter
from functools import partial

from race.fleet import race_fleet
from race.machine import Broken, race


def main() -> int:
    """Races, counts, tells which seeds broke a promise."""
    parser = argparse.ArgumentParser(prog="race")
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--failovers", action="store_true", help="the store loses what it had acknowledged")
    parser.add_argument("--late", action="store_true", help="writes take effect after they were given up")
    arguments = parser.parse_args()
    count = arguments.replicas
    fleet = partial(race_fleet, count=count, fails_over=arguments.failovers, is_late=arguments.late)
    run = race if count == 1 else fleet
    began = time.monotonic()
    endings: Counter[str] = Counter()
    broken: list[int] = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            endings.update(run(seed).endings)
        except Broken as error:
            print(error, flush=True)
            broken.append(seed)
    seconds = time.monotonic() - began
    print(f"{arguments.seeds} races from seed {arguments.first} in {seconds:.0f} s, {endings.total()} runs ended:")
    print("\n".join(f"  {count:6} {name}" for name, count in endings.most_common()))
    print(f"broken: {broken or 'none'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
