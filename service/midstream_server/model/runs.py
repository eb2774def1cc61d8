"""Runs, and the events of their streams."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from midstream_server.model.enums import CancelReason, ConversationPolicy, FinishReason, RunState
from midstream_server.model.messages import Message, MessageDelta, Usage
from midstream_server.model.requests import DetachPolicy, Prompt, RunLimits

Instant = int
"""Nanoseconds since the Unix epoch."""

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True, order=True)
class RunKey:
    """A run's name: unique for its tenant."""

    tenant: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelIntent:
    """That a run is to stop: why, who said so, in which words, when, and for which later run."""

    reason: CancelReason
    requested_by: str = ""
    text: str = ""
    request_time: Instant
    superseded_by_run_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReport:
    """How a run was stopped and what that cost."""

    requested_by: str
    reason: str
    request_time: Instant
    upstream_close_time: Instant | None = None
    discarded_events: int = 0
    discarded_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunError:
    """Why a run failed: a reason of DESIGN §2 and the facts that may be shown."""

    reason: str
    message: str
    retryable: bool
    upstream: str = ""
    http_status: int | None = None
    provider_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One generation: how it stands, and all that it has made so far."""

    run_id: str
    state: RunState
    finish_reason: FinishReason | None = None
    raw_finish_reason: str = ""
    cancel_reason: CancelReason | None = None
    error: RunError | None = None
    message: Message | None = None
    usage: Usage | None = None
    settlement: Usage | None = None
    cancel: CancelReport | None = None
    last_sequence: int = 0
    model: str = ""
    upstream: str = ""
    upstream_model: str = ""
    upstream_request_id: str = ""
    attempts: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    conversation_id: str = ""
    parent_run_id: str = ""
    continued_from: str = ""
    superseded_by_run_id: str = ""
    superseded_run_ids: tuple[str, ...] = ()
    create_time: Instant
    start_time: Instant | None = None
    first_delta_time: Instant | None = None
    end_time: Instant | None = None
    expire_time: Instant | None = None
    provider_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What a caller asked for when it started a run: everything but the fingerprint of the bytes.

    Raises nothing: a spec was validated before it was made.
    """

    run_id: str
    model: str
    prompt: Prompt
    on_detach: DetachPolicy = DetachPolicy()
    limits: RunLimits = RunLimits()
    conversation_id: str = ""
    on_conflict: ConversationPolicy = ConversationPolicy.ALLOW
    continue_from: str = ""
    parent_run_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    retention_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that callers can name, or an alias for a route of models."""

    name: str
    upstream: str = ""
    dialect: str = ""
    route: tuple[str, ...] = ()
    supports_continue: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """Sequence 1 of every run."""

    run_id: str
    model: str = ""
    on_detach: DetachPolicy | None = None
    limits: RunLimits | None = None
    retention_seconds: float | None = None
    conversation_id: str = ""
    on_conflict: ConversationPolicy | None = None
    create_time: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The last entry of every run."""

    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSnapshot:
    """All so far, in place of the entries that it covers."""

    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """News of a live run that is not in its log."""

    state: RunState
    cancel_reason: CancelReason | None = None
    usage: Usage | None = None


LogEntry = RunStarted | MessageDelta | RunFinished
EventPayload = RunStarted | MessageDelta | RunFinished | RunSnapshot | RunProgress
