"""This process among the replicas on its store: the parts that know of others, and how they hold together.

Who learns what from where: a stop of one of our runs comes as a hint, with the answer to its next append, or with the
heartbeat; news of a run of another replica as a hint, or by looking; the death of a replica from the sweep. After a
lapse of the lease, everything live here is looked for in the store before it is told any more; after a failover of the
store, everything that it may have lost.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from midstream_server.clock import Clock
from midstream_server.engine.claims import ClaimKeeper
from midstream_server.engine.directory import RunDirectory
from midstream_server.engine.lease import Lease, LeaseTerms
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.log_writer import LogWriter
from midstream_server.engine.restorer import Restorer
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.engine.stored_run import seal_orphans
from midstream_server.engine.sweeper import Sweeper
from midstream_server.engine.tails import Tails
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelIntent, RunKey
from midstream_server.stores.base import Heartbeat, RunRecord, RunStore

SERVER_ENDED_CLAIM_SECONDS = 10.0
"""How long a stream that the server ended keeps its claim, so that its client can come back."""

RETIRE_SECONDS = 1.0
"""How long a store may take to hear that this replica leaves; otherwise the lease runs out by itself."""

_log = structlog.get_logger(__name__)


class Replica:
    """The parts of the engine that know of other replicas. Listens to the store."""

    def __init__(self, store: RunStore, clock: Clock, guard: StoreGuard, tasks: TaskKeeper, terms: LeaseTerms) -> None:
        live: dict[RunKey, LiveRun] = {}
        self.restorer = Restorer(store, guard, terms.replica)
        self.lease = Lease(store, guard, tasks, live, terms)
        self.tails = Tails(store, tasks)
        self.writer = LogWriter(store, guard, self.restorer, tasks)
        self.claims = ClaimKeeper(store, clock, guard, live, tasks, self.restorer, terms.replica)
        self.directory = RunDirectory(store, clock, live, self.lease, self.tails, self.restorer)
        self._sweeper = Sweeper(store, clock, self.lease, self.claims, terms, SERVER_ENDED_CLAIM_SECONDS)
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._terms = terms
        self._sweeper.on_sealed = self._orphan_sealed
        self._sweeper.is_here = self.directory.is_here
        self.directory.hurried = self._sweeper.hurried
        self.restorer.on_loss = self.lease.doubt
        self.restorer.claims_of = self.claims.known
        self.lease.on_doubt = self._look_for_runs
        self.lease.on_told = self._let_go
        store.listen(self)

    async def open(self) -> None:
        """Opens the store, and becomes one of the living; what is left of dead processes is sealed.

        Raises:
            StoreLocked, StoreCorrupt, StoreUnavailable: it cannot be used.
        """
        await self._store.open()
        try:
            await self.lease.take()
            if self._store.exclusive:  # among replicas it is the sweep's, which delays no start
                await seal_orphans(self._store, self._terms.replica, self._clock)
        except BaseException:
            await self._store.close()
            raise

    def begin(self) -> None:
        """Starts what goes on for ever."""
        self._tasks.spawn(self.writer.run(), "log writer")
        self._tasks.spawn(self.lease.renew(), "lease")
        self._tasks.spawn(self._sweeper.run(), "sweep")

    async def close(self) -> None:
        """Leaves the others, at once if nothing is left behind, and closes the store. No task is left by then."""
        try:
            if not (self._store.exclusive or self.directory.live or self.claims.holds_any):
                async with asyncio.timeout(RETIRE_SECONDS):
                    await self._store.retire(self._terms.replica)
        except (StoreUnavailable, TimeoutError):
            _log.info("lease.not_retired", replica=self._terms.replica)
        finally:
            self.claims.close()
            await self._store.close()

    # --- hints ----------------------------------------------------------------------------------------------------

    def run_moved(self, key: RunKey) -> None:
        """See `StoreListener.run_moved`."""
        self.tails.wake(key)

    def stop_asked(self, key: RunKey, intent: CancelIntent) -> None:
        """See `StoreListener.stop_asked`."""
        run = self.directory.live.get(key) or self.directory.nascent.get(key)
        if run is not None:
            run.stop(intent)

    def _orphan_sealed(self, record: RunRecord, entries: Sequence[bytes]) -> None:
        self.tails.wake(record.key)
        self.restorer.keep_sealed(record, entries)
        self.restorer.remember(partial(self._sweeper.look_again, record.key))

    def _let_go(self, beat: Heartbeat) -> None:
        """What the store has as ours, and nobody here knows of: written long after we had given it up."""
        for key in beat.owned:
            if not self.directory.is_here(key):
                self._sweeper.adopt(key)
        self.claims.let_go(beat.claims)

    # --- doubts ---------------------------------------------------------------------------------------------------

    async def _look_for_runs(self, is_loss: bool) -> None:
        await self.writer.check(tuple(self.directory.live.values()))
        await self.claims.reclaim()
        self.tails.wake_all()
        if is_loss:
            await self.restorer.rejoin()
            await self.restorer.repeat()
            self._tasks.spawn(self._repeat_later(), "repeat")

    async def _repeat_later(self) -> None:
        """Once more when the others have had time to put their runs back."""
        await asyncio.sleep(2 * self._terms.heartbeat_seconds)
        await self.restorer.repeat(is_late=True)
