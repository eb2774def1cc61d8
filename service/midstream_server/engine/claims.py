"""Claims of streams on runs, and what happens when the last one is gone.

A claim is a fact of the record. What this process knows of it is enough to stop a run at once only if no other process
can hold one (`RunStore.exclusive`); otherwise the store's answer to the release decides.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from midstream_server.clock import Clock
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.restorer import Restorer, in_parts
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.model import CancelIntent, CancelReason, DetachAction, DetachPolicy, Instant, RunKey
from midstream_server.stores.base import IntentOutcome, LostClaim, RecordIntent, RecordPhase, RunStore

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
        restorer: Restorer,
        replica: str,
    ) -> None:
        self._store = store
        self._restorer = restorer
        self._replica = replica
        self._clock = clock
        self._guard = guard
        self._live = live
        self._tasks = tasks
        self._counted: dict[RunKey, set[str]] = {}
        """The claims of this process's streams by run; a stream may come before its run is live."""
        self._last_reason: dict[RunKey, CancelReason] = {}
        """What the stream saw that left such a run last, while others count."""
        self._grace: dict[RunKey, asyncio.TimerHandle] = {}
        self._releasing: set[str] = set()
        self._is_closed = False
        self._kept: dict[str, asyncio.TimerHandle] = {}
        """When the claims are dropped whose streams the server ended."""

    def expect(self, claim: Claim) -> None:
        """The store is being asked to add this claim: until it answers, it counts."""
        self._counted.setdefault(claim.key, set()).add(claim.claim_id)

    def forget(self, claim: Claim) -> None:
        """The store did not add it; others may have left meanwhile."""
        reason = self._discount(claim)
        run = self._live.get(claim.key)
        if run is not None and reason is not None and self._is_unclaimed(run) and claim.key not in self._grace:
            self._abandon(run, reason, self._clock.now())

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
        elif claim.key in self._counted:
            self._last_reason[claim.key] = claim.reason
        self._tasks.spawn(self._release(claim, now), f"release {claim.key.run_id}")

    # --- among replicas -------------------------------------------------------------------------------------------

    def known(self, key: RunKey) -> Collection[str]:
        """The claims on a run that streams of this process hold."""
        return tuple(self._counted.get(key, ()))

    @property
    def holds_any(self) -> bool:
        """Whether any stream of this process holds a claim, or may come back for one."""
        return bool(self._counted or self._kept)

    async def reclaim(self) -> None:
        """Adds again what this process holds: others may have released it for dead, or the store have lost it."""
        held = [LostClaim(key=key, claim_id=each) for key, claim_ids in self._counted.items() for each in claim_ids]
        await in_parts(held, self._reclaim)

    async def _reclaim(self, claim: LostClaim) -> None:
        if claim.claim_id in self._counted.get(claim.key, ()):
            await self._guard.insist(partial(self._store.claim, claim.key, claim.claim_id, self._replica))
        if claim.claim_id not in self._counted.get(claim.key, ()):
            await self.release_lost(claim)  # it left meanwhile

    def let_go(self, told: Iterable[LostClaim]) -> None:
        """Releases those of these that no stream here holds, though the store has them as ours."""
        for lost in told:
            is_held = lost.claim_id in self._counted.get(lost.key, ())
            if not is_held and lost.claim_id not in self._releasing:
                self._tasks.spawn(self.release_lost(lost), f"release {lost.key.run_id}")

    async def release_lost(self, lost: LostClaim) -> None:
        """Releases a claim whose replica is gone; `on_detach` applies."""
        await self._release(Claim(key=lost.key, claim_id=lost.claim_id), self._clock.now())

    async def check_grace(self) -> None:
        """Runs the clock of our unclaimed runs, for those who released the last claim elsewhere and may be gone."""
        for key, run in tuple(self._live.items()):
            is_unwatched = key not in self._counted and key not in self._grace and not run.verdict.is_decided
            if run.spec.on_detach.action is DetachAction.GRACE and is_unwatched:
                record = await self._store.get(key)
                if record is not None and record.phase is RecordPhase.LIVE and record.detach_time is not None:
                    reason = record.detach_reason or CancelReason.CLIENT_GONE
                    # By our own clock, from now on: it was another one that set the end.
                    self._start_grace(key, record.on_detach, reason, record.detach_time, is_ours=False)

    def close(self) -> None:
        """Stops all clocks, and starts none any more."""
        self._is_closed = True
        for key in tuple(self._grace):
            self._stop_grace(key)
        for timer in self._kept.values():
            timer.cancel()
        self._kept.clear()

    def _discount(self, claim: Claim) -> CancelReason | None:
        """Counts a claim no longer. If it was the last one: what the stream saw that had left before it."""
        claims = self._counted.get(claim.key, set())
        claims.discard(claim.claim_id)
        if claims:
            return None
        self._counted.pop(claim.key, None)
        return self._last_reason.pop(claim.key, None)

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
        self._releasing.add(claim.claim_id)
        try:
            record = await self._guard.insist(lambda: self._store.release(key, claim.claim_id, claim.reason, now))
        finally:
            self._releasing.discard(claim.claim_id)
        self._restorer.remember(partial(self._release_again, claim, now), is_late=True)
        if record is None or record.phase is not RecordPhase.LIVE:
            return
        run = self._live.get(key)
        if record.intent is not None:
            if run is not None:
                run.stop(record.intent)
        elif record.detach_time is not None and key not in self._grace and not self._store.exclusive:
            self._start_grace(key, record.on_detach, claim.reason, record.detach_time)

    async def _release_again(self, claim: Claim, now: Instant) -> None:
        """The store may have lost the claim together with its release; `on_detach` applies all the same."""
        if await self._store.claim(claim.key, claim.claim_id, self._replica) is not None:
            await self._store.release(claim.key, claim.claim_id, claim.reason, now)

    def _start_grace(
        self, key: RunKey, policy: DetachPolicy, reason: CancelReason, end: Instant, *, is_ours: bool = True
    ) -> None:
        self._stop_grace(key)
        left = max(0.0, (end - self._clock.now()) / 1e9)
        # Clocks jump: never longer than the whole grace.
        seconds = min(policy.grace_seconds, left) if is_ours else policy.grace_seconds
        self._grace[key] = asyncio.get_running_loop().call_later(seconds, self._end_grace, key, reason, end)

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
