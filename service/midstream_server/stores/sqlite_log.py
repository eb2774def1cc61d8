"""The logs of the runs in the SQLite file, and what is known of the live ones in memory.

An append goes into the journal: one row for each commit, whatever runs it is about. It is also added to the run's tail
in memory, which becomes a row of the table `chunk` when it is long enough, or at the end. What the journal held of it
is then of no use any more. So a commit for a hundred runs writes one row, and the bytes of a run lie together.

A change in memory is undone if its transaction fails. Belongs to the writer's thread.
"""

import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import apsw

from midstream_server.errors import StoreCorrupt
from midstream_server.model import CancelIntent, RunKey
from midstream_server.stores.base import LogPage, RunRecord, unframe
from midstream_server.stores.rules import fit
from midstream_server.stores.sqlite_rows import blob, decode_intent, integer, text

if TYPE_CHECKING:
    from apsw import SQLiteValues

CHUNK_BYTES = 8 << 10
"""A tail of this size becomes a chunk. Smaller is less memory per run, larger is fewer rows."""

JOURNAL_BYTES = 4 << 20
"""After so much the journal before it is cleared; the tails of runs that have been quiet since become chunks."""

FLUSHED_AT_ONCE = 256
"""How many tails one transaction makes chunks of, so that it stays short."""

_PIECE = struct.Struct(">QQQI")
"""Before each piece of a journal row: the run's number, first and last sequence, and the length of the entries."""

_LENGTH = struct.Struct(">I")

_INSERT_CHUNK = "INSERT INTO chunk (run, first_sequence, last_sequence, entries) VALUES (?, ?, ?, ?)"
_READ_CHUNKS = """
    SELECT first_sequence, entries FROM chunk
    WHERE run = ?1 AND first_sequence >= coalesce(
        (SELECT max(first_sequence) FROM chunk WHERE run = ?1 AND first_sequence <= ?2), 0)
    ORDER BY first_sequence
"""


class LiveRun:
    """What an append must know of a run, so that it reads nothing from the file."""

    __slots__ = (
        "epoch",
        "intent",
        "journal_position",
        "key",
        "last_sequence",
        "number",
        "owner",
        "tail",
        "tail_sequence",
        "transaction",
    )

    def __init__(
        self, key: RunKey, number: int, *, epoch: int, owner: str, intent: CancelIntent | None, last_sequence: int
    ) -> None:
        self.key = key
        self.number = number
        self.epoch = epoch
        self.owner = owner
        self.intent = intent
        self.last_sequence = last_sequence
        self.tail = bytearray()
        self.tail_sequence = last_sequence + 1
        """The sequence of the first entry in the tail, or of the next one if the tail is empty."""
        self.journal_position = 0
        """The first row of the journal that holds a piece of the tail."""
        self.transaction = 0
        """The last transaction that changed it."""

    def snapshot(self) -> Callable[[], None]:
        """What takes back all changes from now on."""
        return partial(
            self._restore,
            self.epoch,
            self.owner,
            self.intent,
            self.last_sequence,
            self.tail,
            len(self.tail),
            self.tail_sequence,
            self.journal_position,
        )

    def _restore(
        self,
        epoch: int,
        owner: str,
        intent: CancelIntent | None,
        last_sequence: int,
        tail: bytearray,
        tail_length: int,
        tail_sequence: int,
        journal_position: int,
    ) -> None:
        self.epoch = epoch
        self.owner = owner
        self.intent = intent
        self.last_sequence = last_sequence
        self.tail = tail
        del tail[tail_length:]
        self.tail_sequence = tail_sequence
        self.journal_position = journal_position


class SqliteLog:
    """The live runs by key, their logs, and the transaction that changes them."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.live: dict[RunKey, LiveRun] = {}
        self._connection = connection
        self._undo: list[Callable[[], object]] = []
        self._pieces: list[bytes] = []
        self._transaction = 1
        self._position = 1
        """Of the journal row that this transaction will write."""
        self._mark = 1
        """Rows of the journal before this one are cleared when the next JOURNAL_BYTES are full."""
        self._written = 0
        """Bytes in the journal since the mark."""

    # --- The transaction ---------------------------------------------------------------------------------------------

    def write(self, statement: str, bindings: "SQLiteValues") -> None:
        """Executes a statement that writes; the first one begins the transaction."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(statement, bindings)

    def commit(self) -> None:
        """Writes the journal's row and commits; a row that comes alone commits itself."""
        if self._pieces:
            if self._written >= JOURNAL_BYTES:
                self.clear_journal()
            pieces = b"".join(self._pieces)
            self._connection.execute("INSERT INTO journal (position, pieces) VALUES (?, ?)", (self._position, pieces))
            self._written += len(pieces)
            self._undo.append(partial(self._restore_written, self._written - len(pieces)))
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        self._position += bool(self._pieces)
        self._end_transaction()

    def rollback(self) -> None:
        """Takes back what was done since the last commit, in the file and in memory."""
        for undo in reversed(self._undo):
            undo()
        self._end_transaction()
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _end_transaction(self) -> None:
        self._undo.clear()
        self._pieces.clear()
        self._transaction += 1

    def _restore_written(self, written: int) -> None:
        self._written = written

    def clear_journal(self) -> bool:
        """Removes what was in the journal at the last time. False: there is more to do, call again."""
        quiet = [run for run in self.live.values() if run.tail and run.journal_position < self._mark]
        for run in quiet[:FLUSHED_AT_ONCE]:
            self._flush(run)
        if len(quiet) > FLUSHED_AT_ONCE:
            return False
        self.write("DELETE FROM journal WHERE position < ?", (self._mark,))
        self._undo.append(partial(self._restore_mark, self._mark, self._written))
        self._mark, self._written = self._position, 0
        return True

    def _restore_mark(self, mark: int, written: int) -> None:
        self._mark, self._written = mark, written

    # --- Live runs ---------------------------------------------------------------------------------------------------

    def begin(self, run: LiveRun, entry: bytes) -> None:
        """Adds a run that was just created, with its first entry (framed)."""
        self.live[run.key] = run
        self._undo.append(partial(self.live.pop, run.key))
        self.extend(run, 1, entry)

    def update(self, run: LiveRun, record: RunRecord) -> None:
        """Takes over what a changed record of a live run says."""
        self._remember(run)
        run.epoch, run.owner, run.intent = record.epoch, record.owner, record.intent

    def extend(self, run: LiveRun, last_sequence: int, entries: bytes) -> None:
        """Adds framed entries up to `last_sequence` to a run's log."""
        self._remember(run)
        first_sequence = run.last_sequence + 1
        run.last_sequence = last_sequence
        if len(run.tail) + len(entries) >= CHUNK_BYTES:
            run.tail += entries
            self._flush(run)
            return
        if not run.tail:
            run.journal_position = self._position
        run.tail += entries
        self._pieces.append(_PIECE.pack(run.number, first_sequence, last_sequence, len(entries)))
        self._pieces.append(entries)

    def finish(self, run: LiveRun, last_sequence: int, entries: bytes) -> None:
        """Adds the last entries (framed); the run is not live any more."""
        self.write_ending(run.number, run.tail_sequence, last_sequence, bytes(run.tail) + entries)
        del self.live[run.key]
        self._undo.append(partial(self.live.setdefault, run.key, run))

    def write_ending(self, number: int, first_sequence: int, last_sequence: int, entries: bytes) -> None:
        """Writes the end of a log, its last entry into a row of its own, so that it is found without the others."""
        last = _last_entry_position(entries)
        if last:
            self.write(_INSERT_CHUNK, (number, first_sequence, last_sequence - 1, entries[:last]))
        self.write(_INSERT_CHUNK, (number, last_sequence, last_sequence, entries[last:]))

    def _remember(self, run: LiveRun) -> None:
        if run.transaction != self._transaction:
            run.transaction = self._transaction
            self._undo.append(run.snapshot())

    def _flush(self, run: LiveRun) -> None:
        self._remember(run)
        self.write(_INSERT_CHUNK, (run.number, run.tail_sequence, run.last_sequence, bytes(run.tail)))
        # A new one: the old one is what a rollback restores.
        run.tail = bytearray()
        run.tail_sequence = run.last_sequence + 1

    # --- Reading -----------------------------------------------------------------------------------------------------

    def read(self, number: int, live: LiveRun | None, last_sequence: int, after: int, max_bytes: int) -> LogPage:
        """A page of a log, from the chunks and then from the tail."""
        with closing(self._entries(number, live, after)) as entries:
            return LogPage(first_sequence=after + 1, entries=fit(entries, max_bytes), last_sequence=last_sequence)

    def _entries(self, number: int, live: LiveRun | None, after: int) -> Generator[bytes, None, None]:
        with closing(self._connection.execute(_READ_CHUNKS, (number, after + 1))) as rows:
            for first_sequence, entries in rows:
                yield from unframe(blob(entries))[max(0, after + 1 - integer(first_sequence)) :]
        if live is not None:
            yield from unframe(bytes(live.tail))[max(0, after + 1 - live.tail_sequence) :]

    def read_entry(self, number: int, sequence: int) -> bytes | None:
        """The entry that has a row of its own."""
        row = self._connection.execute(
            "SELECT entries FROM chunk WHERE run = ? AND first_sequence = ?", (number, sequence)
        ).fetchone()
        return None if row is None else blob(row[0])[_LENGTH.size :]

    # --- After a restart ---------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Finds the live runs, and turns what the journal holds of them into chunks.

        Raises:
            StoreCorrupt: the journal cannot be read.
        """
        for row in self._connection.execute(
            "SELECT number, tenant, run_id, epoch, owner, intent FROM run WHERE phase = 1"
        ):
            number, tenant, run_id, epoch, owner, intent = row
            run = LiveRun(
                RunKey(text(tenant), text(run_id)),
                integer(number),
                epoch=integer(epoch),
                owner=text(owner),
                intent=decode_intent(intent),
                last_sequence=self._last_chunk_sequence(integer(number)),
            )
            self.live[run.key] = run
        self._replay()
        for run in self.live.values():
            if run.tail:
                self._flush(run)
        self.write("DELETE FROM journal", ())
        self.commit()

    def _last_chunk_sequence(self, number: int) -> int:
        statement = "SELECT last_sequence FROM chunk WHERE run = ? ORDER BY first_sequence DESC LIMIT 1"
        row = self._connection.execute(statement, (number,)).fetchone()
        return 0 if row is None else integer(row[0])

    def _replay(self) -> None:
        runs = {run.number: run for run in self.live.values()}
        for (pieces,) in self._connection.execute("SELECT pieces FROM journal ORDER BY position"):
            for number, first_sequence, last_sequence, entries in _split(blob(pieces)):
                run = runs.get(number)
                if run is None or last_sequence <= run.last_sequence:
                    continue
                if first_sequence != run.last_sequence + 1:
                    raise StoreCorrupt("the store's journal has a gap")
                run.tail += entries
                run.last_sequence = last_sequence


def _split(pieces: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    position = 0
    while position < len(pieces):
        begin = position + _PIECE.size
        if begin > len(pieces):
            raise StoreCorrupt("the store's journal is cut")
        number, first_sequence, last_sequence, length = _PIECE.unpack_from(pieces, position)
        position = begin + length
        if position > len(pieces):
            raise StoreCorrupt("the store's journal is cut")
        yield number, first_sequence, last_sequence, pieces[begin:position]


def _last_entry_position(entries: bytes) -> int:
    """Where the last of these framed entries begins."""
    if not entries:
        raise ValueError("a run ends with an entry")
    position, last = 0, 0
    while position < len(entries):
        last = position
        position += _LENGTH.size + _LENGTH.unpack_from(entries, position)[0]
    return last
