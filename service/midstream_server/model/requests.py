"""What a caller may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from midstream_server.model.enums import DetachAction, ReasoningEffort, ToolChoiceMode
from midstream_server.model.messages import Message


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
