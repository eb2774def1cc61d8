"""A failover that lost what the store had acknowledged: who knows it says it again, the same bytes."""

import asyncio

import pytest

from engine_scenario import CONTINUE, GRACE, advance, failure_of, run_key, settle, text_of
from midstream_server.codec import decode_event
from midstream_server.engine.tails import LONGEST_POLL_SECONDS, PUT_BACK_SECONDS
from midstream_server.errors import CursorAhead, RunNotFound, StoreUnavailable
from midstream_server.model import CancelOutcome, CancelReason, MessageDelta, RunState
from midstream_server.stores.base import RecordPhase
from scripted_upstream import finish, text
from shared_store import HEARTBEAT_SECONDS, LEASE_SECONDS, replicas

pytestmark = pytest.mark.looptime


async def telling(engine, *pieces, run_id="run", **spec):
    """A run that has told these pieces of text, an entry each; its stream, and its call."""
    stream = await engine.start(run_id, **spec)
    call = await engine.call(len(engine.upstream.calls) - 1)
    for piece in pieces:
        call.say(text(piece))
        before = len(stream.text)
        while len(stream.text) == before:
            await stream.next()
    return stream, call


async def test_live_owner_puts_back_what_the_store_lost_and_goes_on():
    """Found at the next append. Every sequence keeps its bytes; nobody sees a seam."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner, "a")
        fail_over = cluster.shared.copy()
        for piece in "bc":
            call.say(text(piece))
            await stream.until_text("ab" if piece == "b" else "abc")
        log = cluster.shared.log()

        fail_over()
        assert len(cluster.shared.log()) == 2
        call.say(text("d"), finish())
        call.end()
        run = await stream.rest()

        assert cluster.shared.log()[: len(log)] == log
        assert (run.state, text_of(run.message), run.attempts) == (RunState.COMPLETED, "abcd", 1)
        assert stream.sequences == list(range(1, run.last_sequence + 1))
        assert await (await other.watch()).rest() == run


async def test_text_that_comes_while_a_run_is_put_back_follows_it():
    """Nothing waits for the next word of the model."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        stream, call = await telling(owner, "a")
        fail_over = cluster.shared.copy()
        call.say(text("b"))
        await stream.until_text("ab")
        owner.store.freeze("restore")

        fail_over()
        call.say(text("c"))
        await owner.store.asked("restore")
        call.say(text("d"))
        await settle()
        assert stream.text == "ab"
        await owner.store.thaw()

        await stream.until_text("abcd")


async def test_live_owner_puts_back_a_run_that_is_gone_and_silent():
    """Found at the heartbeat: the run, its claims, its place in its conversation."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        fail_over = cluster.shared.copy()
        stream, call = await telling(owner, "a", "b", conversation_id="talk")
        before = await owner.record()

        fail_over()
        with pytest.raises(RunNotFound):
            await other.get()
        await advance(HEARTBEAT_SECONDS + 0.1)

        assert await owner.record() == before
        assert text_of((await other.get()).message) == "ab"
        assert await other.store.join_conversation("default", "talk", "next", 0) == ["run"]
        await other.cancel()
        assert call.closed.is_set()
        assert (await stream.rest()).state is RunState.CANCELLED


async def test_seal_that_meets_a_store_that_fell_behind_is_made_all_the_same():
    """The run is put back, then sealed."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner, "a")
        fail_over = cluster.shared.copy()
        call.say(text("b"))
        await stream.until_text("ab")

        fail_over()
        call.end()
        run = await stream.rest()

        assert text_of(run.message) == "ab"
        assert await other.get() == run


async def test_run_that_ended_within_the_last_minute_is_sealed_again():
    """The same ending, with the same bytes, though it was rolled back to half its log, or to nothing."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        copies = [cluster.shared.copy()]
        stream, call = await telling(owner, "a")
        copies.append(cluster.shared.copy())
        call.say(text("b"), finish())
        run = await stream.rest()
        log, record = cluster.shared.log(), await owner.record()

        for fail_over in copies:
            fail_over()
            await advance(HEARTBEAT_SECONDS + 0.1)

            assert cluster.shared.log() == log
            assert await owner.record() == record
            assert await other.get() == await owner.get() == run


async def test_what_ended_longer_ago_is_not_kept():
    """A minute, and no more bytes than the bound."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        fail_over = cluster.shared.copy()
        stream, call = await telling(owner, "a")
        call.say(finish())
        await stream.rest()
        await advance(61.0)

        fail_over()
        await advance(HEARTBEAT_SECONDS + 0.1)

        with pytest.raises(RunNotFound):
            await owner.get()


async def test_reader_that_was_ahead_of_the_store_is_told():
    """Its owner is dead, so nobody can say it again; it is not served another history behind what it saw."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        _, call = await telling(owner, "a", on_detach=CONTINUE)
        fail_over = cluster.shared.copy()
        ahead, behind = await other.watch(), await other.watch()
        await behind.until_text("a")
        call.say(text("b"))
        await ahead.until_text("ab")
        reading = asyncio.create_task(ahead.next())
        await settle()
        cluster.stop(owner)

        fail_over()
        began = asyncio.get_running_loop().time()
        with pytest.raises(CursorAhead) as caught:
            await reading
        assert asyncio.get_running_loop().time() - began <= PUT_BACK_SECONDS + LONGEST_POLL_SECONDS
        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)

        assert caught.value.metadata == {"last_sequence": "2"}
        assert failure_of(await behind.rest()) == "OWNER_LOST"
        assert (behind.text, behind.sequences) == ("a", [1, 2, 3])


async def test_reader_that_was_ahead_by_one_is_told_though_the_end_took_that_number():
    """RunFinished has the number of the delta that was lost, and the reader never saw it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        _, call = await telling(owner, "a", on_detach=CONTINUE)
        fail_over = cluster.shared.copy()
        call.say(text("b"))
        ahead = await other.watch()
        await ahead.until_text("ab")
        cluster.stop(owner)
        fail_over()
        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)
        assert (await other.record()).phase is RecordPhase.SEALED

        with pytest.raises(CursorAhead):
            await ahead.next()


async def test_reader_behind_a_window_that_was_rolled_back_gets_the_real_ending():
    """What the window held is not the run's any more, though the log is as long as it was."""
    async with replicas(3) as cluster:
        owner, other, third = cluster.engines
        _, call = await telling(owner, "a", on_detach=CONTINUE)
        fail_over = cluster.shared.copy()
        ahead, behind = await other.watch(), await other.watch()
        await behind.until_text("a")
        call.say(text("b"))
        await ahead.until_text("ab")
        reading = asyncio.create_task(ahead.next())
        await settle()
        other.store.fail("get")
        cluster.stop(owner)
        fail_over()
        await third.get(wait=10.0)
        other.store.heal()

        with pytest.raises(CursorAhead):
            await reading
        assert failure_of(await behind.rest()) == "OWNER_LOST"
        assert (behind.text, behind.sequences) == ("a", [1, 2, 3])


async def test_own_reader_of_a_run_that_was_rolled_back_and_taken_over_is_told():
    """The owner was stopped meanwhile: what it told is more than what is left."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream, call = await telling(owner, "a")
        fail_over = cluster.shared.copy()
        call.say(text("b"))
        await stream.until_text("ab")
        cluster.stop(owner)
        fail_over()
        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)

        await cluster.wake(owner)
        with pytest.raises(CursorAhead):
            await stream.rest()

        assert call.closed.is_set()
        assert text_of((await owner.get()).message) == text_of((await other.get()).message) == "a"


async def test_intents_and_releases_of_the_last_minute_are_written_again():
    """A stop that was acknowledged is not lost, nor is a reader who left."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        cluster.shared.loses_hints = True
        _, stopped = await telling(owner, "a", run_id="stopped", on_detach=CONTINUE)
        left_stream, left = await telling(owner, "a", run_id="left", on_detach=GRACE)
        watcher = await other.watch("left", claim=True)
        left_stream.leave()
        await settle()
        fail_over = cluster.shared.copy()
        await other.cancel("stopped", wait=0)
        watcher.leave()
        await settle()
        assert (await owner.record("left")).detach_time is not None

        fail_over()
        assert (await owner.record("stopped")).intent is None
        await advance(3 * HEARTBEAT_SECONDS)

        assert stopped.closed.is_set()
        assert (await other.get("stopped", wait=1.0)).cancel_reason is CancelReason.REQUESTED
        await advance(GRACE.grace_seconds)
        assert left.closed.is_set()


async def test_last_release_is_not_lost_with_the_whole_run():
    """The run is put back without the claim that was released, and still knows that nobody follows it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        cluster.shared.loses_hints = True
        fail_over = cluster.shared.copy()
        stream, call = await telling(owner, "a", on_detach=GRACE)
        watcher = await other.watch(claim=True)
        stream.leave()
        await settle()
        watcher.leave()
        await settle()
        other.store.freeze("release")

        fail_over()
        await advance(HEARTBEAT_SECONDS + 0.5)
        record = await owner.record()
        assert (record.claims, record.detach_time) == ({}, None)
        await other.store.thaw()
        await advance(3 * HEARTBEAT_SECONDS + GRACE.grace_seconds)

        assert call.closed.is_set()


async def test_claim_that_others_hold_outlives_the_release_that_is_written_again():
    """Releases are repeated when all have said what they hold: nobody is taken for gone."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        fail_over = cluster.shared.copy()
        stream, call = await telling(owner, "a")
        watcher = await other.watch(claim=True)
        stream.leave()
        await settle()

        fail_over()
        await advance(5 * HEARTBEAT_SECONDS)

        assert watcher.claim is not None
        assert list((await owner.record()).claims) == [watcher.claim.claim_id]
        assert not call.closed.is_set()


async def test_stream_that_leaves_a_run_that_was_just_put_back_is_heard():
    """The run is put back with its claims, so that releasing the last one counts."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        fail_over = cluster.shared.copy()
        stream, call = await telling(owner, "a")
        owner.store.freeze("claim")

        fail_over()
        call.say(text("b"))
        await stream.until_text("ab")
        stream.leave()
        await advance(0.1)

        assert call.closed.is_set()
        await owner.store.thaw()


async def test_cancel_of_a_run_that_is_lost_for_a_moment_stops_it():
    """It looked unknown, so the cancel was remembered; put back, the run takes the cancel with it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        fail_over = cluster.shared.copy()
        stream, call = await telling(owner, "a")

        fail_over()
        outcome, _ = await other.cancel()
        assert outcome is CancelOutcome.REMEMBERED
        await advance(HEARTBEAT_SECONDS + 0.1)
        run = await stream.rest()

        assert call.closed.is_set()
        assert (run.state, text_of(run.message)) == (RunState.CANCELLED, "a")
        assert await other.get() == run


async def test_failover_that_lost_nothing_changes_nothing():
    """Every run is looked for, none is written."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        _, call = await telling(owner, "a")
        fail_over = cluster.shared.copy()

        fail_over()
        await advance(HEARTBEAT_SECONDS + 0.1)

        assert owner.store.calls["restore"] == 0
        assert owner.supervisor.live_runs == 1
        assert not call.closed.is_set()


async def test_rolled_back_log_is_the_same_bytes_under_load():
    """Many runs at once, each found by an append of its own or by the check."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        fail_over = cluster.shared.copy()
        streams, calls = [], []
        for number in range(30):
            stream, call = await telling(owner, "a", run_id=f"run-{number}", on_detach=CONTINUE)
            streams.append(stream)
            calls.append(call)
            if number == 20:
                fail_over = cluster.shared.copy()
        for call in calls[::2]:
            call.say(text("b"))
        await settle()
        fail_over()
        for call in calls[::3]:
            call.say(text("c"))
        await advance(HEARTBEAT_SECONDS + 1.0)
        for call in calls:
            call.say(finish())
            call.end()
        await settle()

        for number, stream in enumerate(streams):
            run = await stream.rest()
            deltas = [decode_event(entry).payload for entry in cluster.shared.log(f"run-{number}")]
            wanted = "a" + "b" * (number % 2 == 0) + "c" * (number % 3 == 0)
            assert text_of(run.message) == stream.text == wanted
            assert sum(isinstance(delta, MessageDelta) for delta in deltas) >= 1
            assert await other.get(f"run-{number}") == run
        assert {record.key for record in cluster.shared.records()} == {run_key(f"run-{n}") for n in range(30)}


async def test_generate_of_a_live_run_that_the_store_lost_calls_no_second_upstream():
    """It is told to come back; the run is put back meanwhile, and the repeat attaches to it."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        fail_over = cluster.shared.copy()
        stream, call = await telling(owner, "told")

        fail_over()
        with pytest.raises(StoreUnavailable):
            await owner.start()
        await advance(HEARTBEAT_SECONDS)
        attached = await owner.start()
        call.say(finish())
        call.end()

        run = await attached.rest()
        assert run == await stream.rest()
        assert (attached.text, run.attempts) == ("told", 1)
        assert len(owner.upstream.started_calls) == 1


async def test_generate_that_meets_the_loss_of_its_live_run_leaves_one_of_the_two():
    """The store had it a moment before: the start that makes another one closes the first."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        fail_over = cluster.shared.copy()
        stream, first = await telling(owner, "told")
        owner.store.freeze("start")
        starting = asyncio.create_task(owner.start())
        await owner.store.asked("start", 2)

        fail_over()
        await owner.store.thaw("start")
        newer = await starting
        second = await owner.call(len(owner.upstream.calls) - 1)
        second.say(text("again"), finish())
        second.end()
        run = await newer.rest()

        assert first.closed.is_set()
        assert text_of(run.message) == "again"
        assert await owner.get() == run == await stream.rest()


async def test_run_that_was_taken_from_its_owner_and_came_back_with_the_failover_is_sealed():
    """Its owner is alive, and does not drive it any more: nobody else would look for it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        _, call = await telling(owner, "told")
        cluster.stop(owner)
        fail_over = cluster.shared.copy()
        await advance(LEASE_SECONDS + 2 * HEARTBEAT_SECONDS)
        await cluster.wake(owner)
        await advance(HEARTBEAT_SECONDS)
        assert (await other.record()).phase is RecordPhase.SEALED

        fail_over()
        assert (await other.record()).owner == "replica-1"
        await advance(2 * HEARTBEAT_SECONDS)

        assert (await other.record()).phase is RecordPhase.SEALED
        assert call.closed.is_set()


async def test_orphan_that_came_back_half_sealed_with_the_failover_is_sealed():
    """The copy is of the moment between the two halves: it belongs to the living, and nobody drives it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await telling(owner, "told")
        cluster.stop(owner)
        other.store.freeze("seal")
        await advance(LEASE_SECONDS + 2 * HEARTBEAT_SECONDS)
        assert (await other.record()).owner == "replica-2"
        fail_over = cluster.shared.copy()
        await other.store.thaw("seal")
        await advance(HEARTBEAT_SECONDS)
        assert (await other.record()).phase is RecordPhase.SEALED

        fail_over()
        await advance(3 * HEARTBEAT_SECONDS)

        assert (await other.record()).phase is RecordPhase.SEALED
