"""Readers: resume without seams, delay nobody, hear of what is not in the log."""

import asyncio

import pytest

from engine_scenario import CONTINUE, SharedStore, advance, running_engine, settle, text_of
from midstream_server.engine.run_log import RunLog
from midstream_server.errors import CursorAhead, RunExpired, SlowReader
from midstream_server.model import RunFinished, RunProgress, RunSnapshot, RunState, TokenCount, Usage, UsageSource
from midstream_server.upstreams.base import UsageReported
from scripted_upstream import finish, text


async def long_run(engine, pieces: int):
    """A run with so many entries of text, in the store one by one; its first stream has read them."""
    stream = await engine.start(on_detach=CONTINUE)
    call = await engine.call()
    for number in range(pieces):
        call.say(text(f"{number},"))
        await stream.next()
        while len(stream.sequences) < number + 2:
            await stream.next()
    return stream, call


# --- Resuming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["live", "ended", "store"])
async def test_resume_after_every_sequence_has_no_gap_and_no_duplicate(place):
    """While the run is live, after it has ended, and when another process tells it."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 5)
        watchers = [await engine.watch(after_sequence=cursor) for cursor in range(7)] if place == "live" else []
        call.say(finish())
        call.end()
        run = await stream.rest()
        if place == "ended":
            watchers = [await engine.watch(after_sequence=cursor) for cursor in range(7)]
        if place == "store":
            async with running_engine(engine.store.inner, "replica-2") as other:
                watchers = [await other.watch(after_sequence=cursor) for cursor in range(7)]
                endings = [await watcher.rest() for watcher in watchers]
        else:
            endings = [await watcher.rest() for watcher in watchers]

        assert endings == [run] * 7
        for cursor, watcher in enumerate(watchers):
            assert watcher.sequences == list(range(cursor + 1, run.last_sequence + 1))
            assert watcher.events == stream.events[cursor:]


async def test_resume_after_the_very_end_gives_nothing_more():
    """Whoever has seen RunFinished has seen all."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 1)
        call.say(finish())
        call.end()
        run = await stream.rest()
        watcher = await engine.watch(after_sequence=run.last_sequence)

        assert await watcher.next() == []


@pytest.mark.parametrize("live", [True, False])
async def test_cursor_ahead_of_the_log_is_told(live):
    """With where the log ends; never replayed from the beginning."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 1)
        if not live:
            call.end()
            await stream.rest()
        last = stream.sequences[-1]

        with pytest.raises(CursorAhead) as refused:
            await engine.watch(after_sequence=last + 1)
        assert refused.value.metadata == {"last_sequence": str(last)}


async def test_lagging_reader_gets_merged_events_and_may_resume_inside_one():
    """More than 16 entries behind, it gets them joined; the spans are dense, the text is the same."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 40)
        call.say(finish())
        call.end()
        run = await stream.rest()
        late = await engine.watch()
        await late.rest()
        spans = [event for event in late.events if event.first_sequence]
        inside = (spans[0].first_sequence + spans[0].sequence) // 2
        resumed = await engine.watch(after_sequence=inside)
        await resumed.rest()

        assert len(late.events) < len(stream.events)
        assert late.sequences == stream.sequences == list(range(1, run.last_sequence + 1))
        assert late.text == stream.text == text_of(run.message)
        assert resumed.sequences == list(range(inside + 1, run.last_sequence + 1))


async def test_reader_just_behind_gets_entries_as_they_are():
    """Not every batch is a lag."""
    async with running_engine() as engine:
        stream, _ = await long_run(engine, 15)
        watcher = await engine.watch()
        await watcher.next()

        assert watcher.events == stream.events


def test_log_gives_what_fits_and_at_least_one_entry():
    """Also of what was published in one go: a reader's memory is bounded by what it asks for."""
    log = RunLog()
    log.publish([b"12345", b"67890", b"x"])

    assert list(log.read(0, 10)) == [b"12345", b"67890"]
    assert list(log.read(1, 3)) == [b"67890"]
    assert list(log.read(0, 11)) == [b"12345", b"67890", b"x"]
    assert list(log.read(3, 100)) == []


# --- Snapshots -----------------------------------------------------------------------------------------------------


async def test_snapshot_of_a_live_run_and_then_what_follows_it():
    """It stands for the entries that it covers, and takes no sequence."""
    async with running_engine() as engine:
        _, call = await long_run(engine, 3)
        watcher = await engine.watch(snapshot=True)
        await watcher.next()
        (first,) = watcher.events
        call.say(text("more"), finish())
        call.end()
        run = await watcher.rest()

        assert isinstance(first.payload, RunSnapshot)
        assert (first.sequence, text_of(first.payload.run.message)) == (4, "0,1,2,")
        assert first.payload.run.state is RunState.RUNNING
        assert watcher.text == text_of(run.message)
        assert watcher.sequences == [5, 6]


async def test_snapshot_of_an_ended_run_is_followed_by_its_end():
    """The last event is RunFinished, as always."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 2)
        call.say(finish())
        call.end()
        run = await stream.rest()
        watcher = await engine.watch(snapshot=True)
        await watcher.rest()

        assert [type(event.payload) for event in watcher.events] == [RunSnapshot, RunFinished]
        assert [event.sequence for event in watcher.events] == [run.last_sequence - 1, run.last_sequence]
        snapshot = watcher.events[0].payload
        assert isinstance(snapshot, RunSnapshot)
        assert snapshot.run == run


async def test_snapshot_asked_for_just_before_the_end_does_not_hang():
    """The run ends between the call of WatchRun and the first read."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 1)
        watcher = await engine.watch(snapshot=True)
        call.say(finish())
        call.end()
        run = await stream.rest()

        async with asyncio.timeout(5):
            assert await watcher.rest() == run
        assert isinstance(watcher.events[0].payload, RunSnapshot)


async def test_snapshot_of_a_stopping_run_is_the_news_of_its_state():
    """It is not said twice."""
    async with running_engine() as engine:
        await long_run(engine, 1)
        engine.store.freeze("seal")
        await engine.cancel(wait=0)
        watcher = await engine.watch(snapshot=True)
        await watcher.next()
        reading = asyncio.create_task(watcher.next())
        await settle()
        await engine.store.thaw()
        await reading

        assert [type(event.payload) for event in watcher.events] == [RunSnapshot, RunFinished]


async def test_snapshot_of_another_processes_run_covers_what_it_says_and_no_more():
    """The log grows between the two reads that it takes: no delta may come twice."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 2)
        async with running_engine(SharedStore(engine.store.inner), "replica-2") as other:
            watcher = await other.watch(snapshot=True)
            other.store.freeze("read_log")
            reading = asyncio.create_task(watcher.next())
            await other.store.asked("read_log")
            call.say(text("more"))
            await stream.until_text("0,1,more")
            await other.store.thaw()
            await reading
            call.say(finish())
            call.end()
            run = await watcher.rest()

            assert watcher.text == text_of(run.message) == "0,1,more"


# --- Progress ------------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_silence_of_fifteen_seconds_is_broken_by_progress():
    """Again and again; it takes no sequence, and tells the running usage."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(
            text("four"), UsageReported(usage=Usage(output=TokenCount(value=3, source=UsageSource.UPSTREAM_RUNNING)))
        )
        await stream.until_text("four")
        began = asyncio.get_running_loop().time()
        progress = await stream.until_progress()
        first = asyncio.get_running_loop().time() - began
        await stream.next()
        second = asyncio.get_running_loop().time() - began - first

        assert first == pytest.approx(15.5, abs=1.1)
        assert second == pytest.approx(15.5, abs=1.1)
        assert progress.state is RunState.RUNNING
        assert progress.usage == Usage(output=TokenCount(value=3, source=UsageSource.UPSTREAM_RUNNING))
        assert stream.events[-1].sequence == 2


@pytest.mark.looptime
async def test_stream_that_has_news_gets_no_progress():
    """An entry every ten seconds is no silence."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        for number in range(6):
            call.say(text(str(number)))
            await stream.until_text("012345"[: number + 1])
            await advance(10)

        assert not [event for event in stream.events if isinstance(event.payload, RunProgress)]


async def test_change_of_state_is_told_at_once():
    """STOPPING, with the pending reason, while the seal waits for the store; once."""
    async with running_engine() as engine:
        stream = await engine.start()
        await engine.call()
        await stream.next()
        engine.store.freeze("seal")
        cancelling = asyncio.create_task(engine.cancel())

        progress = await stream.until_progress()
        await engine.store.thaw()
        _, run = await cancelling
        await stream.rest()

        assert progress.state is RunState.STOPPING
        assert progress.cancel_reason is run.cancel_reason
        assert len([event for event in stream.events if isinstance(event.payload, RunProgress)]) == 1


# --- Slow readers --------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_slow_reader_is_left_alone_while_the_run_lives_and_ended_a_minute_after():
    """Told where it was; its `on_expire` is called once."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=CONTINUE)
        call = await engine.call()
        slow = await engine.watch()
        expired: list[float] = []
        loop = asyncio.get_running_loop()
        slow.reader.on_expire = lambda: expired.append(loop.time())
        await slow.next()
        await advance(600)
        while_live = list(expired)
        call.say(text("all"), finish())
        call.end()
        await stream.rest()
        ended = loop.time()
        await advance(59)
        just_before = list(expired)
        await advance(60)

        assert while_live == just_before == []
        assert len(expired) == 1
        assert expired[0] - ended == pytest.approx(61, abs=1.1)
        with pytest.raises(SlowReader) as told:
            await slow.next()
        assert told.value.metadata == {"last_sequence": "1"}


@pytest.mark.looptime
async def test_reader_that_reads_slowly_but_reads_is_not_ended():
    """Half a minute per batch is slow, not dead."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=CONTINUE)
        call = await engine.call()
        piece = "x" * 60_000
        for _ in range(20):
            call.say(text(piece))
        call.say(finish())
        call.end()
        await stream.rest()
        slow = await engine.watch()
        while await slow.next():
            await advance(30)

        assert slow.text == stream.text
        assert len(slow.events) > 3


@pytest.mark.looptime
async def test_reader_that_waits_for_a_silent_run_is_not_slow():
    """It is we who have nothing to say."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        reading = asyncio.create_task(stream.rest())
        await advance(300)
        call.say(finish())
        call.end()

        assert (await reading).state is RunState.COMPLETED


async def test_reader_that_never_reads_delays_nobody_and_holds_nothing():
    """Run and other readers end as if it were not there; its cursor stays where it was."""
    async with running_engine() as engine:
        stream = await engine.start()
        dead = [await engine.watch() for _ in range(100)]
        call = await engine.call()
        for _ in range(100):
            call.say(text("x" * 10_000))
            await stream.next()
        call.say(finish())
        call.end()
        run = await stream.rest()

        assert run.state is RunState.COMPLETED
        assert {follower.reader.cursor for follower in dead} == {0}
        assert await dead[0].rest() == run


@pytest.mark.parametrize("place", ["live", "stored"])
async def test_cancel_of_next_at_any_point_loses_nothing(place):
    """The same reader goes on where it was."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 3)
        if place == "stored":
            call.say(finish())
            call.end()
            await stream.rest()
        watcher = await engine.watch()
        if place == "stored":
            for operation in ("get", "read_log"):
                engine.store.freeze(operation)
                asked = engine.store.calls[operation]
                reading = asyncio.create_task(watcher.next())
                await engine.store.asked(operation, asked + 1)
                reading.cancel()
                await engine.store.thaw()
                await settle()
        else:
            await watcher.next()
            reading = asyncio.create_task(watcher.next())
            await settle()
            reading.cancel()
            await settle()
            call.say(finish())
            call.end()
        run = await watcher.rest()

        assert watcher.sequences == list(range(1, run.last_sequence + 1))
        assert watcher.text == text_of(run.message)


async def test_content_that_is_deleted_while_it_is_read_is_told():
    """NOT_FOUND, and not an end that looks whole."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 2)
        call.say(finish())
        call.end()
        await stream.rest()
        watcher = await engine.watch()
        await engine.supervisor.delete("default", "run")

        with pytest.raises(RunExpired):
            await watcher.next()


async def test_content_that_is_deleted_between_its_record_and_its_log_is_told():
    """The log is empty by then, which is not the end."""
    async with running_engine() as engine:
        stream, call = await long_run(engine, 2)
        call.say(finish())
        call.end()
        await stream.rest()
        engine.store.freeze("read_log")
        watcher = await engine.watch()
        reading = asyncio.create_task(watcher.next())
        await engine.store.asked("read_log")
        await engine.supervisor.delete("default", "run")

        await engine.store.thaw("read_log")

        with pytest.raises(RunExpired):
            await reading
