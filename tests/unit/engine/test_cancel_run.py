"""Cancel: the upstream is closed before anything is awaited, whatever the position; the answer is the partial."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from engine_scenario import Engine, Follower, run_key, running_engine, settle, text_of
from midstream_server.errors import RunExpired, StoreUnavailable, TooManyRememberedCancels, UpstreamUnavailable
from midstream_server.model import (
    CancelOutcome,
    CancelReason,
    PartState,
    RunFinished,
    RunStarted,
    RunState,
    ToolCall,
    ToolCallDelta,
)
from midstream_server.stores.base import RecordPhase
from midstream_server.upstreams.base import PartDelta
from scripted_upstream import ScriptedCall, finish, text

Position = Callable[[Engine, Follower, ScriptedCall], Awaitable[None]]


async def before_headers(engine: Engine, stream: Follower, call: ScriptedCall) -> None:
    """The request has left; nothing came."""


async def mid_text(engine: Engine, stream: Follower, call: ScriptedCall) -> None:
    """Text has come, more could."""
    call.say(text("Once "))
    call.say(text("upon"))
    await stream.until_text("Once upon")


async def mid_character(engine: Engine, stream: Follower, call: ScriptedCall) -> None:
    """Half a surrogate pair is held back."""
    call.say(text("a\ud83d"))
    await stream.until_text("a")


async def mid_tool_call(engine: Engine, stream: Follower, call: ScriptedCall) -> None:
    """Half the arguments are there."""
    call.say(PartDelta(part="tool", payload=ToolCallDelta(id="1", name="f", arguments='{"a')))
    await stream.until(lambda event: event.sequence == 2)


async def reader_blocked(engine: Engine, stream: Follower, call: ScriptedCall) -> None:
    """Our own reader has not read at all."""
    for _ in range(50):
        call.say(text("x" * 1000))
    await settle()


async def store_frozen(engine: Engine, stream: Follower, call: ScriptedCall) -> None:
    """The store hangs with an append."""
    call.say(text("seen"))
    await stream.until_text("seen")
    engine.store.freeze()
    call.say(text(" and unseen"))
    await engine.store.asked("append", 2)


async def reading_stopped(engine: Engine, stream: Follower, call: ScriptedCall) -> None:
    """We have stopped reading, as too much waits for the store."""
    engine.store.freeze("append")
    for _ in range(40):
        call.say(text("x" * 50_000))
    await settle()
    assert call.unread_batches > 0


POSITIONS: list[Position] = [
    before_headers,
    mid_text,
    mid_character,
    mid_tool_call,
    reader_blocked,
    store_frozen,
    reading_stopped,
]


@pytest.mark.parametrize("position", POSITIONS, ids=lambda position: position.__name__)
async def test_cancel_closes_the_upstream_before_anything_is_awaited(position):
    """Between the call of Cancel and its first await the connection is closed, also while the store is away."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        await position(engine, stream, call)

        cancelling = engine.cancel()
        cancelling.send(None)  # runs it to its first await, and no further
        closed_at_once = call.closed.is_set()
        cancelling.close()

        assert closed_at_once
        await engine.store.thaw()
        run = await engine.get(wait=5)
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.REQUESTED)


@pytest.mark.parametrize("position", POSITIONS[:5], ids=lambda position: position.__name__)
async def test_cancel_answers_with_the_partial_that_get_returns_and_readers_saw(position):
    """One message: the reply's, GetRun's, the last event's; what a reader saw is a prefix of it."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        await position(engine, stream, call)
        seen = stream.text

        outcome, run = await engine.cancel(text="enough")

        assert outcome is CancelOutcome.CANCELLED
        assert await engine.get() == run
        assert await stream.rest() == run
        assert text_of(run.message).startswith(seen)
        assert text_of(stream.message) == text_of(run.message)
        assert (run.finish_reason, run.error) == (None, None)
        assert all(part.state is PartState.TRUNCATED for part in (run.message.parts if run.message else ()))


async def test_cancel_while_reading_has_stopped_leaves_the_upstream_at_once():
    """The pump does not wait for the store, which is still away."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        await reading_stopped(engine, stream, call)

        cancelling = asyncio.create_task(engine.cancel())
        await settle()
        left = call.left.is_set()
        await engine.store.thaw()

        assert left
        assert (await cancelling)[1].state is RunState.CANCELLED


async def test_cancel_inside_a_tool_call_keeps_its_half():
    """Byte for byte, and TRUNCATED."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        await mid_tool_call(engine, stream, call)

        _, run = await engine.cancel()

        assert run.message is not None
        (part,) = run.message.parts
        assert part.content == ToolCall(id="1", name="f", arguments='{"a')
        assert part.state is PartState.TRUNCATED


async def test_cancel_writes_out_the_half_character_that_was_held_back():
    """As a replacement character, in the log too."""
    async with running_engine() as engine:
        stream = await engine.start()
        await mid_character(engine, stream, await engine.call())

        _, run = await engine.cancel()
        await stream.rest()

        assert text_of(run.message) == stream.text == "a\ufffd"


async def test_cancel_reports_who_why_when_and_what_it_cost():
    """What still arrived after the decision is counted and not in the message."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("kept"))
        await stream.until_text("kept")
        call.say(text("late"), text("later"), wire_bytes=70)
        call.say(finish(), wire_bytes=30)

        _, run = await engine.cancel(text="enough")

        report = run.cancel
        assert report is not None
        assert (report.requested_by, report.reason) == ("alice", "enough")
        assert (report.discarded_events, report.discarded_bytes) == (3, 100)
        assert report.upstream_close_time is not None
        assert run.create_time <= report.request_time <= report.upstream_close_time <= (run.end_time or 0)
        assert text_of(run.message) == "kept"
        assert (await engine.record()).intent is not None


async def test_cancel_before_the_request_left_reports_no_close():
    """A run that never called its upstream has no connection to close, no attempt, no upstream and no usage."""
    async with running_engine() as engine:
        engine.store.withhold("start")
        starting = asyncio.create_task(engine.start())
        await engine.store.asked("start")
        cancelling = asyncio.create_task(engine.cancel())
        await engine.store.asked("record_intent")
        await engine.store.thaw()
        outcome, run = await cancelling
        stream = await starting

        assert outcome is CancelOutcome.CANCELLED
        assert run.cancel is not None
        assert run.cancel.upstream_close_time is None
        assert (run.attempts, run.upstream, run.usage, run.message) == (0, "", None, None)
        assert engine.upstream.started_calls == []
        assert await stream.rest() == run


@pytest.mark.parametrize("operation", ["get", "start"])
async def test_cancel_while_the_record_is_being_created_calls_no_upstream(operation):
    """The store is frozen at the start; the cancel overtakes it or follows it, and is never missed."""
    async with running_engine() as engine:
        engine.store.freeze(operation)
        starting = asyncio.create_task(engine.start())
        await engine.store.asked(operation)
        cancelling = asyncio.create_task(engine.cancel(wait=5))
        await engine.store.asked("record_intent")
        await settle()
        await engine.store.thaw()
        stream = await starting
        await cancelling

        run = await stream.rest()

        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.REQUESTED)
        assert engine.upstream.started_calls == []
        assert await engine.get() == run


async def test_cancel_before_the_start_is_remembered():
    """The Generate that comes for it calls no upstream, uses nothing, and replays two events."""
    async with running_engine() as engine:
        first, early = await engine.cancel(text="never mind")
        again, _ = await engine.cancel(text="really")
        stream = await engine.start()
        run = await stream.rest()
        after, known = await engine.cancel()

        assert (first, again, after) == (
            CancelOutcome.REMEMBERED,
            CancelOutcome.REMEMBERED,
            CancelOutcome.CANCELLED,
        )
        assert run == early == known
        assert (run.state, run.usage, run.start_time, run.last_sequence) == (RunState.CANCELLED, None, None, 2)
        assert [type(event.payload) for event in stream.events] == [RunStarted, RunFinished]
        assert stream.sequences == [1, 2]
        assert run.cancel is not None
        assert run.cancel.reason == "never mind"
        assert engine.upstream.started_calls == []


async def test_remembered_cancels_are_bounded(monkeypatch):
    """Beyond the bound the caller is told; none is forgotten for it."""
    monkeypatch.setattr("midstream_server.engine.supervisor.MAX_EARLY_CANCELS", 2)
    async with running_engine() as engine:
        await engine.cancel("one")
        await engine.cancel("two")
        with pytest.raises(TooManyRememberedCancels):
            await engine.cancel("three")

        assert (await engine.cancel("one"))[0] is CancelOutcome.REMEMBERED
        assert (await engine.start("one")).reader is not None
        assert (await engine.cancel("three"))[0] is CancelOutcome.REMEMBERED


async def test_cancel_without_waiting_answers_stopping_with_the_partial_so_far():
    """As soon as the intent is durable; the seal may come later."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("so far"))
        await stream.until_text("so far")
        engine.store.freeze("seal")

        outcome, run = await engine.cancel(wait=0)
        record = await engine.record()
        await engine.store.thaw()

        assert (outcome, run.state, text_of(run.message)) == (CancelOutcome.STOPPING, RunState.STOPPING, "so far")
        assert run.cancel_reason is CancelReason.REQUESTED
        assert record.phase is RecordPhase.LIVE
        assert record.intent is not None
        assert (await stream.rest()).state is RunState.CANCELLED


@pytest.mark.looptime
async def test_cancel_whose_wait_is_over_answers_stopping():
    """Not with a lie, and not for ever."""
    async with running_engine() as engine:
        await engine.start()
        await engine.call()
        engine.store.freeze("seal")
        before = asyncio.get_running_loop().time()

        outcome, run = await engine.cancel(wait=3)

        assert (outcome, run.state) == (CancelOutcome.STOPPING, RunState.STOPPING)
        assert asyncio.get_running_loop().time() - before == pytest.approx(3, abs=0.1)
        await engine.store.thaw()
        assert (await engine.get(wait=5)).state is RunState.CANCELLED


async def test_cancel_repeated_is_harmless_and_the_first_reason_stays():
    """Each answers for the same run."""
    async with running_engine() as engine:
        await engine.start()
        await engine.call()

        first = await engine.cancel(text="first")
        second = await engine.cancel(text="second")

        assert first == second
        assert first[1].cancel is not None
        assert first[1].cancel.reason == "first"


async def test_two_cancels_at_once_answer_with_the_first_reason():
    """Also while the store hangs, and whichever of them it hears first."""
    async with running_engine() as engine:
        await engine.start()
        await engine.call()
        engine.store.freeze("record_intent")
        both = asyncio.gather(engine.cancel(text="first"), engine.cancel(text="second"))
        await engine.store.asked("record_intent", 2)
        await engine.store.thaw()

        replies = await both

        assert [reply[1].cancel.reason for reply in replies if reply[1].cancel] == ["first", "first"]
        assert (await engine.record()).intent is not None


@pytest.mark.parametrize("ending", ["completed", "failed"])
async def test_cancel_after_finish_changes_nothing(ending):
    """ALREADY_FINISHED, the same run, no trace of the cancel."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("whole"))
        call.say(finish()) if ending == "completed" else call.break_off(UpstreamUnavailable())
        call.end()
        before = await stream.rest()

        outcome, run = await engine.cancel()

        assert outcome is CancelOutcome.ALREADY_FINISHED
        assert run == before == await engine.get()
        assert run.cancel is None


async def test_cancel_of_an_expired_run_says_so():
    """Not that it was cancelled."""
    async with running_engine() as engine:
        await engine.cancel()
        await engine.supervisor.delete("default", "run")

        with pytest.raises(RunExpired):
            await engine.cancel()


async def test_cancel_between_the_finish_marker_and_the_usage_completes_the_run():
    """The model had finished; the wait for its account ends."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("whole"), finish())
        await stream.until_text("whole")

        outcome, run = await engine.cancel()

        assert (outcome, run.state) == (CancelOutcome.ALREADY_FINISHED, RunState.COMPLETED)
        assert (run.cancel_reason, run.cancel) == (None, None)
        assert call.closed.is_set()
        assert await engine.get() == run


@pytest.mark.looptime
async def test_cancel_while_the_store_hangs_says_unavailable_and_the_run_ends_cancelled_later():
    """The upstream is closed already; nobody is told that the stop is durable before it is."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        engine.store.freeze()
        with pytest.raises(StoreUnavailable):
            await engine.cancel()
        closed, ended = call.closed.is_set(), [event for event in stream.events if event.sequence > 1]
        await engine.store.thaw()

        run = await stream.rest()

        assert closed
        assert ended == []
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.REQUESTED)
        assert (await engine.record()).state is RunState.CANCELLED


async def test_cancel_of_the_cancelling_caller_stops_the_run_all_the_same():
    """Whoever asked to stop and left has asked to stop."""
    async with running_engine() as engine:
        stream = await engine.start()
        await engine.call()
        engine.store.freeze("record_intent")
        cancelling = asyncio.create_task(engine.cancel())
        await engine.store.asked("record_intent")
        cancelling.cancel()
        await engine.store.thaw()

        assert (await stream.rest()).state is RunState.CANCELLED


async def test_cancel_while_a_reader_waits_gives_it_the_end():
    """Readers that were waiting for more get the rest and RunFinished."""
    async with running_engine() as engine:
        stream = await engine.start()
        watcher = await engine.watch()
        call = await engine.call()
        call.say(text("a"))
        await stream.until_text("a")
        waiting = asyncio.gather(stream.rest(), watcher.rest())
        await settle()

        _, run = await engine.cancel()

        assert list(await waiting) == [run, run]


@pytest.mark.looptime
async def test_cancel_ends_a_pump_that_does_not_end_by_itself():
    """An upstream that ignores its own close is left after a second, by a cancel; the run is sealed."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.ignores_abort = True
        before = asyncio.get_running_loop().time()

        _, run = await engine.cancel(wait=10)

        assert run.state is RunState.CANCELLED
        assert asyncio.get_running_loop().time() - before == pytest.approx(1, abs=0.1)
        assert call.left.is_set()
        await stream.rest()


async def test_cancel_of_another_tenants_run_does_not_find_it():
    """It is remembered for that tenant's own id, and touches nothing."""
    async with running_engine() as engine:
        await engine.start()
        call = await engine.call()

        outcome, _ = await engine.supervisor.cancel("other", "run", "", "mallory", 5)

        assert outcome is CancelOutcome.REMEMBERED
        assert not call.closed.is_set()
        assert engine.supervisor.live_runs == 1
        assert (await engine.store.inner.get(run_key())) is not None
