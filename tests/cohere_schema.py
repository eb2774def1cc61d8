"""The Cohere chat request, strictly, as it is documented: https://docs.cohere.com/reference/chat-stream.

Only what our dialect may say is in it; an unknown field, a wrong type or a missing one is an error.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

NonEmpty = Annotated[str, Meta(min_length=1)]
Positive = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
ImageAddress = Annotated[str, Meta(pattern="^(https?://|data:image/[a-z+.-]+;base64,[A-Za-z0-9+/]+={0,2}$)")]
JsonText = Annotated[str, Meta(pattern=r"^\{.*\}$")]
JsonObject = dict[str, Any]


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Knows all its fields."""


class Block(Strict, tag_field="type"):
    """A block of content of one type."""


class TextBlock(Block, tag="text"):
    text: str


class ThinkingBlock(Block, tag="thinking"):
    thinking: NonEmpty


class ImageUrl(Strict):
    url: ImageAddress


class ImageBlock(Block, tag="image_url"):
    image_url: ImageUrl


class Turn(Strict, tag_field="role"):
    """A message of one role."""


class SystemMessage(Turn, tag="system"):
    content: str | list[TextBlock]


class UserMessage(Turn, tag="user"):
    content: str | list[TextBlock | ImageBlock]


class CalledFunction(Strict):
    name: NonEmpty
    arguments: JsonText


class ToolCall(Strict):
    id: NonEmpty
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Turn, tag="assistant"):
    content: NonEmpty | list[TextBlock | ThinkingBlock] | UnsetType = UNSET
    tool_calls: Annotated[list[ToolCall], Meta(min_length=1)] | UnsetType = UNSET


class ToolMessage(Turn, tag="tool"):
    tool_call_id: NonEmpty
    content: str | list[TextBlock]


class Function(Strict):
    name: NonEmpty
    parameters: JsonObject
    description: NonEmpty | UnsetType = UNSET


class Tool(Strict):
    type: Literal["function"]
    function: Function


class ResponseFormat(Strict):
    type: Literal["json_object"]
    json_schema: JsonObject | UnsetType = UNSET


class Thinking(Strict):
    type: Literal["enabled", "disabled"]
    token_budget: Positive | UnsetType = UNSET


class CitationOptions(Strict):
    mode: Literal["ENABLED", "DISABLED", "FAST", "ACCURATE", "OFF"]


class Document(Strict):
    data: JsonObject
    id: NonEmpty | UnsetType = UNSET


class ChatRequest(Strict):
    model: NonEmpty
    messages: Annotated[list[SystemMessage | UserMessage | AssistantMessage | ToolMessage], Meta(min_length=1)]
    stream: Literal[True]
    tools: Annotated[list[Tool], Meta(min_length=1)] | UnsetType = UNSET
    strict_tools: Literal[True] | UnsetType = UNSET
    tool_choice: Literal["REQUIRED", "NONE"] | UnsetType = UNSET
    documents: list[str | Document] | UnsetType = UNSET
    citation_options: CitationOptions | UnsetType = UNSET
    safety_mode: Literal["CONTEXTUAL", "STRICT", "OFF"] | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    response_format: ResponseFormat | UnsetType = UNSET
    thinking: Thinking | UnsetType = UNSET
    max_tokens: Positive | UnsetType = UNSET
    stop_sequences: Annotated[list[NonEmpty], Meta(max_length=5)] | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    frequency_penalty: Fraction | UnsetType = UNSET
    presence_penalty: Fraction | UnsetType = UNSET
    k: Annotated[int, Meta(ge=0, le=500)] | UnsetType = UNSET
    p: Annotated[float, Meta(ge=0.01, le=0.99)] | UnsetType = UNSET
    logprobs: bool | UnsetType = UNSET


def check(body: bytes) -> ChatRequest:
    """The request, if it is one.

    Raises:
        ValueError: it is none; says where.
    """
    return msgspec.json.decode(body, type=ChatRequest)
