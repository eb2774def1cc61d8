"""The operations of the port on the SQLite file, as plain calls on the writer's thread.

Each is a part of the transaction that the writer commits. One that raises an error of ours has changed nothing.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import apsw
import structlog

from midstream_server.model import Instant, RunKey
from midstream_server.stores import rules
from midstream_server.stores.base import (
    Append,
    AppendResult,
    IntentOutcome,
    IntentResult,
    LogPage,
    RecordIntent,
    RecordPhase,
    RunRecord,
    Seal,
    SealResult,
    StartOutcome,
    StartResult,
    StartRun,
    frame,
    unframe,
)
from midstream_server.stores.sqlite_log import LiveRun, SqliteLog
from midstream_server.stores.sqlite_rows import (
    INSERT,
    SELECT,
    UPDATE_ENDED,
    UPDATE_EXPIRED,
    UPDATE_LIVE,
    ended_values,
    immutable_values,
    integer,
    live_values,
    text,
    to_record,
)

if TYPE_CHECKING:
    from apsw import SQLiteValues

SLICE_SECONDS = 0.002
"""How long one slice of the expiry may hold up the others."""

IDLE_CHECKPOINT_PAGES = 1_000
BUSY_CHECKPOINT_PAGES = 4_000
"""The size of the write-ahead log at which it is carried into the file: when nobody waits, and in any case."""

_ACCEPTED = AppendResult(accepted=True)
_REFUSED = AppendResult(accepted=False)

_log = structlog.get_logger(__name__)


class SqliteTables:
    """The port's operations. What is read includes what the transaction has written so far."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._log = SqliteLog(connection)
        self._wal_pages = 0
        self._checkpoint_failed_pages = 0
        # Takes the place of SQLite's own checkpoints, which come in the middle of a commit.
        connection.set_wal_hook(self._on_commit)
        self._log.load()
        self._log.write(
            "DELETE FROM conversation_member WHERE NOT EXISTS (SELECT 1 FROM run WHERE phase = 1"
            " AND run.tenant = conversation_member.tenant AND run.run_id = conversation_member.run_id)",
            (),
        )
        self.commit()
        self._next_number = 1 + integer(connection.execute("SELECT coalesce(max(number), 0) FROM run").get)

    # --- What the writer drives --------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Makes durable what was done since the last commit."""
        self._log.commit()

    def rollback(self) -> None:
        """Takes back what was done since the last commit."""
        self._log.rollback()

    def maintain(self, *, idle: bool) -> None:
        """Keeps the write-ahead log short, if possible when nobody waits."""
        limit = IDLE_CHECKPOINT_PAGES if idle else BUSY_CHECKPOINT_PAGES
        if self._wal_pages - self._checkpoint_failed_pages < limit:
            return
        try:
            self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            # The log holds everything and grows on; the commits that it makes fail are those that must be told.
            self._checkpoint_failed_pages = self._wal_pages
            _log.warning("store.checkpoint_failed", error=str(error))
            return
        self._wal_pages = self._checkpoint_failed_pages = 0

    def close(self) -> None:
        """Closes the file; the write-ahead log is carried over and removed."""
        self.connection.set_wal_hook(None)
        self.connection.close()

    def _on_commit(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    # --- Records -----------------------------------------------------------------------------------------------------

    def get(self, key: RunKey) -> RunRecord | None:
        """See `RunStore.get`."""
        found = self._find(key)
        return found[1] if found else None

    def start(self, command: StartRun) -> StartResult:
        """See `RunStore.start`."""
        found = self._find(command.key)
        result = rules.start(found[1] if found else None, command)
        if found is not None:
            self._save(found, result.record)
        elif result.outcome is StartOutcome.CREATED:
            record = result.record
            number = self._insert(record)
            run = LiveRun(
                record.key, number, epoch=record.epoch, owner=record.owner, intent=record.intent, last_sequence=0
            )
            self._log.begin(run, frame([command.entry]))
        return result

    def change(self, key: RunKey, change: rules.Change) -> RunRecord | None:
        """Changes a known record; None if it is unknown or the change does not apply."""
        found = self._find(key)
        changed = change(found[1]) if found else None
        if found is not None and changed is not None:
            self._save(found, changed)
        return changed

    def record_intent(self, command: RecordIntent) -> IntentResult:
        """See `RunStore.record_intent`."""
        found = self._find(command.key)
        entries = command.early.entries if command.early else b""
        result = rules.record_intent(
            found[1] if found else None,
            command,
            lambda: self._count_remembered(command.key.tenant),
            len(unframe(entries)),
        )
        if found is not None and result.record is not None:
            self._save(found, result.record)
        elif found is None and result.outcome is IntentOutcome.REMEMBERED and result.record is not None:
            self._log.write_ending(self._insert(result.record), 1, result.record.last_sequence, entries)
        return result

    def _count_remembered(self, tenant: str) -> int:
        statement = "SELECT count(*) FROM run WHERE tenant = ? AND phase = 2 AND fingerprint = ''"
        return integer(self.connection.execute(statement, (tenant,)).get)

    def seal(self, command: Seal) -> SealResult:
        """See `RunStore.seal`."""
        found = self._find(command.key)
        if found is None:
            return SealResult(accepted=False, record=None, is_behind=True)
        result = rules.seal(found[1], command)
        if result.record is not None and result.record is not found[1]:
            self._log.finish(self._log.live[command.key], command.last_sequence, command.entries)
            self._save(found, result.record)
            if result.record.conversation_id:
                self.leave_conversation(command.key.tenant, result.record.conversation_id, command.key.run_id)
        return result

    def delete(self, key: RunKey, now: Instant, forget_time: Instant) -> RunRecord | None:
        """See `RunStore.delete`."""
        found = self._find(key)
        if found is None:
            return None
        self._expire(found, now, forget_time)
        return found[1]

    def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        """See `RunStore.orphans`."""
        lost = [run for run in self._log.live.values() if run.owner != owner]
        return [run.key for run in sorted(lost, key=lambda run: run.number)[:limit]]

    def probe(self) -> None:
        """See `RunStore.probe`."""
        self._log.write("UPDATE probe SET count = count + 1 WHERE number = ?", (1,))
        self.connection.execute("SELECT count FROM probe WHERE number = 1").fetchall()

    def _find(self, key: RunKey) -> tuple[int, RunRecord] | None:
        statement = f"{SELECT} WHERE tenant = ? AND run_id = ?"
        rows = self.connection.execute(statement, (key.tenant, key.run_id)).fetchall()
        return (integer(rows[0][0]), self.to_record(rows[0])) if rows else None

    def to_record(self, row: "SQLiteValues") -> RunRecord:
        """A row as a record, with the last sequence of its log."""
        run = self._log.live.get(RunKey(text(row[1]), text(row[2])))
        return to_record(row, run.last_sequence if run else None)

    def _insert(self, record: RunRecord) -> int:
        number = self._next_number
        # Never used twice, also not after a rollback: the journal knows runs by their numbers.
        self._next_number += 1
        values = (number, *immutable_values(record), *live_values(record), *ended_values(record))
        self._log.write(INSERT, values)
        return number

    def _save(self, found: tuple[int, RunRecord], record: RunRecord) -> None:
        number, before = found
        if record is before:
            return
        if record.phase is not RecordPhase.LIVE:
            self._log.write(UPDATE_ENDED, (*live_values(record), *ended_values(record), number))
            return
        self._log.write(UPDATE_LIVE, (*live_values(record), number))
        self._log.update(self._log.live[record.key], record)

    # --- Logs --------------------------------------------------------------------------------------------------------

    def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        """See `RunStore.append`."""
        return [self._append(command) for command in batch]

    def _append(self, command: Append) -> AppendResult:
        run = self._log.live.get(command.key)
        if run is None:
            record = self.get(command.key)
            if record is None:
                return AppendResult(accepted=False, is_behind=True)
            behind = rules.is_behind(record.epoch, record.last_sequence, command)
            return AppendResult(accepted=False, intent=record.intent, is_behind=behind)
        accepted = rules.accepts_append(run.epoch, run.last_sequence, command)
        if accepted and command.last_sequence > run.last_sequence:
            self._log.extend(run, command.last_sequence, command.entries)
        if not accepted and rules.is_behind(run.epoch, run.last_sequence, command):
            return AppendResult(accepted=False, intent=run.intent, is_behind=True)
        if run.intent is None:
            return _ACCEPTED if accepted else _REFUSED
        return AppendResult(accepted=accepted, intent=run.intent)

    def read_log(self, key: RunKey, after_sequence: int, max_bytes: int) -> LogPage:
        """See `RunStore.read_log`."""
        run = self._log.live.get(key)
        number, last_sequence = (run.number, run.last_sequence) if run else self._sealed_log(key)
        return self._log.read(number, run, last_sequence, after_sequence, max_bytes)

    def read_finished(self, key: RunKey) -> bytes | None:
        """See `RunStore.read_finished`."""
        number, last_sequence = self._sealed_log(key)
        return self._log.read_entry(number, last_sequence)

    def _sealed_log(self, key: RunKey) -> tuple[int, int]:
        """The number and the last sequence of a sealed run; zeros if there is none."""
        statement = "SELECT number, last_sequence FROM run WHERE tenant = ? AND run_id = ? AND phase = 2"
        rows = self.connection.execute(statement, (key.tenant, key.run_id)).fetchall()
        return (integer(rows[0][0]), integer(rows[0][1])) if rows else (0, 0)

    # --- Conversations -----------------------------------------------------------------------------------------------

    def join_conversation(self, tenant: str, conversation_id: str, run_id: str) -> Sequence[str]:
        """See `RunStore.join_conversation`. A run that has ended is not added: nobody would remove it."""
        rows = self.connection.execute(
            "SELECT run_id, position FROM conversation_member"
            " WHERE tenant = ? AND conversation_id = ? ORDER BY position",
            (tenant, conversation_id),
        ).fetchall()
        members = [text(row[0]) for row in rows]
        if run_id in members:
            return members[: members.index(run_id)]
        record = self.get(RunKey(tenant, run_id))
        if record is None or record.phase is RecordPhase.LIVE:
            position = integer(rows[-1][1]) + 1 if rows else 1
            self._log.write(
                "INSERT INTO conversation_member (tenant, conversation_id, position, run_id) VALUES (?, ?, ?, ?)",
                (tenant, conversation_id, position, run_id),
            )
        return members

    def leave_conversation(self, tenant: str, conversation_id: str, run_id: str) -> None:
        """See `RunStore.leave_conversation`."""
        self._log.write(
            "DELETE FROM conversation_member WHERE tenant = ? AND conversation_id = ? AND run_id = ?",
            (tenant, conversation_id, run_id),
        )

    # --- Expiry ------------------------------------------------------------------------------------------------------

    def forget_slice(self, now: Instant, limit: int) -> int:
        """Forgets expired runs, as many as a slice has time for, at least one if there is one."""
        return self._slice(
            "SELECT number FROM run WHERE phase = 3 AND forget_time <= ? ORDER BY forget_time, number LIMIT ?",
            now,
            limit,
            lambda number: self._log.write("DELETE FROM run WHERE number = ?", (number,)),
        )

    def expire_slice(self, now: Instant, remember_seconds: float, limit: int) -> int:
        """Expires sealed runs, as many as a slice has time for, at least one if there is one."""

        def expire(number: int) -> None:
            record = self.to_record(self.connection.execute(f"{SELECT} WHERE number = ?", (number,)).fetchall()[0])
            expire_time = record.expire_time or now
            self._expire((number, record), expire_time, rules.after_seconds(expire_time, remember_seconds))

        return self._slice(
            "SELECT number FROM run WHERE phase = 2 AND expire_time <= ? ORDER BY expire_time, number LIMIT ?",
            now,
            limit,
            expire,
        )

    def clear_journal(self) -> bool:
        """Removes what the journal still holds of ended runs, but for the latest. False: call again."""
        return self._log.clear_journal()

    def _slice(self, statement: str, now: Instant, limit: int, work: Callable[[int], None]) -> int:
        deadline = time.perf_counter() + SLICE_SECONDS
        numbers = self.connection.execute(statement, (now, limit)).fetchall()
        for done, (number,) in enumerate(numbers, start=1):
            work(integer(number))
            if time.perf_counter() >= deadline:
                return done
        return len(numbers)

    def _expire(self, found: tuple[int, RunRecord], expire_time: Instant, forget_time: Instant) -> None:
        expired = rules.expire(found[1], expire_time, forget_time)
        if expired is found[1]:
            return
        self._save(found, expired)
        self._log.write(UPDATE_EXPIRED, (found[0],))
        self._log.write("DELETE FROM chunk WHERE run = ?", (found[0],))
