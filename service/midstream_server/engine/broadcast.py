"""A wake-up for everybody who waits now."""

import asyncio


class Broadcast:
    """Level-less signal: `fire` wakes the tasks that are waiting at that moment. Check the condition before waiting."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def fire(self) -> None:
        """Wakes all who wait."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Returns at the next `fire`. A cancel leaves nothing behind."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
