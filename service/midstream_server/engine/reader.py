"""A reader: a cursor on a run's log, live or stored. It is left alone while it does not read, and delays nobody."""

import asyncio
from collections.abc import Callable, Sequence

from midstream_server.codec import encode_event, merge_entries
from midstream_server.engine.assembler import MAX_PAYLOAD_BYTES
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.stored_run import known_record, read_run
from midstream_server.errors import SlowReader
from midstream_server.model import Instant, RunKey, RunSnapshot, RunState
from midstream_server.stores.base import RecordPhase, RunRecord, RunStore

MAX_BATCH_BYTES = 256 * 1024
LAG_ENTRIES = 16
"""A reader with more entries than this before it gets them merged."""
SILENCE_SECONDS = 15.0
SLOW_READER_SECONDS = 60.0
FOREIGN_POLL_SECONDS = 0.05


class Reader:
    """Follows one run from a sequence to its end.

    `next` gives encoded RunEvents, or nothing after the end. Between two calls the caller is busy sending; if it stays
    so for 60 s after the run has ended, `on_expire` is called once, and `next` raises SlowReader.
    """

    def __init__(
        self,
        key: RunKey,
        store: RunStore,
        run: LiveRun | None,
        after_sequence: int,
        *,
        as_of: Instant,
        snapshot: bool = False,
    ) -> None:
        self.key = key
        self.cursor = after_sequence
        self.on_expire: Callable[[], None] | None = None
        self._store = store
        self._as_of = as_of
        self._run = run
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
        events = await self._next()
        self._last_sent = self._busy_since = asyncio.get_running_loop().time()
        self._silence_is_due = False
        return events

    async def _next(self) -> Sequence[bytes]:
        while not self._is_done:
            if self._is_expired:
                raise SlowReader(metadata={"last_sequence": str(self.cursor)})
            run = self._run
            if run is not None and (run.is_lost or (self._wants_snapshot and run.output.log.is_complete)):
                self._run = run = None
            if run is None:
                return await self._next_stored()
            events = self._next_live(run)
            if events:
                return events
            if not self._is_done:
                await run.output.log.changed.wait()
        return ()

    # --- a run of this process ----------------------------------------------------------------------------------

    def _next_live(self, run: LiveRun) -> Sequence[bytes]:
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

    # --- a run that ended, or that another process owns ---------------------------------------------------------

    async def _next_stored(self) -> Sequence[bytes]:
        while True:
            record = await known_record(self._store, self.key, self._as_of)
            self._is_over = record.phase is RecordPhase.SEALED
            if self._wants_snapshot:
                return await self._stored_snapshot(record)
            page = await self._store.read_log(self.key, self.cursor, MAX_BATCH_BYTES)
            if page.entries:
                self.cursor += len(page.entries)
                self._is_done = self._is_over and self.cursor == record.last_sequence
                return _merged(page.entries)
            if self._is_over:
                self._is_done = True
                return ()
            await asyncio.sleep(FOREIGN_POLL_SECONDS)

    async def _stored_snapshot(self, record: RunRecord) -> Sequence[bytes]:
        run = await read_run(self._store, record)
        self._wants_snapshot = False
        self.cursor = run.last_sequence - 1 if run.state.is_ending else run.last_sequence
        return [encode_event(self.cursor, RunSnapshot(run=run))]

    # --- the supervisor's tick ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Called every second: makes silence known, and ends a reader that does not read."""
        run = self._run
        if self._busy_since is None:
            if run is not None and now - self._last_sent >= SILENCE_SECONDS:
                self._silence_is_due = True
                run.output.log.changed.fire()
            return
        is_over = self._is_over if run is None else run.ended.done()
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
