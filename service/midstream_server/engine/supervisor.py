"""The one who keeps all runs of this process: starts them, finds them, stops them, and sees them end.

Owns, in this order: the replica (store opened, lease taken, log writer, sweep), the housekeeping, one task per run. A
stream handler is only a reader: it asks for a `Reader`, and says `detach` when it is gone. A stop marks the run and
closes its upstream before anything is awaited.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog

from midstream_server.clock import Clock
from midstream_server.codec import encode_event, encode_run
from midstream_server.engine.broadcast import Broadcast
from midstream_server.engine.claims import Claim
from midstream_server.engine.continuation import prompt_with_prefix
from midstream_server.engine.drainer import Drainer
from midstream_server.engine.housekeeping import Housekeeping
from midstream_server.engine.lease import LeaseTerms
from midstream_server.engine.reader import Reader
from midstream_server.engine.replica import SERVER_ENDED_CLAIM_SECONDS, Replica
from midstream_server.engine.run_task import RunServices
from midstream_server.engine.starter import RunStarter
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.engine.stored_run import (
    REMEMBER_SECONDS,
    expire_if_due,
    is_due,
    known_record,
    summary_run,
)
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.errors import (
    ContinueUnsupported,
    CursorAhead,
    Draining,
    RunExpired,
    RunLive,
    RunNotFound,
    ServerShutdown,
    StoreUnavailable,
    TooManyRememberedCancels,
)
from midstream_server.model import (
    CancelIntent,
    CancelOutcome,
    CancelReason,
    CancelReport,
    ModelInfo,
    Prompt,
    Run,
    RunFinished,
    RunKey,
    RunSpec,
    RunStarted,
    RunState,
)
from midstream_server.stores.base import EarlyCancel, IntentOutcome, ListQuery, RecordPhase, RunStore, frame
from midstream_server.upstreams.base import CallOptions, Upstream, UpstreamRegistry

__all__ = ["Claim", "ListQuery", "Reader", "Supervisor", "SupervisorOptions"]

EARLY_CANCEL_SECONDS = 600.0
MAX_EARLY_CANCELS = 10_000
LAST_SEAL_SECONDS = 5.0
LEASE_WAIT_SECONDS = 5.0
"""How long a start waits for a lease that has lapsed."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """What the operator decides."""

    replica: str
    max_live_runs: int = 20_000
    max_run_seconds: float = 3600.0
    queue_seconds: float = 60.0
    lease_seconds: float = 6.0
    heartbeat_seconds: float = 2.0
    monotonic: Callable[[], float] | None = None
    """A clock that goes on while the process is stopped, for the lease; by default the loop's."""
    max_drains: int = 100
    """How many answers of stopped runs may be read to their end at a time, where the profile says drain."""


class Supervisor:
    """Runs, by tenant and id. An async context manager; everything else only inside it."""

    def __init__(
        self,
        store: RunStore,
        upstreams: UpstreamRegistry,
        clock: Clock,
        new_id: Callable[[], str],
        options: SupervisorOptions,
    ) -> None:
        self.is_draining = False
        self._upstreams = upstreams
        self._clock = clock
        self._new_id = new_id
        self._options = options
        self._guard = StoreGuard()
        self._tasks = TaskKeeper()
        self._seal_deadline: float | None = None
        self._readers: dict[Reader, None] = {}
        self._reader_left = Broadcast()
        self._replica = Replica(store, clock, self._guard, self._tasks, _lease_terms(options))
        self._directory, self._claims = self._replica.directory, self._replica.claims
        self._housekeeping = Housekeeping(self._directory, self._guard, clock, self._readers)
        self._drainer = Drainer(store, self._guard, self._tasks, options.max_drains)
        services = RunServices(
            store=store,
            guard=self._guard,
            writer=self._replica.writer,
            restorer=self._replica.restorer,
            drainer=self._drainer,
            clock=clock,
            max_run_seconds=options.max_run_seconds,
            queue_seconds=options.queue_seconds,
        )
        self._starter = RunStarter(
            self._directory, self._claims, self._tasks, services, options.replica, options.max_live_runs
        )

    async def __aenter__(self) -> Self:
        await self._replica.open()
        await self._tasks.__aenter__()
        self._replica.begin()
        self._tasks.spawn(self._housekeeping.tick(), "housekeeping")
        self._tasks.spawn(self._housekeeping.probe(), "store probe")
        self._tasks.spawn(self._housekeeping.expire(), "expiry")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.seal_all()
            await self._drainer.close()
        finally:
            try:
                await self._tasks.__aexit__(kind, error, trace)
            finally:
                await self._replica.close()

    def watch_store(self, report: Callable[[bool], Coroutine[Any, Any, None]]) -> None:
        """Tells when the store goes away (False) and comes back (True)."""
        self._guard.on_change = lambda is_available: self._tasks.spawn(report(is_available), "store report")

    # --- following a run ------------------------------------------------------------------------------------------

    def new_claim(self, tenant: str, run_id: str) -> Claim:
        """A claim for a stream that is about to follow a run. Whoever takes it must `detach` it, whatever happens."""
        return Claim(key=RunKey(tenant, run_id), claim_id=self._new_id())

    async def start(self, spec: RunSpec, fingerprint: str, claim: Claim) -> Reader:
        """Starts a run, or attaches to the one that exists with the same fingerprint; from sequence 1.

        Cancelling it leaves either no run, or one whose claim `detach` releases.

        Raises:
            ModelNotFound, InvalidRequest, RunIdConflict, RunIdExpired, ConversationBusy, TooManyRuns, Draining,
            ContinueUnsupported, RunNotFound, RunExpired, RunLive, StoreUnavailable: no upstream was called.
        """
        self._admit()
        upstream, model = self._upstreams.resolve(spec.model)
        limits = spec.limits
        options = CallOptions(first_token_seconds=limits.first_token_seconds, idle_seconds=limits.idle_seconds)
        prompt = await self._prompt(spec, claim.key, upstream)
        self._admit()  # again: reading a partial takes time, in which the process may have begun to leave
        call = upstream.call(model, prompt, options)
        await self._hold_lease()
        work = self._starter.start(spec, fingerprint, claim, call)
        await asyncio.shield(self._tasks.spawn_for(work, f"start {spec.run_id}"))
        return self._reader(claim.key, 0)

    async def _prompt(self, spec: RunSpec, key: RunKey, upstream: Upstream) -> Prompt:
        """The prompt, with the partial that it goes on with; an id that is taken needs none."""
        if not spec.continue_from or await self._directory.store.get(key) is not None:
            return spec.prompt
        if not upstream.supports_continue:
            raise ContinueUnsupported(f"upstream {upstream.name} cannot continue a partial")
        return await prompt_with_prefix(self._directory, key.tenant, spec)

    async def watch(
        self, tenant: str, run_id: str, after_sequence: int, *, from_snapshot: bool, claim: Claim | None
    ) -> Reader:
        """Follows a run from a sequence, or from a snapshot.

        Raises:
            RunNotFound, RunExpired, StoreUnavailable: it cannot be read.
            CursorAhead: the log does not reach so far.
        """
        key = RunKey(tenant, run_id)
        store = self._directory.store
        if claim is not None:
            self._claims.hold(claim)
            while await store.claim(key, claim.claim_id, self._options.replica) is None:
                await known_record(store, key, self._clock.now())  # it may have come since
        await self._check_cursor(key, after_sequence)
        return self._reader(key, after_sequence, snapshot=from_snapshot)

    async def _check_cursor(self, key: RunKey, after_sequence: int) -> None:
        run = self._directory.live.get(key)
        if run is not None and not run.is_lost and after_sequence <= run.output.log.last_sequence:
            return
        # Other replicas tell what is in the store, before it is known here that it is.
        last = (await known_record(self._directory.store, key, self._clock.now())).last_sequence
        if after_sequence > last:
            raise CursorAhead(metadata={"last_sequence": str(last)})

    def detach(self, claim: Claim | None, reader: Reader | None, reason: CancelReason, *, by_server: bool) -> None:
        """The stream is gone. Synchronous: nothing of it can be cut off.

        `reason` is what the stream saw (CLIENT_GONE or DEADLINE); with `by_server` its claim stays for 10 s.
        """
        if reader is not None:
            reader.close()
            self._readers.pop(reader, None)
            self._reader_left.fire()
        if claim is not None:
            self._claims.detach(claim, reason, SERVER_ENDED_CLAIM_SECONDS if by_server else 0.0)

    def _reader(self, key: RunKey, after_sequence: int, *, snapshot: bool = False) -> Reader:
        reader = Reader(key, self._directory, after_sequence, as_of=self._clock.now(), snapshot=snapshot)
        self._readers[reader] = None
        return reader

    def _admit(self) -> None:
        if self.is_draining:
            raise Draining
        if self._guard.out_since is not None:
            raise StoreUnavailable

    async def _hold_lease(self) -> None:
        """A run that began without a lease would be an orphan at once."""
        try:
            async with asyncio.timeout(LEASE_WAIT_SECONDS):
                await self._replica.lease.held()
        except TimeoutError as error:
            raise StoreUnavailable("this replica has no lease in the run store") from error

    # --- asking about runs ----------------------------------------------------------------------------------------

    async def cancel(
        self, tenant: str, run_id: str, text: str, requested_by: str, wait_seconds: float
    ) -> tuple[CancelOutcome, Run]:
        """Stops a run and returns what it made; remembers the cancel of a run that is not known yet.

        Raises:
            RunExpired: its content was deleted.
            TooManyRememberedCancels: the tenant's early cancels are used up.
            StoreUnavailable: the intent is not durable; the upstream is closed all the same.
        """
        key = RunKey(tenant, run_id)
        now = self._clock.now()
        intent = CancelIntent(reason=CancelReason.REQUESTED, requested_by=requested_by, text=text, request_time=now)
        result = await self._directory.ask_to_stop(key, intent, _early_cancel(run_id, intent))
        if result.outcome is IntentOutcome.FULL:
            raise TooManyRememberedCancels
        if result.outcome is IntentOutcome.EXPIRED:
            raise RunExpired
        may_live = result.outcome in (IntentOutcome.RECORDED, IntentOutcome.ALREADY) or key in self._directory.live
        if may_live and wait_seconds > 0:
            await self._directory.wait_for_end(key, wait_seconds)
        run = await self._directory.read(key)
        return _outcome(run, result.outcome), run

    async def get(self, tenant: str, run_id: str, wait_seconds: float | None) -> Run:
        """A run with its message so far; with `wait_seconds` when it has ended, or when they are over.

        Raises:
            RunNotFound, RunExpired, StoreUnavailable: it cannot be read.
        """
        key = RunKey(tenant, run_id)
        if wait_seconds is not None:
            if key not in self._directory.live:
                await known_record(self._directory.store, key, self._clock.now())
            await self._directory.wait_for_end(key, wait_seconds)
        return await self._directory.read(key)

    async def list_runs(self, query: ListQuery) -> Sequence[Run]:
        """A page of runs without their messages, newest first."""
        store, now = self._directory.store, self._clock.now()
        records = await store.list_records(query)
        while any([await expire_if_due(store, record, now) for record in records]):
            records = await store.list_records(query)
        runs: list[Run] = []
        for record in records:
            live = self._directory.live.get(record.key)
            is_known = live is not None and not live.is_lost and self._replica.lease.is_held
            runs.append(live.snapshot(with_message=False) if live and is_known else summary_run(record))
        return runs

    async def delete(self, tenant: str, run_id: str) -> None:
        """Deletes the content of a run that has ended.

        Raises:
            RunNotFound, RunExpired: there is none.
            RunLive: it has not ended.
        """
        key, now = RunKey(tenant, run_id), self._clock.now()
        forget_time = now + round(REMEMBER_SECONDS * 1e9)
        delete = partial(self._directory.store.delete, key, now, forget_time)
        record = await delete()
        self._replica.restorer.remember(delete)
        if record is None:
            raise RunNotFound
        if record.phase is RecordPhase.EXPIRED or is_due(record, now):
            raise RunExpired
        if record.phase is RecordPhase.LIVE:
            raise RunLive

    async def models(self) -> tuple[Sequence[ModelInfo], Sequence[str]]:
        """All models that are known by name, and the upstreams that did not answer."""
        return await self._upstreams.models()

    # --- going away -----------------------------------------------------------------------------------------------

    async def drain(self, seconds: float, hurry: asyncio.Event) -> None:
        """Refuses new runs and lets the live ones finish, for a time, or until there is hurry."""
        self.is_draining = True
        if hurry.is_set():
            return
        waits = {
            asyncio.create_task(self._until_idle(), name="drain"),
            asyncio.create_task(_flag(hurry), name="hurry"),
        }
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.wait(waits)

    async def seal_all(self) -> None:
        """Ends what is live: FAILED (SERVER_SHUTDOWN), with the partial. Returns when it is sealed, or 5 s are over.

        Streams that follow runs of other replicas end DRAINING.
        """
        self.is_draining = True
        self._fail_live()
        self._replica.tails.close()
        if self._seal_deadline is None:
            self._seal_deadline = asyncio.get_running_loop().time() + LAST_SEAL_SECONDS
        try:
            async with asyncio.timeout_at(self._seal_deadline):
                while pending := self._pending():
                    self._fail_live()
                    await asyncio.wait(pending)
        except TimeoutError:
            _log.warning("runs.unsealed", count=len(self._directory.live))

    def _fail_live(self) -> None:
        for run in tuple(self._directory.live.values()):
            run.fail(ServerShutdown())

    async def wait_for_readers(self, seconds: float) -> None:
        """Returns when no stream follows a run any more, or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while self._readers:
                    await self._reader_left.wait()
        except TimeoutError:
            return

    async def _until_idle(self) -> None:
        while pending := self._pending():
            await asyncio.wait(pending)

    def _pending(self) -> set[asyncio.Future[Any]]:
        """What has to be waited for until there are no live runs: their endings, and the starts under way."""
        runs = [run.ended for run in self._directory.live.values() if not run.ended.done()]
        return {*runs, *self._directory.starting.values()}

    @property
    def live_runs(self) -> int:
        """How many runs this process has."""
        return len(self._directory.live)

    @property
    def open_readers(self) -> int:
        """How many streams follow runs here."""
        return len(self._readers)


def _lease_terms(options: SupervisorOptions) -> LeaseTerms:
    return LeaseTerms(
        replica=options.replica,
        lease_seconds=options.lease_seconds,
        heartbeat_seconds=options.heartbeat_seconds,
        monotonic=options.monotonic or (lambda: asyncio.get_running_loop().time()),
    )


async def _flag(event: asyncio.Event) -> None:
    await event.wait()


def _early_cancel(run_id: str, intent: CancelIntent) -> EarlyCancel:
    """The record of a run that was cancelled before it was started: two events, nothing used."""
    now = intent.request_time
    expire_time = now + round(EARLY_CANCEL_SECONDS * 1e9)
    run = Run(
        run_id=run_id,
        state=RunState.CANCELLED,
        cancel_reason=intent.reason,
        cancel=CancelReport(requested_by=intent.requested_by, reason=intent.text, request_time=now),
        last_sequence=2,
        create_time=now,
        end_time=now,
        expire_time=expire_time,
    )
    entries = [encode_event(1, RunStarted(run_id=run_id, create_time=now)), encode_event(2, RunFinished(run=run))]
    return EarlyCancel(
        entries=frame(entries), summary=encode_run(run), expire_time=expire_time, max_remembered=MAX_EARLY_CANCELS
    )


def _outcome(run: Run, found: IntentOutcome) -> CancelOutcome:
    if found is IntentOutcome.REMEMBERED:
        return CancelOutcome.REMEMBERED
    if run.state is RunState.CANCELLED:
        return CancelOutcome.CANCELLED
    return CancelOutcome.ALREADY_FINISHED if run.state.is_ending else CancelOutcome.STOPPING
