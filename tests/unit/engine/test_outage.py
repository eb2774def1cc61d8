"""A store that is away: no gap, no duplicate; after 30 s the upstreams are closed; an outage is not a cancel."""

import asyncio

import pytest

from engine_scenario import advance, running_engine, settle, text_of
from midstream_server.errors import StoreUnavailable
from midstream_server.model import RunState
from scripted_upstream import finish, text


@pytest.mark.looptime
async def test_append_that_fails_is_repeated_as_it_was():
    """The reader sees every entry once, in order, when the store is back; other output waits behind it."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        engine.store.fail("append")
        call.say(text("a"))
        await engine.store.asked("append", 3)
        call.say(text("b"), finish())
        call.end()
        await settle()
        offered = len(engine.store.appends)
        first = engine.store.appends[0]
        engine.store.heal()

        run = await stream.rest()

        assert all(batch is first or batch == first for batch in engine.store.appends[:offered])
        assert stream.sequences == [1, 2, 3, 4]
        assert (run.state, text_of(run.message), stream.text) == (RunState.COMPLETED, "ab", "ab")


@pytest.mark.looptime
@pytest.mark.parametrize("operation", ["append", "seal"])
async def test_write_whose_answer_was_lost_is_written_once(operation):
    """The repeat is recognised."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        engine.store.lose_answers(operation)
        call.say(text("once"), finish())
        call.end()
        await engine.store.asked(operation, 2)
        engine.store.heal()

        run = await stream.rest()

        assert (text_of(run.message), stream.sequences) == ("once", [1, 2, 3])
        page = await engine.store.inner.read_log((await engine.record()).key, 0, 1 << 30)
        assert len(page.entries) == 3


@pytest.mark.looptime
@pytest.mark.parametrize("how", ["fail", "freeze"])
async def test_outage_of_half_a_minute_closes_the_upstream_and_fails_the_run(how):
    """Closed while the store is away, STOPPING until it is back, then FAILED: never CANCELLED."""
    async with running_engine() as engine:
        news: list[bool] = []
        engine.supervisor.watch_store(_keep(news))
        stream = await engine.start()
        call = await engine.call()
        call.say(text("kept"))
        await stream.until_text("kept")
        engine.store.fail() if how == "fail" else engine.store.freeze()
        call.say(text(" too"))
        await advance(25)
        still_open = not call.closed.is_set()
        refused = await _is_refused(engine.start("other"))
        await advance(10)
        closed = call.closed.is_set()
        progress = await stream.until_progress()
        engine.store.heal()
        await engine.store.thaw()

        run = await stream.rest()

        assert (still_open, refused, closed) == (True, True, True)
        assert progress.state is RunState.STOPPING
        assert progress.cancel_reason is None
        assert run.state is RunState.FAILED
        assert run.cancel_reason is None
        assert run.error is not None
        assert run.error.reason == "STORE_UNAVAILABLE"
        assert text_of(run.message) == stream.text == "kept too"
        assert await engine.get() == run
        await settle()
        assert news == [False, True]
        await engine.start("other")


def _keep(news: list[bool]):
    async def keep(is_available: bool) -> None:
        news.append(is_available)

    return keep


async def _is_refused(starting) -> bool:
    before = asyncio.get_running_loop().time()
    try:
        await starting
    except StoreUnavailable:
        return asyncio.get_running_loop().time() == before
    return False


@pytest.mark.looptime
async def test_outage_that_ends_in_time_leaves_no_trace():
    """Twenty seconds without a store: the run completes."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        engine.store.freeze("append")
        call.say(text("a"))
        await advance(20)
        call.say(text("b"), finish())
        call.end()
        await engine.store.thaw()

        run = await stream.rest()

        assert (run.state, text_of(run.message), run.error) == (RunState.COMPLETED, "ab", None)


@pytest.mark.looptime
async def test_short_outages_do_not_add_up():
    """The clock of the outage begins anew each time the store is back."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        for number in range(3):
            engine.store.freeze("append")
            call.say(text(str(number)))
            await advance(15)
            await engine.store.thaw()
            await stream.until_text("012"[: number + 1])
            await advance(5)
        call.say(finish())
        call.end()

        assert (await stream.rest()).state is RunState.COMPLETED


@pytest.mark.looptime
async def test_store_that_takes_some_things_and_not_the_log_is_away():
    """A full disk answers reads and small writes: the upstream must not stay open for ever."""
    async with running_engine() as engine:
        await engine.start()
        call = await engine.call()
        engine.store.fail("append")
        call.say(text("stuck"))
        await advance(35)

        assert call.closed.is_set()
        engine.store.heal()
        assert (await engine.get(wait=10)).state is RunState.FAILED


@pytest.mark.looptime
async def test_many_runs_that_wait_for_the_store_do_not_ask_it_all_the_time():
    """An outage costs a bounded number of attempts, and ends for all as soon as one of them succeeds."""
    async with running_engine() as engine:
        for number in range(50):
            await engine.start(f"run-{number}")
            await engine.call(number)
        engine.store.fail()
        await asyncio.gather(*(engine.cancel(f"run-{n}") for n in range(50)), return_exceptions=True)
        await advance(20)
        attempts = engine.store.calls["seal"]
        before = asyncio.get_running_loop().time()
        engine.store.heal()
        ended = await asyncio.gather(*(engine.get(f"run-{n}", wait=30) for n in range(50)))

        assert attempts < 50 * 16
        assert {run.state for run in ended} == {RunState.CANCELLED}
        assert asyncio.get_running_loop().time() - before < 2.5


async def test_bug_in_the_store_ends_the_run_from_its_log_and_not_the_engine():
    """An error that the port does not promise: the writer lives, other runs too, and the run gets its ending."""
    async with running_engine() as engine:
        stream = await engine.start("bad")
        call = await engine.call()
        call.say(text("kept"))
        await stream.until_text("kept")
        engine.store.break_with("append", ValueError("a bug"))
        call.say(text(" lost"))
        await engine.store.asked("append", 2)
        engine.store.heal()
        bad = await stream.rest()
        good = await engine.start("good")
        other = await engine.call(1)
        other.say(text("fine"), finish())
        other.end()

        assert (bad.state, text_of(bad.message)) == (RunState.FAILED, "kept")
        assert bad.error is not None
        assert bad.error.reason == "OWNER_LOST"
        assert call.closed.is_set()
        assert (await good.rest()).state is RunState.COMPLETED


async def test_bug_in_the_seal_ends_the_run_from_its_log():
    """Nobody waits for ever for an ending that cannot be written."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("kept"))
        await stream.until_text("kept")
        engine.store.break_with("seal", ValueError("a bug"))
        waiting = asyncio.create_task(engine.get(wait=5))
        await settle()
        call.say(finish())
        call.end()
        await engine.store.asked("seal")
        engine.store.heal()

        assert (await waiting).state.is_ending
        assert text_of((await stream.rest()).message) == "kept"
