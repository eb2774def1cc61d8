"""A process with a SQLite store that is killed: its lock goes with it, and everything acknowledged stays."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from contract.store_cases import whole_log
from midstream_server.errors import StoreLocked
from midstream_server.model import RunKey
from midstream_server.stores.base import RecordPhase
from midstream_server.stores.sqlite import SqliteRunStore
from unit import sqlite_child


@contextmanager
def _child(path: Path, task: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has opened the store; killed in the end, if it still lives."""
    command = [sys.executable, sqlite_child.__file__, str(path), task]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("lines", [1, 100, 1_500])
async def test_every_acknowledged_append_survives_a_kill(tmp_path, lines):
    """Whatever was told before the kill is there, nothing is torn, and the file is whole."""
    path = tmp_path / "runs.db"
    with _child(path, "write") as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        told += child.stdout.readlines()
    told = [line for line in told if line.endswith("\n")]
    appended: dict[str, int] = defaultdict(int)
    sealed = set()
    for line in told:
        word, run_id, sequence = line.split()
        appended[run_id] = int(sequence)
        if word == "sealed":
            sealed.add(run_id)
    assert len(told) >= lines

    store = SqliteRunStore(path, durability="process")
    await store.open()
    for run_id, acknowledged in appended.items():
        log = await whole_log(store, RunKey("default", run_id))
        record = await store.get(RunKey("default", run_id))
        assert record is not None
        assert len(log) == record.last_sequence >= acknowledged
        assert (record.phase is RecordPhase.SEALED) >= (run_id in sealed)
        whole = log[:-1] if record.phase is RecordPhase.SEALED else log
        assert whole == [sqlite_child.entry(run_id, number) for number in range(1, len(whole) + 1)]
    await store.close()

    with apsw.Connection(str(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"


async def test_runs_of_a_killed_process_are_orphans_and_can_be_sealed(tmp_path):
    """What it left is found and ended from the log."""
    path = tmp_path / "runs.db"
    with _child(path, "write") as child:
        assert child.stdout is not None
        for _ in range(50):
            child.stdout.readline()
        child.kill()

    store = SqliteRunStore(path, durability="process")
    await store.open()
    orphans = await store.orphans("replica-2", 100)
    taken = [await store.take_over(key, "replica-2", 1) for key in orphans]
    await store.close()

    assert 1 <= len(orphans) <= sqlite_child.WRITERS
    assert all(record is not None and record.epoch == 2 for record in taken)


async def test_second_process_is_locked_out_until_the_first_is_killed(tmp_path):
    """The lock is the system's, so it needs no cleaning up."""
    path = tmp_path / "runs.db"
    store = SqliteRunStore(path, durability="process")
    with _child(path, "hold") as child:
        with pytest.raises(StoreLocked, match="another process uses the store"):
            await store.open()
        child.kill()
        child.wait()

        await store.open()

    await store.probe()
    await store.close()
