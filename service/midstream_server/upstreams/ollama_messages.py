"""Messages as Ollama has them: https://docs.ollama.com/api/chat, https://docs.ollama.com/capabilities/vision."""

import base64
from collections.abc import Sequence
from typing import assert_never

from midstream_server.errors import FieldViolation, InvalidRequest
from midstream_server.model import (
    Blob,
    Message,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from midstream_server.upstreams.mapping import raw_object, refuse_part

WireMessage = dict[str, object]


class MessageMapper:
    """Maps the messages of one conversation, and remembers the names of the calls in it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        """Of tools, by the ids of their calls."""
        self.messages: list[WireMessage] = []

    def add(self, message: Message, path: str) -> None:
        """One message. A message has one text: texts that stand side by side become its lines.

        Raises:
            InvalidRequest: it cannot be expressed; names the field.
        """
        match message.role:
            case Role.SYSTEM | Role.DEVELOPER:
                self.messages.append({"role": "system", "content": _plain_text(message.parts, path)})
            case Role.USER | Role.TOOL:
                self._add_user(message.parts, path)
            case Role.ASSISTANT:
                self._add_assistant(message.parts, path)
            case _:
                assert_never(message.role)

    def _add_user(self, parts: Sequence[Part], path: str) -> None:
        """What the user says, and what tools returned, in order."""
        texts: list[str] = []
        images: list[str] = []
        for index, part in enumerate(parts):
            part_path = f"{path}.parts[{index}]"
            match part.content:
                case Text(text=text):
                    texts.append(text)
                case Blob() as blob:
                    images.append(_map_image(blob, f"{part_path}.blob"))
                case ToolResult() as result:
                    self._say(texts, images)
                    texts, images = [], []
                    self.messages.append(self._map_result(result, f"{part_path}.tool_result"))
                case ToolCall() | Reasoning() | Refusal():
                    refuse_part(part_path, part, "only the model says this")
                case _:
                    assert_never(part.content)
        self._say(texts, images)

    def _say(self, texts: list[str], images: list[str]) -> None:
        if texts or images:
            message: WireMessage = {"role": "user", "content": "\n".join(texts)}
            if images:
                message["images"] = images
            self.messages.append(message)

    def _map_result(self, result: ToolResult, path: str) -> WireMessage:
        """A result is text. Ollama has no place for a failure, so a failed result says so in its first word."""
        name = self._names.get(result.tool_call_id)
        if name is None:
            raise InvalidRequest(FieldViolation(f"{path}.tool_call_id", "is not the id of a tool call before it"))
        content = _plain_text(result.parts, path)
        if result.is_error and not content.lower().startswith("error"):
            content = f"Error: {content}"
        return {"role": "tool", "content": content, "tool_name": name, "tool_call_id": result.tool_call_id}

    def _add_assistant(self, parts: Sequence[Part], path: str) -> None:
        """What the model said before; thoughts that carry another provider's state are not Ollama's to read."""
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[WireMessage] = []
        for index, part in enumerate(parts):
            part_path = f"{path}.parts[{index}]"
            match part.content:
                case Text(text=text) | Refusal(text=text):
                    texts.append(text)
                case Reasoning(text=text):
                    thoughts += [text] if part.provider_state is None else []
                case ToolCall() as call:
                    calls.append(self._map_call(call, f"{part_path}.tool_call"))
                case Blob() | ToolResult():
                    refuse_part(part_path, part, "Ollama takes only text and tool calls from the model")
                case _:
                    assert_never(part.content)
        message: WireMessage = {"role": "assistant", "content": "".join(texts)}
        if thinking := "".join(thoughts):
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        if len(message) > 2 or message["content"]:
            self.messages.append(message)

    def _map_call(self, call: ToolCall, path: str) -> WireMessage:
        self._names[call.id] = call.name
        arguments = raw_object(call.arguments or "{}", f"{path}.arguments")
        return {"id": call.id, "function": {"name": call.name, "arguments": arguments}}


def _plain_text(parts: Sequence[Part], path: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        if not isinstance(part.content, Text):
            refuse_part(f"{path}.parts[{index}]", part, "Ollama takes only text here")
        texts.append(part.content.text)
    return "\n".join(texts)


def _map_image(blob: Blob, path: str) -> str:
    """Ollama takes images, and only by their bytes."""
    if not blob.data:
        raise InvalidRequest(FieldViolation(f"{path}.{'url' if blob.url else 'file_id'}", "Ollama takes only data"))
    if not blob.mime_type.lower().startswith("image/"):
        raise InvalidRequest(FieldViolation(f"{path}.mime_type", "Ollama takes only images"))
    return base64.b64encode(blob.data).decode("ascii")
