"""Reading an upstream to its end after the run was stopped, where a hang-up would not stop the bill: for the account.

A drain is taken in the turn of the loop that stops the run (from there its caps count), adopted by a task of its own
while the run is sealed without it, over when the answer ends, fails or meets a cap, and settled once the run is sealed.
The end and the seal come in either order. Beyond `max_drains` the newcomer is hung up on: the older are nearer to their
account. A cap or a failure leaves what the upstream has said since the stop, if anything; only an answer that was read
to its finish may be estimated. A run that is lost, deleted or expired takes no settlement; a store that is away is
asked again; leaving the process aborts all drains and settles none.
"""

import asyncio

import structlog

from midstream_server.accumulator import payload_size
from midstream_server.codec import encode_usage
from midstream_server.engine.account import with_estimate
from midstream_server.engine.pump import GRACE_SECONDS, end_task
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.engine.tasks import TaskKeeper
from midstream_server.errors import RunFailure
from midstream_server.model import Run, RunKey, Usage
from midstream_server.stores.base import RunStore
from midstream_server.upstreams.base import (
    DrainCaps,
    ModelFinished,
    PartDelta,
    UpstreamBatch,
    UpstreamCall,
    UpstreamEvent,
    UpstreamFailed,
    UsageReported,
)

ACCOUNT_WAIT_SECONDS = 1.0
"""How long a drained answer may take for its account once the model has finished."""

_log = structlog.get_logger(__name__)


class Drain:
    """One answer that nobody wants any more. Synchronous; `abort` may come at any time.

    Args:
        call: what is read; its end ends the drain.
        caps: how much of it.
        usage: what the upstream had said of it before the stop.
        output_bytes: how much output there was before the stop.
    """

    def __init__(self, call: UpstreamCall, caps: DrainCaps, usage: Usage | None, output_bytes: int) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it was aborted, for whatever reason."""
        self.outcome = "ended"
        """How it went: `finished`, `failed`, `ended` without a finish, or why it was aborted."""
        self._call = call
        self._usage = usage
        self._usage_before = with_estimate(usage, output_bytes)
        self._output_bytes = output_bytes
        self._unwanted_bytes = 0
        self._max_tokens = caps.output_tokens
        self._has_finished = False
        self._has_news = False
        self._timer = asyncio.get_running_loop().call_later(caps.seconds, self.abort, "time")

    def receive(self, batch: UpstreamBatch) -> None:
        """Takes in one read of the upstream."""
        for event in batch.events:
            self.note(event)
        self.check_caps()

    def note(self, event: UpstreamEvent) -> None:
        """Takes in one event of a read; after the last one the caps are to be checked."""
        match event:
            case PartDelta(payload=payload) if payload is not None and not self._has_finished:
                self._unwanted_bytes += payload_size(payload)
            case UsageReported(usage=usage):
                self._usage, self._has_news = usage, True
            case ModelFinished(reason=reason) if reason is not None and not self._has_finished:
                self._finish()
            case UpstreamFailed():
                self.outcome = "failed"
            case _:
                return

    def check_caps(self) -> None:
        """Hangs up if there was too much output. Not amid a read: an upstream's count comes behind its text."""
        if not self._has_finished and self._drained_tokens() > self._max_tokens:
            self.abort("output_tokens")

    def abort(self, outcome: str) -> None:
        """Hangs up. The first reason counts."""
        self.stop_clock()
        if self.over.done():
            return
        self.over.set_result(None)
        self.outcome = "finished" if self._has_finished else outcome
        self._call.abort()

    def stop_clock(self) -> None:
        """It is over."""
        self._timer.cancel()

    def settlement(self) -> Usage | None:
        """The account, as far as it is known. None: no more is known than when the run was stopped."""
        if not self._has_finished:
            return self._usage if self._has_news else None
        usage = with_estimate(self._usage, self._output_bytes + self._unwanted_bytes)
        return None if usage == Usage() else usage

    def _finish(self) -> None:
        self._has_finished, self.outcome = True, "finished"
        if not self.over.done():
            self.stop_clock()
            self._timer = asyncio.get_running_loop().call_later(ACCOUNT_WAIT_SECONDS, self.abort, "finished")

    def _drained_tokens(self) -> int:
        """Since the stop: as the upstream counts, if it does, else estimated."""
        if self._has_news and self._usage is not None and self._usage.output is not None:
            return self._usage.output.value - _output_tokens(self._usage_before)
        return _output_tokens(with_estimate(None, self._unwanted_bytes))


def _output_tokens(usage: Usage) -> int:
    return usage.output.value if usage.output is not None else 0


class Drainer:
    """All drains of this process. Nothing of a drain is waited for but by `close`."""

    def __init__(self, store: RunStore, guard: StoreGuard, tasks: TaskKeeper, max_drains: int) -> None:
        self._store = store
        self._guard = guard
        self._tasks = tasks
        self._max_drains = max_drains
        self._drains: dict[Drain, asyncio.Task[None] | None] = {}
        self._is_closed = False

    def take(self, call: UpstreamCall, usage: Usage | None, output_bytes: int) -> Drain | None:
        """A drain of the call, which must then be adopted. None: it is to be aborted."""
        if self._is_closed or len(self._drains) >= self._max_drains or (caps := call.drain()) is None:
            return None
        drain = Drain(call, caps, usage, output_bytes)
        self._drains[drain] = None
        return drain

    def adopt(self, drain: Drain, pump: asyncio.Task[None], key: RunKey, ended: asyncio.Future[Run | None]) -> bool:
        """Sees to the end of a drain: of its pump, and of the run. False: the process leaves, the pump is not taken."""
        if self._is_closed:
            self._drains.pop(drain, None)
            drain.abort("shutdown")
            return False
        self._drains[drain] = pump
        pump.add_done_callback(lambda _: self._drains.pop(drain, None))
        self._tasks.spawn(self._see_to_end(drain, pump, key, ended), f"drain {key.run_id}")
        return True

    async def close(self) -> None:
        """Aborts all drains and takes none any more. Returns when their connections are closed."""
        self._is_closed = True
        pumps = {pump for pump in self._drains.values() if pump is not None}
        for drain in tuple(self._drains):
            drain.abort("shutdown")
        if pumps:
            await asyncio.gather(*(end_task(pump, GRACE_SECONDS) for pump in pumps))

    async def _see_to_end(
        self, drain: Drain, pump: asyncio.Task[None], key: RunKey, ended: asyncio.Future[Run | None]
    ) -> None:
        try:
            await asyncio.wait({ended})
            is_sealed = ended.result() is not None
            del ended  # the run's message is not kept for as long as the upstream talks
            if not is_sealed:
                drain.abort("lost")
            await asyncio.wait({pump, drain.over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_task(pump, GRACE_SECONDS if drain.over.done() else 0.0)
            drain.stop_clock()
        _note_failure(drain, pump)
        settlement = drain.settlement() if is_sealed and drain.outcome != "shutdown" else None
        if settlement is not None:
            account = encode_usage(settlement)
            await self._guard.insist(lambda: self._store.settle(key, account))
        output = settlement.output if settlement else None
        _log.info(
            "run.settled" if settlement else "run.unsettled",
            run_id=key.run_id,
            tenant=key.tenant,
            outcome=drain.outcome,
            output_tokens=output.value if output else None,
        )


def _note_failure(drain: Drain, pump: asyncio.Task[None]) -> None:
    error = None if not pump.done() or pump.cancelled() else pump.exception()
    if error is None:
        return
    if drain.outcome == "ended":
        drain.outcome = "failed"
    if not isinstance(error, RunFailure):
        _log.error("run.drain_broken", exc_info=error)
