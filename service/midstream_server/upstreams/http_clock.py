"""The clocks of a call: how long we wait for an upstream that gives no output."""

import asyncio
from collections.abc import Callable

from midstream_server.errors import FirstTokenTimeout, IdleTimeout, RunFailure


class WaitClock:
    """Counts only time in which somebody waits; output sets it back, keep-alives do not.

    One timer serves a whole stream: it is looked at when it fires, and set again if there was output meanwhile.

    Args:
        first_token_seconds: until the first output.
        idle_seconds: between two outputs.
        on_expired: called once, when the time is over.
    """

    def __init__(self, first_token_seconds: float, idle_seconds: float, on_expired: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_seconds = idle_seconds
        self._on_expired = on_expired
        self._left = first_token_seconds
        self._waiting_since: float | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failure: type[RunFailure] = FirstTokenTimeout
        self.is_expired = False

    def start(self) -> None:
        """Somebody waits."""
        if self._waiting_since is not None:
            return
        self._waiting_since = self._loop.time()
        self._deadline = self._waiting_since + self._left
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._check)

    def pause(self) -> None:
        """Nobody waits."""
        if self._waiting_since is not None:
            self._left -= self._loop.time() - self._waiting_since
            self._waiting_since = None

    def output(self) -> None:
        """There was output."""
        self._left = self._idle_seconds
        self._failure = IdleTimeout

    def stop(self) -> None:
        """It is over."""
        self.pause()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def seconds_left(self) -> float:
        """How long somebody may still wait."""
        waited = 0.0 if self._waiting_since is None else self._loop.time() - self._waiting_since
        return self._left - waited

    def failure(self) -> RunFailure:
        """Why the call failed, once the clock is expired."""
        return self._failure()

    def _check(self) -> None:
        self._timer = None
        if self._waiting_since is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check)
            return
        self.is_expired = True
        self._on_expired()
