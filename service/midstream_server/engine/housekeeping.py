"""What is done every second: readers that are silent or slow, a store that is away, runs that have expired."""

import asyncio
from collections.abc import Iterable

import structlog

from midstream_server.clock import Clock
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.reader import Reader
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.errors import RunStoreUnavailable, StoreUnavailable

TICK_SECONDS = 1.0
EXPIRE_EVERY_TICKS = 5
EXPIRE_SLICE = 100
REMEMBER_SECONDS = 24 * 3600.0
"""How long the id of a run whose content was deleted stays taken."""
OUTAGE_LIMIT_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class Housekeeping:
    """Two tasks of the supervisor's: the tick, which awaits no store, and the expiry, which does."""

    def __init__(self, directory: RunDirectory, guard: StoreGuard, clock: Clock, readers: Iterable[Reader]) -> None:
        self._directory = directory
        self._guard = guard
        self._clock = clock
        self._readers = readers

    async def tick(self) -> None:
        """Ticks for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = loop.time()
            for reader in tuple(self._readers):
                reader.tick(now)
            self._guard.check(now)
            self._end_outage(now)

    async def expire(self) -> None:
        """Deletes what has expired, a slice at a time, for ever."""
        while True:
            await asyncio.sleep(TICK_SECONDS * EXPIRE_EVERY_TICKS)
            try:
                while await self._directory.store.expire(self._clock.now(), REMEMBER_SECONDS, EXPIRE_SLICE):
                    await asyncio.sleep(0)
            except StoreUnavailable as error:
                _log.warning("store.expiry_failed", error=error.message)

    def _end_outage(self, now: float) -> None:
        """A store that is away for too long ends all runs: their upstreams are closed, their seals wait."""
        if self._guard.out_since is None or now - self._guard.out_since < OUTAGE_LIMIT_SECONDS:
            return
        for run in tuple(self._directory.live.values()):
            run.fail(RunStoreUnavailable())
