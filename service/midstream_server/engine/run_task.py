"""The life of one run: a pump reads the upstream, this task keeps the books and seals.

The pump is a child task. Whoever decides the ending closes the upstream; the pump then ends by itself, and is cancelled
only if it has not done so a second later. If the answer is to be drained instead, the drainer takes the pump, and the
run is sealed without it. The bookkeeper itself is never cancelled and never raises.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import structlog

from midstream_server.clock import Clock
from midstream_server.codec import encode_event, encode_run
from midstream_server.engine.conversation import Turn
from midstream_server.engine.drainer import Drainer
from midstream_server.engine.live_run import LiveRun
from midstream_server.engine.log_writer import LogWriter
from midstream_server.engine.pump import GRACE_SECONDS, Pump, end_task
from midstream_server.engine.restorer import Restorer
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.errors import QueueTimeout, RunFailure, RunInternalError, RunTimeExceeded
from midstream_server.model import CancelReason, Run, RunFinished
from midstream_server.stores.base import RunStore, Seal, frame
from midstream_server.upstreams.base import UpstreamBatch

USAGE_WAIT_SECONDS = 1.0
END_WAIT_SECONDS = 0.05

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunServices:
    """What every run task works with."""

    store: RunStore
    guard: StoreGuard
    writer: LogWriter
    restorer: Restorer
    drainer: Drainer
    clock: Clock
    max_run_seconds: float
    queue_seconds: float


class RunTask:
    """Drives one run from its creation to its seal."""

    def __init__(self, run: LiveRun, services: RunServices, turn: Turn | None) -> None:
        self._run = run
        self._services = services
        self._turn = turn
        self._pump = Pump(run.call, self._listen)
        run.take_drain = services.drainer.take
        self._timers: list[asyncio.TimerHandle] = []
        self._end_waits = 0

    async def drive(self) -> None:
        """Generates, then seals. Raises nothing."""
        run = self._run
        try:
            await self._generate()
            run.end_of_stream()
        except Exception:
            _log.exception("run.broken", run_id=run.key.run_id, tenant=run.key.tenant)
            run.fail(RunInternalError())
        finally:
            for timer in self._timers:
                timer.cancel()
        try:
            await self._finish()
        except Exception:
            _log.exception("run.unsealed", run_id=run.key.run_id, tenant=run.key.tenant)
            run.lose()

    async def _generate(self) -> None:
        run = self._run
        if self._turn is not None:
            await self._queue(self._turn)
        if run.verdict.is_decided:
            return
        self._arm(self._services.max_run_seconds, lambda: run.fail(RunTimeExceeded()))
        total = run.spec.limits.total_seconds
        if total is not None:
            self._arm(total, lambda: run.stop_by_rule(CancelReason.TIME_LIMIT, "limits.total"))
        await self._until_decided(self._pump.run(), "pump", GRACE_SECONDS)

    async def _queue(self, turn: Turn) -> None:
        """Waits for the earlier runs of the conversation; leaves the queue if the ending is not decided meanwhile."""
        run, services = self._run, self._services
        seconds = run.spec.limits.queue_seconds
        limit = self._arm(services.queue_seconds if seconds is None else seconds, lambda: run.fail(QueueTimeout()))
        await self._until_decided(turn.wait(), "turn")
        limit.cancel()
        if run.verdict.is_decided:
            return
        now = services.clock.now()
        if not await services.guard.insist(lambda: services.store.set_running(run.key, run.epoch, now)):
            run.lose()
        elif not run.verdict.is_decided:
            run.leave_queue(now)

    async def _until_decided(self, work: Coroutine[Any, Any, None], name: str, grace_seconds: float = 0.0) -> None:
        """Runs work in a task of its own until it is done, or the ending is decided and the grace over."""
        task = asyncio.create_task(work, name=f"{name} {self._run.key.run_id}")
        # Whoever should judge its error, here or in a drain, may itself be cancelled before it does.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        is_ours = True
        try:
            await asyncio.wait({task, self._run.decided}, return_when=asyncio.FIRST_COMPLETED)
            is_ours = not self._hand_over(task)
            if is_ours and grace_seconds and not task.done():
                await asyncio.wait({task}, timeout=grace_seconds)
        finally:
            if is_ours:
                await end_task(task)
        if is_ours and task.done() and not task.cancelled():
            self._judge(task.exception())

    def _hand_over(self, pump: asyncio.Task[None]) -> bool:
        """Whether somebody else sees to the end of the pump."""
        run, drainer = self._run, self._services.drainer
        if run.drain is None or not drainer.adopt(run.drain, pump, run.key, run.ended):
            return False
        self._pump.listen = run.drain.receive
        return True

    def _judge(self, error: BaseException | None) -> None:
        if isinstance(error, RunFailure):
            self._run.fail(error)
        elif error is not None and not self._run.verdict.is_decided:
            raise error

    def _listen(self, batch: UpstreamBatch) -> Awaitable[None] | None:
        """Takes in one read of the upstream; what to wait for before the next."""
        run, writer = self._run, self._services.writer
        run.receive(batch)
        if run.verdict.awaits_usage:
            self._await_end()
        return writer.wait_for_room(run) if writer.is_congested(run) else None

    def _await_end(self) -> None:
        """After the finish marker the upstream has a moment for its account, and then one to end the stream.

        The second is not for us: a stream that was read to its end leaves a connection that can be used again.
        """
        waits = [USAGE_WAIT_SECONDS, END_WAIT_SECONDS][: 2 if self._run.has_account else 1]
        for seconds in waits[self._end_waits :]:
            self._arm(seconds, self._run.end_of_stream)
        self._end_waits = max(self._end_waits, len(waits))

    def _arm(self, seconds: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        timer = asyncio.get_running_loop().call_later(seconds, action)
        self._timers.append(timer)
        return timer

    # --- sealing ------------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        run, writer = self._run, self._services.writer
        if run.is_lost:
            return
        run.on_output(run, run.output.flush_held())
        await writer.flushed(run)
        if run.is_lost:
            return
        final = run.final(self._services.clock.now())
        entry = encode_event(final.last_sequence, RunFinished(run=final))
        command = _seal_command(run, final, entry)
        result = await self._services.restorer.seal(run, command)
        if run.is_lost:
            return
        if not result.accepted:
            _log.warning("run.lost", run_id=run.key.run_id, tenant=run.key.tenant)
            run.lose()
            return
        run.output.log.publish([entry], complete=True)
        run.ended.set_result(final)
        _log.info("run.finished", **_edge(run, final))


def _seal_command(run: LiveRun, final: Run, entry: bytes) -> Seal:
    assert final.end_time is not None, "a final run has its times"
    assert final.expire_time is not None, "a final run has its times"
    return Seal(
        key=run.key,
        epoch=run.epoch,
        expected_last_sequence=final.last_sequence - 1,
        last_sequence=final.last_sequence,
        entries=frame([entry]),
        state=final.state,
        intent=run.verdict.intent,
        end_time=final.end_time,
        start_time=final.start_time,
        expire_time=final.expire_time,
        summary=encode_run(replace(final, message=None)),
    )


def _edge(run: LiveRun, final: Run) -> dict[str, object]:
    """The facts of the log line; no text of the run is among them."""
    output = final.usage.output if final.usage else None
    return {
        "run_id": final.run_id,
        "tenant": run.key.tenant,
        "model": final.model,
        "upstream": final.upstream,
        "state": final.state.name,
        "finish_reason": final.finish_reason.name if final.finish_reason else None,
        "cancel_reason": final.cancel_reason.name if final.cancel_reason else None,
        "error": final.error.reason if final.error else None,
        "output_tokens": output.value if output else None,
        "attempts": final.attempts,
    }
