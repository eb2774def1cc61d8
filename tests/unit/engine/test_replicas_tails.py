"""Following a run of another replica: one tail for all who follow, exact whatever is lost, and told when to move."""

import asyncio

import pytest

from engine_scenario import CONTINUE, advance, failure_of, run_key, settle, text_of
from midstream_server.engine.tails import WINDOW_BYTES
from midstream_server.errors import CursorAhead, Draining, SlowReader
from midstream_server.model import CancelReason, ConversationPolicy, RunSnapshot, RunState
from scripted_upstream import finish, text
from shared_store import replicas

pytestmark = pytest.mark.looptime


async def say_all(call, count, size=1):
    """Pieces of text that arrive one by one."""
    for number in range(count):
        call.say(text(chr(ord("a") + number % 26) * size))
        await advance(0.01)


async def test_followers_of_a_foreign_run_share_one_tail():
    """However many they are, each page is read once."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        watchers = [await other.watch() for _ in range(50)]
        reading = [asyncio.create_task(watcher.rest()) for watcher in watchers]
        await advance(0.1)
        before = other.store.calls.copy()

        await say_all(call, 20)
        call.say(finish())
        endings = await asyncio.gather(*reading)

        used = other.store.calls - before
        assert used["read_log"] <= 21 + 1
        assert used["get"] <= 2 * 22 + 1
        assert all(ending == endings[0] for ending in endings)
        assert all(watcher.text == "abcdefghijklmnopqrst" for watcher in watchers)


async def test_followers_of_a_foreign_run_need_no_hints():
    """They come sooner with them, not more surely; an end too."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        cluster.shared.loses_hints = True
        watcher = await other.watch()
        reading = asyncio.create_task(watcher.rest())
        waiting = asyncio.create_task(other.get(wait=60.0))

        await say_all(call, 20)
        call.say(finish())
        call.end()
        await advance(1.1)

        assert reading.done()
        assert waiting.done()
        assert watcher.text == "abcdefghijklmnopqrst"
        assert await reading == await waiting


async def test_tail_without_hints_looks_often_while_there_is_something_to_see():
    """A stream without push is a little late, not half a second."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        cluster.shared.loses_hints = True
        watcher = await other.watch()
        reading = asyncio.create_task(watcher.until_text("x" * 100))
        await say_all(call, 1)
        before = other.store.calls["get"]

        for _ in range(100):
            call.say(text("x"))
            await advance(0.03)

        assert 30 <= other.store.calls["get"] - before <= 70
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_quiet_tail_looks_seldom():
    """Hints work: looking on its own is for the truth only."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        watcher = await other.watch()
        reading = asyncio.create_task(watcher.rest())
        await advance(10.0)
        before = other.store.calls.copy()

        await advance(10.0)

        used = other.store.calls - before
        assert used["get"] <= 10
        assert used["read_log"] == 0
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_resume_on_another_replica_at_every_event_gives_the_exact_transcript():
    """While the run is live, and after its end."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream = await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        await say_all(call, 10)
        while len(stream.sequences) < 11:
            await stream.next()
        live = [await other.watch(after_sequence=cursor) for cursor in range(12)]
        call.say(text("!"), finish())
        run = await stream.rest()
        ended = [await other.watch(after_sequence=cursor) for cursor in range(12)]

        for cursor, (first, second) in enumerate(zip(live, ended, strict=True)):
            assert await first.rest() == await second.rest() == run
            assert first.events == second.events == stream.events[cursor:]


async def test_reader_that_lags_behind_the_window_reads_alone():
    """The window is bounded; the reader gets everything all the same, and holds up nobody."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        quick, slow = await other.watch(), await other.watch()
        reading = asyncio.create_task(quick.rest())
        await slow.next()
        count = 2 * WINDOW_BYTES // 8192

        await say_all(call, count, 8192)
        call.say(finish())
        run = await reading

        assert slow.sequences == [1]
        before = other.store.calls["read_log"]
        assert await slow.rest() == run
        assert other.store.calls["read_log"] > before
        assert slow.text == quick.text == text_of(run.message)
        assert slow.sequences == list(range(1, run.last_sequence + 1))


async def test_reader_that_is_alone_when_the_end_comes_gets_it_once():
    """It reads the end before the tail has looked; the tail says when it is over."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        await say_all(call, 2 * WINDOW_BYTES // 8192, 8192)
        first, slow = await other.watch(after_sequence=60), await other.watch()
        reading = asyncio.create_task(first.rest())
        await advance(0.5)
        await slow.next()
        assert slow.sequences[-1] < 60

        cluster.shared.loses_hints = True
        call.say(finish())
        call.end()
        await settle()
        run = await slow.rest()

        assert slow.sequences == list(range(1, run.last_sequence + 1))
        assert await reading == run


async def test_end_that_comes_while_the_tail_looks_is_the_end():
    """It saw a live run, and then a log with the end in it: nothing was rolled back."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        watcher = await other.watch()
        reading = asyncio.create_task(watcher.rest())
        await advance(0.1)
        other.store.freeze("read_log")
        call.say(text("a"))
        await advance(0.1)
        call.say(finish())
        call.end()
        await advance(0.1)

        await other.store.thaw()

        assert (await reading).state is RunState.COMPLETED
        assert watcher.text == "a"


async def test_snapshot_of_a_foreign_run_goes_on_with_what_comes_after():
    """No gap between what it covers and what is sent."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        await say_all(call, 3)
        watcher = await other.watch(snapshot=True)
        await watcher.next()

        call.say(text("!"), finish())
        await watcher.rest()

        assert watcher.text == "abc!"


async def test_snapshot_of_a_foreign_run_that_waits_is_followed_by_no_other_state():
    """Until it is its turn: a state never goes back."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start("first", on_detach=CONTINUE, conversation_id="talk")
        await owner.start("second", on_detach=CONTINUE, conversation_id="talk", on_conflict=ConversationPolicy.QUEUE)
        watcher = await other.watch("second", snapshot=True)
        told = asyncio.create_task(watcher.until_progress())
        await advance(2.0)

        await owner.cancel("first")
        progress = await told

        snapshot = watcher.events[0].payload
        assert isinstance(snapshot, RunSnapshot)
        assert snapshot.run.state is RunState.QUEUED
        assert progress.state is RunState.RUNNING
        assert (await owner.get("second")).state is RunState.RUNNING
        assert len(watcher.events) == 2


async def test_follower_of_a_foreign_run_hears_of_its_state_and_of_silence():
    """A change at once, and after 15 s that there is none."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        watcher = await other.watch(after_sequence=1)
        began = asyncio.get_running_loop().time()

        silence = await watcher.until_progress()
        waited = asyncio.get_running_loop().time() - began
        owner.store.freeze("seal")
        await other.cancel(wait=0)
        stopping = await watcher.until_progress(lambda progress: progress.state is RunState.STOPPING)
        await owner.store.thaw()

        assert silence.state is RunState.RUNNING
        assert 15.0 <= waited <= 17.0
        assert stopping.cancel_reason is CancelReason.REQUESTED
        assert (await watcher.rest()).state is RunState.CANCELLED


async def test_follower_of_a_foreign_run_that_does_not_read_is_ended_a_minute_after_it():
    """It is left alone while the run lives, as on the owner."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        watcher = await other.watch(after_sequence=0)
        await watcher.next()
        reading = asyncio.create_task(watcher.next())
        await advance(0.1)
        call.say(text("a"))
        await reading
        expired = asyncio.Event()
        watcher.reader.on_expire = expired.set
        await advance(200.0)
        assert not expired.is_set()

        call.say(finish())
        call.end()
        await advance(58.0)
        was_expired = expired.is_set()
        await advance(4.0)

        assert not was_expired
        assert expired.is_set()
        with pytest.raises(SlowReader):
            await watcher.next()


async def test_tail_ends_with_its_last_follower():
    """Nothing is asked of the store for a run that nobody follows here."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        watchers = [await other.watch(after_sequence=1) for _ in range(2)]
        reading = [asyncio.create_task(watcher.next()) for watcher in watchers]
        await advance(0.1)
        followed = cluster.followed(other).copy()

        for task, watcher in zip(reading, watchers, strict=True):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            watcher.leave()
        await settle()
        before = other.store.calls.copy()
        await advance(1.5)

        assert followed == {run_key()}
        assert not cluster.followed(other)
        assert (other.store.calls - before)["get"] == 0


async def test_outage_of_the_store_is_not_the_end_of_a_foreign_run():
    """A follower waits it out."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        watcher = await other.watch()
        reading = asyncio.create_task(watcher.rest())
        await advance(0.1)
        other.store.fail("get", "read_log")
        call.say(text("unheard"), finish())
        await advance(5.0)
        assert not reading.done()

        other.store.heal()

        assert (await reading).state is RunState.COMPLETED
        assert watcher.text == "unheard"


async def test_drain_sends_away_those_who_follow_foreign_runs():
    """They are told where they are; those of its own runs get the ending."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)
        call = await owner.call()
        await say_all(call, 3)
        own = await other.start("own", on_detach=CONTINUE)
        watcher = await other.watch(claim=True)
        await watcher.until_text("abc")
        reading = asyncio.create_task(watcher.next())
        await settle()

        await other.supervisor.seal_all()

        with pytest.raises(Draining) as caught:
            await reading
        assert caught.value.metadata == {"last_sequence": "4"}
        assert failure_of(await own.rest()) == "SERVER_SHUTDOWN"
        with pytest.raises(Draining):
            await (await other.watch(after_sequence=4)).next()
        assert not call.closed.is_set()


async def test_cursor_beyond_the_log_of_a_foreign_run_is_refused():
    """A gap is told."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        await owner.start(on_detach=CONTINUE)

        with pytest.raises(CursorAhead):
            await other.watch(after_sequence=2)


async def test_reader_that_came_before_its_run_was_live_here_follows_it_here():
    """The record was there, its owner did not know so yet: no tail remains on a run of our own."""
    async with replicas() as cluster:
        owner, _ = cluster.engines
        owner.store.withhold("start")
        starting = asyncio.create_task(owner.start(on_detach=CONTINUE))
        await owner.store.asked("start")
        await settle()
        watcher = await owner.watch()
        reading = asyncio.create_task(watcher.rest())
        await advance(0.5)
        await owner.store.thaw()
        await starting
        await advance(1.0)

        assert not cluster.followed(owner)
        call = await owner.call()
        call.say(text("here"), finish())
        call.end()
        await reading
        assert watcher.text == "here"


async def test_owner_takes_a_cursor_that_another_replica_told_before_it():
    """What is in the store is told elsewhere at once; who comes back to the owner then is not ahead of the log."""
    async with replicas() as cluster:
        owner, other = cluster.engines
        stream = await owner.start()
        call = await owner.call()
        follower = await other.watch()
        owner.store.withhold("append")
        call.say(text("told elsewhere"))
        await follower.until_text("told elsewhere")
        last = follower.sequences[-1]

        resumed = await owner.watch(after_sequence=last)
        follower.leave()
        await owner.store.thaw()
        call.say(text(", and here"), finish())
        call.end()
        run = await resumed.rest()

        assert resumed.text == ", and here"
        assert [*follower.sequences, *resumed.sequences] == list(range(1, run.last_sequence + 1))
        assert text_of(run.message) == "told elsewhere, and here"
        assert await stream.rest() == run
