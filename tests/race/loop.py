"""An event loop that does the same each time: its clock moves when nothing is ready, a seed chooses what runs next.

Tasks and futures hash by number, not by address, so that the sets which the engine and asyncio keep are iterated in the
same order each time.
"""

import asyncio
import contextvars
import heapq
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

PROCESS: contextvars.ContextVar[str] = contextvars.ContextVar("process", default="")
"""Whose work a handle is. Empty: nobody's, as that of the network."""


class Stuck(AssertionError):
    """Nothing can happen any more, or it never stops happening."""


class _Future(asyncio.Future[Any]):
    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[Any]):
    def __init__(self, number: int, work: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        self.process: str = (options["context"] or contextvars.copy_context()).get(PROCESS, "")
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self._number


class RaceLoop(asyncio.AbstractEventLoop):
    """Runs handles until a condition holds.

    Args:
        random: chooses what runs next.
        disorder: how often (0 to 1) it is not what has waited longest. Tasks keep their own order all the same.
        start: what the clock shows.
    """

    def __init__(self, random: Random, disorder: float, start: float) -> None:
        self.steps = 0
        """How many handles have run."""
        self.complaints: list[str] = []
        """What asyncio would have logged, and generators that nobody closed."""
        self._random = random
        self._disorder = disorder
        self._now = start
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = 0
        self._stopped: set[str] = set()
        self._held: list[asyncio.Handle] = []

    # --- what asyncio asks of a loop ------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self._number(), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is skipped when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(self._number(), self)

    def create_task(  # type: ignore[override]
        self, work: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        return _Task(self._number(), work, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    # --- running --------------------------------------------------------------------------------------------------

    def run(self, over: Callable[[], bool], max_steps: int) -> None:
        """Runs handles one after the other until it is over, however long that takes on the clock.

        Raises:
            Stuck: nothing is left to run, or it was not over after so many handles.
        """
        with self.running():
            while not over():
                if self.steps >= max_steps:
                    raise Stuck(f"not over after {max_steps} steps")
                if not self._ready and not self._go_on():
                    raise Stuck(f"waiting for ever: {sorted(task.get_name() for task in self.tasks())}")
                handle = self._ready.pop(self._choose())
                if self._stopped and self.process_of(handle) in self._stopped:
                    self._held.append(handle)
                elif not handle.cancelled():
                    self.steps += 1
                    handle._run()

    def stop_process(self, process: str) -> None:
        """SIGSTOP: its work waits, and so do its timers. SIGKILL, if it is never woken."""
        self._stopped.add(process)

    def wake_process(self, process: str) -> None:
        """SIGCONT."""
        self._stopped.discard(process)
        self._ready.extend(self._held)
        self._held.clear()

    def is_stopped(self, process: str) -> bool:
        """Whether it does nothing now."""
        return process in self._stopped

    @staticmethod
    def process_of(handle: asyncio.Handle) -> str:
        """Whose it is."""
        context: contextvars.Context = handle._context  # type: ignore[attr-defined]  # what it is run in, and no more
        return context.get(PROCESS, "")

    def dismantle(self) -> None:
        """Cancels every task until none is left."""
        self.run_out()
        while tasks := self.tasks():
            for task in sorted(tasks, key=hash):
                task.cancel()
            self.run_out()
            if self.tasks():
                self._go_on()

    def run_out(self) -> None:
        """Runs what is ready, without letting time go by."""
        self.run(lambda: not self._ready, self.steps + 10_000)

    def tasks(self) -> set[asyncio.Task[Any]]:
        """All that have not ended."""
        return asyncio.all_tasks(self)

    def processes_of(self, tasks: Iterable[asyncio.Task[Any]]) -> dict[asyncio.Task[Any], str]:
        """Whose they are."""
        return {task: task.process for task in tasks if isinstance(task, _Task)}

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        """All that have not been cancelled."""
        return [timer for _, _, timer in sorted(self._timers) if not timer.cancelled()]

    @contextmanager
    def running(self) -> Iterator[None]:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._complain_of_generator)
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _complain_of_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        self.complaints.append(f"an async generator was left open: {generator!r}")

    def _choose(self) -> int:
        if len(self._ready) > 1 and self._disorder and self._random.random() < self._disorder:
            return self._random.randrange(len(self._ready))
        return 0

    def _go_on(self) -> bool:
        """Moves the clock to the next timer, and makes all of that instant ready."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            return False
        self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled():
                self._ready.append(timer)
        return True

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers


def new_loop(random: Random, disorder: float, start: float) -> RaceLoop:
    """A loop without what the engine does not ask of one: sockets, signals, threads."""
    return RaceLoop(random, disorder, start)  # type: ignore[abstract]
