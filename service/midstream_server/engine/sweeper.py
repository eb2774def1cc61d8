"""What a replica does for those that died: seals their runs, releases their claims.

Every replica looks, each at its own moment of the heartbeat; more often while somebody here waits for a run to end. Two
that find the same change nothing twice: an epoch can be taken over once, and a claim released once. An owner also looks
after the grace of its runs that others follow, since whoever released the last claim, and ran the clock, may be gone.

A store that was away let all leases run out: nobody is dead for that. So nobody is looked for until the others, too,
had time to say that they live.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from midstream_server.clock import Clock
from midstream_server.engine.claims import ClaimKeeper
from midstream_server.engine.lease import Lease, LeaseTerms
from midstream_server.engine.restorer import in_parts
from midstream_server.engine.stored_run import seal_orphan
from midstream_server.errors import StoreUnavailable
from midstream_server.model import RunKey
from midstream_server.stores.base import LostClaim, RunRecord, RunStore

HURRY_SECONDS = 0.25
ORPHANS_PER_SWEEP = 100
ORPHANS_AT_ONCE = 8
CLAIMS_PER_SWEEP = 10_000
CALM_HEARTBEATS = 1.5
"""How long the store must have answered in time before anyone is taken for dead."""

_log = structlog.get_logger(__name__)


class Sweeper:
    """Finds what dead replicas left. `keep_claims_seconds`: how long a stream may be away whose server ended it."""

    def __init__(
        self,
        store: RunStore,
        clock: Clock,
        lease: Lease,
        claims: ClaimKeeper,
        terms: LeaseTerms,
        keep_claims_seconds: float,
    ) -> None:
        self.on_sealed: Callable[[RunRecord, Sequence[bytes]], None] = lambda record, entries: None
        """Told of a run that was sealed here, with its whole log."""
        self.is_here: Callable[[RunKey], bool] = lambda key: False
        """Whether this process drives a run, or is about to."""
        self._store = store
        self._clock = clock
        self._lease = lease
        self._claims = claims
        self._terms = terms
        self._keep_seconds = max(0.0, keep_claims_seconds - terms.lease_seconds)
        self._waiting = 0
        self._hurry = asyncio.Event()
        self._failed_at: float | None = None
        self._lost_since: dict[LostClaim, float] = {}
        self._begun: set[RunKey] = set()
        """Runs that we may have taken over, and not sealed: since we live, nobody else looks for them."""

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Somebody waits for the end of a run whose owner may be dead."""
        self._waiting += 1
        self._hurry.set()
        try:
            yield
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Sweeps for ever."""
        if self._store.exclusive:
            return
        heartbeat = self._terms.heartbeat_seconds
        next_claims = asyncio.get_running_loop().time() + heartbeat * _share(self._terms.replica)
        while True:
            await self._pause(next_claims)
            now = asyncio.get_running_loop().time()
            is_full = now >= next_claims
            if is_full:
                next_claims = max(next_claims + heartbeat, now)
            try:
                await self._sweep(is_full=is_full)
            except StoreUnavailable as error:
                self._failed_at = asyncio.get_running_loop().time()
                _log.info("sweep.failed", error=error.message)
            except Exception:
                _log.exception("sweep.broken")

    async def _sweep(self, *, is_full: bool) -> None:
        if self._is_calm():
            await self._sweep_orphans()
            if is_full:
                await self._sweep_claims()
        if is_full and self._lease.is_held:
            await self._claims.check_grace()

    def _is_calm(self) -> bool:
        seconds, failed_at = CALM_HEARTBEATS * self._terms.heartbeat_seconds, self._failed_at
        if failed_at is not None and asyncio.get_running_loop().time() - failed_at < seconds:
            return False
        return self._lease.is_held and self._lease.steady_seconds >= seconds

    async def _is_sure(self) -> bool:
        """Asks anew: a store that fell behind since the last heartbeat lacks what the living wrote last."""
        return await self._lease.confirm() and self._is_calm()

    async def _pause(self, until: float) -> None:
        seconds = max(0.0, until - asyncio.get_running_loop().time())
        if self._waiting:
            await asyncio.sleep(min(HURRY_SECONDS, seconds or HURRY_SECONDS))
            return
        self._hurry.clear()
        try:
            async with asyncio.timeout(seconds or HURRY_SECONDS):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _sweep_orphans(self) -> None:
        is_full = True
        while is_full:
            found = await self._store.orphans(self._terms.replica, ORPHANS_PER_SWEEP)
            if (found or self._begun) and not await self._is_sure():
                return
            # Each begins at its own place, so that several replicas do not all want the same one.
            start = round(_share(self._terms.replica) * len(found))
            sealed = 0
            keys = [*await self._half_sealed(), *found[start:], *found[:start]]
            while keys:
                results = await asyncio.gather(*map(self._seal, keys[:ORPHANS_AT_ONCE]), return_exceptions=True)
                sealed += _sum(results)
                keys = keys[ORPHANS_AT_ONCE:]
            is_full = len(found) == ORPHANS_PER_SWEEP and sealed > 0

    def adopt(self, key: RunKey) -> None:
        """The store has a live run as ours that nobody drives here."""
        self._begun.add(key)

    async def look_again(self, key: RunKey) -> None:
        """A run that was sealed here may be ours again: the store has lost something."""
        self._begun.add(key)

    async def _half_sealed(self) -> Sequence[RunKey]:
        for key in tuple(self._begun):
            record = await self._store.get(key)
            if record is None or record.owner != self._terms.replica or self.is_here(key):
                self._begun.discard(key)
        return tuple(self._begun)

    async def _seal(self, key: RunKey) -> int:
        self._begun.add(key)
        try:
            sealed = await seal_orphan(self._store, key, self._terms.replica, self._clock, self.on_sealed)
        except StoreUnavailable:
            raise
        except Exception:
            _log.exception("orphan.broken", run_id=key.run_id, tenant=key.tenant)
            sealed = 0
        self._begun.discard(key)
        if sealed:
            _log.info("orphan.sealed", run_id=key.run_id, tenant=key.tenant)
        return sealed

    async def _sweep_claims(self) -> None:
        now = asyncio.get_running_loop().time()
        lost = await self._store.lost_claims(self._terms.replica, CLAIMS_PER_SWEEP)
        self._lost_since = {claim: self._lost_since.get(claim, now) for claim in lost}
        due = [claim for claim, since in self._lost_since.items() if now - since >= self._keep_seconds]
        if due and await self._is_sure():
            await in_parts(due, self._claims.release_lost)


def _share(replica: str) -> float:
    """A part of the whole that is each replica's own: 0 to 1."""
    return zlib.crc32(replica.encode()) / 2**32


def _sum(results: Sequence[int | BaseException]) -> int:
    total = 0
    for result in results:
        if isinstance(result, BaseException):
            raise result
        total += result
    return total
