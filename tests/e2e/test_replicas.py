"""Replicas as processes on one real store: a small part of `make replicas`."""

import random
import time
from collections.abc import AsyncIterator
from statistics import median

import pytest
import pytest_asyncio

from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Simulator
from replicas.callers import Callers, calls_of, check_one_bill, ended, request
from replicas.cancel import cancelled
from replicas.fleet import Fleet
from replicas.load import Load
from valkey_server import single_server

LEASE_SECONDS = 2.0
USUAL_SECONDS = 0.25
"""On a machine that runs other tests at the same time; `make replicas` is stricter."""


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator() -> AsyncIterator[Simulator]:
    """The upstream."""
    async with Simulator() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store_fleet(tmp_path_factory: pytest.TempPathFactory, simulator: Simulator) -> AsyncIterator[Fleet]:
    """Replicas on one store."""
    folder = tmp_path_factory.mktemp("replicas")
    with single_server() as store:
        made = Fleet(folder, store.url, simulator.base_url, lease_seconds=LEASE_SECONDS, heartbeat_seconds=1.0)
        async with made:
            yield made


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(store_fleet: Fleet) -> Fleet:
    """Two of them, alive."""
    await store_fleet.add(2 - len(store_fleet.alive))
    return store_fleet


async def test_cancel_elsewhere_closes_the_upstream_at_once(fleet, simulator):
    """Long before the heartbeat, though the upstream stalls; reader, canceller and both replicas agree."""
    callers = Callers()
    owner, other = fleet.alive

    seconds = [await cancelled(simulator, callers, owner, other, "stall-3") for _ in range(5)]

    assert median(seconds) <= USUAL_SECONDS, seconds
    await callers.check(fleet.alive)


async def test_owner_that_was_stopped_for_longer_than_its_lease_tells_the_real_ending(fleet, simulator):
    """SIGSTOP, then SIGCONT: its upstream is closed, and its reader gets what the other one sealed."""
    callers = Callers()
    owner, other = fleet.alive
    stream = callers.start(owner, request(callers.new_id(), "count-100000-200"))
    await stream.until(10)
    owner.pause()

    ending = await ended(other, stream.run_id)
    owner.resume()
    reader = await stream.rest()
    (upstream,) = calls_of(simulator, [stream.run_id])
    await upstream.closed()

    assert (ending.state, ending.error.message) == (wire.RUN_STATE_FAILED, "the process that owned the run was lost")
    assert reader.finished == ending
    await callers.check(fleet.alive)


async def test_cancel_of_a_run_whose_owner_was_killed_answers_with_the_partial_in_time(fleet):
    """SIGKILL: within the lease and a second, though nobody pushes anything."""
    callers = Callers()
    owner, other = fleet.alive
    stream = callers.start(owner, request(callers.new_id(), "stall-3"))
    await stream.until(2)
    await owner.kill()
    began = time.monotonic()

    answer = await callers.cancel(other, stream.run_id)

    assert time.monotonic() - began <= LEASE_SECONDS + 1.0
    assert answer.outcome == service_wire.CancelResponse.OUTCOME_CANCELLED
    assert answer.run.state == wire.RUN_STATE_CANCELLED
    await callers.check([other])


async def test_a_replica_killed_under_load_leaves_every_run_one_ending_and_one_history(fleet, simulator):
    """Callers start, follow, watch, ask and stop on any replica; those of the dead one go on at the other."""
    async with Load(fleet, random.Random(6), ("count-60-100", "stall-3", "reason-20-100")) as load:
        await load.begun(12)
        await fleet.alive[0].kill()
        await load.begun(24)

    load.check_kept()
    await load.callers.check(fleet.alive)
    check_one_bill(simulator, list(load.callers.witnesses))
