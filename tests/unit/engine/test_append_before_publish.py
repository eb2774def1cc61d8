"""Nothing that a reader saw is lost: what the store has not acknowledged, nobody sees."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine_scenario import CONTINUE, Engine, Follower, running_engine, settle, text_of
from flaky_store import EVERYTHING
from midstream_server.accumulator import MessageAccumulator
from midstream_server.codec import decode_event
from midstream_server.engine.log_writer import MAX_WAITING_BYTES_PER_RUN
from midstream_server.model import MessageDelta, RunFinished, RunState
from midstream_server.stores.base import RunStore
from midstream_server.stores.memory import MemoryRunStore
from midstream_server.stores.sqlite import SqliteRunStore
from scripted_upstream import finish, text


async def test_reader_and_get_see_nothing_that_the_store_has_not_acknowledged():
    """Not before the append, and not between its effect and its answer."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("known"))
        await stream.until_text("known")

        for slow in (engine.store.freeze, engine.store.withhold):
            slow("append")
            appends = engine.store.calls["append"]
            call.say(text("!"))
            await engine.store.asked("append", appends + 1)
            reading = asyncio.create_task(stream.next())
            watcher = await engine.watch(snapshot=True)
            await watcher.next()
            await settle()

            assert not reading.done()
            assert text_of((await engine.get()).message) == watcher.text == stream.text
            await engine.store.thaw()
            await reading

        assert stream.text == "known!!"


async def test_run_finished_is_not_seen_before_the_seal_is_acknowledged():
    """Neither by a reader nor by GetRun nor by Cancel."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        engine.store.withhold("seal")
        call.say(text("done"), finish())
        call.end()
        await engine.store.asked("seal")
        await stream.until_text("done")
        reading = asyncio.create_task(stream.next())
        await settle()

        unseen = not reading.done()
        state = (await engine.get()).state
        await engine.store.thaw()
        await reading

        assert unseen
        assert state is RunState.RUNNING
        assert isinstance(stream.events[-1].payload, RunFinished)


@asynccontextmanager
async def memory_stores(folder: Path) -> AsyncIterator[Callable[[], RunStore]]:
    """What outlives the process, opened anew: here the store itself."""
    store = MemoryRunStore()
    yield lambda: store


@asynccontextmanager
async def sqlite_stores(folder: Path) -> AsyncIterator[Callable[[], RunStore]]:
    """What outlives the process, opened anew: a file."""
    stores: list[RunStore] = []

    def open_anew() -> RunStore:
        stores.append(SqliteRunStore(folder / "runs.db", durability="process"))
        return stores[-1]

    yield open_anew
    await stores[-1].close()


@pytest.mark.parametrize("stores", [memory_stores, sqlite_stores], ids=["memory", "sqlite"])
@pytest.mark.parametrize("operation", ["append", "seal"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_what_was_seen_survives_the_death_of_the_process(tmp_path, monkeypatch, stores, operation, moment):
    """The process dies before or after a write takes effect; the next one tells at least what readers saw."""
    monkeypatch.setattr("midstream_server.engine.supervisor.LAST_SEAL_SECONDS", 0.01)
    async with stores(tmp_path) as open_anew:
        inner = open_anew()
        async with running_engine(inner, "replica-1") as first:
            stream = await first.start()
            call = await first.call()
            call.say(text("seen "))
            await stream.until_text("seen ")
            (first.store.freeze if moment == "before" else first.store.withhold)(operation)
            asked = first.store.calls[operation]
            call.say(text("half"), finish())
            call.end()
            await first.store.asked(operation, asked + 1)
            first.store.freeze(*(EVERYTHING - {operation}))
        await inner.close()

        await recover(open_anew(), stream)


async def recover(inner: RunStore, stream: Follower) -> None:
    """Another process takes the store over and tells the run."""
    async with running_engine(inner, "replica-2") as second:
        run = await second.get()
        again = await second.watch()
        resumed = await second.watch(after_sequence=stream.sequences[-1])

        assert run.state.is_ending
        assert text_of(run.message).startswith(stream.text)
        assert await again.rest() == await resumed.rest() == run
        assert again.text == text_of(run.message)
        assert stream.text + resumed.text == again.text
        assert stream.sequences + resumed.sequences == list(range(1, run.last_sequence + 1))


async def fold_of_log(engine: Engine, run_id: str = "run") -> str:
    """What the bytes in the real store amount to."""
    page = await engine.store.inner.read_log((await engine.record(run_id)).key, 0, 1 << 30)
    accumulator = MessageAccumulator()
    for entry in page.entries:
        payload = decode_event(entry).payload
        if isinstance(payload, MessageDelta):
            accumulator.add(payload)
    return text_of(accumulator.message())


async def test_what_waits_while_a_batch_is_in_flight_becomes_one_entry():
    """The writer is self-clocking: busy, it makes fewer and larger entries, and the message is the same."""
    async with running_engine() as engine:
        stream = await engine.start()
        call = await engine.call()
        call.say(text("a"))
        await stream.until_text("a")
        engine.store.freeze("append")
        for piece in "bcdefgh":
            call.say(text(piece))
            await settle()
        await engine.store.thaw()
        await stream.until_text("abcdefgh")
        call.say(finish())
        call.end()
        run = await stream.rest()

        assert len(engine.store.appends) == 3
        assert run.last_sequence == 5
        assert await fold_of_log(engine) == "abcdefgh"


async def test_runs_share_a_batch():
    """One acknowledgement for all that arrived meanwhile."""
    async with running_engine() as engine:
        streams = [await engine.start(f"run-{n}") for n in range(3)]
        engine.store.freeze("append")
        for index in range(3):
            (await engine.call(index)).say(text("one"))
        await engine.store.asked("append")
        for index in range(3):
            (await engine.call(index)).say(text(" two"))
        await settle()
        await engine.store.thaw()
        for stream in streams:
            await stream.until_text("one two")

        assert len(engine.store.appends) == 2
        assert len(engine.store.appends[1]) == 3


async def test_reading_stops_while_too_much_of_a_run_waits_and_goes_on_afterwards():
    """A megabyte per run; the upstream's own flow control does the rest. Nothing is lost, nothing comes twice."""
    async with running_engine() as engine:
        stream = await engine.start(on_detach=CONTINUE)
        call = await engine.call()
        engine.store.freeze("append")
        piece = "x" * 50_000
        for _ in range(50):
            call.say(text(piece))
        call.say(finish())
        call.end()
        await settle()
        taken = 52 - call.unread_batches
        await engine.store.thaw()
        run = await stream.rest()

        assert MAX_WAITING_BYTES_PER_RUN / 50_000 <= taken <= MAX_WAITING_BYTES_PER_RUN / 50_000 + 3
        assert text_of(run.message) == stream.text == piece * 50


async def test_reading_stops_while_too_much_of_all_runs_waits(monkeypatch):
    """The bound of the process counts also for a run that has little itself."""
    monkeypatch.setattr("midstream_server.engine.log_writer.MAX_WAITING_BYTES", 100_000)
    async with running_engine() as engine:
        await engine.start("loud")
        await engine.start("quiet")
        engine.store.freeze("append")
        (await engine.call(0)).say(text("x" * 200_000))
        await settle()
        quiet = await engine.call(1)
        for _ in range(5):
            quiet.say(text("y"))
        await settle()
        unread = quiet.unread_batches
        await engine.store.thaw()
        await settle()

        assert unread >= 3
        assert quiet.unread_batches == 0
