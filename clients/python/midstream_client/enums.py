"""The enums of `midstream.v1`, with the same numbers, so that `run.state == RunState.CANCELLED` reads as it should.

A value that a later server made up becomes UNSPECIFIED.
"""

import enum
from typing import Self


class _OpenEnum(enum.IntEnum):
    # As int has them; written out, because type checkers then allow to compare with the generated numbers.
    def __eq__(self, other: object) -> bool:
        return int.__eq__(self, other)

    def __hash__(self) -> int:
        return int.__hash__(self)

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls(0) if isinstance(value, int) and value != 0 else None


class RunState(_OpenEnum):
    """Where a run is in its life."""

    UNSPECIFIED = 0
    QUEUED = 1
    RUNNING = 2
    STOPPING = 3
    COMPLETED = 4
    CANCELLED = 5
    FAILED = 6

    @property
    def is_ending(self) -> bool:
        """Whether the run is over."""
        return self >= RunState.COMPLETED


class FinishReason(_OpenEnum):
    """Why the model stopped. UNSPECIFIED: it did not."""

    UNSPECIFIED = 0
    STOP = 1
    LENGTH = 2
    TOOL_CALLS = 3
    CONTENT_FILTER = 4
    REFUSAL = 5
    OTHER = 6


class CancelReason(_OpenEnum):
    """Who or what stopped a run. UNSPECIFIED: nobody."""

    UNSPECIFIED = 0
    REQUESTED = 1
    CLIENT_GONE = 2
    DEADLINE = 3
    TIME_LIMIT = 4
    BUDGET = 5
    SUPERSEDED = 6
    PARENT_CANCELLED = 7


class CancelOutcome(_OpenEnum):
    """What became of a cancel."""

    UNSPECIFIED = 0
    STOPPING = 1
    CANCELLED = 2
    ALREADY_FINISHED = 3
    REMEMBERED = 4


class PartState(_OpenEnum):
    """Whether a part of a message is whole."""

    UNSPECIFIED = 0
    OPEN = 1
    COMPLETE = 2
    TRUNCATED = 3
    MALFORMED = 4


class UsageSource(_OpenEnum):
    """Where a number of tokens comes from."""

    UNSPECIFIED = 0
    UPSTREAM_FINAL = 1
    UPSTREAM_RUNNING = 2
    ESTIMATED = 3


class ConversationPolicy(_OpenEnum):
    """What a run does when other runs of its conversation are live. UNSPECIFIED: ALLOW."""

    UNSPECIFIED = 0
    ALLOW = 1
    REJECT = 2
    SUPERSEDE = 3
    QUEUE = 4


class MessageView(_OpenEnum):
    """How a message is shown. UNSPECIFIED: AS_STREAMED."""

    UNSPECIFIED = 0
    AS_STREAMED = 1
    REPLAY = 2


class Role(_OpenEnum):
    """Who speaks."""

    UNSPECIFIED = 0
    SYSTEM = 1
    DEVELOPER = 2
    USER = 3
    ASSISTANT = 4
    TOOL = 5
