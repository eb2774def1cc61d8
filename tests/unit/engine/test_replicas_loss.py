"""A store that lost one thing and not another: a run and not its followers, a conversation and not its runs, a seal."""

import asyncio
from typing import Any

import pytest

from engine_scenario import CONTINUE, advance, settle, text_of
from midstream_server.engine import tails
from midstream_server.engine.conversation import UNKNOWN_SECONDS
from midstream_server.engine.tails import PUT_BACK_SECONDS
from midstream_server.errors import CursorAhead
from midstream_server.model import CancelReason, ConversationPolicy, RunState
from midstream_server.stores.base import RecordPhase
from scripted_upstream import finish, text
from shared_store import HEARTBEAT_SECONDS, LEASE_SECONDS, replicas

pytestmark = pytest.mark.looptime

TALK: dict[str, Any] = {"conversation_id": "talk", "on_detach": CONTINUE}


async def test_queued_run_waits_for_one_that_is_lost_for_a_moment():
    """Its owner lives and puts it back; until then it has not ended."""
    async with replicas() as cluster:
        first, second = cluster.engines
        await first.start("a", **TALK)
        call = await first.call()
        await second.start("b", on_conflict=ConversationPolicy.QUEUE, **TALK)
        await advance(1.0)

        cluster.shared.lose("a")
        await advance(2 * HEARTBEAT_SECONDS)

        assert (await second.get("a")).state is RunState.RUNNING
        assert (await second.get("b")).state is RunState.QUEUED
        call.say(text("done"), finish())
        await second.upstream.calls[0].started.wait()
        assert (await second.get("a")).state is RunState.COMPLETED


async def test_queued_run_does_not_wait_for_one_that_is_lost_for_good():
    """Its owner has died with it."""
    async with replicas() as cluster:
        first, second = cluster.engines
        await first.start("a", **TALK)
        await second.start("b", on_conflict=ConversationPolicy.QUEUE, **TALK)
        await advance(1.0)
        cluster.stop(first)

        cluster.shared.lose("a")
        await advance(PUT_BACK_SECONDS + UNKNOWN_SECONDS + 2.0)

        assert second.upstream.calls[0].started.is_set()


async def test_superseded_run_that_was_lost_when_it_was_to_stop_stops_when_it_is_back():
    """Nobody else would tell it again, and who supersedes it would wait for its natural end."""
    async with replicas() as cluster:
        first, second = cluster.engines
        await first.start("a", **TALK)
        call = await first.call()
        second.store.freeze("record_intent")
        await second.start("b", on_conflict=ConversationPolicy.SUPERSEDE, **TALK)
        await second.store.asked("record_intent")

        cluster.shared.lose("a")
        await second.store.thaw()
        await settle()
        assert not call.closed.is_set()
        await advance(2 * HEARTBEAT_SECONDS)

        superseded = await second.get("a")
        assert call.closed.is_set()
        assert (superseded.state, superseded.cancel_reason) == (RunState.CANCELLED, CancelReason.SUPERSEDED)
        await second.upstream.calls[0].started.wait()
        second.upstream.calls[0].say(finish())
        assert (await second.get("b", wait=1.0)).superseded_run_ids == ("a",)


async def test_place_in_a_conversation_that_alone_is_lost_is_taken_again():
    """On a cluster a conversation is elsewhere than its runs."""
    async with replicas() as cluster:
        first, second = cluster.engines
        await first.start("a", **TALK)

        cluster.shared.lose_conversations()
        await advance(2 * HEARTBEAT_SECONDS)
        await second.start("b", on_conflict=ConversationPolicy.QUEUE, **TALK)

        assert (await second.get("b")).state is RunState.QUEUED


async def test_ending_that_was_written_for_a_dead_owner_is_put_back_as_it_was():
    """With the text that the store lost as well: there is no owner any more who has it."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream = await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        fail_over = cluster.shared.copy()
        call.say(text("told"))
        await stream.until_text("told")
        cluster.stop(owner)
        await advance(LEASE_SECONDS + HEARTBEAT_SECONDS)
        ended = await other.get()
        assert (ended.state, text_of(ended.message)) == (RunState.FAILED, "told")

        fail_over()
        await advance(3 * HEARTBEAT_SECONDS)

        assert (await other.record()).phase is RecordPhase.SEALED
        assert await other.get() == ended


async def test_follower_is_told_that_another_run_has_the_id_of_the_one_it_followed():
    """A failover lost the run, and the same request began it anew elsewhere: two texts are never joined."""
    async with replicas(3) as cluster:
        first, second, third = cluster.engines
        await first.start(on_detach=CONTINUE)
        (await first.call()).say(text("one "))
        follower = await second.watch()
        await follower.until_text("one ")
        cluster.stop(first)

        cluster.shared.lose("run")
        stream = await third.start(on_detach=CONTINUE)
        call = await third.call()
        for piece in ("another ", "text ", "of ", "the model"):
            call.say(text(piece))
            await stream.next()

        with pytest.raises(CursorAhead) as caught:
            await follower.rest()
        assert caught.value.metadata["last_sequence"] == "0"
        assert follower.text == "one "


@pytest.mark.parametrize("is_lost", [True, False])
async def test_follower_elsewhere_hears_nothing_of_a_loss_that_is_put_back(is_lost):
    """The store lacks the run, or its end, until its owner has noticed: nothing that anybody saw is gone."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        call.say(text("a"))
        follower = await other.watch()
        await follower.until_text("a")
        fail_over = cluster.shared.copy()
        call.say(text("b"))
        await follower.until_text("ab")
        reading = asyncio.create_task(follower.next())

        cluster.shared.lose("run") if is_lost else fail_over()
        await advance(2 * HEARTBEAT_SECONDS)
        call.say(text("c"), finish())
        await reading

        assert (await follower.rest()).state is RunState.COMPLETED
        assert (follower.text, follower.sequences) == ("abc", [1, 2, 3, 4, 5])


async def test_follower_behind_the_window_reads_on_once_the_run_is_put_back(monkeypatch):
    """It reads the store alone, and found nothing there; no new entry wakes it."""
    monkeypatch.setattr(tails, "WINDOW_BYTES", 1)
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        call.say(text("a"))
        ahead, behind = await other.watch(), await other.watch()
        await behind.until_text("a")
        for piece in ("b", "c"):
            call.say(text(piece))
            await ahead.until_text("ab" if piece == "b" else "abc")

        cluster.shared.lose("run")
        reading = asyncio.create_task(behind.until_text("abc"))
        await advance(2 * HEARTBEAT_SECONDS)

        assert reading.done()
        await reading


async def test_run_that_was_lost_writes_nothing_into_one_that_was_begun_anew_under_its_id():
    """Both logs are as long: only their epochs tell them apart."""
    async with replicas() as cluster:
        first, second = cluster.engines
        await first.start(on_detach=CONTINUE)
        call = await first.call()
        await advance(0.1)

        cluster.shared.lose("run")
        stream = await second.start(on_detach=CONTINUE)
        call.say(text("of the lost one"), finish())
        await advance(HEARTBEAT_SECONDS)
        (await second.call()).say(text("anew"), finish())

        assert text_of((await stream.rest()).message) == "anew"
        assert stream.text == "anew"
        assert text_of((await first.get(wait=1.0)).message) == "anew"
