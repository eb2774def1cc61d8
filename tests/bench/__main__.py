"""usage: python -m bench [cancel] [dialect-cancel] [parsers] [throughput] [store] [workers] [--full]"""

import argparse
import asyncio

from bench import cancel, dialect_cancel, parsers, store, throughput, workers

_ALL = ["cancel", "dialect-cancel", "parsers", "throughput", "store", "workers"]


def main() -> None:
    """Runs what was asked for, or everything."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*_ALL, []], help="default: all")
    parser.add_argument("--full", action="store_true", help="more rounds, more trials")
    arguments = parser.parse_args()
    what = arguments.what or _ALL
    if "cancel" in what:
        print("\nCancel sent to upstream socket closed, in ms; tokens that the upstream sent after the cancel\n")
        print(asyncio.run(cancel.measure(trials=50 if arguments.full else 20)), flush=True)
    if "dialect-cancel" in what:
        print("\nCancel sent to upstream socket closed for each dialect, median / maximum in ms\n")
        print(asyncio.run(dialect_cancel.measure(trials=50 if arguments.full else 20)), flush=True)
    if "parsers" in what:
        print("\nCPU per event of the upstream, in µs\n")
        print(parsers.measure(rounds=25 if arguments.full else 9), flush=True)
    if "throughput" in what:
        rounds = 5 if arguments.full else 2
        for streams, rate, seconds in ((10, 50, 4), (100, 50, 5)):
            print(f"\n{streams} streams x {rate} tokens/s, medians of {rounds} interleaved rounds\n")
            print(throughput.measure(streams, rate, seconds, rounds), flush=True)
    if "store" in what:
        print("\nWhat a delta costs the store, one append in flight\n")
        print(store.measure(["sqlite", "valkey", "valkey-cluster"]), flush=True)
    if "workers" in what:
        rounds = 5 if arguments.full else 2
        for streams, rate, seconds in ((10, 50, 4), (60, 50, 5), (1000, 3, 5)):
            print(f"\n{streams} streams x {rate} tokens/s on a Valkey, medians of {rounds} interleaved rounds\n")
            print(workers.measure(streams, rate, seconds, rounds), flush=True)


if __name__ == "__main__":
    main()
