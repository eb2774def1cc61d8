"""Everything that the client raises, as one tree.

There is a class for each `ErrorInfo.reason` of Midstream, named like it: MODEL_NOT_FOUND raises ModelNotFound. A
reason that this version does not know raises the base class, with that reason. `RunFailed` and what is below it are
outcomes of a run, not of a call; only `result(raise_for_failure=True)` raises them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import grpc

from midstream.v1 import run_pb2


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of a request (0-based snake case path, `messages[0].parts[1].text`) and what is wrong with it."""

    field: str
    description: str


class MidstreamClientError(Exception):
    """The root.

    Attributes:
        message: For people.
        reason: UPPER_SNAKE, for programs. Empty if neither the server nor the client gave one.
        code: The gRPC status; None if the error arose in the client.
        metadata: What the server added, by fixed keys.
        field_violations: Of an INVALID_ARGUMENT.
        retry_after: Seconds after which the server expects a retry to help, if it said so.
        run_id: The run that was followed. Empty for other calls.
        last_sequence: The last sequence that was received of it.
        partial: What was received of its message; None if that is nothing.
    """

    default_reason: ClassVar[str] = ""
    default_message: ClassVar[str] = "the call failed"

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        code: grpc.StatusCode | None = None,
        metadata: Mapping[str, str] | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.reason = reason or self.default_reason
        self.code = code
        self.metadata = dict(metadata or {})
        self.field_violations = field_violations
        self.retry_after = retry_after
        self.run_id = ""
        self.last_sequence = 0
        self.partial: run_pb2.Message | None = None
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.reason else self.message


# --- The client's own ------------------------------------------------------------------------------------------------


class ConnectionLost(MidstreamClientError):
    """The server cannot be reached, or the connection was lost and could not be had again in time."""

    default_reason = "CONNECTION_LOST"
    default_message = "the connection to the server was lost"


class DeadlineExceeded(MidstreamClientError):
    """The caller's own timeout passed."""

    default_reason = "DEADLINE_EXCEEDED"
    default_message = "the timeout passed"


class StreamGapError(MidstreamClientError):
    """What arrived does not continue what had arrived before. Nothing of it was delivered."""

    default_reason = "STREAM_GAP"
    default_message = "the stream has a gap"


class StreamClosed(MidstreamClientError):
    """The stream, or its client, was closed before the run had ended."""

    default_reason = "STREAM_CLOSED"
    default_message = "the stream is closed"


# --- Admission and reading: the status of a call ---------------------------------------------------------------------


class InvalidRequest(MidstreamClientError):
    """A request that can never succeed; `field_violations` say which fields are wrong."""

    default_reason = "INVALID_REQUEST"
    default_message = "invalid request"


class ModelNotFound(MidstreamClientError):
    """No upstream or alias has this name."""

    default_reason = "MODEL_NOT_FOUND"
    default_message = "no such model"


class RunNotFound(MidstreamClientError):
    """No run has this id."""

    default_reason = "RUN_NOT_FOUND"
    default_message = "no such run"


class RunExpired(MidstreamClientError):
    """The run's content was deleted; its id stays taken for a day (NOT_FOUND to read, FAILED_PRECONDITION to start)."""

    default_reason = "RUN_EXPIRED"
    default_message = "the run has expired, or was deleted"


class RunIdConflict(MidstreamClientError):
    """The id belongs to a run with another request."""

    default_reason = "RUN_ID_CONFLICT"
    default_message = "a run with this id exists and had another request"


class RunLive(MidstreamClientError):
    """The run has not ended."""

    default_reason = "RUN_LIVE"
    default_message = "the run has not ended"


class ConversationBusy(MidstreamClientError):
    """Other runs of the conversation are live."""

    default_reason = "CONVERSATION_BUSY"
    default_message = "the conversation has live runs"


class ContinueUnsupported(MidstreamClientError):
    """The upstream cannot go on with a partial, or not with this one."""

    default_reason = "CONTINUE_UNSUPPORTED"
    default_message = "the model cannot continue this run"


class TooManyRememberedCancels(MidstreamClientError):
    """As many cancels of unknown runs are remembered as may be."""

    default_reason = "TOO_MANY_REMEMBERED_CANCELS"
    default_message = "too many cancels of runs that never started"


class TooManyRuns(MidstreamClientError):
    """The server holds as many live runs as it may."""

    default_reason = "TOO_MANY_RUNS"
    default_message = "too many live runs"


class Draining(MidstreamClientError):
    """The server is going away."""

    default_reason = "DRAINING"
    default_message = "the server is shutting down"


class CursorAhead(MidstreamClientError):
    """`after_sequence` is beyond the end of the run's log."""

    default_reason = "CURSOR_AHEAD"
    default_message = "after_sequence is beyond the end of the log"


class SlowReader(MidstreamClientError):
    """The stream was not read for too long after the run had ended. Following it again works."""

    default_reason = "SLOW_READER"
    default_message = "the stream was not read for too long"


class StoreUnavailable(MidstreamClientError):
    """The server's store cannot be reached or written."""

    default_reason = "STORE_UNAVAILABLE"
    default_message = "the run store is unavailable"


class StoreCorrupt(MidstreamClientError):
    """The server's store is damaged."""

    default_reason = "STORE_CORRUPT"
    default_message = "the store is damaged"


class Internal(MidstreamClientError):
    """A bug of the server."""

    default_reason = "INTERNAL"
    default_message = "internal error"


# --- Run failures: the error of a run --------------------------------------------------------------------------------


class RunFailed(MidstreamClientError):
    """A run ended FAILED. `run` is the whole run, `partial` what it had made."""

    default_message = "the run failed"
    run: run_pb2.Run

    @property
    def retryable(self) -> bool:
        """Whether another run of the same request may succeed."""
        return self.metadata.get("retryable") == "true"


class UpstreamUnavailable(RunFailed):
    """The upstream could not be reached, or broke."""

    default_reason = "UPSTREAM_UNAVAILABLE"


class UpstreamRejected(RunFailed):
    """The upstream blames the request, its key or its content."""

    default_reason = "UPSTREAM_REJECTED"


class UpstreamRateLimited(RunFailed):
    """The upstream limits the rate of requests."""

    default_reason = "UPSTREAM_RATE_LIMITED"


class UpstreamTruncated(RunFailed):
    """The upstream's stream ended without a finish."""

    default_reason = "UPSTREAM_TRUNCATED"


class UpstreamMalformed(RunFailed):
    """The upstream's answer cannot be read."""

    default_reason = "UPSTREAM_MALFORMED"


class FirstTokenTimeout(RunFailed):
    """The upstream sent no output in time."""

    default_reason = "FIRST_TOKEN_TIMEOUT"


class IdleTimeout(RunFailed):
    """The upstream stopped sending output."""

    default_reason = "IDLE_TIMEOUT"


class RunTimeExceeded(RunFailed):
    """The run took longer than the server allows."""

    default_reason = "RUN_TIME_EXCEEDED"


class OutputTooLarge(RunFailed):
    """The output exceeds 3 MiB."""

    default_reason = "OUTPUT_TOO_LARGE"


class QueueTimeout(RunFailed):
    """The conversation did not become free in time."""

    default_reason = "QUEUE_TIMEOUT"


class ServerShutdown(RunFailed):
    """The server shut down before the run ended."""

    default_reason = "SERVER_SHUTDOWN"


class OwnerLost(RunFailed):
    """The process that owned the run died."""

    default_reason = "OWNER_LOST"


class RunStoreUnavailable(RunFailed, StoreUnavailable):
    """The store was away for too long while the run was live."""


class RunInternal(RunFailed, Internal):
    """A bug of the server ended the run."""


def _below(root: type[MidstreamClientError]) -> Iterator[type[MidstreamClientError]]:
    for each in root.__subclasses__():
        yield each
        yield from _below(each)


RUN_FAILURES: Mapping[str, type[RunFailed]] = {
    each.default_reason: each for each in _below(RunFailed) if issubclass(each, RunFailed)
}
"""The class of each failure of a run, by its reason."""

CALL_ERRORS: Mapping[str, type[MidstreamClientError]] = {
    each.default_reason: each
    for each in _below(MidstreamClientError)
    if each.default_reason and not issubclass(each, RunFailed)
}
"""The class of each failure of a call, by its reason."""
