"""The store's primary is lost under load: what that costs, at each level, held against `docs/guarantees.md`."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import grpc.aio

from crash.witness import Broken
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Simulator
from replicas.callers import LONG, check_one_bill, request
from replicas.figures import Options
from replicas.fleet import Fleet, Replica
from replicas.load import Load, Losses
from valkey_server import HOST, ValkeyServer, cluster_servers, replicated_servers, single_server

LEASE_SECONDS, HEARTBEAT_SECONDS = 3.0, 1.0
BEFORE_SECONDS, AFTER_SECONDS, BROKEN_LINK_SECONDS = 2.5, 3.0, 1.0
MODELS = ("count-2000-300", "count-200-100", "count-40-100", "reason-40-100", "stall-3", "count-100-50")
APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")

Servers = Sequence[ValkeyServer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to lose a primary."""

    level: str
    what: str
    servers: Callable[[], AbstractContextManager[Servers]]
    recover: Callable[[Servers], None]
    breaks_link: bool = False
    """Whether replication to the next primary had stopped a second before."""
    kills_owner: bool = False
    """Whether a third of the owners dies with the primary."""
    may_lose: bool = False
    """Whether the level allows losses."""


def _promote(servers: Servers) -> None:
    """The one with the most data, as Sentinel does."""
    best = max(servers[1:], key=lambda server: int(server.info("master_repl_offset")))
    best.client.replicaof("NO", "ONE")
    for server in servers[1:]:
        if server is not best:
            server.client.replicaof(HOST, str(best.port))


def _restart(servers: Servers) -> None:
    servers[0].start()


def _nothing(servers: Servers) -> None:
    del servers


@contextmanager
def _alone(*options: str) -> Iterator[Servers]:
    with single_server(*options) as server:
        yield [server]


_PAIR, _THREE = partial(replicated_servers, 1), partial(replicated_servers, 2)
_DISK_ALONE, _DISK_PAIR = partial(_alone, *APPEND_ONLY), partial(replicated_servers, 1, *APPEND_ONLY)
_CLUSTER = partial(cluster_servers, 3, 1)

CASES = (
    Case(level="process", what="replica promoted", servers=_PAIR, recover=_promote),
    Case(level="process", what="replica a second behind", servers=_PAIR, recover=_promote, breaks_link=True),
    Case(
        level="process",
        what="replica a second behind, owner dies",
        servers=_PAIR,
        recover=_promote,
        breaks_link=True,
        kills_owner=True,
        may_lose=True,
    ),
    Case(level="process", what="started again, empty", servers=_alone, recover=_restart),
    Case(level="process", what="a primary of a cluster", servers=_CLUSTER, recover=_nothing),
    Case(level="disk", what="started again, owner dies", servers=_DISK_ALONE, recover=_restart, kills_owner=True),
    Case(
        level="disk",
        what="replica a second behind, owner dies",
        servers=_DISK_PAIR,
        recover=_promote,
        breaks_link=True,
        kills_owner=True,
        may_lose=True,
    ),
    Case(level="replica", what="replica promoted, owner dies", servers=_THREE, recover=_promote, kills_owner=True),
    Case(
        level="replica",
        what="one of two replicas a second behind, owner dies",
        servers=_THREE,
        recover=_promote,
        breaks_link=True,
        kills_owner=True,
    ),
)


async def failed_over(folder: Path, options: Options) -> list[str]:
    """Every case by itself."""
    lines = []
    for case in CASES:
        began = time.monotonic()
        line = await _case(folder, case, random.Random(options.seed))
        lines.append(f"{line} ({time.monotonic() - began:.0f} s)")
    return lines


async def _case(folder: Path, case: Case, chance: random.Random) -> str:
    with case.servers() as servers:
        store = f"valkey://{','.join(f'{HOST}:{server.port}' for server in servers)}"
        async with Simulator() as simulator, _fleet(folder, store, case.level, simulator) as fleet:
            await fleet.add(3)
            async with Load(fleet, chance, MODELS) as load:
                await asyncio.sleep(BEFORE_SECONDS)
                seconds = await _lose(case, servers, fleet)
                await asyncio.sleep(AFTER_SECONDS)
            losses = await _losses(load, fleet)
            if not case.may_lose:
                check_one_bill(simulator, list(load.callers.witnesses))
    line = f"{case.level}, {case.what}: {losses.line()}; {len(load.lost)} told so; starts again after {seconds:.1f} s"
    return line if losses.is_none or case.may_lose else f"BROKEN {line}"


async def _lose(case: Case, servers: Servers, fleet: Fleet) -> float:
    """Loses the primary; seconds until a run can be started again."""
    if case.breaks_link:
        servers[1].client.replicaof("NO", "ONE")
        await asyncio.sleep(BROKEN_LINK_SECONDS)
    began = time.monotonic()
    servers[0].kill()
    if case.kills_owner:
        await fleet.alive[0].kill()
    await asyncio.to_thread(case.recover, servers)
    while not await _can_start(fleet.alive[-1], f"probe-{time.monotonic_ns()}"):  # noqa: ASYNC110  # a process
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def _can_start(replica: Replica, run_id: str) -> bool:
    try:
        await replica.stub.Generate(request(run_id, "count-1")).read()
    except grpc.aio.AioRpcError:
        return False
    return True


def _fleet(folder: Path, store: str, level: str, simulator: Simulator) -> Fleet:
    return Fleet(
        folder,
        store,
        simulator.base_url,
        durability=level,
        lease_seconds=LEASE_SECONDS,
        heartbeat_seconds=HEARTBEAT_SECONDS,
    )


async def _losses(load: Load, fleet: Fleet) -> Losses:
    """What is not left of what was seen; every replica must say the same."""
    losses = Losses()
    for witness in load.callers.witnesses.values():
        if not witness.was_seen:
            continue
        runs = [await _ending(replica, witness.run_id) for replica in fleet.alive]
        if any(run != runs[0] for run in runs):
            raise Broken(f"{witness.run_id} is not the same everywhere: {runs}")
        losses.take(witness, runs[0])
    return losses


async def _ending(replica: Replica, run_id: str) -> wire.Run | None:
    wanted = service_wire.GetRunRequest(run_id=run_id, wait_until_finished=True, max_wait=LONG)
    try:
        run: wire.Run = await replica.stub.GetRun(wanted)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise Broken(f"{run_id}: {error.code()}: {error.details()}") from error
    return run
