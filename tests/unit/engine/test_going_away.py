"""Shutdown is not a cancel; a crash loses no ending; nothing of the engine stays behind."""

import asyncio

import pytest

from engine_scenario import CONTINUE, LoopClock, SharedStore, advance, run_key, running_engine, settle, text_of
from flaky_store import FlakyStore
from midstream_server.codec import decode_event
from midstream_server.engine.stored_run import seal_orphan
from midstream_server.engine.supervisor import Supervisor, SupervisorOptions
from midstream_server.errors import Draining, StoreUnavailable
from midstream_server.model import (
    CancelIntent,
    CancelReason,
    ConversationPolicy,
    RunFinished,
    RunState,
    TokenCount,
    Usage,
    UsageSource,
)
from midstream_server.stores.base import RecordIntent, RecordPhase
from midstream_server.stores.memory import MemoryRunStore
from scripted_upstream import ScriptedRegistry, ScriptedUpstream, finish, text

# --- Drain -----------------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_drain_refuses_starts_and_lets_live_runs_finish():
    """It returns as soon as the last one has ended; cancels and reads go on."""
    async with running_engine() as engine:
        stream, other = await engine.start(), await engine.start("other")
        call = await engine.call()
        draining = asyncio.create_task(engine.supervisor.drain(30, asyncio.Event()))
        await advance(5)
        with pytest.raises(Draining):
            await engine.start("late")
        call.say(text("in time"), finish())
        call.end()
        run = await stream.rest()
        waits = not draining.done()
        await engine.cancel("other")
        await draining

        assert waits
        assert (run.state, text_of(run.message)) == (RunState.COMPLETED, "in time")
        assert asyncio.get_running_loop().time() > 0
        assert (await other.rest()).state is RunState.CANCELLED


@pytest.mark.looptime
@pytest.mark.parametrize("by", ["time", "hurry"])
async def test_drain_ends_when_its_time_is_over_or_there_is_hurry(by):
    """Then the rest is sealed FAILED(SERVER_SHUTDOWN), with the partial; readers get their end."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("partial"))
        await stream.until_text("partial")
        hurry = asyncio.Event()
        began = asyncio.get_running_loop().time()
        draining = asyncio.create_task(engine.supervisor.drain(30, hurry))
        await advance(3)
        if by == "hurry":
            hurry.set()
        await draining
        lasted = asyncio.get_running_loop().time() - began
        await engine.supervisor.seal_all()
        run = await stream.rest()

        assert lasted == pytest.approx(3 if by == "hurry" else 30, abs=0.1)
        assert (run.state, run.cancel_reason, text_of(run.message)) == (RunState.FAILED, None, "partial")
        assert run.error is not None
        assert run.error.reason == "SERVER_SHUTDOWN"
        assert call.closed.is_set()


@pytest.mark.looptime
async def test_drain_waits_for_a_start_that_is_under_way():
    """It was admitted before; its run is live a moment later."""
    async with running_engine() as engine:
        engine.store.freeze("start")
        starting = asyncio.create_task(engine.start())
        await engine.store.asked("start")
        draining = asyncio.create_task(engine.supervisor.drain(30, asyncio.Event()))
        await settle()
        waits = not draining.done()
        await engine.store.thaw()
        stream = await starting
        call = await engine.call()
        await settle()
        still_waits = not draining.done()
        call.say(finish())
        call.end()
        await draining

        assert (waits, still_waits) == (True, True)
        assert (await stream.rest()).state is RunState.COMPLETED


async def test_cancel_of_a_drain_leaves_no_task():
    """Nor anything else."""
    async with running_engine() as engine:
        await engine.start()
        draining = asyncio.create_task(engine.supervisor.drain(30, asyncio.Event()))
        await settle()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining

        assert not {task.get_name() for task in asyncio.all_tasks()} & {"drain", "hurry"}


async def test_shutdown_after_the_finish_marker_completes_the_run():
    """What is whole stays whole."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("whole"), finish())
        await stream.until_text("whole")
        await engine.supervisor.seal_all()

        assert (await stream.rest()).state is RunState.COMPLETED


async def test_leaving_the_supervisor_seals_everything():
    """Running and queued; stored so that the next process finds them ended."""
    inner = MemoryRunStore()
    async with running_engine(inner) as engine:
        await engine.start("a", conversation_id="talk")
        await engine.start("b", conversation_id="talk", on_conflict=ConversationPolicy.QUEUE)
        await engine.call()
    async with running_engine(inner, "replica-2") as engine:
        states = [(await engine.get(run_id)).error for run_id in ("a", "b")]

    assert [error.reason for error in states if error] == ["SERVER_SHUTDOWN", "SERVER_SHUTDOWN"]


@pytest.mark.looptime
async def test_leaving_the_supervisor_while_the_store_is_away_takes_seconds_and_leaves_no_task():
    """With a run, a grace clock, a claim kept for a lost reader, and waiting callers; nobody waits for ever."""
    inner = MemoryRunStore()
    async with running_engine(inner) as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("seen"))
        await stream.until_text("seen")
        stream.leave(by_server=True)
        other = await engine.start("other", on_detach=CONTINUE)
        reading = asyncio.create_task(other.rest())
        waiting = asyncio.create_task(engine.get("other", wait=None))
        await settle()
        watching = asyncio.create_task(engine.get(wait=60))
        engine.store.freeze()
        call.say(text(" unseen"))
        await engine.store.asked("append", 2)
        began = asyncio.get_running_loop().time()
        await waiting
    lasted = asyncio.get_running_loop().time() - began
    for task in (reading, watching):
        task.cancel()
    await asyncio.wait({reading, watching})
    async with running_engine(inner, "replica-2") as engine:
        run = await engine.get()

    assert lasted == pytest.approx(5, abs=0.5)
    assert call.closed.is_set()
    assert text_of(run.message) == "seen"
    await advance(60)


async def test_error_of_the_body_leaves_the_supervisor_as_it_was_raised():
    """A server that cannot listen says so, and not that a group of tasks had errors."""

    async def fail_inside() -> None:
        async with running_engine() as engine:
            await engine.start()
            raise KeyError("port")

    with pytest.raises(KeyError):
        await fail_inside()


async def test_store_that_cannot_be_recovered_is_closed_again():
    """Whoever fails to start leaves nothing open."""

    store = FlakyStore(MemoryRunStore())
    store.fail("orphans")

    with pytest.raises(StoreUnavailable):
        async with Supervisor(
            store, ScriptedRegistry(ScriptedUpstream()), LoopClock(), str, SupervisorOptions(replica="r")
        ):
            raise AssertionError("it must not start")
    assert store.calls["close"] == 1


async def test_readers_are_waited_for():
    """Until the last one is gone, or the time is over."""
    async with running_engine() as engine:
        stream = await engine.start()
        waiting = asyncio.create_task(engine.supervisor.wait_for_readers(30))
        await settle()
        waits = not waiting.done()
        stream.leave()
        await waiting

        assert waits
        assert engine.supervisor.open_readers == 0


# --- Recovery --------------------------------------------------------------------------------------------------------


async def left_behind(inner: MemoryRunStore, *, run_id: str = "run", intent: CancelIntent | None = None) -> None:
    """A live run of a process that is dead by now, with some text in its log."""
    dead = running_engine(inner, "dead")
    engine = await dead.__aenter__()
    stream = await engine.start(run_id, conversation_id="talk")
    call = await engine.call()
    call.say(text("half "), text("a sentence"))
    await stream.until_text("half a sentence")
    if intent is not None:
        await inner.record_intent(RecordIntent(key=stream.reader.key, intent=intent))
    engine.store.freeze()
    await dead.__aexit__(None, None, None)


@pytest.mark.looptime
async def test_run_of_a_dead_process_is_failed_from_its_log():
    """OWNER_LOST, with everything that readers saw; an estimate of the usage; out of its conversation."""
    inner = MemoryRunStore()
    await left_behind(inner)
    async with running_engine(inner, "replica-2") as engine:
        run = await engine.get()
        stream = await engine.watch()
        ended = await stream.rest()

        assert run == ended
        assert (run.state, text_of(run.message), stream.text) == (RunState.FAILED, "half a sentence", "half a sentence")
        assert run.error is not None
        assert run.error.reason == "OWNER_LOST"
        assert run.usage == Usage(output=TokenCount(value=4, source=UsageSource.ESTIMATED))
        assert await engine.store.join_conversation("default", "talk", "next", 1) == []
        assert engine.upstream.calls == []


@pytest.mark.looptime
async def test_run_of_a_dead_process_that_was_to_stop_is_cancelled_from_its_log():
    """The intent was durable, so the cancel takes effect."""
    inner = MemoryRunStore()
    intent = CancelIntent(
        reason=CancelReason.REQUESTED, requested_by="alice", text="stop", request_time=1, superseded_by_run_id="next"
    )
    await left_behind(inner, intent=intent)
    async with running_engine(inner, "replica-2") as engine:
        run = await engine.get()

        assert (run.state, run.cancel_reason, run.error) == (RunState.CANCELLED, CancelReason.REQUESTED, None)
        assert run.cancel is not None
        assert (run.cancel.requested_by, run.cancel.reason) == ("alice", "stop")
        assert run.superseded_by_run_id == "next"
        assert text_of(run.message) == "half a sentence"


@pytest.mark.looptime
async def test_cancel_that_comes_while_a_run_is_recovered_is_not_lost():
    """An intent that is durable before the seal decides, however late it came."""
    inner = MemoryRunStore()
    store = FlakyStore(inner)
    await left_behind(inner)
    store.freeze("read_log")
    recovery = asyncio.create_task(seal_orphan(store, run_key(), "replica-2", LoopClock()))
    await store.asked("read_log")
    intent = CancelIntent(reason=CancelReason.REQUESTED, requested_by="bob", text="stop", request_time=1)
    await inner.record_intent(RecordIntent(key=run_key(), intent=intent))
    await store.thaw("read_log")

    sealed = await recovery

    async with running_engine(inner, "replica-2") as engine:
        run = await engine.get()
        assert sealed == 1
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.REQUESTED)
        assert text_of(run.message) == "half a sentence"


@pytest.mark.looptime
async def test_recovery_happens_once():
    """The second restart finds the same ending."""
    inner = MemoryRunStore()
    await left_behind(inner)
    async with running_engine(inner, "replica-2") as engine:
        first = await engine.get()
    async with running_engine(inner, "replica-3") as engine:
        assert await engine.get() == first


@pytest.mark.looptime
async def test_generate_of_a_recovered_run_replays_it_and_costs_nothing():
    """Nothing is re-run on its own."""
    inner = MemoryRunStore()
    await left_behind(inner)
    async with running_engine(inner, "replica-2") as engine:
        stream = await engine.start(conversation_id="talk")
        run = await stream.rest()

        assert run.state is RunState.FAILED
        assert engine.upstream.started_calls == []


# --- Another owner ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["append", "seal"])
async def test_owner_that_lost_its_run_closes_the_upstream_and_readers_get_the_other_ones_ending(moment):
    """Fenced by the epoch: what it still writes is refused; nobody sees two endings."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("seen"))
        await stream.until_text("seen")
        key = stream.reader.key
        async with running_engine(engine.store.inner, "replica-2") as thief:
            taken = await thief.get()
            call.say(text(" and not written")) if moment == "append" else call.say(finish())
            call.end()
            run = await stream.rest()
            await call.left.wait()

        page = await engine.store.inner.read_log(key, 0, 1 << 30)
        endings = [entry for entry in page.entries if isinstance(decode_event(entry).payload, RunFinished)]
        assert run == taken == await engine.get()
        assert (run.state, text_of(run.message), stream.text) == (RunState.FAILED, "seen", "seen")
        assert len(endings) == 1
        assert engine.supervisor.live_runs == 0


async def test_intent_that_another_process_wrote_is_learnt_from_the_next_append():
    """The owner stops by itself."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        intent = CancelIntent(reason=CancelReason.REQUESTED, requested_by="bob", request_time=1)
        await engine.store.inner.record_intent(RecordIntent(key=stream.reader.key, intent=intent))
        call.say(text("x"))
        run = await stream.rest()

        assert call.closed.is_set()
        assert (run.state, run.cancel_reason, text_of(run.message)) == (RunState.CANCELLED, CancelReason.REQUESTED, "x")
        assert run.cancel is not None
        assert run.cancel.requested_by == "bob"


async def test_queued_run_that_was_taken_over_never_calls_its_upstream():
    """It is not ours to start any more."""
    async with running_engine() as engine:
        first = await engine.start("a", conversation_id="talk")
        stream = await engine.start("b", conversation_id="talk", on_conflict=ConversationPolicy.QUEUE)
        await settle()
        await engine.store.inner.take_over(stream.reader.key, "replica-2", 1)
        (await engine.call()).end()
        await first.rest()
        await engine.store.asked("set_running")
        await settle()

        assert len(engine.upstream.started_calls) == 1
        assert engine.supervisor.live_runs == 0
        assert (await engine.record("b")).phase is RecordPhase.LIVE


async def test_start_finds_the_run_of_another_process_and_follows_it():
    """Attaching works from anywhere; the fingerprint decides."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        async with running_engine(SharedStore(engine.store.inner), "replica-2") as other:
            follower = await other.start()
            call.say(text("from afar"), finish())
            call.end()
            run = await stream.rest()

            assert await follower.rest() == run
            assert follower.text == "from afar"
            assert other.upstream.started_calls == []
