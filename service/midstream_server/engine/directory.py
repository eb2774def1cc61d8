"""Where a run is: here and live, elsewhere, ended, or unknown; and the two things that are asked of any run."""

import asyncio

from midstream_server.clock import Clock
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.stored_run import known_record, read_run
from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelIntent, Run, RunKey
from midstream_server.stores.base import EarlyCancel, IntentResult, RecordIntent, RecordPhase, RunStore

STORE_TIMEOUT_SECONDS = 5.0
FOREIGN_POLL_SECONDS = 0.05


class RunDirectory:
    """The runs of this process by key, and the way to all others through the store."""

    def __init__(self, store: RunStore, clock: Clock) -> None:
        self.store = store
        self._clock = clock
        self.live: dict[RunKey, LiveRun] = {}
        self.nascent: dict[RunKey, LiveRun] = {}
        """Runs whose record is being created: a stop must find them, a reader must not."""
        self.starting: dict[RunKey, asyncio.Future[None]] = {}
        """The starts in progress; done when it is decided what became of them."""

    def is_here(self, key: RunKey) -> bool:
        """Whether this process has the run, or is about to."""
        return key in self.live or key in self.starting

    async def ask_to_stop(self, key: RunKey, intent: CancelIntent, early: EarlyCancel | None = None) -> IntentResult:
        """Stops a run: one that is here at once, before anything is awaited; then the intent is made durable.

        Raises:
            StoreUnavailable: the intent is not durable (yet); a run that is here is stopped all the same.
        """
        run = self.live.get(key) or self.nascent.get(key)
        if run is not None:
            run.stop(intent)
        try:
            async with asyncio.timeout(STORE_TIMEOUT_SECONDS):
                result = await self.store.record_intent(RecordIntent(key=key, intent=intent, early=early))
        except TimeoutError as error:
            raise StoreUnavailable("the run store does not answer") from error
        run = self.live.get(key)
        if run is not None and result.record is not None and result.record.intent is not None:
            run.stop(result.record.intent)
        return result

    async def wait_for_end(self, key: RunKey, seconds: float | None) -> None:
        """Returns when the run has ended, or the time is over (None: never)."""
        try:
            async with asyncio.timeout(seconds):
                run = self.live.get(key)
                if run is not None:
                    await asyncio.wait({run.ended})
                await self._wait_for_stored_end(key)
        except TimeoutError:
            return

    async def read(self, key: RunKey) -> Run:
        """The run with its message so far.

        Raises:
            RunNotFound, RunExpired: it cannot be read.
        """
        run = self.live.get(key)
        if run is not None and not run.is_lost:
            return run.snapshot()
        return await read_run(self.store, await known_record(self.store, key, self._clock.now()))

    async def _wait_for_stored_end(self, key: RunKey) -> None:
        while True:
            record = await self.store.get(key)
            if record is None or record.phase is not RecordPhase.LIVE:
                return
            await asyncio.sleep(FOREIGN_POLL_SECONDS)
