"""The store's health as the engine sees it, and insisting on what must be written."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from midstream_server.engine.broadcast import Broadcast
from midstream_server.errors import StoreUnavailable

RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0
STALL_SECONDS = 2.0

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class StoreGuard:
    """Repeats what must be written until the store takes it, and knows since when it does not.

    The store is away from the first refusal, or from an answer that does not come, until nothing waits for a repeat.
    """

    def __init__(self) -> None:
        self.out_since: float | None = None
        """Since when the store does not take what it is given, on the loop's clock."""
        self.on_change: Callable[[bool], None] = lambda is_available: None
        """Told when the store goes away (False) and comes back (True)."""
        self.went_away = asyncio.Event()
        self._asked: dict[object, float] = {}
        self._refused: set[object] = set()
        self._answered = Broadcast()

    async def ask(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The result of an operation that is tried once."""
        return await self._ask(operation, object())

    async def insist(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The result of an operation that may be repeated as it is. A cancel ends the insisting."""
        token, pause = object(), RETRY_SECONDS
        try:
            while True:
                try:
                    return await self._ask(operation, token)
                except StoreUnavailable:
                    self._refused.add(token)
                    await self._wait_for_retry(pause)
                    pause = min(2 * pause, LONGEST_RETRY_SECONDS)
        finally:
            self._refused.discard(token)

    def check(self, now: float) -> None:
        """Notices a store that does not even refuse. Called every second."""
        if any(now - asked_at > STALL_SECONDS for asked_at in self._asked.values()):
            self._note_outage(StoreUnavailable("the run store does not answer"))

    async def _ask(self, operation: Callable[[], Awaitable[T]], token: object) -> T:
        self._asked[token] = asyncio.get_running_loop().time()
        try:
            result = await operation()
        except StoreUnavailable as error:
            self._note_outage(error)
            raise
        finally:
            del self._asked[token]
        self._refused.discard(token)
        self._note_answer()
        return result

    async def _wait_for_retry(self, seconds: float) -> None:
        # However many wait: the store is asked again by a few, and by all once it has answered one of them.
        await asyncio.sleep(RETRY_SECONDS)
        try:
            async with asyncio.timeout(seconds - RETRY_SECONDS):
                await self._answered.wait()
        except TimeoutError:
            return

    def _note_outage(self, error: StoreUnavailable) -> None:
        if self.out_since is None:
            self.out_since = asyncio.get_running_loop().time()
            self.went_away.set()
            _log.error("store.unavailable", error=error.message)
            self.on_change(False)

    def _note_answer(self) -> None:
        if self.out_since is None:
            return
        self._answered.fire()
        if not self._refused:
            seconds = asyncio.get_running_loop().time() - self.out_since
            self.out_since = None
            self.went_away.clear()
            _log.info("store.recovered", seconds=round(seconds, 3))
            self.on_change(True)
