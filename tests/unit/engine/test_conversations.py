"""Conversations: abort and rephrase in one call; wait; or be told that it is busy."""

import asyncio

import pytest

from engine_scenario import GRACE, advance, running_engine, settle, text_of
from midstream_server.errors import ConversationBusy
from midstream_server.model import CancelReason, ConversationPolicy, RunLimits, RunState
from scripted_upstream import finish, text

ALLOW, REJECT, SUPERSEDE, QUEUE = (
    ConversationPolicy.ALLOW,
    ConversationPolicy.REJECT,
    ConversationPolicy.SUPERSEDE,
    ConversationPolicy.QUEUE,
)
TALK = {"conversation_id": "talk"}


async def test_reject_names_the_live_runs_and_leaves_nothing():
    """The refused run takes no place; an ended one is not in the way."""
    async with running_engine() as engine:
        first = await engine.start("a", **TALK)
        with pytest.raises(ConversationBusy) as refused:
            await engine.start("b", **TALK, on_conflict=REJECT)
        await settle()
        (await engine.call(0)).end()
        await first.rest()
        third = await engine.start("c", **TALK, on_conflict=REJECT)
        (await engine.call(2)).end()
        await third.rest()

        assert refused.value.metadata == {"run_ids": "a"}
        assert await engine.store.join_conversation("default", "talk", "probe", 1) == []


async def test_repeated_start_does_not_meet_itself():
    """An idempotent repeat attaches, whatever the policy."""
    async with running_engine() as engine:
        await engine.start("a", **TALK, on_conflict=REJECT)
        await engine.start("a", **TALK, on_conflict=REJECT)

        assert len(engine.upstream.started_calls) <= 1
        assert len((await engine.record("a")).claims) == 2


async def test_supersede_stops_the_earlier_run_waits_for_its_end_and_each_names_the_other():
    """The old partial is kept; the new run calls its upstream only then."""
    async with running_engine() as engine:
        old = await engine.start("old", **TALK)
        call = await engine.call(0)
        call.say(text("the answer was"))
        await old.until_text("the answer was")
        engine.store.freeze("seal")
        new = await engine.start("new", **TALK, on_conflict=SUPERSEDE)
        await settle()
        closed, waiting = call.closed.is_set(), await engine.get("new")
        called_early = engine.upstream.calls[1].started.is_set()
        await engine.store.thaw()
        second = await engine.call(1)
        second.say(text("rephrased"), finish())
        second.end()
        stopped, answer = await old.rest(), await new.rest()

        assert (closed, called_early) == (True, False)
        assert (waiting.state, waiting.start_time) == (RunState.QUEUED, None)
        assert (stopped.state, stopped.cancel_reason) == (RunState.CANCELLED, CancelReason.SUPERSEDED)
        assert text_of(stopped.message) == "the answer was"
        assert (stopped.superseded_by_run_id, answer.superseded_run_ids) == ("new", ("old",))
        assert answer.state is RunState.COMPLETED
        assert stopped.end_time is not None
        assert answer.start_time is not None
        assert answer.start_time >= stopped.end_time


async def test_supersede_of_a_run_that_had_finished_names_nobody():
    """It completes; neither claims what did not happen."""
    async with running_engine() as engine:
        old = await engine.start("old", **TALK)
        call = await engine.call(0)
        call.say(text("done"), finish())
        await old.until_text("done")
        new = await engine.start("new", **TALK, on_conflict=SUPERSEDE)
        (await engine.call(1)).end()

        stopped, answer = await old.rest(), await new.rest()

        assert (stopped.state, stopped.superseded_by_run_id) == (RunState.COMPLETED, "")
        assert answer.superseded_run_ids == ()


async def test_two_supersedes_at_once_leave_the_last_one():
    """Each stops those before it; one upstream is called in the end, and all names agree."""
    async with running_engine() as engine:
        old = await engine.start("old", **TALK)
        await engine.call(0)
        first, second = await asyncio.gather(
            engine.start("first", **TALK, on_conflict=SUPERSEDE), engine.start("second", **TALK, on_conflict=SUPERSEDE)
        )
        call = await engine.call(2)
        call.say(finish())
        call.end()
        runs = [await stream.rest() for stream in (old, first, second)]

        assert [run.state for run in runs] == [RunState.CANCELLED, RunState.CANCELLED, RunState.COMPLETED]
        assert [run.superseded_by_run_id for run in runs] == ["first", "second", ""]
        assert [run.superseded_run_ids for run in runs] == [(), ("old",), ("first",)]
        assert len(engine.upstream.started_calls) == 2


@pytest.mark.parametrize("policy", [SUPERSEDE, QUEUE])
async def test_run_whose_record_is_being_created_is_not_overlooked(policy):
    """Two starts at once in an empty conversation: the second sees the first, though the store has no record yet."""
    async with running_engine() as engine:
        engine.store.freeze("start")
        first = asyncio.create_task(engine.start("first", **TALK))
        await engine.store.asked("start")
        second = asyncio.create_task(engine.start("second", **TALK, on_conflict=policy))
        await settle()
        await engine.store.thaw()
        await first
        await second
        await settle()

        if policy is QUEUE:
            assert (await engine.get("second")).state is RunState.QUEUED
            assert engine.upstream.calls[0].started.is_set()
        else:
            assert (await engine.get("first", wait=5)).cancel_reason is CancelReason.SUPERSEDED
            assert (await engine.call(1)).started.is_set()


@pytest.mark.looptime
async def test_queue_waits_and_then_runs():
    """In the order in which they came; the state is told at once; its time begins when it runs."""
    async with running_engine() as engine:
        first = await engine.start("a", **TALK)
        second = await engine.start("b", **TALK, on_conflict=QUEUE, limits=RunLimits(total_seconds=5))
        third = await engine.start("c", **TALK, on_conflict=QUEUE)
        queued = await second.until_progress(lambda progress: progress.state is RunState.QUEUED)
        await advance(20)
        for index, stream in enumerate((first, second, third)):
            waiting = [call.started.is_set() for call in engine.upstream.calls]
            call = await engine.call(index)
            call.say(text(str(index)), finish())
            call.end()
            assert (await stream.rest()).state is RunState.COMPLETED
            assert waiting[index + 1 :] == [False] * (2 - index)

        run = await engine.get("b")
        assert queued.state is RunState.QUEUED
        assert run.start_time is not None
        assert run.start_time - run.create_time >= 20e9


@pytest.mark.looptime
@pytest.mark.parametrize("limits", [RunLimits(), RunLimits(queue_seconds=5)])
async def test_queue_timeout_fails_the_run_without_an_upstream_call(limits):
    """The caller's, or the server's default of 60 s."""
    async with running_engine() as engine:
        await engine.start("a", **TALK)
        stream = await engine.start("b", **TALK, on_conflict=QUEUE, limits=limits)
        run = await stream.rest()

        assert run.error is not None
        assert (run.state, run.error.reason) == (RunState.FAILED, "QUEUE_TIMEOUT")
        assert ((run.end_time or 0) - run.create_time) / 1e9 == pytest.approx(limits.queue_seconds or 60, abs=0.1)
        assert (run.start_time, run.attempts) == (None, 0)
        assert len(engine.upstream.started_calls) == 1


async def test_cancel_while_queued_ends_it_and_lets_the_next_one_wait_on():
    """Its place is given up; the run in front is not touched."""
    async with running_engine() as engine:
        first = await engine.start("a", **TALK)
        second = await engine.start("b", **TALK, on_conflict=QUEUE)
        third = await engine.start("c", **TALK, on_conflict=QUEUE)
        await settle()
        _, cancelled = await engine.cancel("b")
        still_waiting = await engine.get("c")
        (await engine.call(0)).end()
        await first.rest()
        (await engine.call(2)).end()
        await third.rest()

        assert (cancelled.state, cancelled.start_time) == (RunState.CANCELLED, None)
        assert still_waiting.state is RunState.QUEUED
        assert await second.rest() == cancelled
        assert len(engine.upstream.started_calls) == 2


async def test_cancel_while_leaving_the_queue_calls_no_upstream():
    """The store is being told that it runs now."""
    async with running_engine() as engine:
        first = await engine.start("a", **TALK)
        await engine.start("b", **TALK, on_conflict=QUEUE)
        engine.store.freeze("set_running")
        (await engine.call(0)).end()
        await first.rest()
        await engine.store.asked("set_running")
        cancelling = asyncio.create_task(engine.cancel("b"))
        await settle()
        await engine.store.thaw()
        _, run = await cancelling

        assert (run.state, run.start_time, run.attempts) == (RunState.CANCELLED, None, 0)
        assert len(engine.upstream.started_calls) == 1
        assert (await engine.record("b")).start_time is None


async def test_stream_that_leaves_a_queued_run_ends_it():
    """The policy counts in the queue as well."""
    async with running_engine() as engine:
        await engine.start("a", **TALK)
        stream = await engine.start("b", **TALK, on_conflict=QUEUE)
        stream.leave()

        assert (await engine.get("b", wait=5)).cancel_reason is CancelReason.CLIENT_GONE


@pytest.mark.looptime
@pytest.mark.parametrize("operation", ["get", "record_intent", "set_running"])
async def test_store_that_is_away_for_a_moment_does_not_fail_a_waiting_run(operation):
    """Waiting is insisting."""
    async with running_engine() as engine:
        await engine.start("a", **TALK, on_detach=GRACE)
        await engine.call(0)
        engine.store.freeze("record_intent")
        stream = await engine.start("b", **TALK, on_conflict=SUPERSEDE)
        await engine.store.asked("record_intent")
        engine.store.fail(operation)
        await engine.store.thaw()
        await advance(3)
        engine.store.heal()
        call = await engine.call(1)
        call.say(finish())
        call.end()
        run = await stream.rest()

        assert run.state is RunState.COMPLETED
        assert run.superseded_run_ids == ("a",)
