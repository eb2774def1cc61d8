"""Messages and their parts, deltas, and usage."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from midstream_server.model.enums import PartState, Role, UsageSource
from midstream_server.model.values import token_value


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
