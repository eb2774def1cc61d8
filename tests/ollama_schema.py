"""The Ollama chat request, strictly, as it is documented: https://docs.ollama.com/api/chat.

Only what our dialect may say is in it; an unknown field, a wrong type or a missing one is an error.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

NonEmpty = Annotated[str, Meta(min_length=1)]
Positive = Annotated[int, Meta(ge=1)]
Base64 = Annotated[str, Meta(pattern="^[A-Za-z0-9+/]+={0,2}$")]
JsonObject = dict[str, Any]


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Knows all its fields."""


class Turn(Strict, tag_field="role"):
    """A message of one role."""


class SystemMessage(Turn, tag="system"):
    content: str


class UserMessage(Turn, tag="user"):
    content: str
    images: list[Base64] | UnsetType = UNSET


class CalledFunction(Strict):
    name: NonEmpty
    arguments: JsonObject


class ToolCall(Strict):
    id: NonEmpty
    function: CalledFunction


class AssistantMessage(Turn, tag="assistant"):
    content: str
    thinking: NonEmpty | UnsetType = UNSET
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1)] | UnsetType = UNSET


class ToolMessage(Turn, tag="tool"):
    content: str
    tool_name: NonEmpty
    tool_call_id: NonEmpty


class Function(Strict):
    name: NonEmpty
    description: str
    parameters: JsonObject


class Tool(Strict):
    type: Literal["function"]
    function: Function


class Options(Strict):
    num_predict: Positive | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: Positive | UnsetType = UNSET
    min_p: float | UnsetType = UNSET
    num_ctx: Positive | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    presence_penalty: float | UnsetType = UNSET
    frequency_penalty: float | UnsetType = UNSET
    stop: list[NonEmpty] | UnsetType = UNSET


class ChatRequest(Strict):
    model: NonEmpty
    messages: list[SystemMessage | UserMessage | AssistantMessage | ToolMessage]
    stream: Literal[True]
    tools: Annotated[list[Tool], Meta(min_length=1)] | UnsetType = UNSET
    format: Literal["json"] | JsonObject | UnsetType = UNSET
    options: Options | UnsetType = UNSET
    think: bool | Literal["low", "medium", "high"] | UnsetType = UNSET
    logprobs: bool | UnsetType = UNSET
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType = UNSET
    keep_alive: str | int | UnsetType = UNSET
    truncate: bool | UnsetType = UNSET


def check(body: bytes) -> ChatRequest:
    """The request, if it is one.

    Raises:
        ValueError: it is none; says where.
    """
    return msgspec.json.decode(body, type=ChatRequest)
