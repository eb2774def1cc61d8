"""Reading, listing, deleting and expiring runs."""

import asyncio

import pytest
from structlog.testing import capture_logs

from engine_scenario import advance, running_engine, settle, text_of
from midstream_server.engine.supervisor import ListQuery
from midstream_server.errors import RunExpired, RunIdExpired, RunLive, RunNotFound, StoreCorrupt
from midstream_server.model import CancelReason, RunKey, RunState
from midstream_server.stores.base import RecordPhase
from scripted_upstream import finish, text


async def ended_run(engine, run_id: str = "run", **spec):
    """A run that has completed with a text."""
    index = len(engine.upstream.calls)
    stream = await engine.start(run_id, **spec)
    call = await engine.call(index)
    call.say(text("text"), finish())
    call.end()
    return await stream.rest()


@pytest.mark.looptime
async def test_get_waits_until_the_run_has_ended_through_stopping():
    """Never answers while it is still STOPPING, if there is time."""
    async with running_engine() as engine:
        await engine.start()
        await engine.call()
        engine.store.freeze("seal")
        cancelling = asyncio.create_task(engine.cancel(wait=0))
        waiting = asyncio.create_task(engine.get(wait=60))
        await advance(20)
        still = not waiting.done()
        await engine.store.thaw()
        await cancelling

        assert still
        assert (await waiting).state is RunState.CANCELLED


@pytest.mark.looptime
async def test_get_answers_when_its_wait_is_over():
    """With the run as it then is."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("so far"))
        await stream.until_text("so far")
        began = asyncio.get_running_loop().time()

        run = await engine.get(wait=7)

        assert (run.state, text_of(run.message)) == (RunState.RUNNING, "so far")
        assert asyncio.get_running_loop().time() - began == pytest.approx(7, abs=0.1)
        assert (run.end_time, run.expire_time) == (None, None)


async def test_cancel_of_a_waiting_get_harms_nothing():
    """The run goes on; others still hear of its end."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        leaving, staying = asyncio.create_task(engine.get(wait=60)), asyncio.create_task(engine.get(wait=60))
        await settle()
        leaving.cancel()
        await settle()
        call.say(finish())
        call.end()

        assert leaving.cancelled()
        assert await staying == await stream.rest()


async def test_unknown_run_and_run_of_another_tenant_look_the_same():
    """To every question."""
    async with running_engine() as engine:
        await ended_run(engine)
        for tenant, run_id in (("default", "unknown"), ("other", "run")):
            with pytest.raises(RunNotFound):
                await engine.supervisor.get(tenant, run_id, None)
            with pytest.raises(RunNotFound):
                await engine.supervisor.get(tenant, run_id, 5)
            with pytest.raises(RunNotFound):
                await engine.supervisor.delete(tenant, run_id)
            with pytest.raises(RunNotFound):
                await engine.supervisor.watch(tenant, run_id, 0, from_snapshot=False, claim=None)
        assert await engine.supervisor.list_runs(ListQuery(tenant="other", limit=10)) == []


async def test_list_shows_live_and_ended_runs_without_messages_newest_first():
    """As they are now."""
    async with running_engine() as engine:
        await ended_run(engine, "a")
        await engine.start("b", labels={"team": "x"})
        call = await engine.call(1)
        call.say(text("secret"))
        await settle()

        everything = await engine.supervisor.list_runs(ListQuery(tenant="default", limit=10))
        labelled = await engine.supervisor.list_runs(ListQuery(tenant="default", limit=10, labels={"team": "x"}))

        assert [(run.run_id, run.state) for run in everything] == [("b", RunState.RUNNING), ("a", RunState.COMPLETED)]
        assert [run.message for run in everything] == [None, None]
        assert [run.last_sequence for run in everything] == [2, 3]
        assert everything[1].usage is not None
        assert [run.run_id for run in labelled] == ["b"]


async def test_delete_of_a_live_run_is_refused():
    """Cancel it first."""
    async with running_engine() as engine:
        stream = await engine.start()
        with pytest.raises(RunLive):
            await engine.supervisor.delete("default", "run")
        call = await engine.call()
        call.say(finish())
        call.end()

        assert (await stream.rest()).state is RunState.COMPLETED


async def test_deleted_run_reads_as_expired():
    """Its text is gone, its id is not."""
    async with running_engine() as engine:
        await ended_run(engine)
        await engine.supervisor.delete("default", "run")

        for ask in (engine.get(), engine.watch(), engine.supervisor.delete("default", "run"), engine.get(wait=1)):
            with pytest.raises(RunExpired):
                await ask
        assert (await engine.store.inner.read_log((await engine.record()).key, 0, 1000)).entries == []


@pytest.mark.looptime
@pytest.mark.parametrize(("retention", "kept"), [(3600.0, 3600.0), (0.0, 60.0), (5.0, 5.0)])
async def test_content_expires_after_the_retention_and_the_id_a_day_later(retention, kept):
    """Retention 0 keeps it for the minute in which its readers finish."""
    async with running_engine() as engine:
        run = await ended_run(engine, retention_seconds=retention)
        assert run.expire_time == (run.end_time or 0) + round(kept * 1e9)
        engine.clock.jumped_seconds += kept - 2
        before = await engine.get()
        await advance(10)
        with pytest.raises(RunExpired):
            await engine.get()
        with pytest.raises(RunIdExpired):
            await engine.start(retention_seconds=retention)
        engine.clock.jumped_seconds += 24 * 3600
        await advance(10)
        with pytest.raises(RunNotFound):
            await engine.get()

        assert before == run


@pytest.mark.looptime
async def test_live_run_never_expires():
    """However short its retention."""
    async with running_engine() as engine:
        await engine.start(retention_seconds=1)
        await engine.call()
        await advance(600)

        assert (await engine.get()).state is RunState.RUNNING


@pytest.mark.looptime
async def test_remembered_cancel_is_forgotten_after_ten_minutes():
    """Then a start with this id is refused as expired: nothing is generated that somebody had stopped."""
    async with running_engine() as engine:
        await engine.cancel()
        await advance(590)
        before = await engine.get()
        await advance(20)
        with pytest.raises(RunIdExpired):
            await engine.start()

        assert before.cancel_reason is CancelReason.REQUESTED
        assert (await engine.record()).phase is RecordPhase.EXPIRED


@pytest.mark.looptime
async def test_expiry_survives_an_outage():
    """It goes on when the store is back, whether or not anybody asks."""
    async with running_engine() as engine:
        run = await ended_run(engine, retention_seconds=5)
        key = RunKey("default", run.run_id)
        engine.store.fail("expire")
        await advance(60)
        before = await engine.store.get(key)
        engine.store.heal()
        await advance(6)
        after = await engine.store.get(key)

        assert before is not None
        assert before.phase is RecordPhase.SEALED
        assert after is not None
        assert after.phase is RecordPhase.EXPIRED
        with pytest.raises(RunExpired):
            await engine.get()


@pytest.mark.looptime
async def test_expiry_goes_on_after_an_error_that_nobody_expects():
    """What is due then is deleted later, and not kept for ever."""
    async with running_engine() as engine:
        await ended_run(engine, retention_seconds=60.0)
        engine.store.break_with("expire", StoreCorrupt("by the test"))
        with capture_logs() as logs:
            await advance(70.0)
        assert any(entry["event"] == "expiry.broken" for entry in logs)
        assert (await engine.record()).phase is RecordPhase.SEALED

        engine.store.heal()
        await advance(10.0)

        assert (await engine.record()).phase is RecordPhase.EXPIRED
