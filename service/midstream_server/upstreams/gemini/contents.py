"""Messages as Gemini has them: https://ai.google.dev/api/caching#Content.

There are two roles. Results of tools belong to the user, and those that stand together make one content, because Gemini
wants as many results as there were calls.
"""

import base64
from collections.abc import Sequence
from typing import assert_never

import msgspec

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
from midstream_server.upstreams.gemini.parts import SIGNATURE
from midstream_server.upstreams.mapping import own_state, raw_object, refuse_part
from midstream_server.upstreams.wire.json_text import as_object, as_text

_FILES = "https://generativelanguage.googleapis.com/v1beta/files/"
"""https://ai.google.dev/api/files: a file is named by its address."""
_INSTRUCTIONS = (Role.SYSTEM, Role.DEVELOPER)

WirePart = dict[str, object]
WireContent = dict[str, object]


def map_instructions(messages: Sequence[Message]) -> tuple[WireContent | None, int]:
    """The instructions that a conversation begins with, and how many messages they are.

    https://ai.google.dev/gemini-api/docs/text-generation#system-instructions

    Raises:
        InvalidRequest: they are not text.
    """
    parts: list[WirePart] = []
    count = 0
    for index, message in enumerate(messages):
        if message.role not in _INSTRUCTIONS:
            break
        for number, part in enumerate(message.parts):
            if not isinstance(part.content, Text):
                refuse_part(f"messages[{index}].parts[{number}]", part, "Gemini takes only text here")
            parts.append({"text": part.content.text})
        count += 1
    return ({"parts": parts} if parts else None), count


class ContentMapper:
    """Maps the messages of one conversation, and remembers the names of the calls in it."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._names: dict[str, str] = {}
        """Of tools, by the ids of their calls."""
        self.contents: list[WireContent] = []
        self._results: list[WirePart] | None = None
        """The parts of the last content, if they are results of tools."""

    def add(self, message: Message, path: str) -> None:
        """One message.

        Raises:
            InvalidRequest: it cannot be expressed; names the field.
        """
        match message.role:
            case Role.SYSTEM | Role.DEVELOPER:
                words = "Gemini takes instructions only before all other messages"
                raise InvalidRequest(FieldViolation(f"{path}.role", words))
            case Role.USER | Role.TOOL:
                self._add_user(message.parts, path)
            case Role.ASSISTANT:
                mapped = [self._map_said(part, f"{path}.parts[{index}]") for index, part in enumerate(message.parts)]
                self._append("model", [part for part in mapped if part is not None])
            case _:
                assert_never(message.role)

    def _append(self, role: str, parts: list[WirePart]) -> None:
        if parts:
            self.contents.append({"role": role, "parts": parts})
            self._results = None

    def _add_user(self, parts: Sequence[Part], path: str) -> None:
        words: list[WirePart] = []
        for index, part in enumerate(parts):
            part_path = f"{path}.parts[{index}]"
            match part.content:
                case Text(text=text):
                    words.append({"text": text})
                case Blob() as blob:
                    words.append(map_blob(blob, f"{part_path}.blob"))
                case ToolResult() as result:
                    self._append("user", words)
                    words = []
                    self._add_result(self._map_result(result, f"{part_path}.tool_result"))
                case ToolCall() | Reasoning() | Refusal():
                    refuse_part(part_path, part, "only the model says this")
                case _:
                    assert_never(part.content)
        self._append("user", words)

    def _add_result(self, result: WirePart) -> None:
        if self._results is None:
            results = [result]
            self._append("user", results)
            self._results = results
        else:
            self._results.append(result)

    def _map_result(self, result: ToolResult, path: str) -> WirePart:
        """https://ai.google.dev/api/caching#FunctionResponse."""
        name = self._names.get(result.tool_call_id)
        if name is None:
            raise InvalidRequest(FieldViolation(f"{path}.tool_call_id", "is not the id of a tool call before it"))
        texts: list[str] = []
        files: list[WirePart] = []
        for index, part in enumerate(result.parts):
            if isinstance(part.content, Text):
                texts.append(part.content.text)
            elif isinstance(part.content, Blob) and part.content.data:
                files.append(map_blob(part.content, f"{path}.parts[{index}].blob"))
            else:
                refuse_part(f"{path}.parts[{index}]", part, "Gemini takes only text and data in a tool's result")
        output: object = texts if len(texts) > 1 else "".join(texts)
        response: WirePart = {
            "id": result.tool_call_id,
            "name": name,
            "response": {"error" if result.is_error else "output": output},
        }
        if files:
            response["parts"] = files
        return {"functionResponse": response}

    def _map_said(self, part: Part, path: str) -> WirePart | None:
        """What the model said before. A thought goes back only with the signature that Gemini gave it."""
        signature = as_text(as_object(own_state(part, self._dialect)).get(SIGNATURE))
        mapped: WirePart
        match part.content:
            case Text(text=text) | Refusal(text=text):
                mapped = {"text": text}
            case Blob() as blob:
                mapped = map_blob(blob, f"{path}.blob")
            case ToolCall() as call:
                mapped = {"functionCall": self._map_call(call, f"{path}.tool_call")}
            case Reasoning(text=text):
                if not signature:
                    return None
                mapped = {"text": text, "thought": True} if text else {"text": text}
            case ToolResult():
                refuse_part(path, part, "the model does not say this")
            case _:
                assert_never(part.content)
        if signature:
            mapped[SIGNATURE] = signature
        return mapped

    def _map_call(self, call: ToolCall, path: str) -> dict[str, object]:
        """https://ai.google.dev/api/caching#FunctionCall."""
        self._names[call.id] = call.name
        arguments: msgspec.Raw = raw_object(call.arguments or "{}", f"{path}.arguments")
        return {"id": call.id, "name": call.name, "args": arguments}


def map_blob(blob: Blob, path: str) -> WirePart:
    """https://ai.google.dev/api/caching#Blob, …#FileData, https://ai.google.dev/gemini-api/docs/files."""
    if not blob.data:
        address = blob.url or (blob.file_id if "://" in blob.file_id else _FILES + blob.file_id.removeprefix("files/"))
        file: dict[str, object] = {"fileUri": address}
        if blob.mime_type:
            file["mimeType"] = blob.mime_type
        return {"fileData": file}
    if not blob.mime_type:
        raise InvalidRequest(FieldViolation(f"{path}.mime_type", "is needed with data"))
    return {"inlineData": {"mimeType": blob.mime_type, "data": base64.b64encode(blob.data).decode("ascii")}}
