"""A stopped run whose upstream bills the whole answer: sealed at once, its rest read for the account alone."""

import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine_scenario import (
    CONTINUE,
    Engine,
    Follower,
    advance,
    run_key,
    running_engine,
    settle,
    text_of,
)
from midstream_server.engine.store_guard import LONGEST_RETRY_SECONDS
from midstream_server.errors import IdleTimeout, OutputTooLarge, RunExpired, ServerShutdown
from midstream_server.model import (
    DEFAULT_TENANT,
    CancelReason,
    ConversationPolicy,
    RunLimits,
    RunState,
    TokenCount,
    Usage,
    UsageSource,
)
from midstream_server.stores.base import ListQuery
from midstream_server.upstreams.base import DrainCaps, UpstreamEvent, UpstreamFailed, UsageReported
from scripted_upstream import ScriptedCall, finish, text

CAPS = DrainCaps(seconds=60, output_tokens=100)
FINAL, RUNNING, ESTIMATED = UsageSource.UPSTREAM_FINAL, UsageSource.UPSTREAM_RUNNING, UsageSource.ESTIMATED


def output_of(value: int, source: UsageSource = FINAL) -> Usage:
    """A usage that knows only the output."""
    return Usage(output=TokenCount(value=value, source=source))


@asynccontextmanager
async def draining_engine(caps: DrainCaps = CAPS, **options: Any) -> AsyncIterator[Engine]:
    """An engine over an upstream that is drained."""
    async with running_engine(**options) as engine:
        engine.upstream.drain_caps = caps
        yield engine


async def begun(engine: Engine, run_id: str = "run", **spec: Any) -> tuple[Follower, ScriptedCall]:
    """A run that has said `Hel`."""
    stream = await engine.start(run_id, **spec)
    call = engine.upstream.calls[-1]
    await call.started.wait()
    call.say(text("Hel"))
    await stream.until_text("Hel")
    return stream, call


async def settled(engine: Engine, run_id: str = "run") -> Usage | None:
    """The settlement, once everything has happened that needs no time."""
    await settle()
    return (await engine.get(run_id)).settlement


async def test_a_stop_seals_at_once_and_the_account_comes_later():
    """The partial is what was seen before; the sealed run never changes but for its settlement."""
    async with draining_engine() as engine:
        stream, call = await begun(engine)
        _, answer = await engine.cancel()
        is_open = not call.closed.is_set()
        call.say(text("lo"), finish(), UsageReported(usage=output_of(7)))
        call.end()
        settlement = await settled(engine)
        later = await engine.get()

        assert is_open
        assert (answer.state, text_of(answer.message)) == (RunState.CANCELLED, "Hel")
        assert answer.usage == output_of(1, ESTIMATED)
        assert answer.settlement is None
        assert answer == await stream.rest()
        assert settlement == output_of(7)
        assert (later.message, later.usage, later.last_sequence) == (answer.message, answer.usage, answer.last_sequence)
        assert (await engine.record()).last_sequence == answer.last_sequence
        assert call.left.is_set()
        assert not call.closed.is_set()


async def test_the_seal_claims_no_close_that_did_not_happen():
    """Nor events that have not come yet."""
    async with draining_engine() as engine:
        stream, call = await begun(engine)
        await engine.cancel()
        call.say(text("lo"))
        await settle()
        run = await stream.rest()

        assert run.cancel is not None
        assert run.cancel.upstream_close_time is None
        assert (run.cancel.discarded_events, run.cancel.discarded_bytes) == (0, 0)
        assert (await engine.get()).cancel == run.cancel


@pytest.mark.looptime
async def test_a_reader_that_leaves_leaves_the_account_behind():
    """CLIENT_GONE takes the same path."""
    async with draining_engine() as engine:
        stream, call = await begun(engine)
        stream.leave()
        run = await engine.get(wait=5)
        call.say(finish(), UsageReported(usage=output_of(3)))
        call.end()

        assert run.cancel_reason is CancelReason.CLIENT_GONE
        assert await settled(engine) == output_of(3)


@pytest.mark.looptime
async def test_the_callers_time_limit_leaves_the_account_behind():
    """TIME_LIMIT takes the same path."""
    async with draining_engine() as engine:
        stream, call = await begun(engine, limits=RunLimits(total_seconds=5))
        run = await stream.rest()
        call.say(finish(), UsageReported(usage=output_of(3)))
        call.end()

        assert run.cancel_reason is CancelReason.TIME_LIMIT
        assert await settled(engine) == output_of(3)


async def test_a_newer_run_of_the_conversation_leaves_the_account_behind():
    """SUPERSEDED takes the same path, and the newer run does not wait for it."""
    async with draining_engine() as engine:
        old, call = await begun(engine, conversation_id="c")
        await begun(engine, "newer", conversation_id="c", on_conflict=ConversationPolicy.SUPERSEDE)
        call.say(finish(), UsageReported(usage=output_of(3)))
        call.end()

        assert (await old.rest()).cancel_reason is CancelReason.SUPERSEDED
        assert await settled(engine) == output_of(3)


async def test_the_account_in_the_read_that_broke_the_budget_counts():
    """All of the answer came at once: what is behind the stop is discarded, and still read for its account."""
    async with draining_engine() as engine:
        stream = await engine.start(limits=RunLimits(output_tokens=1))
        call = await engine.call()
        call.say(text("text"), text(" more"), finish(), UsageReported(usage=output_of(2)))
        call.end()
        run = await stream.rest()

        assert (run.cancel_reason, text_of(run.message)) == (CancelReason.BUDGET, "text")
        assert run.cancel is not None
        assert run.cancel.discarded_events == 3
        assert await settled(engine) == output_of(2)


@pytest.mark.looptime
async def test_time_caps_a_drain():
    """From the stop. What the upstream counted while it ran is told as that."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        await engine.cancel()
        call.say(text("lo"), UsageReported(usage=output_of(2, RUNNING)))
        await advance(59.9)
        before = call.closed.is_set()
        await advance(0.2)

        assert not before
        assert call.closed.is_set()
        assert await settled(engine) == output_of(2, RUNNING)


async def test_tokens_cap_a_drain_by_the_upstreams_count():
    """Those behind the stop, not those before it."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        call.say(UsageReported(usage=output_of(1000, RUNNING)))
        await settle()
        await engine.cancel()
        call.say(text("x" * 500), UsageReported(usage=output_of(1100, RUNNING)))
        await settle()
        before = call.closed.is_set()
        call.say(text("y"), UsageReported(usage=output_of(1101, RUNNING)))

        assert await settled(engine) == output_of(1101, RUNNING)
        assert not before
        assert call.closed.is_set()


async def test_tokens_cap_a_drain_by_an_estimate_where_the_upstream_does_not_count():
    """Four bytes are a token; what was cut is not estimated, since nobody knows how much there was."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        await engine.cancel()
        call.say(text("x" * 400))
        await settle()
        before = call.closed.is_set()
        call.say(text("x"))

        assert await settled(engine) is None
        assert not before
        assert call.closed.is_set()


async def test_an_answer_without_an_account_that_was_read_to_its_finish_is_estimated():
    """All of it, before and after the stop."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        await engine.cancel()
        call.say(text("lo, all"), finish())
        call.end()

        assert await settled(engine) == output_of(3, ESTIMATED)


async def test_more_drains_than_may_be_are_hung_up_on():
    """The newcomer is: the older one is nearer to its account. Afterwards there is room again."""
    async with draining_engine(max_drains=1) as engine:
        _, first = await begun(engine, "first")
        _, second = await begun(engine, "second")
        await engine.cancel("first")
        _, hung_up_on = await engine.cancel("second")
        first_is_open = not first.closed.is_set()
        first.say(finish(), UsageReported(usage=output_of(5)))
        first.end()
        await settle()
        _, third = await begun(engine, "third")
        await engine.cancel("third")

        assert first_is_open
        assert second.closed.is_set()
        assert hung_up_on.cancel is not None
        assert hung_up_on.cancel.upstream_close_time is not None
        assert await settled(engine, "first") == output_of(5)
        assert await settled(engine, "second") is None
        assert not third.closed.is_set()


@pytest.mark.looptime
async def test_an_upstream_that_leaves_the_stream_open_after_its_finish_has_a_second():
    """As in a run."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        await engine.cancel()
        call.say(finish(), UsageReported(usage=output_of(5)))
        await advance(0.9)
        before = call.closed.is_set()
        await advance(0.2)

        assert not before
        assert call.closed.is_set()
        assert await settled(engine) == output_of(5)


@pytest.mark.parametrize("told", [None, UsageReported(usage=output_of(5, RUNNING))])
@pytest.mark.parametrize(
    "fails",
    [
        pytest.param(lambda call: call.break_off(IdleTimeout()), id="clock"),
        pytest.param(lambda call: (call.say(UpstreamFailed(failure=IdleTimeout())), call.end()), id="frame"),
        pytest.param(lambda call: call.end(), id="cut"),
    ],
)
async def test_a_drain_that_fails_tells_what_the_upstream_had_said(
    told: UpstreamEvent | None, fails: Callable[[ScriptedCall], None]
):
    """Or nothing, if it had said nothing since the stop. The run stays as it is."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        _, answer = await engine.cancel()
        call.say(text("lo"), *((told,) if told else ()))
        fails(call)

        assert await settled(engine) == (output_of(5, RUNNING) if told else None)
        assert (await engine.get()).state is answer.state is RunState.CANCELLED


async def test_repeated_stops_of_a_drained_run_change_nothing():
    """It has ended; the drain goes on."""
    async with draining_engine() as engine:
        stream, call = await begun(engine)
        _, first = await engine.cancel()
        stream.leave()
        _, second = await engine.cancel(text="again")
        is_open = not call.closed.is_set()
        call.say(finish(), UsageReported(usage=output_of(5)))
        call.end()

        assert first == second
        assert is_open
        assert await settled(engine) == output_of(5)


async def test_a_stop_after_the_finish_drains_nothing():
    """The run completes; there is nothing more to be billed."""
    async with draining_engine() as engine:
        stream, call = await begun(engine)
        call.say(finish())
        await settle()
        await engine.cancel()

        assert (await stream.rest()).state is RunState.COMPLETED
        assert call.closed.is_set()


async def test_a_stop_before_the_call_drains_nothing():
    """Nothing was asked of the upstream."""
    async with draining_engine() as engine:
        await begun(engine, "earlier", conversation_id="c")
        await engine.start(conversation_id="c", on_conflict=ConversationPolicy.QUEUE)
        _, answer = await engine.cancel()

        assert answer.state is RunState.CANCELLED
        assert engine.upstream.calls[-1].closed.is_set()
        assert engine.upstream.calls[-1].attempts == 0


@pytest.mark.looptime
async def test_what_is_no_stop_hangs_up():
    """The operator's cap, too much output, an upstream that stalls: FAILED, with the connection closed."""
    async with draining_engine(max_run_seconds=10) as engine:
        long_run, slow = await begun(engine, "slow")
        large_run, large = await begun(engine, "large")
        large.say(*[text("x" * 1024 * 1024)] * 3)
        runs = [await large_run.rest(), await long_run.rest()]

        assert [run.error.reason for run in runs if run.error] == [OutputTooLarge.reason, "RUN_TIME_EXCEEDED"]
        assert large.closed.is_set()
        assert slow.closed.is_set()
        assert [await settled(engine, run.run_id) for run in runs] == [None, None]


@pytest.mark.looptime
async def test_a_store_that_is_away_has_the_settlement_when_it_is_back():
    """It is asked again until it takes it."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        await engine.cancel()
        engine.store.fail("settle")
        call.say(finish(), UsageReported(usage=output_of(5)))
        call.end()
        await engine.store.asked("settle", 2)
        engine.store.heal()
        await advance(2 * LONGEST_RETRY_SECONDS)

        assert await settled(engine) == output_of(5)


@pytest.mark.looptime
async def test_a_drain_that_ends_before_the_seal_waits_for_it():
    """The store is away while the run is sealed: the settlement comes behind the seal, not into the void."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        engine.store.freeze("seal")
        await engine.cancel(wait=0)
        call.say(finish(), UsageReported(usage=output_of(5)))
        call.end()
        await settle()
        before = engine.store.calls["settle"]
        await engine.store.thaw("seal")

        assert await settled(engine) == output_of(5)
        assert before == 0


async def test_a_run_that_is_deleted_has_no_settlement():
    """Its id stays what it is; nothing comes back to life."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        await engine.cancel()
        await engine.supervisor.delete(DEFAULT_TENANT, "run")
        call.say(finish(), UsageReported(usage=output_of(5)))
        call.end()
        await engine.store.asked("settle")
        await settle()

        assert (await engine.record()).settlement == b""
        with pytest.raises(RunExpired):
            await engine.get()


@pytest.mark.looptime
async def test_leaving_waits_for_no_drain():
    """It is hung up on, and has no settlement; the run is sealed as it was."""
    async with draining_engine(caps=DrainCaps(seconds=3600, output_tokens=100)) as engine:
        _, call = await begun(engine, on_detach=CONTINUE)
        _, answer = await engine.cancel()
        call.say(UsageReported(usage=output_of(5, RUNNING)))
        await settle()
        store = engine.store.inner

    assert call.closed.is_set()
    assert call.left.is_set()
    assert answer.settlement is None
    record = await store.get(run_key())
    assert record is not None
    assert record.settlement == b""


@pytest.mark.looptime
async def test_a_drain_that_ignores_the_hang_up_is_cancelled():
    """A second later, as the pump of a run is."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        call.ignores_abort = True
        await engine.cancel()
        await advance(61.5)

        assert call.closed.is_set()
        assert call.left.is_set()


async def test_a_drain_does_not_hold_on_to_the_run():
    """Its text, up to 3 MiB, is not kept in memory for as long as the upstream talks."""
    async with draining_engine() as engine:
        stream, call = await begun(engine)
        run = weakref.ref(engine.supervisor._directory.live[run_key()])
        await engine.cancel()
        await stream.rest()
        stream.leave()
        del stream
        call.say(text("lo"))
        await settle()
        gc.collect()

        assert run() is None
        assert not call.closed.is_set()


async def test_shutdown_of_a_live_run_hangs_up():
    """SERVER_SHUTDOWN is no stop."""
    async with draining_engine() as engine:
        stream, call = await begun(engine)
        await engine.supervisor.seal_all()
        run = await stream.rest()

        assert run.error is not None
        assert run.error.reason == ServerShutdown.reason
        assert call.closed.is_set()


async def test_the_settlement_is_in_the_list_too():
    """A list shows runs without messages, but with what they cost."""
    async with draining_engine() as engine:
        _, call = await begun(engine)
        await engine.cancel()
        call.say(finish(), UsageReported(usage=output_of(5)))
        call.end()
        await settle()
        [listed] = await engine.supervisor.list_runs(ListQuery(tenant=DEFAULT_TENANT, limit=1))

        assert listed.settlement == output_of(5)
