"""The closed vocabularies. Values are the numbers of `midstream.v1`: encoding is an assignment."""

import enum


class RunState(enum.IntEnum):
    """Where a run is in its life."""

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


class FinishReason(enum.IntEnum):
    """Why the model stopped."""

    STOP = 1
    LENGTH = 2
    TOOL_CALLS = 3
    CONTENT_FILTER = 4
    REFUSAL = 5
    OTHER = 6


class CancelReason(enum.IntEnum):
    """Who or what stopped a run."""

    REQUESTED = 1
    CLIENT_GONE = 2
    DEADLINE = 3
    TIME_LIMIT = 4
    BUDGET = 5
    SUPERSEDED = 6
    PARENT_CANCELLED = 7


class CancelOutcome(enum.IntEnum):
    """What became of a Cancel."""

    STOPPING = 1
    CANCELLED = 2
    ALREADY_FINISHED = 3
    REMEMBERED = 4


class PartState(enum.IntEnum):
    """Whether a part is whole."""

    OPEN = 1
    COMPLETE = 2
    TRUNCATED = 3
    MALFORMED = 4


class UsageSource(enum.IntEnum):
    """Where a count comes from."""

    UPSTREAM_FINAL = 1
    UPSTREAM_RUNNING = 2
    ESTIMATED = 3


class ConversationPolicy(enum.IntEnum):
    """What a run does when others of its conversation are live."""

    ALLOW = 1
    REJECT = 2
    SUPERSEDE = 3
    QUEUE = 4


class DetachAction(enum.IntEnum):
    """What happens when nobody follows a run any more."""

    CANCEL = 1
    CONTINUE = 2
    GRACE = 3


class Role(enum.IntEnum):
    """Who speaks."""

    SYSTEM = 1
    DEVELOPER = 2
    USER = 3
    ASSISTANT = 4
    TOOL = 5


class ToolChoiceMode(enum.IntEnum):
    """Whether the model must call a tool."""

    AUTO = 1
    NONE = 2
    REQUIRED = 3
    TOOL = 4


class ReasoningEffort(enum.IntEnum):
    """How hard the model thinks."""

    NONE = 1
    MINIMAL = 2
    LOW = 3
    MEDIUM = 4
    HIGH = 5


class MessageView(enum.IntEnum):
    """How a message is shown."""

    AS_STREAMED = 1
    REPLAY = 2
