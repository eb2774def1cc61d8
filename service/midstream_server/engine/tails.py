"""One tail per run of another replica, shared by all who follow it here.

The store hints, the tail looks, its followers are woken: each page is read once, into a bounded window; who lags behind
the window reads the store alone. A hint may be missing: the tail looks again on its own, more often the more it finds
without one. It ends with the run, or when nobody follows. Who wins: what the store says now. If it says less than it
said before (a failover), and goes on to, whoever was ahead is told so.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from midstream_server.engine.broadcast import Broadcast
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.errors import Draining, MidstreamError, RunExpired, RunNotFound, StoreUnavailable
from midstream_server.model import CancelIntent, Instant, RunKey, RunState
from midstream_server.stores.base import RecordPhase, RunRecord, RunStore

WINDOW_BYTES = 256 * 1024
SHORTEST_POLL_SECONDS = 0.05
POLL_SECONDS = 0.25
LONGEST_POLL_SECONDS = 1.0
OUTAGE_SECONDS = 30.0
"""How long the store may be away before followers are told."""
PUT_BACK_SECONDS = 5.0
"""How long it may lack what it had."""

_log = structlog.get_logger(__name__)


class Tail:
    """What is known of one run of another replica."""

    def __init__(self, key: RunKey, store: RunStore) -> None:
        self.key = key
        self.changed = Broadcast()
        """Fires when there is anything new, an error too."""
        self.last_sequence = 0
        """Of what was seen of its log."""
        self.is_over = False
        """Whether it has ended, and its whole log was seen."""
        self.error: MidstreamError | None = None
        """Why nothing more can be told."""
        self.state: RunState | None = None
        """Where it stands; None until that was looked up."""
        self.intent: CancelIntent | None = None
        self.followers: dict[object, Callable[[int], None]] = {}
        """Each with what it wants to be told: that the log is only so long (any more)."""
        self._store = store
        self._window: deque[bytes] = deque()
        self._window_bytes = 0
        self._is_begun = False
        self._create_time: Instant | None = None
        self._moved = asyncio.Event()
        self._pause = POLL_SECONDS
        self._failing_since: float | None = None
        self._lacking_since: float | None = None

    def read(self, after_sequence: int, max_bytes: int) -> Sequence[bytes] | None:
        """Entries after a sequence, as many as fit; None if they are not in the window."""
        start = after_sequence - (self.last_sequence - len(self._window))
        if start < 0:
            return None
        entries: list[bytes] = []
        size = 0
        for index in range(start, len(self._window)):
            entry = self._window[index]
            size += len(entry)
            if entries and size > max_bytes:
                break
            entries.append(entry)
        return entries

    def wake(self) -> None:
        """It is time to look."""
        self._moved.set()

    def fail(self, error: MidstreamError) -> None:
        """Nothing more can be told."""
        if self.error is None and not self.is_over:
            self.error = error
            self._moved.set()
            self.changed.fire()

    async def run(self) -> None:
        """Looks until the run has ended, or nobody follows it."""
        is_hinted = True
        while self.followers and not self._has_ended():
            before = self.last_sequence, self.state
            self._moved.clear()
            await self._look_once()
            self._adapt(is_hinted=is_hinted, has_found=before != (self.last_sequence, self.state))
            is_hinted = self._has_ended() or await self._is_hinted()

    def _has_ended(self) -> bool:
        return self.is_over or self.error is not None

    def _adapt(self, *, is_hinted: bool, has_found: bool) -> None:
        if is_hinted:
            self._pause = max(self._pause, POLL_SECONDS)
        elif has_found:
            self._pause = SHORTEST_POLL_SECONDS
        else:
            self._pause = min(2 * self._pause, LONGEST_POLL_SECONDS)

    async def _is_hinted(self) -> bool:
        try:
            async with asyncio.timeout(self._pause):
                return await self._moved.wait()
        except TimeoutError:
            return False

    async def _look_once(self) -> None:
        try:
            await self._look()
        except StoreUnavailable as error:
            now = asyncio.get_running_loop().time()
            if self._failing_since is None:
                self._failing_since = now
            elif now - self._failing_since >= OUTAGE_SECONDS:
                self.fail(error)
        else:
            self._failing_since = None

    async def _look(self) -> None:
        record = await self._store.get(self.key)
        if self._may_come_back(record):
            return
        if record is None or record.phase is RecordPhase.EXPIRED:
            self._lose(record)
            return
        if self._is_begun and record.create_time != self._create_time:
            # Lost by a failover and begun anew under the same id: nothing that was seen is of this one.
            self._create_time = record.create_time
            self._shrink(0)
        elif self._has_shrunk(record):
            self._shrink(record.last_sequence - (record.phase is RecordPhase.SEALED))
        if not self._is_begun:
            self._create_time = record.create_time
            self._is_begun, self.last_sequence = True, _beginning(record)
            self.changed.fire()
        while self.last_sequence < record.last_sequence:
            page = await self._store.read_log(self.key, self.last_sequence, WINDOW_BYTES)
            if not page.entries:
                break
            # No further than the record: what it does not cover may be the end already.
            self._add(page.entries[: record.last_sequence - self.last_sequence])
        self._tell(record)

    def _may_come_back(self, record: RunRecord | None) -> bool:
        """Whether the store lacks what it had, as a failover leaves it, and the owner may yet put it back."""
        is_same = record is not None and record.create_time == self._create_time
        is_behind = is_same and record is not None and record.last_sequence < self.last_sequence
        is_lacking = record is None or (record.phase is RecordPhase.LIVE and is_behind)
        if not (self._is_begun and is_lacking):
            if self._lacking_since is not None:
                self._lacking_since = None
                self.changed.fire()  # who reads the store alone found nothing there
            return False
        now = asyncio.get_running_loop().time()
        if self._lacking_since is None:
            self._lacking_since = now
        return now - self._lacking_since < PUT_BACK_SECONDS

    def _tell(self, record: RunRecord) -> None:
        state = RunState.STOPPING if record.intent and record.phase is RecordPhase.LIVE else record.state
        self.is_over = record.phase is RecordPhase.SEALED and self.last_sequence >= record.last_sequence
        if self.is_over or state is not self.state:
            self.state, self.intent = state, record.intent
            self.changed.fire()

    def _add(self, entries: Sequence[bytes]) -> None:
        self._window.extend(entries)
        self._window_bytes += sum(map(len, entries))
        self.last_sequence += len(entries)
        while self._window_bytes > WINDOW_BYTES and len(self._window) > 1:
            self._window_bytes -= len(self._window.popleft())
        self.changed.fire()

    def _has_shrunk(self, record: RunRecord) -> bool:
        if not self._is_begun or record.last_sequence < self.last_sequence:
            return self._is_begun
        # A run that was live with so much in its log cannot have ended with no more.
        return record.phase is RecordPhase.SEALED and record.last_sequence == self.last_sequence

    def _shrink(self, kept: int) -> None:
        _log.warning("run.log_shrunk", run_id=self.key.run_id, tenant=self.key.tenant, last_sequence=kept)
        self._window.clear()
        self._window_bytes, self.last_sequence = 0, kept
        for tell in tuple(self.followers.values()):
            tell(kept)
        self.changed.fire()

    def _lose(self, record: RunRecord | None) -> None:
        self.fail(RunNotFound() if record is None else RunExpired())


def _beginning(record: RunRecord) -> int:
    """Where a tail begins: at the end of what is there, so that it reads nothing that only one wants."""
    return record.last_sequence - (record.phase is RecordPhase.SEALED)


class Tails:
    """The tails of this process, by run."""

    def __init__(self, store: RunStore, tasks: TaskKeeper) -> None:
        self._store = store
        self._tasks = tasks
        self._tails: dict[RunKey, Tail] = {}
        self._is_closed = False

    def follow(self, key: RunKey, follower: object, on_shrink: Callable[[int], None]) -> Tail:
        """The tail of a run, until `leave`. `on_shrink` is told what is left when the log becomes shorter."""
        tail = self._tails.get(key)
        if tail is None or tail.error is not None or tail.is_over:
            tail = self._tails[key] = Tail(key, self._store)
            tail.followers[follower] = on_shrink
            if self._is_closed:
                tail.fail(Draining())
            self._store.follow(key)
            self._tasks.spawn(self._run(tail), f"tail {key.run_id}")
        tail.followers[follower] = on_shrink
        return tail

    def leave(self, tail: Tail, follower: object) -> None:
        """One follows no longer."""
        tail.followers.pop(follower, None)
        if not tail.followers:
            tail.wake()
            if self._tails.get(tail.key) is tail:
                del self._tails[tail.key]
                self._store.unfollow(tail.key)

    def wake(self, key: RunKey) -> None:
        """Something happened to a run."""
        tail = self._tails.get(key)
        if tail is not None:
            tail.wake()

    def turn_over(self, key: RunKey) -> None:
        """A run is live here now: who took it for another replica's turns to it."""
        tail = self._tails.get(key)
        if tail is not None:
            tail.changed.fire()

    def wake_all(self) -> None:
        """Something happened to the store."""
        for tail in tuple(self._tails.values()):
            tail.wake()

    def close(self) -> None:
        """This process is going away: who follows a run that is live elsewhere has to go there."""
        self._is_closed = True
        for tail in tuple(self._tails.values()):
            tail.fail(Draining())

    async def ended(self, key: RunKey) -> None:
        """Returns when a run of another replica has ended, or cannot be followed any more."""
        follower = object()
        tail = self.follow(key, follower, lambda last_sequence: None)
        try:
            while not tail.is_over and tail.error is None:
                await tail.changed.wait()
        finally:
            self.leave(tail, follower)
        if isinstance(tail.error, StoreUnavailable):
            raise tail.error

    async def _run(self, tail: Tail) -> None:
        try:
            await tail.run()
        finally:
            if not tail.is_over:
                tail.fail(StoreUnavailable("the run cannot be followed any more"))
