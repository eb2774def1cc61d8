"""A process of its own that uses a SQLite store until it is killed. Run as a script: path of the file, and a task.

`hold` opens the store and waits. `write` starts, feeds and seals runs, and tells of each acknowledged step in a line.
"""

import asyncio
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from contract.store_cases import append, seal, start_run  # noqa: E402 (the path must be known)
from midstream_server.model import RunKey  # noqa: E402
from midstream_server.stores import sqlite_log, sqlite_tables  # noqa: E402
from midstream_server.stores.sqlite import SqliteRunStore  # noqa: E402

WRITERS = 8
ENTRIES_PER_RUN = 40


def entry(run_id: str, sequence: int) -> bytes:
    """What the run's log must hold at this sequence."""
    return f"{run_id}:{sequence}:".encode() + b"." * (sequence * 37 % 400)


def _tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def _write(store: SqliteRunStore, writer: int) -> None:
    number = 0
    while True:
        number += 1
        run_id = f"run-{writer}-{number}"
        key = RunKey("default", run_id)
        await store.start(start_run(key, entry=entry(run_id, 1)))
        _tell("appended", run_id, 1)
        for sequence in range(1, ENTRIES_PER_RUN, 2):
            entries = [entry(run_id, sequence + 1), entry(run_id, sequence + 2)]
            results = await store.append([append(sequence, *entries, key=key)])
            assert results[0].accepted
            _tell("appended", run_id, sequence + 2)
        await store.seal(seal(ENTRIES_PER_RUN + 1, key=key))
        _tell("sealed", run_id, ENTRIES_PER_RUN + 2)


async def _main(path: str, task: str) -> None:
    sqlite_log.JOURNAL_BYTES = 20_000
    sqlite_tables.IDLE_CHECKPOINT_PAGES = 50
    sqlite_tables.BUSY_CHECKPOINT_PAGES = 100
    store = SqliteRunStore(path, durability="process")
    await store.open()
    _tell("open")
    if task == "write":
        await asyncio.gather(*(_write(store, writer) for writer in range(WRITERS)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
