"""Cancel on a replica that does not own the run: by push, by the next append, by heartbeat, or from the log."""

import asyncio
from typing import Any

import pytest

from engine_scenario import CONTINUE, advance, settle, text_of
from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelOutcome, CancelReason, ConversationPolicy, RunState
from scripted_upstream import finish, text
from shared_store import HEARTBEAT_SECONDS, LEASE_SECONDS, replicas

pytestmark = pytest.mark.looptime


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


async def telling(engine, run_id="run", **spec):
    """A run that has told some text; its stream, and its call."""
    stream = await engine.start(run_id, **spec)
    call = await engine.call(len(engine.upstream.calls) - 1)
    call.say(text("told"))
    await stream.until_text("told")
    return stream, call


async def test_cancel_elsewhere_closes_the_upstream_at_once_and_answers_with_the_partial():
    """The store pushes it to the owner; the end is pushed back."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner)
        began = now()

        outcome, run = await other.cancel(text="enough")

        assert now() - began < 0.01
        assert call.closed.is_set()
        assert (outcome, run.state, text_of(run.message)) == (CancelOutcome.CANCELLED, RunState.CANCELLED, "told")
        assert run.cancel is not None
        assert (run.cancel.requested_by, run.cancel.reason) == ("alice", "enough")
        assert await stream.rest() == run == await owner.get()


async def test_cancel_elsewhere_without_push_arrives_within_a_heartbeat():
    """Though the upstream is silent, and nothing is appended."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        _, call = await telling(owner)
        cluster.shared.loses_hints = True
        began = now()

        outcome, run = await other.cancel()

        assert now() - began <= HEARTBEAT_SECONDS + 1.0
        assert call.closed.is_set()
        assert (outcome, text_of(run.message)) == (CancelOutcome.CANCELLED, "told")


async def test_cancel_elsewhere_without_push_arrives_with_the_next_append():
    """An upstream that speaks is stopped by what it says."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner)
        cluster.shared.loses_hints = True
        await other.cancel(wait=0)
        assert not call.closed.is_set()

        call.say(text(" more"))
        await stream.until_text("told more")

        assert call.closed.is_set()
        assert (await stream.rest()).state is RunState.CANCELLED


async def test_cancel_of_a_run_whose_owner_is_dead_answers_with_the_whole_partial():
    """Within the lease and a second: the canceller's replica takes the run over and seals it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await telling(owner)
        first_epoch = (await other.record()).epoch
        cluster.stop(owner)
        cluster.shared.loses_hints = True
        began = now()

        outcome, run = await other.cancel(wait=LEASE_SECONDS + 1.0)

        assert other.clock.now() - (run.end_time or 0) < 50_000_000
        assert now() - began <= LEASE_SECONDS + 1.0
        assert (outcome, run.state) == (CancelOutcome.CANCELLED, RunState.CANCELLED)
        assert text_of(run.message) == "told"
        assert (await other.record()).epoch == first_epoch + 1


async def test_many_cancels_of_many_dead_runs_need_few_looks():
    """Those who wait share the sweep, and one tail per run."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        for number in range(10):
            await telling(owner, f"run-{number}")
        cluster.stop(owner)
        before = other.store.calls.copy()

        answers = await asyncio.gather(*(other.cancel(f"run-{n % 10}", wait=LEASE_SECONDS + 1.0) for n in range(100)))

        used = other.store.calls - before
        assert {outcome for outcome, _ in answers} == {CancelOutcome.CANCELLED}
        assert 2 * LEASE_SECONDS <= used["orphans"] <= (LEASE_SECONDS + 1.0) / 0.25 + 2
        assert used["take_over"] == 10
        assert not cluster.followed(other)


async def test_early_cancel_on_another_replica_is_met_by_the_start():
    """No upstream is called."""
    async with replicas() as cluster:
        owner, other = cluster.engines

        remembered, _ = await other.cancel()
        run = await (await owner.start()).rest()
        again, _ = await owner.cancel()

        assert remembered is CancelOutcome.REMEMBERED
        assert (run.state, run.last_sequence, run.start_time) == (RunState.CANCELLED, 2, None)
        assert again is CancelOutcome.CANCELLED
        assert not owner.upstream.started_calls


async def test_cancel_that_meets_the_start_halfway_stops_it():
    """The record exists, its owner does not know so yet."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        owner.store.withhold("start")
        starting = asyncio.create_task(owner.start())
        await owner.store.asked("start")
        await settle()

        cancelling = asyncio.create_task(other.cancel())
        await advance(0.05)
        await owner.store.thaw()
        outcome, run = await cancelling

        assert (outcome, run.state) == (CancelOutcome.CANCELLED, RunState.CANCELLED)
        assert not owner.upstream.started_calls
        assert await (await starting).rest() == run


async def test_cancels_on_all_replicas_at_once_record_one_intent():
    """All get the same answer."""
    async with replicas(3) as cluster:
        await telling(cluster.engines[0])

        answers = await asyncio.gather(*(engine.cancel(text=str(n)) for n, engine in enumerate(cluster.engines)))

        runs = [run for _, run in answers]
        assert runs[0] == runs[1] == runs[2]
        assert runs[0].state is RunState.CANCELLED


async def test_last_reader_elsewhere_leaving_stops_the_run():
    """The owner hears of it from the store."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner)
        watcher = await other.watch(claim=True)
        stream.leave()
        await advance(0.05)
        was_closed = call.closed.is_set()

        watcher.leave(CancelReason.DEADLINE)
        await advance(0.05)

        assert not was_closed
        assert call.closed.is_set()
        assert (await other.get(wait=1.0)).cancel_reason is CancelReason.DEADLINE


async def test_cancel_of_a_run_whose_end_the_owner_has_not_heard_of_waits_for_it():
    """The store says that it has ended; the owner, which knows the ending, may tell it a moment later."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        _, call = await telling(owner)
        owner.store.withhold("seal")
        call.say(finish())
        call.end()
        ending = await other.get(wait=5.0)
        cancelling = asyncio.create_task(owner.cancel())
        await advance(0.5)

        await owner.store.thaw("seal")

        assert await cancelling == (CancelOutcome.ALREADY_FINISHED, ending)


async def test_claim_of_a_stream_that_left_before_its_start_was_denied_is_released():
    """The store had added it, the answer was lost, and the stream was gone by then: nobody else would release it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream = await owner.start()
        call = await owner.call()
        other.store.lose_answers("start")
        other.store.withhold("start")
        attaching = asyncio.create_task(other.start())
        await other.store.asked("start")
        await settle()
        attaching.cancel()
        await asyncio.wait({attaching})
        await other.store.thaw("start")
        await advance(0.05)

        stream.leave()
        await advance(0.05)

        assert call.closed.is_set()
        assert (await owner.get(wait=5.0)).cancel_reason is CancelReason.CLIENT_GONE


# --- Conversations ---------------------------------------------------------------------------------------------------


async def test_run_that_completed_before_it_could_be_superseded_is_not_named():
    """Its model had finished when the other replica's intent came; neither names the other."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner, conversation_id="talk")
        call.say(finish())
        newer = await other.start("newer", conversation_id="talk", on_conflict=ConversationPolicy.SUPERSEDE)
        first = await stream.rest()
        (await other.call()).say(finish())
        other.upstream.calls[0].end()

        assert (first.state, first.superseded_by_run_id) == (RunState.COMPLETED, "")
        assert (await newer.rest()).superseded_run_ids == ()


async def test_two_supersedes_and_a_queue_while_the_owner_of_the_middle_one_dies():
    """Each stops those before it, the last one waits for all, and none runs beside another."""
    async with replicas(3) as cluster:
        first, middle, last = cluster.engines
        supersede: dict[str, Any] = {
            "conversation_id": "talk",
            "on_conflict": ConversationPolicy.SUPERSEDE,
            "on_detach": CONTINUE,
        }
        first_stream, first_call = await telling(first, "a", conversation_id="talk", on_detach=CONTINUE)
        first.store.freeze("seal")  # so that those behind it have to wait
        await middle.start("b", **supersede)
        await last.start("c", **supersede)
        await first.start("d", conversation_id="talk", on_conflict=ConversationPolicy.QUEUE)
        await advance(0.5)
        assert first_call.closed.is_set()
        cluster.stop(middle)
        await first.store.thaw()

        await last.upstream.calls[0].started.wait()
        ended_before = [record.key.run_id for record in cluster.shared.records() if record.end_time is not None]
        last.upstream.calls[0].say(text("answer"), finish())
        queued_call = first.upstream.calls[1]
        await queued_call.started.wait()
        queued_call.say(text("next"), finish())
        runs = {run_id: await first.get(run_id, wait=5.0) for run_id in "abcd"}

        assert sorted(ended_before) == ["a", "b"]
        assert [runs[run_id].state.name for run_id in "abcd"] == ["CANCELLED", "CANCELLED", "COMPLETED", "COMPLETED"]
        assert [runs[run_id].superseded_by_run_id for run_id in "abcd"] == ["b", "c", "", ""]
        assert "b" in runs["c"].superseded_run_ids
        assert (runs["d"].start_time or 0) >= (runs["c"].end_time or 0) > 0
        assert not middle.upstream.started_calls
        assert await first_stream.rest() == runs["a"]


async def test_member_whose_record_is_on_its_way_is_waited_for():
    """The other replica has joined, and is about to write it: the order is decided already."""
    async with replicas() as cluster:
        first, second = cluster.engines
        first.store.freeze("start")
        starting = asyncio.create_task(first.start("a", conversation_id="talk"))
        await first.store.asked("start")

        queueing = asyncio.create_task(second.start("b", conversation_id="talk", on_conflict=ConversationPolicy.QUEUE))
        await advance(0.5)
        assert not queueing.done()
        await first.store.thaw()
        await starting
        await queueing

        assert (await second.get("b")).state is RunState.QUEUED
        assert (await second.get("a")).state is RunState.RUNNING


async def test_member_whose_start_died_is_taken_out_of_the_conversation():
    """It delays one start, by 5 s, and no other."""
    async with replicas() as cluster:
        first, second = cluster.engines
        first.store.freeze("start")
        starting = asyncio.create_task(first.start("a", conversation_id="talk"))
        await first.store.asked("start")
        cluster.stop(first)
        queue: dict[str, Any] = {"conversation_id": "talk", "on_conflict": ConversationPolicy.QUEUE}

        began = now()
        stream = await second.start("b", **queue)
        waited = now() - began

        assert 5.0 <= waited < 6.0
        assert (await second.get("b")).state is RunState.RUNNING
        second.upstream.calls[0].say(finish())
        await stream.rest()
        began = now()
        await second.start("c", **queue)
        assert now() - began < 0.1
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


async def test_start_that_failed_elsewhere_takes_no_run_out_of_its_conversation():
    """Another replica gave up the same id between the join and the record; the run takes its place again."""
    async with replicas() as cluster:
        first, second = cluster.engines
        first.store.freeze("start")
        starting = asyncio.create_task(first.start("a", conversation_id="talk"))
        await first.store.asked("start")
        second.store.fail("start")
        with pytest.raises(StoreUnavailable):
            await second.start("a", conversation_id="talk")
        await advance(0.1)
        assert await second.store.join_conversation("default", "talk", "probe", 0) == []
        await second.store.leave_conversation("default", "talk", "probe")
        second.store.heal()

        await first.store.thaw()
        await starting
        await advance(3.0)
        await second.start("b", conversation_id="talk", on_conflict=ConversationPolicy.QUEUE)

        assert (await second.get("b")).state is RunState.QUEUED
