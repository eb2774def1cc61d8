"""What happens when nobody follows a run any more."""

import asyncio

import pytest

from engine_scenario import CONTINUE, GRACE, advance, running_engine, settle, text_of
from midstream_server.errors import CursorAhead, RunIdConflict, RunNotFound, StoreUnavailable
from midstream_server.model import CancelReason, RunState
from midstream_server.stores.base import RecordPhase
from scripted_upstream import finish, text


@pytest.mark.parametrize("reason", [CancelReason.CLIENT_GONE, CancelReason.DEADLINE])
async def test_last_stream_that_leaves_stops_the_run_at_once(reason):
    """By default; the upstream is closed in the same turn of the loop, and the reason is what the stream saw."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("partial"))
        await stream.until_text("partial")

        stream.leave(reason)
        closed_at_once = call.closed.is_set()
        run = await engine.get(wait=5)

        assert closed_at_once
        assert (run.state, run.cancel_reason, text_of(run.message)) == (RunState.CANCELLED, reason, "partial")
        assert run.cancel is not None
        assert run.cancel.requested_by == "client"
        record = await engine.record()
        assert record.intent is not None
        assert record.intent.reason is reason


async def test_run_lives_while_another_stream_has_a_claim():
    """Be it a second Generate or a WatchRun with a claim; the last one to leave gives the reason."""
    async with running_engine() as engine:
        first = await engine.start()
        call = await engine.call()
        second = await engine.start()
        third = await engine.watch(claim=True)
        first.leave(CancelReason.DEADLINE)
        second.leave()
        await settle()
        alive = not call.closed.is_set()

        third.leave(CancelReason.DEADLINE)
        run = await engine.get(wait=5)

        assert alive
        assert run.cancel_reason is CancelReason.DEADLINE


async def test_start_that_conflicts_gives_no_reason_for_the_end():
    """It never held a claim: what the last stream saw that did is the reason."""
    async with running_engine() as engine:
        first = await engine.start()
        engine.store.freeze("start")
        other = asyncio.create_task(engine.start(fingerprint="1:other"))
        await engine.store.asked("start", 2)
        first.leave(CancelReason.DEADLINE)
        engine.store.freeze("release")
        await engine.store.thaw("start")
        with pytest.raises(RunIdConflict):
            await other

        await engine.store.thaw("release")
        run = await engine.get(wait=5)

        assert run.cancel_reason is CancelReason.DEADLINE
        record = await engine.record()
        assert record.intent is not None
        assert record.intent.reason is CancelReason.DEADLINE


async def test_watchers_without_a_claim_never_end_a_run():
    """They come and go."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        watcher = await engine.watch()
        watcher.leave()
        await settle()

        assert not call.closed.is_set()
        assert (await engine.record()).claims.keys() == {stream.claim.claim_id if stream.claim else ""}


async def test_leaving_twice_is_leaving_once():
    """A clean-up may run again."""
    async with running_engine() as engine:
        first = await engine.start()
        await engine.start()
        call = await engine.call()

        first.leave()
        first.leave()
        await settle()

        assert not call.closed.is_set()


@pytest.mark.looptime
async def test_with_continue_the_run_outlives_its_streams_and_their_deadlines():
    """Until its own end."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=CONTINUE)
        call = await engine.call()
        stream.leave(CancelReason.DEADLINE)
        await advance(60)
        call.say(text("unattended"), finish())
        call.end()
        run = await engine.get(wait=5)

        assert (run.state, text_of(run.message)) == (RunState.COMPLETED, "unattended")


@pytest.mark.looptime
async def test_with_grace_the_run_is_stopped_when_the_grace_is_over():
    """Not before; the upstream is closed by our own clock."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=GRACE)
        call = await engine.call()
        stream.leave(CancelReason.DEADLINE)
        await advance(9.9)
        before = call.closed.is_set()
        await advance(0.2)
        after = call.closed.is_set()
        run = await engine.get(wait=5)

        assert (before, after) == (False, True)
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.DEADLINE)
        record = await engine.record()
        assert record.intent is not None
        assert record.intent.reason is CancelReason.DEADLINE


@pytest.mark.looptime
@pytest.mark.parametrize("again", ["watch", "generate"])
async def test_new_claim_stops_the_clock_and_the_next_leave_starts_it_anew(again):
    """A lost connection that comes back within the grace loses nothing."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=GRACE)
        call = await engine.call()
        call.say(text("a"))
        await stream.until_text("a")
        stream.leave()
        await advance(9)
        back = await (engine.watch(after_sequence=2, claim=True) if again == "watch" else engine.start(on_detach=GRACE))
        await advance(60)
        alive = not call.closed.is_set()
        back.leave()
        await advance(9)
        still = not call.closed.is_set()
        await advance(2)

        assert (alive, still, call.closed.is_set()) == (True, True, True)


@pytest.mark.looptime
async def test_observer_does_not_stop_the_clock():
    """Only a claim does."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=GRACE)
        call = await engine.call()
        stream.leave()
        await advance(5)
        await engine.watch()
        await advance(6)

        assert call.closed.is_set()


@pytest.mark.looptime
async def test_stream_that_the_server_ended_keeps_its_claim_for_ten_seconds():
    """So that its client can come back; then the policy applies, with the reason that was seen."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        stream.leave(by_server=True)
        await advance(9.5)
        before = call.closed.is_set()
        await advance(1)
        run = await engine.get(wait=5)

        assert not before
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.CLIENT_GONE)


@pytest.mark.looptime
async def test_client_that_comes_back_within_the_ten_seconds_keeps_its_run():
    """The old claim goes, the new one holds."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        stream.leave(by_server=True)
        await advance(5)
        await engine.watch(claim=True)
        await advance(60)

        assert not call.closed.is_set()
        assert len((await engine.record()).claims) == 1


@pytest.mark.looptime
@pytest.mark.parametrize("how", ["fail", "freeze"])
async def test_last_stream_that_leaves_while_the_store_is_away_stops_the_meter(how):
    """At once under CANCEL; what is written later is CLIENT_GONE, not an outage."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        engine.store.fail() if how == "fail" else engine.store.freeze()

        stream.leave()
        closed_at_once = call.closed.is_set()
        await advance(40)
        engine.store.heal()
        await engine.store.thaw()
        run = await engine.get(wait=10)

        assert closed_at_once
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.CLIENT_GONE)


@pytest.mark.looptime
@pytest.mark.parametrize("how", ["fail", "freeze"])
async def test_grace_runs_while_the_store_is_away(how):
    """An outage does not make it longer."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=GRACE)
        call = await engine.call()
        engine.store.fail() if how == "fail" else engine.store.freeze()
        stream.leave()
        await advance(10.5)
        closed_in_time = call.closed.is_set()
        engine.store.heal()
        await engine.store.thaw()
        run = await engine.get(wait=10)

        assert closed_in_time
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.CLIENT_GONE)


@pytest.mark.looptime
async def test_claim_that_the_store_refused_is_let_go():
    """A WatchRun that failed holds nothing; the grace that it interrupted goes on."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=GRACE)
        call = await engine.call()
        stream.leave()
        await advance(5)
        engine.store.fail("claim")
        with pytest.raises(StoreUnavailable):
            await engine.watch(claim=True)
        engine.store.heal()
        await advance(11)

        assert call.closed.is_set()
        assert (await engine.get(wait=5)).cancel_reason is CancelReason.CLIENT_GONE


@pytest.mark.looptime
async def test_claim_with_a_cursor_ahead_of_the_log_is_let_go():
    """A stream that never began holds nothing."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        with pytest.raises(CursorAhead):
            await engine.watch(after_sequence=9, claim=True)
        stream.leave()

        assert call.closed.is_set()
        assert (await engine.get(wait=5)).state is RunState.CANCELLED


async def test_claim_on_an_unknown_run_leaves_nothing():
    """Not even a task."""
    async with running_engine() as engine:
        with pytest.raises(RunNotFound):
            await engine.watch("other", claim=True)

        assert engine.store.calls["release"] == 0


async def test_claim_on_an_ended_run_changes_nothing():
    """Following what is over is reading."""
    async with running_engine() as engine:
        stream = await engine.start()
        (await engine.call()).end()
        before = await stream.rest()
        watcher = await engine.watch(claim=True)
        watcher.leave()
        await settle()

        assert await engine.get() == before
        record = await engine.record()
        assert (record.phase, record.claims) == (RecordPhase.SEALED, {})


@pytest.mark.parametrize("operation", ["claim", "get"])
async def test_cancel_of_a_watch_while_its_claim_is_written_lets_it_go(operation):
    """Wherever the watching stream is cancelled, its claim does not keep the run alive."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=GRACE)
        call = await engine.call()
        engine.store.freeze(operation, "release")
        asked = engine.store.calls[operation]
        watching = asyncio.create_task(engine.watch("run" if operation == "claim" else "gone", claim=True))
        await engine.store.asked(operation, asked + 1)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        await engine.store.thaw()
        await settle()

        assert (await engine.record()).claims.keys() == {stream.claim.claim_id if stream.claim else ""}
        assert not call.closed.is_set()
