"""Writes that take effect long after their replica has given them up, many orphans, and clocks that differ."""

import pytest

from engine_scenario import CONTINUE, GRACE, Engine, advance, settle
from midstream_server.engine import replica, sweeper
from midstream_server.errors import StoreUnavailable
from midstream_server.stores.base import RecordPhase
from scripted_upstream import text
from shared_store import HEARTBEAT_SECONDS, LEASE_SECONDS, replicas

pytestmark = pytest.mark.looptime


class Delayed:
    """One operation of a replica's store: it is told that nobody can tell, and takes effect when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, engine: Engine, operation: str) -> None:
        self._arguments: tuple[object, ...] = ()
        self._operation = getattr(engine.store.inner, operation)
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(engine.store.inner, operation, self._give_up)

    async def _give_up(self, *arguments: object) -> object:
        self._arguments = arguments
        raise StoreUnavailable("the answer was lost by the test")

    async def arrive(self) -> None:
        """It takes effect; the next ones do so at once."""
        self._monkeypatch.undo()
        await self._operation(*self._arguments)


async def test_start_that_arrives_after_it_was_given_up_does_not_run_for_ever(monkeypatch):
    """Its owner lives, so it is nobody's orphan; the owner hears at a heartbeat that it has it, and seals it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        start = Delayed(monkeypatch, owner, "start")
        with pytest.raises(StoreUnavailable):
            await owner.start(on_detach=CONTINUE)
        await advance(HEARTBEAT_SECONDS)

        await start.arrive()
        assert (await other.record()).phase is RecordPhase.LIVE
        await advance(4 * HEARTBEAT_SECONDS)

        assert (await other.record()).phase is RecordPhase.SEALED
        assert not owner.upstream.started_calls


async def test_run_begun_again_is_not_taken_for_a_start_that_arrived_late(monkeypatch):
    """The store lost the late one, and the caller repeats its request before the sweep has come to it."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        start = Delayed(monkeypatch, owner, "start")
        with pytest.raises(StoreUnavailable):
            await owner.start(on_detach=CONTINUE)
        await settle()
        await start.arrive()
        cluster.shared.generation += 1
        await advance(HEARTBEAT_SECONDS + 0.1)

        cluster.shared.lose("run")
        await owner.start(on_detach=CONTINUE)
        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)

        assert (await owner.record()).phase is RecordPhase.LIVE


async def test_claim_that_arrives_after_it_was_given_up_holds_no_run(monkeypatch):
    """Its replica lives, so nobody would release it: the run would outlive its last reader."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream = await owner.start()
        call = await owner.call()
        claim = Delayed(monkeypatch, other, "claim")
        with pytest.raises(StoreUnavailable):
            await other.watch(claim=True)
        await settle()
        await claim.arrive()

        stream.leave()
        await settle()
        assert not call.closed.is_set()
        await advance(2 * HEARTBEAT_SECONDS)

        assert call.closed.is_set()


async def test_claim_of_a_stream_that_is_there_is_kept_at_every_heartbeat():
    """Also of one that the server ended, as long as its client may come back."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream = await owner.start()
        call = await owner.call()
        watcher = await other.watch(claim=True)
        stream.leave()
        await advance(10 * HEARTBEAT_SECONDS)
        watcher.leave(by_server=True)
        await advance(8.0)

        assert not call.closed.is_set()
        await advance(2.0 + HEARTBEAT_SECONDS)
        assert call.closed.is_set()


async def test_claim_is_not_taken_for_lost_by_a_store_that_fell_behind(monkeypatch):
    """The lease of its replica was lost with it, a moment ago: the replica lives, and only its next heartbeat tells."""
    monkeypatch.setattr(replica, "SERVER_ENDED_CLAIM_SECONDS", LEASE_SECONDS)  # as with a lease of ten seconds
    async with replicas(3) as cluster:
        owner, other, _ = cluster.engines
        stream = await owner.start()
        call = await owner.call()
        await other.watch(claim=True)
        stream.leave()
        await settle()

        for _ in range(40):  # at every moment of the heartbeats of the three
            await advance(3 * HEARTBEAT_SECONDS + 0.05)
            cluster.shared.leave("replica-2")
            cluster.shared.generation += 1

        assert not call.closed.is_set()


async def test_many_orphans_are_sealed_in_one_sweep(monkeypatch):
    """A page of them is no reason to wait for the next heartbeat."""
    monkeypatch.setattr(sweeper, "ORPHANS_PER_SWEEP", 5)
    async with replicas() as cluster:
        owner, _ = cluster.engines
        for number in range(40):
            await owner.start(f"run-{number}", on_detach=CONTINUE)
        cluster.stop(owner)

        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)

        assert {record.phase for record in cluster.shared.records()} == {RecordPhase.SEALED}


async def test_grace_is_not_cut_short_by_an_owner_whose_clock_is_ahead():
    """Another replica set its end, by its own clock."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        owner.clock.jumped_seconds = 3600.0
        stream = await owner.start(on_detach=GRACE)
        call = await owner.call()
        call.say(text("told"))
        watcher = await other.watch(claim=True)
        stream.leave()
        await settle()

        watcher.leave()
        await advance(GRACE.grace_seconds - 1.0)
        was_closed = call.closed.is_set()
        await advance(1.0 + HEARTBEAT_SECONDS)

        assert not was_closed
        assert call.closed.is_set()
