"""This replica's lease, as far as it can know it itself.

held ── a heartbeat is acknowledged in time ──▶ held
held ── a whole lease without one (paused, cut off) ──▶ lapsed: nothing of a live run is told from here
lapsed ── a heartbeat is acknowledged ──▶ doubted: each live run is looked for in the store, those that moved are lost
doubted ── all are settled ──▶ held

The store's clock decides when others may take over. Ours runs out earlier: it starts when the heartbeat is sent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from midstream_server.engine.broadcast import Broadcast
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.errors import StoreUnavailable
from midstream_server.model import RunKey
from midstream_server.stores.base import Heartbeat, RunStore

RETRIES_PER_HEARTBEAT = 4

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """Who holds it, for how long, and by which clock: one that goes on while the process is stopped."""

    replica: str
    lease_seconds: float
    heartbeat_seconds: float
    monotonic: Callable[[], float]


class Lease:
    """Renews the lease. With an exclusive store there is nothing to lose, and it is always held."""

    def __init__(
        self,
        store: RunStore,
        guard: StoreGuard,
        tasks: TaskKeeper,
        live: Mapping[RunKey, LiveRun],
        terms: LeaseTerms,
    ) -> None:
        self.on_doubt: Callable[[bool], Awaitable[None]] = _no_doubt
        """Looks for every live run in the store, after a lapse, and when the store may have lost something (True)."""
        self.on_told: Callable[[Heartbeat], None] = lambda beat: None
        """Told what the store says at each heartbeat."""
        self._store = store
        self._guard = guard
        self._tasks = tasks
        self._live = live
        self._terms = terms
        self._is_shared = not store.exclusive
        self._until = 0.0
        self._generation: str | None = None
        self._steady_since = 0.0
        self._is_steady = False
        self._doubts = 0
        """How many times there was doubt."""
        self._settled = 0
        """How many of the doubts are settled."""
        self._has_lapsed = False
        self._is_loss = False
        self._is_settling = False
        self._wanted = asyncio.Event()
        self._regained = Broadcast()

    @property
    def is_held(self) -> bool:
        """Whether what this process knows of its live runs is the truth, so that it may be told."""
        if not self._is_shared:
            return True
        return not self._has_lapsed and self._terms.monotonic() < self._until

    @property
    def steady_seconds(self) -> float:
        """For how long every heartbeat was acknowledged in time, by the same store."""
        return self._terms.monotonic() - self._steady_since if self._is_steady else 0.0

    async def held(self) -> None:
        """Returns when the lease is held."""
        while not self.is_held:
            self._wanted.set()
            await self._regained.wait()

    async def take(self) -> None:
        """The first heartbeat.

        Raises:
            StoreUnavailable: it cannot be taken.
        """
        if self._is_shared:
            sent_at = self._terms.monotonic()
            beat = await self._store.heartbeat(self._terms.replica)
            self._until, self._generation = sent_at + self._terms.lease_seconds, beat.generation
            self._note_steady(is_steady=False)

    async def renew(self) -> None:
        """Renews for ever."""
        while self._is_shared:
            await self._pause(self._terms.heartbeat_seconds)
            while not await self._beat():
                await self._pause(self._terms.heartbeat_seconds / RETRIES_PER_HEARTBEAT)

    async def confirm(self) -> bool:
        """Renews out of turn, so that `steady_seconds` is of now. False: the store did not take it."""
        return await self._beat()

    def doubt(self, *, is_loss: bool = True) -> None:
        """What is live here must be looked for in the store; with `is_loss` what ended here lately, too."""
        if not self._is_shared:
            return
        self._doubts += 1
        self._is_loss |= is_loss
        if not self._is_settling:
            self._is_settling = True
            self._tasks.spawn(self._settle(), "doubts")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            return
        self._wanted.clear()

    async def _beat(self) -> bool:
        sent_at = self._terms.monotonic()
        try:
            async with asyncio.timeout(self._terms.heartbeat_seconds):
                beat = await self._guard.ask(lambda: self._store.heartbeat(self._terms.replica))
            self._take_in(beat, sent_at)
        except (StoreUnavailable, TimeoutError):
            self._is_steady = False
            return False
        except Exception:
            # Whoever renews no more is dead to the others, and would never know.
            _log.exception("lease.broken")
            self._is_steady = False
            return False
        return True

    def _take_in(self, beat: Heartbeat, sent_at: float) -> None:
        is_late = self._terms.monotonic() >= self._until
        self._until = max(self._until, sent_at + self._terms.lease_seconds)
        for key, intent in beat.intents.items():
            run = self._live.get(key)
            if run is not None:
                run.stop(intent)
        self.on_told(beat)
        is_other_store = beat.generation != self._generation
        self._generation = beat.generation
        self._note_steady(is_steady=self._is_steady and not is_late and not is_other_store)
        if is_late:
            _log.warning("lease.lapsed", live_runs=len(self._live))
            self._has_lapsed = True
        if is_other_store:
            _log.warning("store.rolled_back", live_runs=len(self._live))
        if is_other_store or self._has_lapsed:
            self.doubt(is_loss=is_other_store)

    def _note_steady(self, *, is_steady: bool) -> None:
        if not is_steady:
            self._steady_since = self._terms.monotonic()
        self._is_steady = True

    async def _settle(self) -> None:
        try:
            while self._settled < self._doubts:
                doubts, is_loss = self._doubts, self._is_loss
                self._is_loss = False
                await self.on_doubt(is_loss)
                self._settled = doubts
            # Of the runs that are live now each is known to be ours, or lost.
            self._has_lapsed = False
            self._regained.fire()
        finally:
            self._is_settling = False


async def _no_doubt(is_loss: bool) -> None:
    del is_loss
