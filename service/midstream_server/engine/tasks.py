"""The owner of the engine's tasks."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from midstream_server.errors import Draining

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class TaskKeeper:
    """Keeps every task of the engine by name. One that fails is logged, and harms no other."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancels what is left, and waits for it; nothing begins any more. An error of the body stays as it is."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs work for its effect; not any more once this is closed."""
        self._spawn(work, name, lambda: None)

    def spawn_for(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Future[T]:
        """Runs work for its result. Cancelling whoever waits for the result (behind a shield) does not end the work.

        The result is `Draining` if this is closed before the work is done.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        result.add_done_callback(lambda done: done.cancelled() or done.exception())

        def give_up() -> None:
            # A stream that waits for this must hear a status: ended by a cancel, its client would hang.
            work.close()
            if not result.done():
                result.set_exception(Draining())

        self._spawn(self._deliver(work, result), name, give_up)
        return result

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, on_end: Callable[[], None]) -> None:
        def end(_task: object = None) -> None:
            work.close()  # it may never have begun
            on_end()

        if self._is_closed:
            end()
            return
        task = self._group.create_task(self._guarded(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(end)

    @staticmethod
    async def _deliver(work: Coroutine[Any, Any, T], result: asyncio.Future[T]) -> None:
        try:
            outcome = await work
        except Exception as error:
            result.set_exception(error)
        else:
            result.set_result(outcome)

    @staticmethod
    async def _guarded(work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception:
            _log.exception("task.broken", task=name)
