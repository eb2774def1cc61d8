"""Several replicas on one store: leases, pauses, deaths, and what is left behind."""

import asyncio

import pytest
from structlog.testing import capture_logs

from engine_scenario import CONTINUE, GRACE, advance, failure_of, settle, text_of
from midstream_server.errors import StoreCorrupt, StoreUnavailable
from midstream_server.model import (
    DEFAULT_TENANT,
    CancelReason,
    ConversationPolicy,
    FinishReason,
    RunProgress,
    RunSnapshot,
    RunState,
)
from midstream_server.stores.base import ListQuery, RecordPhase
from scripted_upstream import finish, text
from shared_store import HEARTBEAT_SECONDS, LEASE_SECONDS, replicas

pytestmark = pytest.mark.looptime


async def telling(engine, run_id="run", **spec):
    """A run that has told some text; its stream, and its call."""
    stream = await engine.start(run_id, **spec)
    call = await engine.call(len(engine.upstream.calls) - 1)
    call.say(text("told"))
    await stream.until_text("told")
    return stream, call


# --- The lease -------------------------------------------------------------------------------------------------------


async def test_owner_that_wakes_up_after_its_lease_tells_the_ending_that_others_wrote():
    """It closes its upstream, and what the model said while it was stopped is shown to nobody."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner)
        cluster.stop(owner)
        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)
        ending = await other.get(wait=5.0)
        call.say(text("unheard"), finish())

        await cluster.wake(owner)
        run = await stream.rest()

        assert call.closed.is_set()
        assert (run.state, failure_of(run)) == (RunState.FAILED, "OWNER_LOST")
        assert run == ending == await owner.get()
        assert stream.text == text_of(run.message) == "told"
        assert not any(isinstance(event.payload, RunProgress) for event in stream.events)


async def test_owner_that_wakes_up_closes_an_upstream_that_is_silent():
    """It does not take an append to notice."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        _, call = await telling(owner)
        cluster.stop(owner)
        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)
        assert not call.closed.is_set()

        await cluster.wake(owner)
        await advance(0.1)

        assert call.closed.is_set()
        assert owner.supervisor.live_runs == 0


async def test_owner_that_was_stopped_for_less_than_its_lease_goes_on():
    """Nobody has taken its run."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner)
        cluster.stop(owner)
        await advance(LEASE_SECONDS - HEARTBEAT_SECONDS - 0.5)
        call.say(text(" more"), finish())

        await cluster.wake(owner)
        run = await stream.rest()

        assert (run.state, text_of(run.message)) == (RunState.COMPLETED, "told more")
        assert await other.get() == run


async def test_owner_without_a_lease_that_nobody_took_from_goes_on_when_it_is_sure():
    """The only replica loses its lease, and nothing else."""
    async with replicas(1) as cluster:
        (owner,) = cluster.engines
        stream, call = await telling(owner, on_detach=CONTINUE)
        cluster.stop(owner)
        await advance(3 * LEASE_SECONDS)

        await cluster.wake(owner)
        call.say(text(" more"), finish())
        run = await stream.rest()

        assert (run.state, text_of(run.message)) == (RunState.COMPLETED, "told more")


async def test_without_a_lease_nothing_of_a_live_run_is_told_from_memory():
    """GetRun and ListRuns say what the store says; a reader waits; all while the heartbeat alone is stuck."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, _ = await telling(owner)
        owner.store.freeze("heartbeat")
        cluster.shared.loses_hints = True
        await advance(LEASE_SECONDS + 2 * HEARTBEAT_SECONDS)
        assert (await other.get()).state is RunState.FAILED
        snapshot = await owner.watch(snapshot=True)
        reading = asyncio.create_task(snapshot.next())
        await settle()

        assert owner.supervisor.live_runs == 1
        assert (await owner.get()).state is RunState.FAILED
        assert [run.state for run in await owner.supervisor.list_runs(ListQuery(tenant=DEFAULT_TENANT, limit=9))] == [
            RunState.FAILED
        ]
        assert not reading.done()

        await owner.store.thaw()
        (event,) = await reading
        assert isinstance(event.payload, RunSnapshot)
        assert event.payload.run.state is RunState.FAILED
        assert (await stream.rest()).state is RunState.FAILED


async def test_lease_that_is_back_is_not_trusted_before_the_runs_were_looked_for():
    """A heartbeat says that we live, not that what was ours still is."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await telling(owner)
        owner.store.freeze("heartbeat", "append")
        cluster.shared.loses_hints = True
        await advance(LEASE_SECONDS + 2 * HEARTBEAT_SECONDS)
        assert (await other.get()).state is RunState.FAILED

        await owner.store.thaw("heartbeat")
        await advance(1.0)
        snapshot = await owner.watch(snapshot=True)
        reading = asyncio.create_task(snapshot.next())
        await settle()

        assert owner.supervisor.live_runs == 1
        assert not reading.done()
        assert (await owner.get()).state is RunState.FAILED
        await owner.store.thaw()
        (event,) = await reading
        assert isinstance(event.payload, RunSnapshot)
        assert event.payload.run.state is RunState.FAILED


async def test_lease_runs_from_when_the_heartbeat_was_sent():
    """Its answer may come late: others count from when it reached the store."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        await telling(owner, on_detach=CONTINUE)
        owner.store.withhold("heartbeat")
        await owner.store.asked("heartbeat", 2)
        sent = asyncio.get_running_loop().time()
        await advance(1.5)
        await owner.store.thaw()
        await settle()
        owner.store.freeze("heartbeat")

        await advance(sent + LEASE_SECONDS - 0.1 - asyncio.get_running_loop().time())
        before = owner.store.calls["get"]
        await owner.get()
        asked_in_time = owner.store.calls["get"] - before
        await advance(0.2)
        await owner.get()

        assert asked_in_time == 0
        assert owner.store.calls["get"] - before > 0
        await owner.store.thaw()


async def test_end_whose_answer_is_late_is_ours_all_the_same():
    """The lease lapses between the seal and its answer: the run that is found sealed was sealed by us."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        stream, call = await telling(owner)
        owner.store.withhold("seal")
        owner.store.freeze("heartbeat")
        call.say(finish())
        call.end()
        with capture_logs() as logs:
            await advance(LEASE_SECONDS + 1.0)
            await owner.store.thaw("heartbeat")
            await advance(1.0)
            await owner.store.thaw()
            run = await stream.rest()

        assert run.state is RunState.COMPLETED
        assert not {"run.lost", "run.unsealed"} & {entry["event"] for entry in logs}


async def test_lease_is_renewed_after_an_error_that_nobody_expects():
    """A replica that renews no more would be dead to the others for good."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        owner.store.break_with("heartbeat", StoreCorrupt("by the test"))
        with capture_logs() as logs:
            await advance(2 * LEASE_SECONDS)
        assert any(entry["event"] == "lease.broken" for entry in logs)

        owner.store.heal()
        await advance(2 * HEARTBEAT_SECONDS)
        stream, call = await telling(owner)
        await advance(2 * LEASE_SECONDS)
        call.say(finish())
        call.end()

        assert (await stream.rest()).state is RunState.COMPLETED
        assert await other.get() == await owner.get()


async def test_start_waits_for_the_lease_and_is_refused_if_it_does_not_come():
    """A run that began without one would be an orphan at once."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        owner.store.freeze("heartbeat")
        await advance(LEASE_SECONDS + 0.1)
        first = asyncio.create_task(owner.start("first"))
        await advance(5.1)
        second = asyncio.create_task(owner.start("second"))
        await advance(0.1)
        await owner.store.thaw()

        with pytest.raises(StoreUnavailable):
            await first
        stream = await second
        assert [call.attempts for call in owner.upstream.calls] == [0, 1]
        stream.leave()


@pytest.mark.parametrize("seconds", [5.0, 9.0])
async def test_outage_of_the_store_that_outlasts_all_leases_kills_nobody(seconds):
    """Whoever comes back first takes nobody for dead before the others could say that they live."""
    async with replicas(3) as cluster:
        told = [await telling(engine, f"run-{number}") for number, engine in enumerate(cluster.engines)]
        for engine in cluster.engines:
            engine.store.fail()
        await advance(seconds)
        for engine in cluster.engines:
            await advance(0.4)
            engine.store.heal()
        await advance(5.0)

        for stream, call in told:
            call.say(finish())
            call.end()
            assert (await stream.rest()).state is RunState.COMPLETED


async def test_sweep_that_failed_takes_nobody_for_dead_at_once():
    """A part of the store may be away, with the leases of others in it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner)
        await advance(5.0)
        other.store.fail("orphans")
        owner.store.fail("heartbeat")
        await advance(LEASE_SECONDS + 1.0)
        other.store.heal()
        await advance(0.4)
        owner.store.heal()
        await advance(5.0)

        call.say(finish())
        call.end()
        assert (await stream.rest()).state is RunState.COMPLETED


# --- What the dead leave ---------------------------------------------------------------------------------------------


async def test_runs_of_a_dead_replica_are_sealed_without_anyone_asking():
    """Within its lease and a heartbeat, from the log, once, whoever of the others comes first."""
    async with replicas(3) as cluster:
        owner, *others = cluster.engines
        for number in range(20):
            await telling(owner, f"run-{number}")
        cluster.stop(owner)

        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)

        records = cluster.shared.records()
        assert {(record.phase, record.state) for record in records} == {(RecordPhase.SEALED, RunState.FAILED)}
        assert len(records) == 20
        for engine in others:
            assert text_of((await engine.get("run-7")).message) == "told"
        assert sum(engine.store.calls["seal"] for engine in others) == 20


@pytest.mark.parametrize("operation", ["take_over", "read_log", "seal"])
async def test_orphan_whose_sealing_broke_off_is_sealed_all_the_same(operation):
    """It belongs to a living replica by then, so nobody else would ever find it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await telling(owner)
        other.store.lose_answers("take_over") if operation == "take_over" else other.store.fail(operation)
        cluster.stop(owner)
        await advance(2 * LEASE_SECONDS)
        assert (await other.record()).owner == "replica-2"
        assert (await other.record()).phase is RecordPhase.LIVE

        other.store.heal()
        await advance(LEASE_SECONDS)

        assert (await other.record()).phase is RecordPhase.SEALED
        assert (await other.get()).message is not None


async def test_owner_that_comes_back_before_its_run_was_taken_keeps_it():
    """A sweep that broke off before it took anything does not come back for it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner)
        other.store.withhold("get")
        cluster.stop(owner)
        await advance(LEASE_SECONDS + 2 * HEARTBEAT_SECONDS)
        await cluster.wake(owner)
        other.store.fail("take_over")
        await other.store.thaw("get")
        await advance(LEASE_SECONDS)

        other.store.heal()
        await advance(2 * LEASE_SECONDS)
        call.say(text(" on"), finish())
        call.end()

        assert (await stream.rest()).state is RunState.COMPLETED
        assert stream.text == "told on"


async def test_run_that_queues_dies_with_its_owner():
    """It never called an upstream, and nobody calls one for it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await telling(other, "first", conversation_id="talk")
        queued = await owner.start("second", conversation_id="talk", on_conflict=ConversationPolicy.QUEUE)
        assert (await owner.get("second")).state is RunState.QUEUED
        cluster.stop(owner)

        run = await other.get("second", wait=10.0)

        assert (run.state, failure_of(run), run.start_time) == (RunState.FAILED, "OWNER_LOST", None)
        assert not owner.upstream.started_calls
        assert queued.text == ""


async def test_claims_of_a_dead_replica_are_released():
    """The last reader's replica is gone: the run is stopped, 10 s after it was last heard of at the earliest."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner)
        await other.watch(claim=True)
        stream.leave()
        await settle()
        cluster.stop(other)

        await advance(9.5)
        was_closed = call.closed.is_set()
        await advance(HEARTBEAT_SECONDS + 1.0)
        run = await owner.get(wait=1.0)

        assert not was_closed
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.CLIENT_GONE)
        assert call.closed.is_set()


async def test_claims_of_a_replica_that_was_only_stopped_come_back():
    """Others may have released them for dead; with GRACE the run is still there."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner, on_detach=GRACE)
        watcher = await other.watch(claim=True)
        stream.leave()
        await settle()
        cluster.stop(other)
        await advance(12.0)
        assert (await owner.record()).claims == {}

        await cluster.wake(other)
        await advance(20.0)

        assert watcher.claim is not None
        assert list((await owner.record()).claims) == [watcher.claim.claim_id]
        assert not call.closed.is_set()


async def test_owner_ends_the_grace_that_a_dead_replica_began():
    """Whoever released the last claim ran the clock; it is not the only one."""
    async with replicas(3) as cluster:
        owner, other, _ = cluster.engines
        stream, call = await telling(owner, on_detach=GRACE)
        watcher = await other.watch(claim=True)
        stream.leave()
        await settle()
        watcher.leave()
        await settle()
        assert (await owner.record()).detach_time is not None
        cluster.stop(other)

        await advance(GRACE.grace_seconds + HEARTBEAT_SECONDS)

        assert call.closed.is_set()
        assert (await owner.get(wait=1.0)).cancel_reason is CancelReason.CLIENT_GONE


async def test_replica_that_leaves_in_order_ends_its_lease():
    """Nobody has to wait for it to run out."""
    async with replicas() as cluster:
        await advance(1.0)
        assert cluster.shared.is_alive("replica-2")
        shared = cluster.shared

    assert not shared.is_alive("replica-2")


# --- One start, one bill ---------------------------------------------------------------------------------------------


async def test_same_generate_on_two_replicas_at_once_calls_one_upstream():
    """The one that created the run drives it; the other follows it."""
    async with replicas() as cluster:
        first, second = cluster.engines
        streams = await asyncio.gather(first.start(), second.start())
        await settle()
        (call,) = first.upstream.started_calls + second.upstream.started_calls

        call.say(text("one"), finish(FinishReason.STOP))
        endings = await asyncio.gather(*(stream.rest() for stream in streams))

        assert endings[0] == endings[1]
        assert [stream.text for stream in streams] == ["one", "one"]
        assert endings[0].attempts == 1
