"""The values of the domain: messages, deltas, usage, runs and their policies.

Everything here is immutable and knows neither the wire nor the store. Instants are integers, nanoseconds since the Unix
epoch; durations are floats, in seconds. Enum values are the numbers of `midstream.v1`: encoding is an assignment.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Instant = int
"""Nanoseconds since the Unix epoch."""

DEFAULT_TENANT = "default"

_Value = TypeVar("_Value")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def token_value(kind: type[_Value]) -> type[_Value]:
    """A dataclass of which every token makes one: frozen for the type checker only, which makes it 3 times as cheap."""
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(kind)


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


# --- Messages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderState:
    """Opaque state that a provider wants to see again with the part it came with."""

    dialect: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A citation. Offsets are UTF-8 bytes of the part's text."""

    type: str
    url: str = ""
    title: str = ""
    cited_text: str = ""
    start_offset: int | None = None
    end_offset: int | None = None
    raw_json: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """The log probability (natural logarithm) of one output token."""

    token: str
    logprob: float
    token_bytes: bytes = b""
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Plain text."""

    text: str
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes, or where they are: exactly one of `data`, `url` and `file_id`."""

    mime_type: str = ""
    data: bytes = b""
    url: str = ""
    file_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """The model's thinking. Empty where the provider gives only encrypted state."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model asks for a tool. `arguments` is JSON text as the provider sent it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What a tool returned: text and blobs."""

    tool_call_id: str
    parts: tuple["Part", ...] = ()
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The model declines, in words."""

    text: str


PartContent = Text | Blob | Reasoning | ToolCall | ToolResult | Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of a message."""

    content: PartContent
    state: PartState = PartState.COMPLETE
    provider_state: ProviderState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    parts: tuple[Part, ...]


# --- Deltas ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Appends to a text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Appends to a reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """Appends to a refusal."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """Opens a tool call or appends to its arguments. A non-empty id or name replaces."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobDelta:
    """Appends to a blob's data. Non-empty strings replace."""

    mime_type: str = ""
    data: bytes = b""
    url: str = ""
    file_id: str = ""


DeltaPayload = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | BlobDelta


@token_value
class MessageDelta:
    """One entry of a run's log between its start and its end.

    `offset` counts the UTF-8 bytes of the part's own payload before this delta (of a tool call: of its arguments; of a
    blob: of its data). `part_end` is the state in which the delta leaves the part, if it closes it.
    """

    part_index: int
    offset: int
    payload: DeltaPayload | None = None
    part_end: PartState | None = None
    provider_state: ProviderState | None = None
    annotations: tuple[Annotation, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


# --- Usage ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Tokens, and where the number comes from."""

    value: int
    source: UsageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run used. Input includes cached, output includes reasoning. None is unknown, not 0."""

    input: TokenCount | None = None
    cached_input: TokenCount | None = None
    cache_write_input: TokenCount | None = None
    output: TokenCount | None = None
    reasoning: TokenCount | None = None
    other: Mapping[str, TokenCount] = field(default_factory=dict)


# --- Requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something that the model may call. `parameters_schema` is a JSON Schema object as text, or empty."""

    name: str
    description: str = ""
    parameters_schema: str = ""
    strict: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """Whether the model must call a tool; `tool_name` only with TOOL."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    tool_name: str = ""


@dataclass(frozen=True, slots=True)
class JsonObjectFormat:
    """Any JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchemaFormat:
    """A JSON value that fits `schema`, a JSON Schema object as text."""

    name: str
    schema: str
    description: str = ""
    strict: bool | None = None


ResponseFormat = JsonObjectFormat | JsonSchemaFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningParameters:
    """How the model thinks. None: the provider's default."""

    effort: ReasoningEffort | None = None
    budget_tokens: int | None = None
    include: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """How to sample. None: the provider's default. `response_format` None: plain text."""

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    reasoning: ReasoningParameters | None = None


JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model is asked, in nobody's dialect.

    `prefix` is the beginning of the answer, for the model to go on with; its text is not part of the output.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parameters: GenerationParameters = GenerationParameters()
    provider_options: Mapping[str, JsonValue] = field(default_factory=dict)
    prefix: Message | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachPolicy:
    """What happens when the last claim is gone; `grace_seconds` only with GRACE."""

    action: DetachAction = DetachAction.CANCEL
    grace_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """The caller's limits in seconds, and output tokens. None: the server's default, or no limit."""

    first_token_seconds: float | None = None
    idle_seconds: float | None = None
    total_seconds: float | None = None
    queue_seconds: float | None = None
    output_tokens: int | None = None


# --- Runs -----------------------------------------------------------------------------------------------------------


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


# --- Events of a run's stream ---------------------------------------------------------------------------------------


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
