"""Whatever can happen to replicas and their network, at random, under load."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from midstream.v1 import run_pb2 as wire
from midstream_simulator import Simulator
from replicas.callers import Callers, check_one_bill
from replicas.figures import Options
from replicas.fleet import Fleet
from replicas.load import Load
from replicas.proxy import StoreProxy
from valkey_server import cluster_servers, single_server

LEASE_SECONDS, HEARTBEAT_SECONDS = 2.0, 0.5
LATE_SECONDS = 0.5
NETWORK_EVENTS = 12


async def killed(folder: Path, options: Options) -> list[str]:
    """Replicas are killed, and paused for up to two leases; half of the kills on a single server, half on a cluster."""
    with single_server() as store:
        lines = [await _kill(folder, "single server", store.url, options, options.kills // 2)]
    with cluster_servers() as servers:
        return [*lines, await _kill(folder, "cluster", servers[0].url, options, options.kills - options.kills // 2)]


async def _kill(folder: Path, what: str, store: str, options: Options, kills: int) -> str:
    chance = random.Random(f"{options.seed} {what}")
    async with Simulator() as simulator, _fleet(folder, store, simulator) as fleet:
        await fleet.add(3)
        async with Load(fleet, chance) as load:
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.1, 1.5))
                await _harm(fleet, chance)
                load.check()
        load.check_kept()
        await load.callers.check(fleet.alive)
        check_one_bill(simulator, list(load.callers.witnesses))
        return f"{kills} kills and pauses, {what}: {_summary(load.callers)}"


async def _harm(fleet: Fleet, chance: random.Random) -> None:
    victim = chance.choice(fleet.alive)
    if chance.random() < 0.25:
        victim.pause()
        await asyncio.sleep(chance.uniform(0, 2 * LEASE_SECONDS))
        victim.resume()
    else:
        await victim.kill()
        await fleet.add()


async def parted(folder: Path, options: Options) -> list[str]:
    """Each replica by a network of its own, which is silent for up to two leases, or half a second late."""
    chance = random.Random(options.seed)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(single_server())
        proxies = [await stack.enter_async_context(StoreProxy(store.port)) for _ in range(3)]
        simulator = await stack.enter_async_context(Simulator())
        fleet = await stack.enter_async_context(_fleet(folder, store.url, simulator))
        for proxy in proxies:
            await fleet.start(proxy.url)
        async with Load(fleet, chance) as load:
            for number in range(NETWORK_EVENTS):
                await asyncio.sleep(chance.uniform(0.1, 1.0))
                await _disturb(chance.choice(proxies), chance, is_late=number % 2 == 0)
                load.check()
        load.check_kept()
        await load.callers.check(fleet.replicas)
        check_one_bill(simulator, list(load.callers.witnesses))
        return [f"{NETWORK_EVENTS} partitions and delays of {LATE_SECONDS} s: {_summary(load.callers)}"]


async def _disturb(proxy: StoreProxy, chance: random.Random, *, is_late: bool) -> None:
    if is_late:
        proxy.delay_seconds = LATE_SECONDS
        await asyncio.sleep(chance.uniform(1, 4))
        proxy.delay_seconds = 0.0
    else:
        proxy.part()
        await asyncio.sleep(chance.uniform(0.2, 2 * LEASE_SECONDS))
        proxy.heal()


def _fleet(folder: Path, store: str, simulator: Simulator) -> Fleet:
    return Fleet(
        folder,
        store,
        simulator.base_url,
        lease_seconds=LEASE_SECONDS,
        heartbeat_seconds=HEARTBEAT_SECONDS,
    )


def _summary(callers: Callers) -> str:
    seen = [witness for witness in callers.witnesses.values() if witness.ending is not None]
    readers = sum(len(witness.readers) for witness in seen)
    states = Counter(wire.RunState.Name(each.ending.state)[10:] for each in seen if each.ending is not None)
    endings = ", ".join(f"{name} {count}" for name, count in sorted(states.items()))
    return f"{len(seen)} runs, {readers} readers, one ending and one history each ({endings})"
