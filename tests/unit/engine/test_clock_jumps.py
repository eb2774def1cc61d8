"""A wall clock that jumps an hour: durations do not notice, times say what it said, nothing is out of order."""

import pytest

from engine_scenario import EPOCH, GRACE, advance, running_engine, settle, text_of
from midstream_server.model import DEFAULT_TENANT, CancelReason, RunLimits, RunState
from midstream_server.stores.base import ListQuery
from scripted_upstream import finish, text

HOUR = 3600.0
both_ways = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])


@both_ways
@pytest.mark.looptime
async def test_total_limit_is_a_duration(jump):
    """Neither a jump forward ends the run, nor does a jump back prolong it."""
    async with running_engine() as engine:
        stream = await engine.start(limits=RunLimits(total_seconds=10.0))
        call = await engine.call()
        await advance(5)
        engine.clock.jumped_seconds += jump
        await advance(4)
        still_open = not call.closed.is_set()
        await advance(1.5)
        run = await stream.rest()

        assert still_open
        assert (run.state, run.cancel_reason) == (RunState.CANCELLED, CancelReason.TIME_LIMIT)


@both_ways
@pytest.mark.looptime
async def test_grace_is_a_duration(jump):
    """A reader that comes back in time finds its run; one that does not, does not."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=GRACE)
        call = await engine.call()
        stream.leave()
        await advance(3)
        engine.clock.jumped_seconds += jump
        await advance(3)
        again = await engine.watch(claim=True)
        await advance(10)
        still_open = not call.closed.is_set()
        again.leave()
        await advance(11)

        assert still_open
        assert call.closed.is_set()
        assert (await engine.get(wait=5)).cancel_reason is CancelReason.CLIENT_GONE


@both_ways
@pytest.mark.looptime
async def test_times_of_a_run_are_in_order_and_it_expires_after_its_end(jump):
    """`end_time` is never before `create_time`; `expire_time` is the retention later; a live run never expires."""
    async with running_engine() as engine:
        stream = await engine.start(retention_seconds=600.0)
        call = await engine.call()
        call.say(text("kept"))
        await stream.until_text("kept")
        engine.clock.jumped_seconds += jump
        await advance(10)
        live = await engine.get()
        call.say(finish())
        call.end()
        run = await stream.rest()

        assert (live.state, text_of(live.message), live.expire_time) == (RunState.RUNNING, "kept", None)
        assert run.state is RunState.COMPLETED
        assert run.end_time is not None
        assert run.end_time == max(run.create_time, EPOCH + round((10 + jump) * 1e9))
        assert run.expire_time == run.end_time + 600 * 10**9


@both_ways
@pytest.mark.looptime
async def test_list_shows_every_run_once_however_the_clock_jumps_between_them(jump):
    """Pages go by (create_time, run_id), as the clock told them when the runs were made."""
    async with running_engine() as engine:
        for number in range(6):
            await engine.start(f"run-{number}", retention_seconds=86_400.0)
            await engine.cancel(f"run-{number}")
            if number == 2:
                engine.clock.jumped_seconds += jump
            await advance(1)
        shown: list[tuple[int, str]] = []
        while page := await engine.supervisor.list_runs(
            ListQuery(tenant=DEFAULT_TENANT, limit=2, before=shown[-1] if shown else None)
        ):
            shown += [(run.create_time, run.run_id) for run in page]

        first, last = ["run-2", "run-1", "run-0"], ["run-5", "run-4", "run-3"]
        assert [run_id for _, run_id in shown] == (last + first if jump > 0 else first + last)
        assert shown == sorted(shown, reverse=True)


@pytest.mark.looptime
async def test_content_that_the_jump_made_expire_is_purged_and_live_runs_stay():
    """An hour forward is an hour of retention."""
    async with running_engine() as engine:
        await engine.start("old", retention_seconds=600.0)
        await engine.cancel("old")
        await engine.start("live", retention_seconds=600.0)
        engine.clock.jumped_seconds += HOUR
        await advance(6)
        await settle()
        runs = await engine.supervisor.list_runs(ListQuery(tenant=DEFAULT_TENANT, limit=10))

        assert [run.run_id for run in runs] == ["live"]
