"""What is done now and then: readers that are silent or slow, a store that is away, runs that have expired."""

import asyncio
from collections.abc import Iterable

import structlog

from midstream_server.clock import Clock
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.reader import Reader
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.engine.stored_run import REMEMBER_SECONDS
from midstream_server.errors import RunStoreUnavailable, StoreUnavailable

TICK_SECONDS = 1.0
EXPIRE_EVERY_TICKS = 5
EXPIRE_SLICE = 100
OUTAGE_LIMIT_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class Housekeeping:
    """Tasks of the supervisor's: the tick, which awaits no store, and two that do, each for itself."""

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
            try:
                self._tick(loop.time())
            except Exception:
                _log.exception("tick.broken")

    async def probe(self) -> None:
        """Asks a store that went away until it is back, for ever: starts are refused meanwhile, so nobody else may."""
        while True:
            await self._guard.went_away.wait()
            try:
                await self._guard.insist(self._directory.store.probe)
            except Exception:
                _log.exception("probe.broken")
            await asyncio.sleep(TICK_SECONDS)

    async def expire(self) -> None:
        """Deletes what has expired, a slice at a time, for ever."""
        while True:
            await asyncio.sleep(TICK_SECONDS * EXPIRE_EVERY_TICKS)
            count = 1
            try:
                while count:
                    count = await self._directory.store.expire(self._clock.now(), REMEMBER_SECONDS, EXPIRE_SLICE)
            except StoreUnavailable as error:
                _log.warning("store.expiry_failed", error=error.message)
            except Exception:
                _log.exception("expiry.broken")

    def _tick(self, now: float) -> None:
        for reader in tuple(self._readers):
            reader.tick(now)
        self._guard.check(now)
        self._end_outage(now)

    def _end_outage(self, now: float) -> None:
        """A store that is away for too long ends all runs: their upstreams are closed, their seals wait."""
        if self._guard.out_since is None or now - self._guard.out_since < OUTAGE_LIMIT_SECONDS:
            return
        for run in tuple(self._directory.live.values()):
            run.fail(RunStoreUnavailable())
