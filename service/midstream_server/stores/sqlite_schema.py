"""The SQLite file: how it is opened, what is in it, and how it is brought up to date."""

import os
from contextlib import suppress
from pathlib import Path

import apsw

from midstream_server.errors import MidstreamError, StoreCorrupt, StoreLocked, StoreUnavailable

SYNCHRONOUS = {"process": "NORMAL", "disk": "FULL"}
"""The pragma for each level of durability. FULL syncs the write-ahead log in every commit."""

OLDEST_SQLITE = (3, 51, 3)
"""3.7.0 to 3.51.2 can corrupt a write-ahead log when a checkpoint races a writer (https://sqlite.org/wal.html)."""

APPLICATION_ID = 0x4D645374
"""`MdSt` in the file's header: the file is ours."""

LOCK_WAIT_MILLISECONDS = 500
"""At open only. Two that open at once would otherwise both give way; one that restarts gets over its predecessor."""

CHECKED_BYTES = 32 << 20
"""A file up to this size is checked whole at open."""

_MIGRATIONS = (
    """
    CREATE TABLE run (
        number INTEGER PRIMARY KEY,
        tenant TEXT NOT NULL,
        run_id TEXT NOT NULL,
        phase INTEGER NOT NULL,
        state INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        owner TEXT NOT NULL,
        last_sequence INTEGER NOT NULL, -- once sealed; of a live run the log tells
        intent TEXT,                    -- JSON
        claims TEXT NOT NULL,           -- JSON, claim id to replica
        on_detach INTEGER NOT NULL,
        grace_seconds REAL NOT NULL,
        detach_time INTEGER,
        detach_reason INTEGER,
        conversation_id TEXT NOT NULL,
        parent_run_id TEXT NOT NULL,
        labels TEXT NOT NULL,           -- JSON
        retention_seconds REAL NOT NULL,
        create_time INTEGER NOT NULL,
        start_time INTEGER,
        end_time INTEGER,
        expire_time INTEGER,
        forget_time INTEGER,
        summary BLOB NOT NULL,
        settlement BLOB NOT NULL,
        UNIQUE (tenant, run_id)
    ) STRICT;
    CREATE INDEX run_live ON run (number) WHERE phase = 1;
    CREATE INDEX run_expiry ON run (expire_time, number) WHERE phase = 2;
    CREATE INDEX run_oblivion ON run (forget_time, number) WHERE phase = 3;
    CREATE INDEX run_remembered ON run (tenant) WHERE phase = 2 AND fingerprint = '';
    CREATE INDEX run_by_time ON run (tenant, create_time, run_id) WHERE phase < 3;
    CREATE INDEX run_by_conversation ON run (tenant, conversation_id, create_time, run_id)
        WHERE phase < 3 AND conversation_id <> '';
    CREATE INDEX run_by_parent ON run (tenant, parent_run_id, create_time, run_id)
        WHERE phase < 3 AND parent_run_id <> '';

    -- Framed entries, consecutive; the last entry of a sealed run has a row of its own.
    CREATE TABLE chunk (
        run INTEGER NOT NULL,
        first_sequence INTEGER NOT NULL,
        last_sequence INTEGER NOT NULL,
        entries BLOB NOT NULL,
        PRIMARY KEY (run, first_sequence)
    ) STRICT, WITHOUT ROWID;

    -- What was appended since to runs that are live: a row for each commit, pieces of many runs in it.
    CREATE TABLE journal (
        position INTEGER PRIMARY KEY,
        pieces BLOB NOT NULL
    ) STRICT;

    CREATE TABLE conversation_member (
        tenant TEXT NOT NULL,
        conversation_id TEXT NOT NULL,
        position INTEGER NOT NULL,
        run_id TEXT NOT NULL,
        PRIMARY KEY (tenant, conversation_id, run_id)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE probe (
        number INTEGER PRIMARY KEY,
        count INTEGER NOT NULL
    ) STRICT;
    INSERT INTO probe VALUES (1, 0);
    """,
)
"""The statements that lead from each version (`user_version`) to the next."""


def open_connection(path: Path, durability: str) -> apsw.Connection:
    """Opens or creates the file, takes it for this process alone, and migrates it.

    The lock belongs to the process, so that the system drops it however the process ends.

    Raises:
        StoreLocked: another process has it.
        StoreCorrupt: it is damaged, not ours, or newer than this program.
        StoreUnavailable: it cannot be opened or written.
    """
    version = apsw.sqlite_lib_version()
    if tuple(int(number) for number in version.split(".")) < OLDEST_SQLITE:
        raise StoreUnavailable(f"SQLite {version} can corrupt its log; {'.'.join(map(str, OLDEST_SQLITE))} is needed")
    _check_path(path)
    _create(path)
    connection: apsw.Connection | None = None
    try:
        connection = apsw.Connection(os.fspath(path))
        _prepare(connection, path, SYNCHRONOUS[durability])
    except apsw.Error as error:
        _close_quietly(connection)
        raise explain(path, error) from error
    except MidstreamError:
        _close_quietly(connection)
        raise
    return connection


def _create(path: Path) -> None:
    """Texts are in the file as they were: it is its owner's alone, whatever the umask. SQLite's files beside it follow.

    Never opens one that exists: closing that would drop the locks of a store that this process has on it.
    """
    with suppress(OSError):  # SQLite says why it cannot be made
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _close_quietly(connection: apsw.Connection | None) -> None:
    if connection is not None:
        connection.close(True)


def _check_path(path: Path) -> None:
    """Says in words what SQLite would call "unable to open database file"."""
    if path.is_dir():
        raise StoreUnavailable(f"{path} is a directory; the store needs a file")
    if not path.parent.exists():
        raise StoreUnavailable(f"the store's directory {path.parent} does not exist")
    if not path.parent.is_dir():
        raise StoreUnavailable(f"{path.parent} is not a directory, so the store cannot be in it")


def explain(path: Path, error: apsw.Error) -> MidstreamError:
    """What an error at open means, for a person."""
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return StoreLocked(f"another process uses the store {path}")
        case apsw.NotADBError() | apsw.CorruptError():
            return StoreCorrupt(f"the store {path} is damaged, or is no SQLite file: {error}")
        case apsw.FullError():
            return StoreUnavailable(f"the disk of the store {path} is full")
        case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
            return StoreUnavailable(
                f"the store {path} cannot be written; check the rights of the file and its directory"
            )
        case _:
            return StoreUnavailable(f"the store {path} cannot be used: {error}")


def _prepare(connection: apsw.Connection, path: Path, synchronous: str) -> None:
    if connection.readonly("main"):
        raise apsw.ReadOnlyError
    connection.set_busy_timeout(LOCK_WAIT_MILLISECONDS)
    # Before anything is read, so that the first read takes the lock for good, and the log needs no shared memory.
    connection.pragma("locking_mode", "EXCLUSIVE")
    _check_ours(connection, path)
    if connection.pragma("journal_mode", "WAL") != "wal":
        raise StoreUnavailable(f"the file system of the store {path} cannot hold a write-ahead log")
    connection.pragma("synchronous", synchronous)
    connection.pragma("journal_size_limit", 64 << 20)
    connection.pragma("trusted_schema", "OFF")
    _migrate(connection)
    _check_whole(connection, path)
    connection.set_busy_timeout(0)


def _check_ours(connection: apsw.Connection, path: Path) -> None:
    version = connection.pragma("user_version")
    if connection.pragma("application_id") != APPLICATION_ID:
        if version or connection.execute("SELECT count(*) FROM sqlite_schema").get:
            raise StoreCorrupt(f"{path} is a SQLite file of another program")
    elif version > len(_MIGRATIONS):
        raise StoreCorrupt(f"the store {path} was made by a later version of Midstream (schema {version})")


def _migrate(connection: apsw.Connection) -> None:
    """Also writes where there is nothing to migrate: a store that cannot be written must fail here, not later."""
    version = connection.pragma("user_version")
    with connection:
        for statements in _MIGRATIONS[version:]:
            connection.execute(statements)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", len(_MIGRATIONS))
        connection.execute("UPDATE probe SET count = count + 1")


def _check_whole(connection: apsw.Connection, path: Path) -> None:
    if connection.pragma("page_count") * connection.pragma("page_size") > CHECKED_BYTES:
        return
    verdict = connection.execute("PRAGMA quick_check(1)").get
    if verdict != "ok":
        raise StoreCorrupt(f"the store {path} is damaged: {verdict}")
