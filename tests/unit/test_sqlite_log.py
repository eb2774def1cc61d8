"""The journal, the chunks and the queue of the SQLite store: bounded, batched, and whole after a restart."""

import asyncio
import threading
from pathlib import Path

import pytest

from contract.store_cases import KEY, NOW, SECOND, append, seal, start_run, whole_log
from midstream_server.model import RunKey
from midstream_server.stores import sqlite_log, sqlite_tables
from midstream_server.stores.base import ListQuery
from midstream_server.stores.sqlite import SqliteRunStore
from midstream_server.stores.sqlite_tables import SqliteTables

IDLE = RunKey("default", "idle")


@pytest.fixture
async def store(tmp_path: Path):
    """A SQLite store, open."""
    store = SqliteRunStore(tmp_path / "runs.db", durability="process")
    await store.open()
    yield store
    await store.close()


async def _number(store: SqliteRunStore, query: str) -> int:
    def read(tables: SqliteTables) -> int:
        number: int = tables.connection.execute(query).get
        return number

    return await store._writer.call(read)


async def test_all_that_waits_is_one_transaction(store):
    """A hundred appends that came while the thread was busy are one row of the journal."""
    keys = [RunKey("default", f"run-{n}") for n in range(100)]
    for key in keys:
        await store.start(start_run(key))
    rows = await _number(store, "SELECT count(*) FROM journal")
    is_busy, go_on = threading.Event(), threading.Event()

    def block(tables):
        is_busy.set()
        return go_on.wait()

    blocked = asyncio.ensure_future(store._writer.call(block))
    await asyncio.to_thread(is_busy.wait)
    appends = [asyncio.ensure_future(store.append([append(1, b"a", key=key)])) for key in keys]
    await asyncio.sleep(0)

    go_on.set()
    results = await asyncio.gather(*appends)

    assert await blocked
    assert all(result[0].accepted for result in results)
    assert await _number(store, "SELECT count(*) FROM journal") == rows + 1


async def test_journal_is_bounded_and_quiet_runs_lose_nothing(store, tmp_path, monkeypatch):
    """It is cleared again and again while one run says nothing; that run's entries move to a chunk before."""
    monkeypatch.setattr(sqlite_log, "JOURNAL_BYTES", 20_000)
    await store.start(start_run(IDLE))
    await store.append([append(1, b"said long ago", key=IDLE)])
    await store.start(start_run())
    entries = [b"%05d" % n + b"." * 300 for n in range(1_000)]
    largest = 0

    for sequence, entry in enumerate(entries, start=1):
        await store.append([append(sequence, entry)])
        largest = max(largest, await _number(store, "SELECT sum(length(pieces)) FROM journal"))

    assert largest <= 3 * 20_000
    await store.close()
    again = SqliteRunStore(tmp_path / "runs.db", durability="process")
    await again.open()
    assert await whole_log(again, IDLE) == [b"started", b"said long ago"]
    assert await whole_log(again) == [b"started", *entries]
    await again.close()


async def test_live_runs_go_on_after_a_restart(store, tmp_path):
    """Epoch, last sequence and tail are as they were: the next append fits, an old one is a repeat."""
    await store.start(start_run())
    await store.append([append(1, b"a", b"b")])
    await store.close()
    again = SqliteRunStore(tmp_path / "runs.db", durability="process")
    await again.open()

    results = await again.append([append(1, b"a", b"b"), append(3, b"c"), append(1, b"x", epoch=2)])

    assert [result.accepted for result in results] == [True, True, False]
    assert await whole_log(again) == [b"started", b"a", b"b", b"c"]
    await again.close()


async def test_number_of_a_forgotten_run_does_not_bring_its_entries_back(store, tmp_path):
    """What the journal holds of the last run is not taken for a later run's, also not after restarts."""
    await store.start(start_run())
    await store.append([append(1, b"old")])
    await store.seal(seal(2))
    await store.delete(KEY, NOW, NOW)
    await store.expire(NOW, 1.0, 10)
    await store.start(start_run(entry=b"new"))
    await store.close()
    again = SqliteRunStore(tmp_path / "runs.db", durability="process")
    await again.open()

    assert await whole_log(again) == [b"new"]
    await again.close()


async def test_log_of_an_ended_run_is_few_rows(store):
    """Chunks of several KiB, and the last entry for itself."""
    await store.start(start_run())
    for sequence in range(1, 1_001):
        await store.append([append(sequence, b"." * 90)])
    await store.seal(seal(1_001))

    assert await _number(store, "SELECT count(*) FROM chunk") <= 2 + 1_001 * 94 // sqlite_log.CHUNK_BYTES


async def test_deleted_content_is_in_no_table(store):
    """The log at once, and what the journal holds of it with the second sweep; a live run loses nothing."""
    await store.start(start_run(IDLE))
    await store.start(start_run())
    await store.append([append(1, b"secret"), append(1, b"kept", key=IDLE)])
    await store.seal(seal(2))

    await store.delete(KEY, NOW, NOW + SECOND)
    chunks = await _number(store, "SELECT count(*) FROM chunk WHERE instr(entries, CAST('secret' AS BLOB))")
    await store.expire(NOW, 60.0, 10)
    await store.expire(NOW, 60.0, 10)
    rows = await _number(store, "SELECT count(*) FROM journal WHERE instr(pieces, CAST('secret' AS BLOB))")

    assert (chunks, rows) == (0, 0)
    assert await whole_log(store, IDLE) == [b"started", b"kept"]


async def test_many_quiet_runs_are_moved_out_of_the_journal_a_few_at_a_time(store, monkeypatch, tmp_path):
    """No transaction is long, and after a restart all is there."""
    monkeypatch.setattr(sqlite_log, "FLUSHED_AT_ONCE", 3)
    keys = [RunKey("default", f"run-{n}") for n in range(10)]
    for key in keys:
        await store.start(start_run(key))
    await store.expire(NOW, 60.0, 10)  # sets the mark behind them

    steps = [await store._writer.call(SqliteTables.clear_journal) for _ in range(4)]
    left = await _number(store, "SELECT count(*) FROM journal")
    await store.close()

    assert steps == [False, False, False, True]
    assert left == 0
    again = SqliteRunStore(tmp_path / "runs.db", durability="process")
    await again.open()
    assert [await whole_log(again, key) for key in keys] == [[b"started"]] * 10
    await again.close()


async def test_write_ahead_log_stays_short(store, tmp_path, monkeypatch):
    """It is carried into the file when the thread has nothing else to do, and at the latest at twice that."""
    monkeypatch.setattr(sqlite_tables, "IDLE_CHECKPOINT_PAGES", 100)
    monkeypatch.setattr(sqlite_tables, "BUSY_CHECKPOINT_PAGES", 200)
    await store.start(start_run())

    await asyncio.gather(*(store.append([append(n, b"." * 3_000)]) for n in range(1, 1_001)))
    for sequence in range(1_001, 2_001):
        await store.append([append(sequence, b"." * 3_000)])

    # One transaction may be large: all thousand that waited at first.
    assert (tmp_path / "runs.db-wal").stat().st_size < 8_000_000
    assert (tmp_path / "runs.db").stat().st_size > 4_000_000


async def test_expiry_and_lists_let_others_in_between(store, monkeypatch):
    """An operation that is asked for later is done before they end."""
    monkeypatch.setattr(sqlite_tables, "SLICE_SECONDS", 0.0)
    for number in range(1_200):
        key = RunKey("default", f"run-{number}")
        await store.start(start_run(key))
        await store.seal(seal(1, key=key, expire_time=NOW + SECOND))
    first = await store._writer.call(lambda tables: tables.expire_slice(NOW + SECOND, 60.0, 20))
    done = []

    async def note(name, operation) -> None:
        await operation
        done.append(name)

    nothing = ListQuery(tenant="default", limit=10, labels={"no": "such"})
    await asyncio.gather(
        note("list", store.list_records(nothing)),
        note("expiry", store.expire(NOW + SECOND, 60.0, 20)),
        note("probe", store.probe()),
    )

    assert first == 1
    assert done[0] == "probe"
    assert sorted(done) == ["expiry", "list", "probe"]
    assert await _number(store, "SELECT count(*) FROM run WHERE phase = 3") == 21


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "run_by_time"),
        ({"conversation_id": "talk"}, "run_by_conversation"),
        ({"parent_run_id": "p"}, "run_by_parent"),
    ],
)
async def test_lists_walk_an_index_and_sort_nothing_large(store, filters, index):
    """A page costs the same however many records there are."""
    from midstream_server.stores import sqlite_list

    query = ListQuery(tenant="default", limit=10, **filters)
    source, bindings = sqlite_list._source(query, (NOW, "run-1"))

    def explain(tables: SqliteTables) -> list[str]:
        statement = f"EXPLAIN QUERY PLAN SELECT number {source} LIMIT 10"
        return [str(row[3]) for row in tables.connection.execute(statement, bindings)]

    plan = await store._writer.call(explain)

    assert len(plan) == 1
    assert f"INDEX {index} (tenant=?" in plan[0]
    assert "(create_time,run_id)<(?,?)" in plan[0].replace(" ", "")


async def test_writer_ends_with_what_was_asked_before_close(tmp_path):
    """Close waits for it; a cancelled close closes all the same."""
    store = SqliteRunStore(tmp_path / "runs.db", durability="process")
    await store.open()
    starting = asyncio.ensure_future(store.start(start_run()))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)

    await store.close()

    await starting
    assert not (tmp_path / "runs.db-wal").exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "sqlite-writer" and thread.is_alive()]
