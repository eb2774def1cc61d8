"""Moves the output of all runs into the store: one batch in flight; what arrives meanwhile goes into the next.

An append that is refused means that the run is lost to another replica; its upstream is closed at once. One that is
refused because the store fell behind (a failover) is repeated by a task of its own, once the run is put back.

Self-clocking: a lone stream waits for no timer, and a busy process makes fewer, larger batches. While the store is away
the batch is repeated as it was; runs that have too much waiting stop reading their upstreams.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from midstream_server.engine.broadcast import Broadcast
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.restorer import Restorer, in_parts
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.stores.base import Append, AppendResult, RecordPhase, RunStore

MAX_WAITING_BYTES_PER_RUN = 1024 * 1024
MAX_WAITING_BYTES = 64 * 1024 * 1024
CHECKED_AT_ONCE = 500

_log = structlog.get_logger(__name__)


class LogWriter:
    """The one that appends. `run` is a task of the supervisor's."""

    def __init__(self, store: RunStore, guard: StoreGuard, restorer: Restorer, tasks: TaskKeeper) -> None:
        self._store = store
        self._guard = guard
        self._restorer = restorer
        self._tasks = tasks
        self._dirty: dict[LiveRun, None] = {}
        self._wake = asyncio.Event()
        self._waiting_bytes = 0
        self._moved = Broadcast()
        """Fires after every batch, and when the ending of a run is decided."""

    def adopt(self, run: LiveRun) -> None:
        """Takes care of a run's output from now on."""
        run.on_output = self._offer
        run.on_decided = self._moved.fire

    async def wait_for_room(self, run: LiveRun) -> None:
        """Waits while too much waits for the store. Ends at once when the run's ending is decided."""
        while self.is_congested(run) and not run.verdict.is_decided:
            await self._moved.wait()

    def is_congested(self, run: LiveRun) -> bool:
        """Whether a run should stop reading its upstream."""
        return run.output.unacknowledged_bytes > MAX_WAITING_BYTES_PER_RUN or self._waiting_bytes > MAX_WAITING_BYTES

    async def flushed(self, run: LiveRun) -> None:
        """Waits until all output of a run is in the store, or the run is lost."""
        while not run.output.is_flushed and not run.is_lost:
            await self._moved.wait()

    async def run(self) -> None:
        """Appends for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            runs = [run for run in self._dirty if run.output.has_work and not run.is_lost]
            self._dirty.clear()
            if runs:
                await self._write(runs)

    async def _write(self, runs: Sequence[LiveRun]) -> None:
        batch: list[Append] = []
        try:
            batch = [run.output.take(run.epoch) for run in runs]
            results = await self._guard.insist(lambda: self._store.append(batch))
        except Exception:
            # A bug; which of them has it, nobody knows. The others go on, and a restart seals these from the log.
            _log.exception("log.broken", runs=len(runs))
            results = [AppendResult(accepted=False)] * len(runs)
        self._settle(runs, results)
        for run, command, result in zip(runs, batch, results, strict=False):
            if result.is_behind:
                self._restorer.on_loss()
                self._tasks.spawn(self._catch_up(run, command), f"restore {run.key.run_id}")

    async def _catch_up(self, run: LiveRun, command: Append) -> None:
        try:
            result = await self._restorer.append(run, command)
        except Exception:
            _log.exception("restore.broken", run_id=run.key.run_id, tenant=run.key.tenant)
            result = AppendResult(accepted=False)
        self._settle([run], [result])
        if run.output.has_work:
            self._offer(run, 0)

    async def check(self, runs: Iterable[LiveRun]) -> None:
        """Looks for runs in the store: those that others took over are lost, those that it has lost are put back."""
        wanted = list(runs)
        while wanted:
            part, wanted = wanted[:CHECKED_AT_ONCE], wanted[CHECKED_AT_ONCE:]
            batch = [_nothing(run) for run in part]
            results = await self._guard.insist(partial(self._store.append, batch))
            await in_parts(zip(part, results, strict=True), self._judge)

    async def _judge(self, found: tuple[LiveRun, AppendResult]) -> None:
        run, result = found
        if result.is_behind:
            await self._restorer.restore(run)
        elif result.accepted:
            if result.intent is not None:
                run.stop(result.intent)
        elif not run.ended.done():
            record = await self._guard.insist(partial(self._store.get, run.key))
            is_our_end = record is not None and record.phase is RecordPhase.SEALED and record.epoch == run.epoch
            if not is_our_end and not run.ended.done():
                self._lose(run)

    def _lose(self, run: LiveRun) -> None:
        _log.warning("run.lost", run_id=run.key.run_id, tenant=run.key.tenant)
        run.lose()
        self._moved.fire()

    def _offer(self, run: LiveRun, added_bytes: int) -> None:
        self._waiting_bytes += added_bytes
        self._dirty[run] = None
        self._wake.set()

    def _settle(self, runs: Sequence[LiveRun], results: Sequence[AppendResult]) -> None:
        for run, result in zip(runs, results, strict=True):
            if result.is_behind:
                continue
            if not result.accepted:
                self._lose(run)
                continue
            self._waiting_bytes -= run.output.acknowledge()
            if result.intent is not None:
                run.stop(result.intent)
        self._moved.fire()


def _nothing(run: LiveRun) -> Append:
    """An append that asks whether the run is still ours."""
    last = run.output.log.last_sequence
    return Append(key=run.key, epoch=run.epoch, expected_last_sequence=last, last_sequence=last, entries=b"")
