"""A reader: a cursor on a run's log, live here, live elsewhere, or ended. It is left alone while it does not read, and
delays nobody.

live here ── the run is lost ──▶ elsewhere ── it is sealed ──▶ ended. Of a run that is live here it is told only while
this replica holds its lease. Whoever has seen more than the log holds is told so (CURSOR_AHEAD), and nothing else.
"""

import asyncio
from collections.abc import Callable, Sequence

from midstream_server.codec import encode_event, merge_entries
from midstream_server.engine.assembler import MAX_PAYLOAD_BYTES
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.store_guard import RETRY_SECONDS
from midstream_server.engine.stored_run import known_record, read_run
from midstream_server.engine.tails import Tail
from midstream_server.errors import CursorAhead, Draining, SlowReader
from midstream_server.model import Instant, RunKey, RunProgress, RunSnapshot, RunState
from midstream_server.stores.base import RecordPhase, RunRecord

MAX_BATCH_BYTES = 256 * 1024
LAG_ENTRIES = 16
"""A reader with more entries than this before it gets them merged."""
SILENCE_SECONDS = 15.0
SLOW_READER_SECONDS = 60.0


class Reader:
    """Follows one run from a sequence to its end.

    `next` gives encoded RunEvents, or nothing after the end. Between two calls the caller is busy sending; if it stays
    so for 60 s after the run has ended, `on_expire` is called once, and `next` raises SlowReader.
    """

    def __init__(
        self,
        key: RunKey,
        directory: RunDirectory,
        after_sequence: int,
        *,
        as_of: Instant,
        snapshot: bool = False,
    ) -> None:
        self.key = key
        self.cursor = after_sequence
        self.on_expire: Callable[[], None] | None = None
        self._directory = directory
        self._store = directory.store
        self._as_of = as_of
        self._run = directory.live.get(key)
        self._tail: Tail | None = None
        self._has_followed = False
        """Whether the run was live when it was last read: then its end is yet to come."""
        self._log_end: int | None = None
        """How long the log is, if it has become shorter than what was read of it."""
        self._wants_snapshot = snapshot
        self._told_state = RunState.RUNNING
        self._is_done = False
        self._is_expired = False
        self._is_over = False
        self._over_at: float | None = None
        self._silence_is_due = False
        now = asyncio.get_running_loop().time()
        self._last_sent = now
        self._busy_since: float | None = now

    async def next(self) -> Sequence[bytes]:
        """The next events, at least one; none after the last. A cancel leaves the cursor where it was."""
        self._busy_since = None
        events: Sequence[bytes] = ()
        while not events and not self._is_done:
            if (run := self._live_run()) is None:
                events = await self._next_stored()
            elif not (self._directory.lease.is_held or run.output.log.is_complete):
                await self._directory.lease.held()
            elif not (events := self._next_live(run)) and not self._is_done:
                await run.output.log.changed.wait()
        self._last_sent = self._busy_since = asyncio.get_running_loop().time()
        self._silence_is_due = False
        return events

    def close(self) -> None:
        """Nobody reads any more."""
        self._leave_tail()

    # --- a run of this process ----------------------------------------------------------------------------------

    def _live_run(self) -> LiveRun | None:
        """The run, if it is still live here."""
        if self._is_expired:
            raise SlowReader(metadata=self._place())
        run = self._run
        if run is not None and (run.is_lost or (self._wants_snapshot and run.output.log.is_complete)):
            self._run = run = None
        return run

    def _next_live(self, run: LiveRun) -> Sequence[bytes]:
        """The next events, or nothing: then it is worth looking again."""
        self._has_followed = True
        log = run.output.log
        if self._wants_snapshot:
            return self._snapshot(run)
        entries = log.read(self.cursor, MAX_BATCH_BYTES)
        if entries:
            self.cursor += len(entries)
            self._is_done = log.is_complete and self.cursor == log.last_sequence
            return _merged(entries)
        if log.is_complete:
            self._is_done = True
        elif run.state is not self._told_state or self._silence_is_due:
            return self._progress(run)
        return ()

    def _snapshot(self, run: LiveRun) -> Sequence[bytes]:
        self._wants_snapshot = False
        self.cursor = run.output.log.last_sequence
        snapshot = run.snapshot()
        self._told_state = snapshot.state
        return [encode_event(self.cursor, RunSnapshot(run=snapshot))]

    def _progress(self, run: LiveRun) -> Sequence[bytes]:
        self._told_state = run.state
        return [encode_event(self.cursor, run.progress())]

    # --- a run that another replica owns ------------------------------------------------------------------------

    async def _next_stored(self) -> Sequence[bytes]:
        """The next events, or nothing: then it is worth looking again."""
        if self._tail is not None:
            return await self._next_tailed(self._tail)
        record = await known_record(self._store, self.key, self._as_of)
        self._check_place(record)
        self._is_over = record.phase is RecordPhase.SEALED
        if self._wants_snapshot:
            return await self._stored_snapshot(record)
        if self._is_over:
            return await self._next_ended(record)
        self._tail = self._directory.tails.follow(self.key, self, self._note_shrunk)
        return ()

    async def _next_tailed(self, tail: Tail) -> Sequence[bytes]:
        self._check_log_end()
        run = self._directory.live.get(self.key)
        if run is not None and not run.is_lost:  # it was only about to be live here
            self._leave_tail()
            self._run = run
            return ()
        self._has_followed = True
        entries = tail.read(self.cursor, MAX_BATCH_BYTES)
        if entries is None:
            page = await self._store.read_log(self.key, self.cursor, MAX_BATCH_BYTES)
            # No further than the tail: it has to see the end first.
            entries = page.entries[: tail.last_sequence - self.cursor]
            self._check_log_end()
        if entries:
            self.cursor += len(entries)
            self._is_over = tail.is_over
            self._is_done = tail.is_over and self.cursor == tail.last_sequence
            return _merged(entries)
        if tail.is_over:
            self._leave_tail()
        elif tail.error is not None:
            self._leave_tail()
            raise Draining(metadata=self._place()) if isinstance(tail.error, Draining) else tail.error
        elif tail.state is not None and (tail.state is not self._told_state or self._silence_is_due):
            return self._tail_progress(tail, tail.state)
        else:
            await tail.changed.wait()
        return ()

    def _tail_progress(self, tail: Tail, state: RunState) -> Sequence[bytes]:
        self._told_state = state
        reason = tail.intent.reason if tail.intent else None
        self._silence_is_due = False
        return [encode_event(self.cursor, RunProgress(state=state, cancel_reason=reason))]

    def _leave_tail(self) -> None:
        if self._tail is not None:
            self._directory.tails.leave(self._tail, self)
            self._tail = None

    def _note_shrunk(self, log_end: int) -> None:
        if self.cursor > log_end:
            self._log_end = log_end

    def _check_log_end(self) -> None:
        if self._log_end is not None:
            raise CursorAhead("the log is shorter than it was", metadata={"last_sequence": str(self._log_end)})

    def _check_place(self, record: RunRecord) -> None:
        """A run that was live with all that was read of it cannot have ended with no more."""
        is_sealed = record.phase is RecordPhase.SEALED
        if self._has_followed and self.cursor > record.last_sequence - is_sealed:
            self._log_end = record.last_sequence - is_sealed
        self._check_log_end()

    def _place(self) -> dict[str, str]:
        return {"last_sequence": str(self.cursor)}

    # --- a run that has ended -----------------------------------------------------------------------------------

    async def _next_ended(self, record: RunRecord) -> Sequence[bytes]:
        page = await self._store.read_log(self.key, self.cursor, MAX_BATCH_BYTES)
        if not page.entries and self.cursor < record.last_sequence:
            # Deleted since its record was read, or lost by the store: the record tells.
            await asyncio.sleep(RETRY_SECONDS)
            return ()
        self.cursor += len(page.entries)
        self._is_done = self.cursor >= record.last_sequence
        self._has_followed = False
        return _merged(page.entries)

    async def _stored_snapshot(self, record: RunRecord) -> Sequence[bytes]:
        run = await read_run(self._store, record)
        self._wants_snapshot = False
        self.cursor = run.last_sequence - 1 if run.state.is_ending else run.last_sequence
        self._told_state = run.state
        return [encode_event(self.cursor, RunSnapshot(run=run))]

    # --- the supervisor's tick ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Called every second: makes silence known, and ends a reader that does not read."""
        run = self._run
        if self._busy_since is None:
            changed = run.output.log.changed if run is not None else self._tail.changed if self._tail else None
            if changed is not None and now - self._last_sent >= SILENCE_SECONDS:
                self._silence_is_due = True
                changed.fire()
            return
        is_over = (
            run.ended.done() if run is not None else self._is_over or (self._tail is not None and self._tail.is_over)
        )
        if self._is_expired or not is_over:
            return
        if now - max(self._busy_since, self._over_since(now)) >= SLOW_READER_SECONDS:
            self._is_expired = True
            if self.on_expire is not None:
                self.on_expire()

    def _over_since(self, now: float) -> float:
        if self._over_at is None:
            self._over_at = now
        return self._over_at


def _merged(entries: Sequence[bytes]) -> Sequence[bytes]:
    return merge_entries(entries, MAX_PAYLOAD_BYTES) if len(entries) > LAG_ENTRIES else entries
