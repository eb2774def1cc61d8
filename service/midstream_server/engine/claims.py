"""Claims of streams on runs, and what happens when the last one is gone.

A claim is a fact of the record. What this process knows of it is enough to stop a run at once only if no other process
can hold one (`RunStore.exclusive`); otherwise the store's answer to the release decides.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from midstream_server.clock import Clock
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.model import CancelIntent, CancelReason, DetachAction, DetachPolicy, Instant, RunKey
from midstream_server.stores.base import IntentOutcome, RecordIntent, RecordPhase, RunStore

DETACHED_BY = "client"


@dataclass(slots=True, kw_only=True, eq=False)
class Claim:
    """One stream's claim on one run."""

    key: RunKey
    claim_id: str
    is_held: bool = False
    """Whether the store may have it."""
    is_detached: bool = False
    reason: CancelReason = CancelReason.CLIENT_GONE


class ClaimKeeper:
    """Adds and releases claims, and runs the grace clocks of unclaimed runs."""

    def __init__(
        self,
        store: RunStore,
        clock: Clock,
        guard: StoreGuard,
        live: Mapping[RunKey, LiveRun],
        tasks: TaskKeeper,
    ) -> None:
        self._store = store
        self._clock = clock
        self._guard = guard
        self._live = live
        self._tasks = tasks
        self._counted: dict[RunKey, set[str]] = {}
        """The claims of this process's streams by run; a stream may come before its run is live."""
        self._grace: dict[RunKey, asyncio.TimerHandle] = {}
        self._is_closed = False
        self._kept: dict[str, asyncio.TimerHandle] = {}
        """When the claims are dropped whose streams the server ended."""

    def expect(self, claim: Claim) -> None:
        """The store is being asked to add this claim: until it answers, it counts."""
        self._counted.setdefault(claim.key, set()).add(claim.claim_id)

    def forget(self, claim: Claim) -> None:
        """The store did not add it; others may have left meanwhile."""
        self._discount(claim)
        run = self._live.get(claim.key)
        if run is not None and self._is_unclaimed(run) and claim.key not in self._grace:
            self._abandon(run, claim.reason, self._clock.now())

    def hold(self, claim: Claim) -> None:
        """The stream is there: its claim counts, and a grace clock stops."""
        claim.is_held = True
        self.expect(claim)
        self._stop_grace(claim.key)

    def detach(self, claim: Claim, reason: CancelReason, after_seconds: float) -> None:
        """The stream is gone. Synchronous; what must be written is written by a task of the supervisor's."""
        if claim.is_detached:
            return
        claim.is_detached, claim.reason = True, reason
        if not claim.is_held or self._is_closed:
            return
        if after_seconds > 0:
            loop = asyncio.get_running_loop()
            self._kept[claim.claim_id] = loop.call_later(after_seconds, self.drop, claim)
        else:
            self.drop(claim)

    def drop(self, claim: Claim) -> None:
        """Releases a claim that the store has."""
        self._kept.pop(claim.claim_id, None)
        self._discount(claim)
        run, now = self._live.get(claim.key), self._clock.now()
        if run is None and self._store.exclusive:
            return
        if run is not None and self._is_unclaimed(run):
            self._abandon(run, claim.reason, now)
        self._tasks.spawn(self._release(claim, now), f"release {claim.key.run_id}")

    def close(self) -> None:
        """Stops all clocks, and starts none any more."""
        self._is_closed = True
        for key in tuple(self._grace):
            self._stop_grace(key)
        for timer in self._kept.values():
            timer.cancel()
        self._kept.clear()

    def _discount(self, claim: Claim) -> None:
        claims = self._counted.get(claim.key, set())
        claims.discard(claim.claim_id)
        if not claims:
            self._counted.pop(claim.key, None)

    def _is_unclaimed(self, run: LiveRun) -> bool:
        """Whether this process knows for certain that nobody follows a run."""
        return self._store.exclusive and run.key not in self._counted

    def _abandon(self, run: LiveRun, reason: CancelReason, now: Instant) -> None:
        policy = run.spec.on_detach
        if policy.action is DetachAction.CANCEL:
            run.stop(self._intent(reason))
        elif policy.action is DetachAction.GRACE:
            self._start_grace(run.key, policy, reason, _grace_end(policy, now))

    async def _release(self, claim: Claim, now: Instant) -> None:
        key = claim.key
        record = await self._guard.insist(lambda: self._store.release(key, claim.claim_id, claim.reason, now))
        if record is None or record.phase is not RecordPhase.LIVE:
            return
        run = self._live.get(key)
        if record.intent is not None:
            if run is not None:
                run.stop(record.intent)
        elif record.detach_time is not None and key not in self._grace and not self._store.exclusive:
            self._start_grace(key, record.on_detach, claim.reason, record.detach_time)

    def _start_grace(self, key: RunKey, policy: DetachPolicy, reason: CancelReason, end: Instant) -> None:
        self._stop_grace(key)
        self._grace[key] = asyncio.get_running_loop().call_later(
            policy.grace_seconds, self._end_grace, key, reason, end
        )

    def _stop_grace(self, key: RunKey) -> None:
        timer = self._grace.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _end_grace(self, key: RunKey, reason: CancelReason, end: Instant) -> None:
        del self._grace[key]
        run, intent = self._live.get(key), self._intent(reason)
        if run is not None and self._is_unclaimed(run):
            run.stop(intent)
        self._tasks.spawn(self._stop_unclaimed(key, intent, end), f"grace {key.run_id}")

    async def _stop_unclaimed(self, key: RunKey, intent: CancelIntent, end: Instant) -> None:
        command = RecordIntent(key=key, intent=intent, unclaimed_since=max(end, self._clock.now()))
        result = await self._guard.insist(lambda: self._store.record_intent(command))
        run = self._live.get(key)
        if run is not None and result.outcome is IntentOutcome.RECORDED:
            run.stop(intent)

    def _intent(self, reason: CancelReason) -> CancelIntent:
        return CancelIntent(reason=reason, requested_by=DETACHED_BY, request_time=self._clock.now())


def _grace_end(policy: DetachPolicy, now: Instant) -> Instant:
    return now + round(policy.grace_seconds * 1e9)
