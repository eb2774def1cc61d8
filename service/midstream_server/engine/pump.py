"""Reads one call to its end, for whoever listens: the run, and after a stop perhaps the drain."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog

from midstream_server.upstreams.base import UpstreamBatch, UpstreamCall

GRACE_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Pump:
    """The work of one task. It holds on to no run: only to the call, and to who listens now.

    Args:
        call: what is read.
        listen: told of every batch; what it returns is awaited before the next is read.
    """

    def __init__(self, call: UpstreamCall, listen: Callable[[UpstreamBatch], Awaitable[None] | None]) -> None:
        self.listen = listen
        self._call = call

    async def run(self) -> None:
        """Reads to the end, and leaves nothing open. Raises what the call raises."""
        async with self._call as call:
            batches = call.batches()
            try:
                async for batch in batches:
                    if (wait := self.listen(batch)) is not None:
                        await wait
            finally:
                if isinstance(batches, AsyncGenerator):
                    await batches.aclose()


async def end_task(task: asyncio.Task[None], grace_seconds: float = 0.0) -> None:
    """Waits for a task whose work is over; cancels it, if it does not notice in the grace."""
    if not task.done() and grace_seconds:
        await asyncio.wait({task}, timeout=grace_seconds)
    if task.done():
        return
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE_SECONDS)
    if not task.done():
        _log.error("run.task_stuck", task=task.get_name())
