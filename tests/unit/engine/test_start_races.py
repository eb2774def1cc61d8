"""What the races found: starts, watches and cancels of one id, or of one conversation, that come at the same time."""

import asyncio

from engine_scenario import running_engine, settle
from midstream_server.errors import ConversationBusy
from midstream_server.model import CancelOutcome, ConversationPolicy, RunState


async def test_claim_of_a_watch_that_comes_before_the_start_is_answered_counts():
    """The store has the run, its owner does not know it yet: the starter may leave all the same."""
    async with running_engine() as engine:
        engine.store.withhold("start")
        starting = asyncio.create_task(engine.start())
        await engine.store.asked("start")
        await settle()
        watching = await engine.watch(claim=True)
        await engine.store.thaw()
        stream = await starting
        call = await engine.call()
        stream.leave()
        await settle()

        assert not call.closed.is_set()
        assert (await engine.get()).state is RunState.RUNNING
        watching.leave()
        assert call.closed.is_set()


async def test_claim_of_a_watch_that_came_just_before_its_run_counts():
    """It was unknown when it was claimed, and known when it was read: it is claimed then."""
    async with running_engine() as engine:
        engine.store.freeze("start")
        starting = asyncio.create_task(engine.start())
        await engine.store.asked("start")
        engine.store.freeze("get")
        asked = engine.store.calls["get"]
        watching = asyncio.create_task(engine.watch(claim=True))
        await engine.store.asked("get", asked + 1)
        await engine.store.thaw("start")
        stream = await starting
        await engine.store.thaw()
        await watching
        call = await engine.call()
        stream.leave()
        await settle()

        assert not call.closed.is_set()
        assert len((await engine.record()).claims) == 1


async def test_start_that_found_an_early_cancel_leaves_its_conversation():
    """Also while another start of the same id is under way, which will not have joined."""
    async with running_engine() as engine:
        engine.store.freeze("start")
        first = asyncio.create_task(engine.start(conversation_id="talk"))
        await engine.store.asked("start")
        second = asyncio.create_task(engine.start(conversation_id="talk"))
        await settle()
        outcome, _ = await engine.cancel()
        await engine.store.thaw()
        endings = [await (await each).rest() for each in (first, second)]
        await settle()

        assert outcome is CancelOutcome.REMEMBERED
        assert {run.state for run in endings} == {RunState.CANCELLED}
        assert await engine.store.inner.join_conversation("default", "talk", "next", 1) == []


async def test_starts_of_one_conversation_join_one_after_the_other():
    """Two that wait for each other's records could wait for ever: one that is refused may come again, as the last."""
    async with running_engine() as engine:
        await engine.start("a", conversation_id="talk")
        engine.store.withhold("join_conversation")
        refused = [
            asyncio.create_task(engine.start("b", conversation_id="talk", on_conflict=ConversationPolicy.REJECT))
            for _ in range(2)
        ]
        await engine.store.asked("join_conversation", 2)
        queued = asyncio.create_task(
            engine.start("c", conversation_id="talk", on_conflict=ConversationPolicy.QUEUE), name="c"
        )
        await settle()
        joined = engine.store.calls["join_conversation"]
        await engine.store.thaw()
        stream = await queued
        await asyncio.wait(refused)

        assert joined == 2
        assert [type(each.exception()) for each in refused] == [ConversationBusy] * 2
        await engine.cancel("a")
        assert (await engine.call(len(engine.upstream.calls) - 1)).attempts == 1
        stream.leave()


async def test_streams_that_leave_after_the_engine_start_no_clock():
    """A server that has stopped is not kept alive by a claim that it would have kept."""
    async with running_engine() as engine:
        stream = await engine.start()
        other = await engine.watch(claim=True)
        stream.leave(by_server=True)
    before = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]
    other.leave(by_server=True)

    assert len(asyncio.get_running_loop()._scheduled) == before  # type: ignore[attr-defined]
