"""Where a run is: here and live, elsewhere, ended, or unknown; and the two things that are asked of any run.

What is known of a live run here is told only while this replica holds its lease; otherwise the store is asked.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from midstream_server.clock import Clock
from midstream_server.engine.lease import Lease
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.restorer import Restorer
from midstream_server.engine.stored_run import known_record, read_run
from midstream_server.engine.tails import Tails
from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelIntent, Run, RunKey
from midstream_server.stores.base import EarlyCancel, IntentOutcome, IntentResult, RecordIntent, RunStore

STORE_TIMEOUT_SECONDS = 5.0


class RunDirectory:
    """The runs of this process by key, and the way to all others through the store."""

    def __init__(
        self,
        store: RunStore,
        clock: Clock,
        live: dict[RunKey, LiveRun],
        lease: Lease,
        tails: Tails,
        restorer: Restorer,
    ) -> None:
        self.store = store
        self.live = live
        self.lease = lease
        self.tails = tails
        self.hurried: Callable[[], AbstractContextManager[None]] = nullcontext
        """While in it, runs whose owners are dead are looked for more often."""
        self._clock = clock
        self._restorer = restorer
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
        record = partial(self.store.record_intent, RecordIntent(key=key, intent=intent, early=early))
        try:
            async with asyncio.timeout(STORE_TIMEOUT_SECONDS):
                result = await record()
        except TimeoutError as error:
            raise StoreUnavailable("the run store does not answer") from error
        if result.outcome in (IntentOutcome.RECORDED, IntentOutcome.REMEMBERED):
            self._restorer.remember(record)
        run = self.live.get(key)
        if run is not None and result.record is not None and result.record.intent is not None:
            run.stop(result.record.intent)
        return result

    async def wait_for_end(self, key: RunKey, seconds: float | None) -> None:
        """Returns when the run has ended, or the time is over (None: never)."""
        try:
            async with asyncio.timeout(seconds):
                if key in self.starting:
                    await asyncio.wait({self.starting[key]})
                run = self.live.get(key)
                if run is not None:
                    await asyncio.wait({run.ended})
                if run is None or run.is_lost:
                    with self.hurried():
                        await self.tails.ended(key)
        except TimeoutError:
            return

    async def read(self, key: RunKey) -> Run:
        """The run with its message so far.

        Raises:
            RunNotFound, RunExpired: it cannot be read.
        """
        run = self.live.get(key)
        if run is not None and not run.is_lost and self.lease.is_held:
            return run.snapshot()
        return await read_run(self.store, await known_record(self.store, key, self._clock.now()))
