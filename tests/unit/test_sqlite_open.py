"""What a SQLite store says of a file that it cannot use."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from contract.store_cases import KEY, seal, start_run, whole_log
from midstream_server.errors import InvalidSettings, StoreCorrupt, StoreLocked, StoreUnavailable
from midstream_server.model import RunKey
from midstream_server.stores import sqlite_schema
from midstream_server.stores.sqlite import SqliteRunStore

NOBODY = 65_534


def _store(path: Path) -> SqliteRunStore:
    return SqliteRunStore(path, durability="process")


async def _filled(path: Path) -> None:
    store = _store(path)
    await store.open()
    await store.start(start_run(entry=b"x" * 50_000))
    await store.close()


async def test_what_was_written_is_there_after_a_restart(tmp_path):
    """A path as text will do; nothing but the file itself stays after an orderly end."""
    await _filled(tmp_path / "runs.db")
    left = os.listdir(tmp_path)

    store = SqliteRunStore(str(tmp_path / "runs.db"), durability="disk")
    await store.open()

    assert left == ["runs.db"]
    assert await whole_log(store) == [b"x" * 50_000]
    await store.close()


async def test_only_its_owner_may_read_the_file(tmp_path):
    """Whatever the umask, also what lies beside it while it is open; a mode that somebody gave it stays."""
    before = os.umask(0o022)
    try:
        store = _store(tmp_path / "runs.db")
        await store.open()
        await store.start(start_run())
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    await store.close()
    (tmp_path / "runs.db").chmod(0o640)
    await store.open()
    await store.close()

    assert modes == {"runs.db": 0o600, "runs.db-wal": 0o600}
    assert (tmp_path / "runs.db").stat().st_mode & 0o777 == 0o640


async def test_second_store_in_the_same_process_is_locked_out_too(tmp_path):
    """And its attempt does not cost the first one its lock."""
    first, second, third = (_store(tmp_path / "runs.db") for _ in range(3))
    await first.open()
    for other in (second, third):
        with pytest.raises(StoreLocked):
            await other.open()
    await first.start(start_run())
    await first.close()

    await second.open()

    assert await second.get(KEY) is not None
    await second.close()


async def test_store_that_could_not_be_opened_can_be_tried_again(tmp_path):
    """Once the cause is gone; until then it refuses everything."""
    store = _store(tmp_path / "absent" / "runs.db")
    with pytest.raises(StoreUnavailable, match=r"directory .* does not exist"):
        await store.open()
    with pytest.raises(StoreUnavailable):
        await store.get(KEY)
    (tmp_path / "absent").mkdir()

    await store.open()

    await store.probe()
    await store.close()


async def test_paths_that_no_file_can_be_at(tmp_path):
    """Each is told in words."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailable, match="is a directory"):
        await _store(tmp_path).open()
    with pytest.raises(StoreUnavailable, match="is not a directory"):
        await _store(tmp_path / "file" / "runs.db").open()


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that an ordinary user may enter and read but not write; this process is such a user meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = os.geteuid() == 0
        if not root:
            folder.chmod(0o555)
        yield folder
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def _drop_rights() -> None:
    if os.geteuid() == 0:
        os.seteuid(NOBODY)


async def test_folder_that_cannot_be_written(as_nobody):
    """The message names the file and what to look at."""
    _drop_rights()

    with pytest.raises(StoreUnavailable, match=r"runs\.db cannot be written; check the rights"):
        await _store(as_nobody / "runs.db").open()


async def test_file_that_cannot_be_written(as_nobody):
    """SQLite would open it to read; a store that cannot write is of no use."""
    path = as_nobody / "runs.db"
    as_nobody.chmod(0o755)
    await _filled(path)
    path.chmod(0o444)
    as_nobody.chmod(0o555)
    _drop_rights()

    with pytest.raises(StoreUnavailable, match=r"runs\.db cannot be written; check the rights"):
        await _store(path).open()


async def test_file_that_is_no_database_is_left_alone(tmp_path):
    """Neither opened nor changed."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database, " * 1_000)

    with pytest.raises(StoreCorrupt, match="no SQLite file"):
        await _store(path).open()

    assert path.read_bytes() == b"not a database, " * 1_000


async def test_database_of_another_program_is_left_alone(tmp_path):
    """Neither migrated nor changed."""
    path = tmp_path / "other.db"
    with apsw.Connection(str(path)) as connection:
        connection.execute("CREATE TABLE song (title TEXT)")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(StoreCorrupt, match="another program"):
        await _store(path).open()

    assert path.read_bytes() == before


async def test_file_of_a_later_version_is_left_alone(tmp_path):
    """It may hold what this program does not understand."""
    path = tmp_path / "runs.db"
    await _filled(path)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 99)
    connection.close()

    with pytest.raises(StoreCorrupt, match="later version"):
        await _store(path).open()


async def test_damaged_file_is_recognised(tmp_path):
    """The last page is missing, or pages in the middle are overwritten."""
    path = tmp_path / "runs.db"
    await _filled(path)
    whole = path.read_bytes()

    for damaged in (whole[:-4_096], whole[:4_096] + os.urandom(20_000) + whole[24_096:]):
        path.write_bytes(damaged)
        with pytest.raises(StoreCorrupt, match="damaged"):
            await _store(path).open()
    path.write_bytes(whole)
    store = _store(path)
    await store.open()
    await store.close()


async def test_damage_that_opening_would_not_meet_is_recognised_too(tmp_path):
    """A leaf of the table of runs is overwritten; nothing at open reads it but the check."""
    path = tmp_path / "runs.db"
    store = _store(path)
    await store.open()
    for number in range(100):
        key = RunKey("default", f"run-{number}")
        await store.start(start_run(key))
        await store.seal(seal(1, key=key))
    await store.close()
    with apsw.Connection(str(path)) as connection:
        page = connection.execute("SELECT min(pageno) FROM dbstat WHERE name = 'run' AND pagetype = 'leaf'").get
    connection.close()
    content = path.read_bytes()
    path.write_bytes(content[: (page - 1) * 4_096] + b"\xaa" * 4_096 + content[page * 4_096 :])

    with pytest.raises(StoreCorrupt, match="damaged"):
        await _store(path).open()


async def test_journal_that_cannot_be_read_is_damage(tmp_path):
    """A journal row that is cut, or that has a gap, is not guessed at."""
    path = tmp_path / "runs.db"
    store = _store(path)
    await store.open()
    await store.start(start_run(entry=b"short"))
    await store.close()
    connection = apsw.Connection(str(path))
    whole = connection.execute("SELECT pieces FROM journal").get

    for damaged in (whole[:20], whole[:-1], whole[:8] + bytes(7) + b"\x05" + bytes(7) + b"\x06" + whole[24:]):
        connection.execute("UPDATE journal SET pieces = ?", (damaged,))
        connection.close()
        with pytest.raises(StoreCorrupt):
            await _store(path).open()
        connection = apsw.Connection(str(path))
    connection.close()


def test_unknown_durability_is_refused(tmp_path):
    """`replica` is a level of other stores."""
    with pytest.raises(InvalidSettings, match="durability"):
        SqliteRunStore(tmp_path / "runs.db", durability="replica")


async def test_sqlite_that_is_too_old_is_refused(tmp_path, monkeypatch):
    """It could corrupt its log."""
    monkeypatch.setattr(sqlite_schema, "OLDEST_SQLITE", (99, 0, 0))

    with pytest.raises(StoreUnavailable, match=r"99\.0\.0 is needed"):
        await _store(tmp_path / "runs.db").open()
    assert not (tmp_path / "runs.db").exists()
