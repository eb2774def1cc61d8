"""Everything that can go wrong, as one tree.

Each class has a constant `reason` (the `ErrorInfo.reason` that callers branch on), a canonical status `code` (a number
of google.rpc.Code), a message fit for callers, and `retryable`. `rpc.status` turns what escapes a method into a gRPC
status; a `RunFailure` becomes the error of a run.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from midstream_server.model import RunError

DOMAIN = "midstream.v1"


class Code(enum.IntEnum):
    """The canonical status codes that Midstream uses (google.rpc.Code)."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class MidstreamError(Exception):
    """The root. `metadata` goes into `ErrorInfo.metadata`; `retry_after_seconds` into `RetryInfo`."""

    reason: ClassVar[str] = "INTERNAL"
    code: ClassVar[Code] = Code.INTERNAL
    retryable: ClassVar[bool] = False
    default_message: ClassVar[str] = "internal error"

    def __init__(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)


# --- Admission and reading: the status of an RPC ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of a request (0-based snake case path) and what is wrong with it."""

    field: str
    description: str


class InvalidRequest(MidstreamError):
    """A request that can never succeed; says which fields are wrong."""

    reason = "INVALID_REQUEST"
    code = Code.INVALID_ARGUMENT
    default_message = "invalid request"

    def __init__(self, *violations: FieldViolation) -> None:
        self.violations = violations
        super().__init__("; ".join(f"{each.field}: {each.description}".removeprefix(": ") for each in violations))


class ModelNotFound(MidstreamError):
    """No upstream or alias has this name."""

    reason = "MODEL_NOT_FOUND"
    code = Code.NOT_FOUND
    default_message = "no such model"


class RunNotFound(MidstreamError):
    """No run of this tenant has this id."""

    reason = "RUN_NOT_FOUND"
    code = Code.NOT_FOUND
    default_message = "no such run"


class RunExpired(MidstreamError):
    """The run's content was deleted; read."""

    reason = "RUN_EXPIRED"
    code = Code.NOT_FOUND
    default_message = "the run has expired, or was deleted"


class RunIdExpired(MidstreamError):
    """The id belonged to a run whose content was deleted; start."""

    reason = "RUN_EXPIRED"
    code = Code.FAILED_PRECONDITION
    default_message = "the run with this id has expired, or was deleted; use another run_id"


class RunIdConflict(MidstreamError):
    """The id belongs to a run with another request."""

    reason = "RUN_ID_CONFLICT"
    code = Code.ALREADY_EXISTS
    default_message = "a run with this id exists and had another request"


class RunLive(MidstreamError):
    """The run has not ended."""

    reason = "RUN_LIVE"
    code = Code.FAILED_PRECONDITION
    default_message = "the run has not ended; cancel it first"


class ConversationBusy(MidstreamError):
    """Other runs of the conversation are live."""

    reason = "CONVERSATION_BUSY"
    code = Code.FAILED_PRECONDITION
    default_message = "the conversation has live runs"


class ContinueUnsupported(MidstreamError):
    """The upstream cannot go on with a partial, or not with this one."""

    reason = "CONTINUE_UNSUPPORTED"
    code = Code.FAILED_PRECONDITION
    default_message = "the model cannot continue this run"


class TooManyRememberedCancels(MidstreamError):
    """The tenant has as many cancels of unknown runs as may be remembered."""

    reason = "TOO_MANY_REMEMBERED_CANCELS"
    code = Code.RESOURCE_EXHAUSTED
    retryable = True
    default_message = "too many cancels of runs that never started"


class TooManyRuns(MidstreamError):
    """The process holds as many live runs as it may."""

    reason = "TOO_MANY_RUNS"
    code = Code.RESOURCE_EXHAUSTED
    retryable = True
    default_message = "too many live runs"


class Draining(MidstreamError):
    """This process is going away."""

    reason = "DRAINING"
    code = Code.UNAVAILABLE
    retryable = True
    default_message = "the server is shutting down"


class CursorAhead(MidstreamError):
    """The reader has seen more than the log holds."""

    reason = "CURSOR_AHEAD"
    code = Code.OUT_OF_RANGE
    default_message = "after_sequence is beyond the end of the log"


class SlowReader(MidstreamError):
    """The reader did not read for too long after the run had ended."""

    reason = "SLOW_READER"
    code = Code.ABORTED
    retryable = True
    default_message = "the stream was not read for too long after the run had ended"


class StoreUnavailable(MidstreamError):
    """The store cannot be reached or written."""

    reason = "STORE_UNAVAILABLE"
    code = Code.UNAVAILABLE
    retryable = True
    default_message = "the run store is unavailable"


class StoreLocked(MidstreamError):
    """Another process owns the store's file."""

    reason = "STORE_LOCKED"
    code = Code.FAILED_PRECONDITION
    default_message = "another process uses this store"


class StoreCorrupt(MidstreamError):
    """The store's file is damaged, or was made by a later version."""

    reason = "STORE_CORRUPT"
    code = Code.INTERNAL
    default_message = "the store is damaged"


class InvalidSettings(MidstreamError):
    """The configuration cannot work; says which setting is wrong."""

    reason = "INVALID_SETTINGS"
    code = Code.FAILED_PRECONDITION
    default_message = "invalid settings"


# --- Run failures: the error of a run --------------------------------------------------------------------------------


class RunFailure(MidstreamError):
    """Why a run failed. `message` holds at most 1 KiB of the provider's own words, secrets removed."""

    def __init__(
        self,
        message: str = "",
        *,
        upstream: str = "",
        http_status: int | None = None,
        provider_code: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        self.upstream = upstream
        self.http_status = http_status
        self.provider_code = provider_code
        super().__init__(message, retry_after_seconds=retry_after_seconds)

    def to_run_error(self) -> RunError:
        """The failure as a value."""
        return RunError(
            reason=self.reason,
            message=self.message,
            retryable=self.retryable,
            upstream=self.upstream,
            http_status=self.http_status,
            provider_code=self.provider_code,
        )


class UpstreamUnavailable(RunFailure):
    """408, 5xx, 529, a connection failure, or an error frame that blames nobody else."""

    reason = "UPSTREAM_UNAVAILABLE"
    code = Code.UNAVAILABLE
    retryable = True
    default_message = "the upstream is unavailable"


class UpstreamRejected(RunFailure):
    """The upstream blames the request, its key or its content."""

    reason = "UPSTREAM_REJECTED"
    code = Code.FAILED_PRECONDITION
    default_message = "the upstream rejected the request"


class UpstreamRateLimited(RunFailure):
    """429, or a rate limit by another name."""

    reason = "UPSTREAM_RATE_LIMITED"
    code = Code.RESOURCE_EXHAUSTED
    retryable = True
    default_message = "the upstream limits the rate of requests"


class UpstreamTruncated(RunFailure):
    """The stream ended without a finish."""

    reason = "UPSTREAM_TRUNCATED"
    code = Code.UNAVAILABLE
    retryable = True
    default_message = "the upstream's stream ended before the model finished"


class UpstreamMalformed(RunFailure):
    """The upstream sent what its dialect does not allow."""

    reason = "UPSTREAM_MALFORMED"
    code = Code.INTERNAL
    default_message = "the upstream's answer cannot be read"


class FirstTokenTimeout(RunFailure):
    """No output in time."""

    reason = "FIRST_TOKEN_TIMEOUT"
    code = Code.DEADLINE_EXCEEDED
    retryable = True
    default_message = "the upstream sent no output in time"


class IdleTimeout(RunFailure):
    """Output stopped for too long."""

    reason = "IDLE_TIMEOUT"
    code = Code.DEADLINE_EXCEEDED
    retryable = True
    default_message = "the upstream stopped sending output"


class RunTimeExceeded(RunFailure):
    """The operator's cap on a run's time."""

    reason = "RUN_TIME_EXCEEDED"
    code = Code.DEADLINE_EXCEEDED
    default_message = "the run took longer than the server allows"


class OutputTooLarge(RunFailure):
    """More output than a Run can hold."""

    reason = "OUTPUT_TOO_LARGE"
    code = Code.RESOURCE_EXHAUSTED
    default_message = "the run's output exceeds 3 MiB"


class QueueTimeout(RunFailure):
    """The conversation did not become free in time."""

    reason = "QUEUE_TIMEOUT"
    code = Code.DEADLINE_EXCEEDED
    retryable = True
    default_message = "the run waited too long for its conversation"


class ServerShutdown(RunFailure):
    """The server went away on purpose."""

    reason = "SERVER_SHUTDOWN"
    code = Code.UNAVAILABLE
    retryable = True
    default_message = "the server shut down before the run ended"


class OwnerLost(RunFailure):
    """The process that owned the run died."""

    reason = "OWNER_LOST"
    code = Code.UNAVAILABLE
    retryable = True
    default_message = "the process that owned the run was lost"


class RunStoreUnavailable(RunFailure):
    """The store was away for too long while the run was live."""

    reason = "STORE_UNAVAILABLE"
    code = Code.UNAVAILABLE
    retryable = True
    default_message = "the run store was unavailable for too long"


class RunInternalError(RunFailure):
    """A bug of ours."""

    reason = "INTERNAL"
    code = Code.INTERNAL
    default_message = "internal error"


RUN_FAILURES: Mapping[str, type[RunFailure]] = {each.reason: each for each in RunFailure.__subclasses__()}
"""Every failure by its reason."""
