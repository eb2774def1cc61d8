"""The simulator in a process of its own: `python -m midstream_simulator --port 0`."""

import argparse
import asyncio
import signal

import uvloop

from midstream_simulator.server import Simulator


async def _serve(host: str, port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Simulator(host=host, port=port) as simulator:
        print(f"simulator listening on {simulator.address}", flush=True)
        await stopped.wait()


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="midstream_simulator", description="a model API that does what it is told")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one (default)")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
