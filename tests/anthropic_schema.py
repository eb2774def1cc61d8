"""The Messages request, strictly, as the provider documents it: https://platform.claude.com/docs/en/api/messages/create.

Only what our dialect may say is in it; an unknown field, a wrong type or a missing one is an error.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

NonEmpty = Annotated[str, Meta(min_length=1)]
Positive = Annotated[int, Meta(ge=1)]
CallId = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]+$")]
ToolName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,128}$")]
JsonObject = dict[str, Any]


class Strict(msgspec.Struct, forbid_unknown_fields=True, tag_field="type"):
    """Knows all its fields."""


class Plain(msgspec.Struct, forbid_unknown_fields=True):
    """The same, of no type."""


class Base64Source(Strict, tag="base64"):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf"]
    data: NonEmpty


class UrlSource(Strict, tag="url"):
    url: NonEmpty


class FileSource(Strict, tag="file"):
    file_id: NonEmpty


class TextSource(Strict, tag="text"):
    media_type: Literal["text/plain"]
    data: NonEmpty


class TextBlock(Strict, tag="text"):
    text: NonEmpty


class ImageBlock(Strict, tag="image"):
    source: Base64Source | UrlSource | FileSource


class DocumentBlock(Strict, tag="document"):
    source: Base64Source | UrlSource | FileSource | TextSource


class ResultBlock(Strict, tag="tool_result"):
    tool_use_id: CallId
    content: NonEmpty | list[TextBlock | ImageBlock | DocumentBlock] | msgspec.UnsetType = msgspec.UNSET
    is_error: bool = False


class CallBlock(Strict, tag="tool_use"):
    id: CallId
    name: ToolName
    input: JsonObject


class ThinkingBlock(Strict, tag="thinking"):
    thinking: str
    signature: NonEmpty


class RedactedBlock(Strict, tag="redacted_thinking"):
    data: NonEmpty


class UserMessage(msgspec.Struct, forbid_unknown_fields=True, tag_field="role", tag="user"):
    content: NonEmpty | Annotated[list[TextBlock | ImageBlock | DocumentBlock | ResultBlock], Meta(min_length=1)]


class AssistantMessage(msgspec.Struct, forbid_unknown_fields=True, tag_field="role", tag="assistant"):
    content: NonEmpty | Annotated[list[TextBlock | CallBlock | ThinkingBlock | RedactedBlock], Meta(min_length=1)]


class SystemMessage(msgspec.Struct, forbid_unknown_fields=True, tag_field="role", tag="system"):
    content: NonEmpty | Annotated[list[TextBlock], Meta(min_length=1)]


class InputSchema(msgspec.Struct):
    type: Literal["object"]


class Tool(Plain):
    name: ToolName
    input_schema: InputSchema
    description: NonEmpty | msgspec.UnsetType = msgspec.UNSET
    strict: bool | msgspec.UnsetType = msgspec.UNSET


class AutoChoice(Strict, tag="auto"):
    disable_parallel_tool_use: bool = False


class AnyChoice(Strict, tag="any"):
    disable_parallel_tool_use: bool = False


class ToolChoice(Strict, tag="tool"):
    name: ToolName
    disable_parallel_tool_use: bool = False


class NoChoice(Strict, tag="none"):
    pass


Display = Literal["summarized", "omitted"] | msgspec.UnsetType


class Enabled(Strict, tag="enabled"):
    budget_tokens: Positive
    display: Display = msgspec.UNSET


class Adaptive(Strict, tag="adaptive"):
    display: Display = msgspec.UNSET


class Disabled(Strict, tag="disabled"):
    pass


class JsonSchema(Strict, tag="json_schema"):
    schema: JsonObject


class OutputConfig(Plain):
    effort: Literal["low", "medium", "high"] | msgspec.UnsetType = msgspec.UNSET
    format: JsonSchema | msgspec.UnsetType = msgspec.UNSET


class MessagesRequest(Plain):
    """The body."""

    model: NonEmpty
    max_tokens: Positive
    messages: Annotated[list[UserMessage | AssistantMessage | SystemMessage], Meta(min_length=1)]
    stream: Literal[True]
    system: NonEmpty | list[TextBlock] | msgspec.UnsetType = msgspec.UNSET
    tools: list[Tool] | msgspec.UnsetType = msgspec.UNSET
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | msgspec.UnsetType = msgspec.UNSET
    temperature: float | msgspec.UnsetType = msgspec.UNSET
    top_p: float | msgspec.UnsetType = msgspec.UNSET
    top_k: int | msgspec.UnsetType = msgspec.UNSET
    stop_sequences: list[NonEmpty] | msgspec.UnsetType = msgspec.UNSET
    thinking: Enabled | Adaptive | Disabled | msgspec.UnsetType = msgspec.UNSET
    output_config: OutputConfig | msgspec.UnsetType = msgspec.UNSET
    metadata: JsonObject | msgspec.UnsetType = msgspec.UNSET
    service_tier: Literal["auto", "standard_only"] | msgspec.UnsetType = msgspec.UNSET


def check(body: bytes) -> MessagesRequest:
    """The request, if it is one, and its tool results stand where they must.

    Raises:
        ValueError: it is none; says where.
    """
    request = msgspec.json.decode(body, type=MessagesRequest)
    for before, message in zip([None, *request.messages], request.messages, strict=False):
        if before is not None and type(before) is type(message) and not isinstance(message, SystemMessage):
            raise ValueError("two turns of one side in a row")
        if isinstance(message, UserMessage) and not isinstance(message.content, str):
            kinds = [isinstance(block, ResultBlock) for block in message.content]
            if kinds != sorted(kinds, reverse=True):
                raise ValueError("a tool result stands behind other content")
    return request
