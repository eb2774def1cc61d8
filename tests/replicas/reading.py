"""Reading on another replica: at every event, and when the owner was stopped for longer than its lease."""

import asyncio
import time
from itertools import cycle
from pathlib import Path

from crash.witness import Broken, Reader, parts_of
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Simulator
from replicas.callers import Callers, Stream, ended, request
from replicas.figures import Options, times
from replicas.fleet import Fleet, Replica
from valkey_server import cluster_servers, single_server

MODELS = ("count-60-100", "reason-30-100", "tool-call-20")
PAUSED_RUNS = 12
CLOSED_SECONDS = 5.0
"""How long a replica that wakes up may take to find out, on a busy machine."""


async def resumed(folder: Path, options: Options) -> list[str]:
    """Every event of a run as the last one seen, while it lives and after it ended; and one reader that never stays."""
    del options
    lines = []
    with single_server() as store:
        lines.append(await _resume_all(folder, "single server", store.url))
    with cluster_servers() as servers:
        lines.append(await _resume_all(folder, "cluster", servers[0].url))
    return lines


async def _resume_all(folder: Path, what: str, store: str) -> str:
    async with Simulator() as simulator, Fleet(folder, store, simulator.base_url) as fleet:
        await fleet.add(3)
        callers = Callers()
        count = sum([await _resume(fleet, callers, model) for model in MODELS])
        await callers.check(fleet.replicas)
        return f"resumed elsewhere, {what}: {count} readers, every transcript exact"


async def _resume(fleet: Fleet, callers: Callers, model: str) -> int:
    owner, *others = fleet.replicas
    elsewhere = cycle(others)
    first = callers.start(owner, request(callers.new_id(), model))
    await first.until(1)
    tasks: list[asyncio.Task[Reader]] = []
    async with asyncio.TaskGroup() as group:
        tasks.append(group.create_task(_wander(fleet, callers, first.run_id)))
        while first.reader.finished is None:
            watch = callers.watch(next(elsewhere), first.run_id, first.reader)
            tasks.append(group.create_task(watch.rest()))
            await first.until(first.reader.sequence + 1)
    readers = [task.result() for task in tasks]
    for sequence in range(first.reader.sequence):
        readers.append(await _from(callers, next(elsewhere), first.run_id, sequence))
    for reader in readers:
        _check_whole(reader, first.reader)
    return len(readers)


async def _wander(fleet: Fleet, callers: Callers, run_id: str) -> Reader:
    """After each event it goes on at the next replica."""
    reader = Reader()
    for replica in cycle(fleet.replicas):
        stream = callers.watch(replica, run_id, reader)
        await stream.until(reader.sequence + 1)
        stream.call.cancel()
        reader = stream.reader
        if reader.finished is not None:
            break
    return reader


async def _from(callers: Callers, replica: Replica, run_id: str, sequence: int) -> Reader:
    """Reads a run that has ended up to an event, and from there on by another stream."""
    before = callers.watch(replica, run_id)
    await before.until(sequence)
    before.call.cancel()
    return await callers.watch(replica, run_id, before.reader).rest()


def _check_whole(reader: Reader, first: Reader) -> None:
    if reader.finished != first.finished or reader.finished is None:
        raise Broken(f"another ending: {reader.finished} instead of {first.finished}")
    kept = {index: payload for index, payload in parts_of(reader.finished).items() if payload}
    if {index: payload for index, payload in reader.parts.items() if payload} != kept:
        raise Broken(f"another transcript: {reader.parts} instead of {kept}")


async def paused(folder: Path, options: Options) -> list[str]:
    """SIGSTOP for longer than the lease, then SIGCONT: it adds nothing more, and its readers get the real ending."""
    del options
    with single_server() as store:
        async with Simulator() as simulator, Fleet(folder, store.url, simulator.base_url) as fleet:
            owner, *others = await fleet.add(3)
            callers = Callers()
            streams = await _start_all(callers, owner)
            owner.pause()
            endings = await asyncio.gather(*(_end(callers, others, *each) for each in enumerate(streams)))
            # Its upstreams go on writing to it, and its readers wait, until it wakes up.
            woken = time.monotonic_ns()
            owner.resume()
            closed = await asyncio.gather(*(each.closed() for each in simulator.requests))
            for stream, ending in zip(streams, endings, strict=True):
                if (await stream.rest()).finished != ending:
                    raise Broken(f"a reader of the paused owner got {stream.reader.finished}, not {ending}")
            await callers.check(fleet.replicas)
            seconds = [(each - woken) / 1e9 for each in closed]
            return [
                f"owner paused: {len(streams)} readers got the ending that others sealed",
                times("woken to upstream closed", seconds, at_most=CLOSED_SECONDS),
            ]


async def _start_all(callers: Callers, owner: Replica) -> list[Stream]:
    models = cycle(("count-100000-100", "stall-3", "count-100000-2000"))
    streams = [callers.start(owner, request(callers.new_id(), next(models))) for _ in range(PAUSED_RUNS)]
    for stream in streams:
        await stream.until(2)
    return streams


async def _end(callers: Callers, others: list[Replica], number: int, stream: Stream) -> wire.Run:
    """Half of them are cancelled elsewhere, half are only found."""
    if number % 2:
        return (await callers.cancel(others[0], stream.run_id)).run
    return await ended(others[1], stream.run_id)
