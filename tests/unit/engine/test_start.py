"""Starts: one record, one upstream call, one bill, however often and whenever it is asked for."""

import asyncio

import pytest

from engine_scenario import CONTINUE, run_key, running_engine, settle, text_of
from flaky_store import EVERYTHING
from midstream_server.errors import (
    Draining,
    ModelNotFound,
    RunIdConflict,
    RunIdExpired,
    RunNotFound,
    StoreUnavailable,
    TooManyRuns,
)
from midstream_server.model import CancelReason, ConversationPolicy, RunStarted, RunState
from midstream_server.stores.base import RecordPhase
from scripted_upstream import finish, text


async def test_run_streams_its_start_its_deltas_and_its_end():
    """The plain case: dense sequences, the message is what was said, the run is kept."""
    async with running_engine() as engine:
        stream = await engine.start(labels={"team": "a"})
        call = await engine.call()
        call.say(text("Once "), text("upon"))
        await stream.until_text("Once upon")
        call.say(finish())
        call.end()

        run = await stream.rest()

        assert isinstance(stream.events[0].payload, RunStarted)
        assert stream.sequences == list(range(1, run.last_sequence + 1))
        assert (run.state, text_of(run.message), run.attempts) == (RunState.COMPLETED, "Once upon", 1)
        assert await engine.get() == run


@pytest.mark.parametrize("operation", ["get", "start", "expire"])
async def test_ten_identical_starts_at_once_make_one_upstream_call(operation):
    """Wherever the store makes them wait, each of them sees the same events."""
    async with running_engine() as engine:
        engine.store.freeze(operation)
        starting = asyncio.gather(*(engine.start() for _ in range(10)))
        await settle()
        await engine.store.thaw()
        streams = await starting
        await settle()
        (call,) = engine.upstream.started_calls
        call.say(text("once"), finish())
        call.end()

        runs = [await stream.rest() for stream in streams]

        assert all(run == runs[0] for run in runs)
        assert all(stream.events == streams[0].events for stream in streams)
        assert runs[0].attempts == 1
        assert len(engine.upstream.started_calls) == 1


async def test_start_with_another_request_is_refused():
    """While the first is live, and after it has ended; it costs no upstream call and harms nobody."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        with pytest.raises(RunIdConflict):
            await engine.start(fingerprint="1:other")
        call.say(text("whole"), finish())
        call.end()
        run = await stream.rest()
        with pytest.raises(RunIdConflict):
            await engine.start(fingerprint="1:other")

        assert run.state is RunState.COMPLETED
        assert len(engine.upstream.started_calls) == 1


async def test_repeated_start_after_the_end_replays_and_calls_nobody():
    """From sequence 1, the same bytes."""
    async with running_engine() as engine:
        first = await engine.start()
        call = await engine.call()
        call.say(text("kept"), finish())
        call.end()
        await first.rest()

        second = await engine.start()
        await second.rest()

        assert second.events == first.events
        assert len(engine.upstream.started_calls) == 1


async def test_start_of_an_expired_id_is_refused():
    """Its id stays taken after a delete."""
    async with running_engine() as engine:
        stream = await engine.start()
        (await engine.call()).end()
        await stream.rest()
        await engine.supervisor.delete("default", "run")

        with pytest.raises(RunIdExpired):
            await engine.start()
        assert len(engine.upstream.started_calls) == 1


async def test_start_of_an_unknown_model_leaves_nothing():
    """Refused before anything is written."""
    async with running_engine() as engine:
        with pytest.raises(ModelNotFound):
            await engine.start(model="scripted/other")
        with pytest.raises(RunNotFound):
            await engine.get()


async def test_live_runs_are_bounded_and_attaching_costs_no_place():
    """Also when all ask at the same moment; a place is free again after an end."""
    async with running_engine(max_live_runs=2) as engine:
        results = await asyncio.gather(*(engine.start(f"run-{n}") for n in range(5)), return_exceptions=True)
        await engine.start("run-0")
        refused = [result for result in results if isinstance(result, TooManyRuns)]
        await engine.cancel("run-0")
        await engine.start("run-5")
        await engine.start("run-0")

        assert len(refused) == 3
        assert {type(result) for result in results[:2]} != {TooManyRuns}
        assert engine.supervisor.live_runs == 2
        assert not [task for task in asyncio.all_tasks() if "clear" in task.get_name()]


# --- Cancelled starts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["get", "join_conversation", "start"])
async def test_cancel_of_a_start_while_the_store_works_leaves_a_released_run(operation):
    """A caller who leaves at any await leaves a run that its policy ends: CANCELLED(CLIENT_GONE), no call open."""
    async with running_engine() as engine:
        engine.store.freeze(operation)
        starting = asyncio.create_task(engine.start(conversation_id="talk"))
        await engine.store.asked(operation)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

        await engine.store.thaw()
        await settle()

        run = await engine.get()
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.CLIENT_GONE)
        assert all(call.closed.is_set() for call in engine.upstream.calls)
        assert (await engine.record()).claims == {}
        assert await engine.store.join_conversation("default", "talk", "probe", 1) == []


async def test_cancel_of_a_start_that_waits_for_another_start_harms_neither():
    """The second of two identical starts is dropped while the first is in the store."""
    async with running_engine() as engine:
        engine.store.freeze("start")
        first = asyncio.create_task(engine.start())
        await engine.store.asked("start")
        second = asyncio.create_task(engine.start())
        await settle()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await engine.store.thaw()

        stream = await first
        call = await engine.call()
        await settle()
        call.say(text("alive"), finish())
        call.end()

        assert (await stream.rest()).state is RunState.COMPLETED


async def test_cancel_of_a_start_with_continue_leaves_a_run_that_goes_on():
    """The policy of the request counts, not the manner of leaving."""
    async with running_engine() as engine:
        engine.store.freeze("start")
        starting = asyncio.create_task(engine.start(on_detach=CONTINUE))
        await engine.store.asked("start")
        starting.cancel()
        await settle()
        await engine.store.thaw()
        call = await engine.call()
        call.say(text("alone"), finish())
        call.end()

        run = await engine.get(wait=5)

        assert (run.state, text_of(run.message)) == (RunState.COMPLETED, "alone")


async def test_cancel_of_a_start_in_conflict_leaves_the_run_of_the_other():
    """A stranger that comes and goes takes no claim with it."""
    async with running_engine() as engine:
        stream = await engine.start()
        engine.store.freeze("start")
        stranger = asyncio.create_task(engine.start(fingerprint="1:other"))
        await engine.store.asked("start", 2)
        stranger.cancel()
        await settle()
        await engine.store.thaw()
        await settle()
        call = await engine.call()
        call.say(text("mine"), finish())
        call.end()

        assert (await stream.rest()).state is RunState.COMPLETED


async def test_last_stream_that_leaves_during_a_conflict_still_ends_the_run():
    """A start that fails in the end was no claim."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        engine.store.freeze("start")
        stranger = asyncio.create_task(engine.start(fingerprint="1:other"))
        await engine.store.asked("start", 2)
        stream.leave()
        await engine.store.thaw()
        with pytest.raises(RunIdConflict):
            await stranger
        await settle()

        assert call.closed.is_set()
        assert (await engine.get()).cancel_reason is CancelReason.CLIENT_GONE


async def test_stream_that_attaches_keeps_the_run_alive_while_the_store_answers():
    """The first stream leaves after the store has added the second one's claim, and before we heard of it."""
    async with running_engine() as engine:
        first = await engine.start()
        call = await engine.call()
        engine.store.withhold("start")
        attaching = asyncio.create_task(engine.start())
        await engine.store.asked("start", 2)
        await settle()
        first.leave()
        await settle()
        await engine.store.thaw()
        second = await attaching
        call.say(text("still here"), finish())
        call.end()

        assert (await second.rest()).state is RunState.COMPLETED


# --- A store that is away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["get", "join_conversation", "start"])
async def test_start_that_the_store_refuses_leaves_nothing_behind(operation):
    """No record, no place in the conversation, no reservation: the same start works once the store is back."""
    async with running_engine() as engine:
        engine.store.fail(operation)
        with pytest.raises(StoreUnavailable):
            await engine.start(conversation_id="talk")
        engine.store.heal()
        await engine.store.inner.probe()
        await settle()

        assert await engine.store.inner.get(run_key()) is None
        assert engine.supervisor.live_runs == 0
        assert engine.upstream.started_calls == []


@pytest.mark.looptime
async def test_refused_start_gives_up_its_place_in_the_conversation():
    """Even though the store does not hear of it before it is back."""
    async with running_engine() as engine:
        engine.store.fail("start", "leave_conversation")
        with pytest.raises(StoreUnavailable):
            await engine.start("lost", conversation_id="talk")
        engine.store.heal()
        await engine.store.asked("leave_conversation", 2)
        await settle()

        assert await engine.store.join_conversation("default", "talk", "next", 1) == []


@pytest.mark.looptime
async def test_start_whose_answer_was_lost_leaves_no_run_that_nobody_drives():
    """The store took it and could not say so: the caller is told UNAVAILABLE, and the record gets an ending."""
    async with running_engine() as engine:
        engine.store.lose_answers("start")
        with pytest.raises(StoreUnavailable):
            await engine.start(conversation_id="talk")
        engine.store.heal()
        await engine.store.asked("seal")
        await settle()

        record = await engine.record()
        assert (record.phase, record.state) == (RecordPhase.SEALED, RunState.FAILED)
        assert engine.upstream.started_calls == []
        assert await engine.store.join_conversation("default", "talk", "next", 1) == []


@pytest.mark.looptime
async def test_starts_are_refused_at_once_while_the_store_is_away_and_taken_when_it_is_back():
    """Nobody waits for a store that is known to be away; with no run left to notice it, it is still found again."""
    async with running_engine() as engine:
        engine.store.fail()
        with pytest.raises(StoreUnavailable):
            await engine.start("first")
        asked = engine.store.calls["get"]
        with pytest.raises(StoreUnavailable):
            await engine.start("second")
        refused_without_asking = engine.store.calls["get"] == asked
        probes = engine.store.calls["probe"]
        engine.store.heal()
        await engine.store.asked("probe", probes + 1)
        await settle()
        await engine.start("third")

        assert refused_without_asking
        assert (await engine.get("third")).state is RunState.RUNNING


async def test_start_while_draining_is_refused_and_attaches_to_nothing():
    """The caller goes elsewhere."""
    async with running_engine() as engine:
        await engine.supervisor.drain(0, asyncio.Event())

        with pytest.raises(Draining):
            await engine.start()
        assert engine.store.calls["start"] == 0


async def test_start_that_is_still_in_the_store_at_exit_hears_that_the_server_goes():
    """Its stream must not end by a cancel, or its client hangs."""
    async with running_engine() as engine:
        await engine.start("other")
        engine.store.freeze("start")
        starting = asyncio.create_task(engine.start())
        await engine.store.asked("start", 2)
        engine.supervisor.is_draining = True
        closing = asyncio.create_task(engine.supervisor.seal_all())
        await settle()
        await engine.store.thaw()
        stream = await starting
        await closing

        run = await stream.rest()

        assert run.error is not None
        assert run.error.reason == "SERVER_SHUTDOWN"


@pytest.mark.looptime
async def test_start_that_the_store_never_answers_is_told_draining_at_exit():
    """Not by a cancel."""
    async with running_engine() as engine:
        engine.store.freeze(*EVERYTHING)
        starting = asyncio.create_task(engine.start())
        await engine.store.asked("get")

    with pytest.raises(Draining):
        await starting


async def test_on_conflict_allow_joins_and_waits_for_nobody():
    """Members are recorded all the same."""
    async with running_engine() as engine:
        await engine.start("a", conversation_id="talk")
        await engine.start("b", conversation_id="talk", on_conflict=ConversationPolicy.ALLOW)

        assert (await engine.get("b")).state is RunState.RUNNING
        assert await engine.store.join_conversation("default", "talk", "c", 1) == ["a", "b"]


@pytest.mark.looptime
async def test_claim_of_an_attach_whose_answer_was_lost_is_let_go():
    """The store has it, and the caller was told UNAVAILABLE: it must not keep the run alive."""
    async with running_engine() as engine:
        stream = await engine.start()
        engine.store.lose_answers("start")
        with pytest.raises(StoreUnavailable):
            await engine.start()
        engine.store.heal()
        await engine.store.asked("release")
        await settle()

        assert (await engine.record()).claims.keys() == {stream.claim.claim_id if stream.claim else ""}
        assert (await engine.get()).state is RunState.RUNNING
