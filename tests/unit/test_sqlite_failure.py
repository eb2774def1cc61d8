"""A disk that is full or broken: nothing is half done, nothing acknowledged is lost, and it goes on afterwards."""

import asyncio
import resource
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract.store_cases import (
    KEY,
    NOW,
    OWNER,
    SECOND,
    append,
    cancel,
    early_cancel,
    record_of,
    seal,
    start_run,
    whole_log,
)
from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelReason, RunKey
from midstream_server.stores import sqlite_log, sqlite_tables
from midstream_server.stores.base import RunStore, StartOutcome
from midstream_server.stores.memory import MemoryRunStore
from midstream_server.stores.sqlite import SqliteRunStore
from unit.sqlite_faults import faulty_disk

OTHER = RunKey("default", "run-2")
EARLY = RunKey("default", "run-3")

SCRIPT: list[Callable[[RunStore], Awaitable[Any]]] = [
    lambda store: store.start(start_run(conversation_id="talk")),
    lambda store: store.start(start_run(OTHER)),
    lambda store: store.join_conversation("default", "talk", "run-1", NOW),
    lambda store: store.append([append(1, b"a"), append(1, b"b" * 400, key=OTHER)]),
    lambda store: store.claim(KEY, "c", OWNER),
    lambda store: store.append([append(2, b"c" * 200), append(2, b"d", key=OTHER)]),
    lambda store: store.append([append(3, b"e" * 200)]),
    lambda store: store.record_intent(cancel()),
    lambda store: store.record_intent(early_cancel(EARLY)),
    lambda store: store.take_over(OTHER, "replica-2", 1),
    lambda store: store.append([append(3, b"f", key=OTHER, epoch=2), append(4, b"g")]),
    lambda store: store.seal(seal(5, b"part end", b"finished" * 50)),
    lambda store: store.settle(KEY, b"usage"),
    lambda store: store.release(OTHER, "claim-1", CancelReason.CLIENT_GONE, NOW),
    lambda store: store.delete(KEY, NOW, NOW + SECOND),
    lambda store: store.expire(NOW + 600 * SECOND, 1.0, 10),
]


@asynccontextmanager
async def _sqlite(path: Path, durability: str = "process") -> AsyncIterator[SqliteRunStore]:
    store = SqliteRunStore(path, durability=durability)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _everything(store: RunStore) -> list[Any]:
    return [(await store.get(key), await whole_log(store, key)) for key in (KEY, OTHER, EARLY)]


async def _until_it_works(operation: Callable[[RunStore], Awaitable[Any]], store: RunStore, repair: Callable[[], None]):
    """The answer, and whether it failed before; repeats the operation as it was."""
    try:
        return await operation(store), False
    except StoreUnavailable:
        repair()
        return await operation(store), True


@contextmanager
def _small_pieces(monkeypatch: pytest.MonkeyPatch):
    """Chunks, clearing of the journal and checkpoints come often."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_log, "CHUNK_BYTES", 300)
        patch.setattr(sqlite_log, "JOURNAL_BYTES", 200)
        patch.setattr(sqlite_tables, "IDLE_CHECKPOINT_PAGES", 10)
        yield


@pytest.mark.parametrize("broken", ["write", "sync"])
async def test_disk_that_fails_at_any_moment_spoils_nothing(tmp_path, monkeypatch, broken):
    """The script is run again and again, the disk failing a little later each time; what failed is repeated.

    A sync that fails is tried at each operation instead. In the end, and after a restart, all is as in memory.
    """
    memory = MemoryRunStore()
    await memory.open()
    answers = [await operation(memory) for operation in SCRIPT]
    expected = await _everything(memory)
    failures, position = 0, 0
    while True:
        path = tmp_path / f"{position}.db"
        failed = False
        with _small_pieces(monkeypatch), faulty_disk() as disk:
            async with _sqlite(path, "disk") as store:
                disk.writes = 0
                disk.failing_write = position + 1 if broken == "write" else None

                def repair(disk=disk) -> None:
                    disk.failing_write, disk.failing_sync = None, False

                for number, operation in enumerate(SCRIPT):
                    if broken == "sync":
                        disk.failing_sync = number == position
                    answer, again = await _until_it_works(operation, store, repair)
                    failed |= again
                    assert again or answer == answers[number]
                repair()
                assert await _everything(store) == expected
            async with _sqlite(path) as store:
                assert await _everything(store) == expected
        failures += failed
        # Frames of the write-ahead log are two writes: three steps on meets both kinds.
        position += 3 if broken == "write" else 1
        if not failed and position > len(SCRIPT):
            break

    assert failures >= len(SCRIPT) - 1


async def test_what_failed_and_is_not_repeated_has_not_happened(tmp_path):
    """Neither in the file nor in what the thread remembers of live runs."""
    with faulty_disk() as disk:
        async with _sqlite(tmp_path / "runs.db") as store:
            await store.start(start_run())
            before = await record_of(store)
            disk.failing_write = 0
            for operation in (
                store.record_intent(cancel()),
                store.take_over(KEY, "replica-2", 1),
                store.append([append(1, b"lost")]),
                store.seal(seal(1)),
                store.start(start_run(OTHER)),
            ):
                with pytest.raises(StoreUnavailable):
                    await operation
            disk.failing_write = None

            results = await store.append([append(1, b"a"), append(1, b"b", key=OTHER)])

            assert [(result.accepted, result.intent) for result in results] == [(True, None), (False, None)]
            assert list(await store.orphans("replica-9", 10)) == [KEY]
            assert await store.get(KEY) == replace(before, last_sequence=2)
            assert await whole_log(store) == [b"started", b"a"]


@contextmanager
def _file_size_limit(size: int):
    """The operating system lets no file of this process grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("durability", ["process", "disk"])
async def test_file_that_may_not_grow_is_unavailable_until_it_may(tmp_path, durability):
    """A real limit of the operating system: appends are refused, reads are not, and the same append works later."""
    async with _sqlite(tmp_path / "runs.db", durability) as store:
        await store.start(start_run())
        await store.append([append(1, b"kept")])
        big = append(2, b"x" * 3_000_000)
        with _file_size_limit(1_000_000):
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await store.append([big])
                with pytest.raises(StoreUnavailable):
                    await store.start(replace(start_run(OTHER), summary=b"x" * 3_000_000))
            refused = await whole_log(store)

        accepted = await store.append([big])
        created = await store.start(start_run(OTHER))
        log = await whole_log(store)

    assert refused == [b"started", b"kept"]
    assert accepted[0].accepted
    assert created.outcome is StartOutcome.CREATED
    assert log == [b"started", b"kept", b"x" * 3_000_000]
    async with _sqlite(tmp_path / "runs.db") as store:
        assert await whole_log(store) == log


async def test_operation_that_fails_alone_does_not_spoil_those_beside_it(tmp_path):
    """All three are in one transaction; the one that SQLite refuses is told, the others are done."""
    async with _sqlite(tmp_path / "runs.db") as store:
        await store.start(start_run())
        go_on = threading.Event()
        blocked = asyncio.ensure_future(store._writer.call(lambda tables: go_on.wait()))
        unstorable: Any = "a text, where only bytes can be"
        calls: list[Awaitable[Any]] = [
            store.append([append(1, b"a")]),
            store.start(replace(start_run(OTHER), summary=unstorable)),
            store.append([append(2, b"b")]),
        ]
        waiting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        go_on.set()

        results: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)

        assert await blocked
        assert isinstance(results[1], StoreUnavailable)
        assert results[0][0].accepted
        assert results[2][0].accepted
        assert await store.get(OTHER) is None
        assert await whole_log(store) == [b"started", b"a", b"b"]


async def test_bug_in_one_operation_is_its_callers_alone(tmp_path):
    """An error that is not the store's comes out as it is, and what the operation did is undone."""

    def buggy(tables: sqlite_tables.SqliteTables) -> None:
        tables.start(start_run(OTHER))
        tables.append([append(1, b"lost")])
        raise ZeroDivisionError

    async with _sqlite(tmp_path / "runs.db") as store:
        await store.start(start_run())

        with pytest.raises(ZeroDivisionError):
            await store._writer.call(buggy)

        assert await store.get(OTHER) is None
        assert await whole_log(store) == [b"started"]
        assert (await store.append([append(1, b"a")]))[0].accepted


async def test_disk_level_forces_every_acknowledged_write_and_process_level_does_not(tmp_path):
    """The difference between the two levels, counted at the disk."""
    counts = {}
    for durability in ("process", "disk"):
        with faulty_disk() as disk:
            async with _sqlite(tmp_path / f"{durability}.db", durability) as store:
                await store.start(start_run())
                disk.syncs = 0
                syncs = []
                for operation in (
                    lambda store: store.append([append(1, b"a")]),
                    lambda store: store.record_intent(cancel()),
                    lambda store: store.seal(seal(2)),
                    lambda store: store.probe(),
                ):
                    before = disk.syncs
                    await operation(store)
                    syncs.append(disk.syncs - before)
                counts[durability] = syncs

    assert counts["process"] == [0, 0, 0, 0]
    assert all(count >= 1 for count in counts["disk"])


async def test_probe_tells_that_the_disk_cannot_be_written(tmp_path):
    """Reading alone would not notice."""
    with faulty_disk() as disk:
        async with _sqlite(tmp_path / "runs.db") as store:
            disk.failing_write = 0
            with pytest.raises(StoreUnavailable):
                await store.probe()
            disk.failing_write = None
            await store.probe()
