"""The time, as an argument."""

import time
from typing import Protocol

from midstream_server.model import Instant


class Clock(Protocol):
    """Tells the time. Durations are measured with the event loop's own clock, never with this one."""

    def now(self) -> Instant:
        """Nanoseconds since the Unix epoch."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> Instant:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()
