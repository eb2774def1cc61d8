"""Cancel on a replica that does not own the run: how long until the upstream's socket is closed."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from crash.witness import Broken
from midstream.v1 import generation_service_pb2 as service_wire
from midstream_simulator import Simulator
from replicas.callers import Callers, ended, request
from replicas.figures import Options, times
from replicas.fleet import Fleet, Replica
from replicas.proxy import StoreProxy
from valkey_server import cluster_servers, single_server

STREAMING, STALLED = "count-100000-50", "stall-3"
P50_SECONDS, MAXIMUM_SECONDS = 0.010, 0.250
DEAF_TRIALS = 10
DEAD_RUNS = 12


async def pushed(folder: Path, options: Options) -> list[str]:
    """Two and three replicas on a single server, three on a cluster of three primaries."""
    lines = []
    with single_server() as store:
        for count in (2, 3):
            lines.append(await _trials(folder, f"{count} replicas, single server", store.url, count, options.trials))
    with cluster_servers() as servers:
        lines.append(await _trials(folder, "3 replicas, cluster", servers[0].url, 3, options.trials))
    return lines


async def _trials(folder: Path, what: str, store: str, replicas: int, trials: int) -> str:
    async with Simulator() as simulator, Fleet(folder, store, simulator.base_url) as fleet:
        callers = Callers()
        await fleet.add(replicas)
        seconds = []
        for number in range(trials):
            owner, other = fleet.replicas[number % replicas], fleet.replicas[(number + 1) % replicas]
            model = (STREAMING, STALLED)[number % 2]
            seconds.append(await cancelled(simulator, callers, owner, other, model))
        await callers.check(fleet.replicas)
        return times(
            f"cancel elsewhere to upstream closed, {what}", seconds, p50_at_most=P50_SECONDS, at_most=MAXIMUM_SECONDS
        )


async def cancelled(simulator: Simulator, callers: Callers, owner: Replica, other: Replica, model: str) -> float:
    """Seconds from the call of Cancel to the close of the upstream's socket."""
    run_id = callers.new_id()
    stream = callers.start(owner, request(run_id, model))
    await stream.until(2)
    upstream = await simulator.received(len(simulator.requests))
    began = time.monotonic_ns()
    answer = await callers.cancel(other, run_id)
    closed = await upstream.closed()
    if (await stream.rest()).finished != answer.run:
        raise Broken(f"{run_id}: the reader's ending is not the canceller's answer")
    return (closed - began) / 1e9


async def deaf(folder: Path, options: Options) -> list[str]:
    """Push cut off: a streaming run hears of it with its next append, a stalled one with the heartbeat."""
    del options
    async with AsyncExitStack() as stack:
        store = stack.enter_context(single_server())
        proxies = [await stack.enter_async_context(StoreProxy(store.port)) for _ in range(2)]
        for proxy in proxies:
            proxy.is_deaf = True
        simulator = await stack.enter_async_context(Simulator())
        fleet = await stack.enter_async_context(Fleet(folder, store.url, simulator.base_url))
        owner, other = [await fleet.start(proxy.url) for proxy in proxies]
        callers = Callers()
        lines = []
        for model, limit in ((STREAMING, MAXIMUM_SECONDS), (STALLED, fleet.heartbeat_seconds + MAXIMUM_SECONDS)):
            seconds = [await cancelled(simulator, callers, owner, other, model) for _ in range(DEAF_TRIALS)]
            lines.append(times(f"the same without push, {model}", seconds, at_most=limit))
        await callers.check(fleet.replicas)
        return lines


async def dead(folder: Path, options: Options) -> list[str]:
    """The owner is killed: what the others' callers get, and when."""
    del options
    with single_server() as store:
        async with Simulator() as simulator, Fleet(folder, store.url, simulator.base_url) as fleet:
            await fleet.add(3)
            callers = Callers()
            seconds = [each for _ in range(2) for each in await _kill_owner(fleet, callers)]
            await callers.check(fleet.alive)
            limit = fleet.lease_seconds + 1.0
            return [times("owner killed, to the canceller's answer with the partial", seconds, at_most=limit)]


async def _kill_owner(fleet: Fleet, callers: Callers) -> list[float]:
    owner, *others = fleet.alive
    run_ids = [callers.new_id() for _ in range(DEAD_RUNS)]
    models = [(STREAMING, STALLED)[number % 2] for number in range(DEAD_RUNS)]
    streams = [callers.start(owner, request(run_id, model)) for run_id, model in zip(run_ids, models, strict=True)]
    for stream in streams:
        await stream.until(2)
    await owner.kill()
    began = time.monotonic()

    async def cancel(number: int) -> float:
        answer = await callers.cancel(others[number % len(others)], run_ids[number])
        waited = time.monotonic() - began
        if answer.outcome != service_wire.CancelResponse.OUTCOME_CANCELLED:
            raise Broken(f"{run_ids[number]}: {answer}")
        if answer.run != await ended(others[0], run_ids[number]):
            raise Broken(f"{run_ids[number]}: the answer is not the ending")
        return waited

    seconds = await asyncio.gather(*(cancel(number) for number in range(DEAD_RUNS)))
    await fleet.add()
    return seconds
