"""Messages as input items: https://platform.openai.com/docs/api-reference/responses/create#responses-create-input."""

import base64
import hashlib
import mimetypes
from collections.abc import Sequence
from typing import assert_never
from urllib.parse import urlsplit

from midstream_server.errors import ContinueUnsupported, FieldViolation, InvalidRequest
from midstream_server.model import (
    Blob,
    JsonValue,
    Message,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.mapping import own_state, refuse_part
from midstream_server.upstreams.wire.json_text import as_list, as_object, as_text

_UNREADABLE = ("audio/", "video/")

InputItem = dict[str, object]


def map_instructions(messages: Sequence[Message]) -> str | None:
    """What goes into `instructions`: a system message at the beginning, if it is one text and others follow it."""
    if len(messages) < 2 or messages[0].role is not Role.SYSTEM or len(messages[0].parts) != 1:
        return None
    content = messages[0].parts[0].content
    return content.text if isinstance(content, Text) else None


def map_input(messages: Sequence[Message], dialect: str, first: int = 0) -> list[InputItem]:
    """All messages from the first, as items; every tool call, tool result and reasoning is an item of its own.

    Raises:
        InvalidRequest: a part cannot be expressed; names it.
    """
    items: list[InputItem] = []
    for index, message in enumerate(messages[first:], first):
        path = f"messages[{index}]"
        match message.role:
            case Role.SYSTEM | Role.DEVELOPER:
                items.append(_message(message.role, _plain_content(message.parts, path)))
            case Role.USER | Role.TOOL:
                items.extend(_map_user(message.parts, path))
            case Role.ASSISTANT:
                items.extend(_map_assistant(message.parts, path, dialect))
            case _:
                assert_never(message.role)
    return items


def map_prefix(prefix: Message | None, profile: Profile) -> list[InputItem]:
    """The beginning of the answer as the last item: OpenAI cannot go on with it, llama.cpp can.

    https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md

    Raises:
        ContinueUnsupported: the endpoint cannot, or not with these parts.
    """
    if prefix is None:
        return []
    if profile.continue_prefix != "assistant_prefill":
        raise ContinueUnsupported
    texts = [part.content.text for part in prefix.parts if isinstance(part.content, Text)]
    if len(texts) != len(prefix.parts):
        raise ContinueUnsupported("only an answer of nothing but text can be continued here")
    return [_message(Role.ASSISTANT, "".join(texts))]


def _message(role: Role, content: object) -> InputItem:
    return {"type": "message", "role": role.name.lower(), "content": content}


def _shortest(content: list[InputItem]) -> object:
    """A single text as a string, which is what every relative reads."""
    return content[0]["text"] if len(content) == 1 and content[0]["type"] == "input_text" else content


def _plain_content(parts: Sequence[Part], path: str) -> object:
    content: list[InputItem] = []
    for index, part in enumerate(parts):
        if not isinstance(part.content, Text):
            refuse_part(f"{path}.parts[{index}]", part, "Responses takes only text here")
        content.append({"type": "input_text", "text": part.content.text})
    return _shortest(content)


# --- What the user says, and what tools returned ---------------------------------------------------------------------


def _map_user(parts: Sequence[Part], path: str) -> list[InputItem]:
    """In order: words and files between two tool results are a message."""
    items: list[InputItem] = []
    content: list[InputItem] = []
    for index, part in enumerate(parts):
        part_path = f"{path}.parts[{index}]"
        match part.content:
            case Text() | Blob():
                content.append(_map_content(part, part_path))
            case ToolResult() as result:
                if content:
                    items.append(_message(Role.USER, _shortest(content)))
                    content = []
                items.append(_map_tool_result(result, f"{part_path}.tool_result"))
            case ToolCall() | Reasoning() | Refusal():
                refuse_part(part_path, part, "only the model says this")
            case _:
                assert_never(part.content)
    if content:
        items.append(_message(Role.USER, _shortest(content)))
    return items


def _map_content(part: Part, path: str) -> InputItem:
    if isinstance(part.content, Text):
        return {"type": "input_text", "text": part.content.text}
    if isinstance(part.content, Blob):
        return _map_blob(part.content, f"{path}.blob")
    return refuse_part(path, part, "Responses takes only text, images and files here")


def _map_blob(blob: Blob, path: str) -> InputItem:
    """https://platform.openai.com/docs/guides/images-vision and …/pdf-files."""
    mime_type = (blob.mime_type or _guessed_type(blob.url)).lower()
    if mime_type.startswith(_UNREADABLE):
        raise InvalidRequest(FieldViolation(f"{path}.mime_type", "Responses takes only images and documents"))
    is_image = mime_type.startswith("image/")
    if blob.file_id:
        return _image("file_id", blob.file_id) if is_image else {"type": "input_file", "file_id": blob.file_id}
    if blob.url:
        is_image = is_image or not mime_type
        return _image("image_url", blob.url) if is_image else {"type": "input_file", "file_url": blob.url}
    if not mime_type:
        raise InvalidRequest(FieldViolation(f"{path}.mime_type", "is needed with data"))
    data_url = f"data:{mime_type};base64,{base64.b64encode(blob.data).decode('ascii')}"
    if is_image:
        return _image("image_url", data_url)
    return {
        "type": "input_file",
        "filename": f"file{mimetypes.guess_extension(mime_type) or ''}",
        "file_data": data_url,
    }


def _image(field: str, value: str) -> InputItem:
    return {"type": "input_image", "detail": "auto", field: value}


def _guessed_type(url: str) -> str:
    """The type that an address without one shows by its ending; nothing if it shows none."""
    try:
        return mimetypes.guess_type(urlsplit(url).path)[0] or ""
    except ValueError:
        return ""


def _map_tool_result(result: ToolResult, path: str) -> InputItem:
    """https://platform.openai.com/docs/guides/function-calling#formatting-results.

    There is no place for a failure, so a failed result says so in its first word.
    """
    content = [_map_content(part, f"{path}.parts[{index}]") for index, part in enumerate(result.parts)]
    if result.is_error:
        first = content[0] if content else {}
        said = as_text(first.get("text")).lower().startswith("error")
        if not said and first.get("type") == "input_text":
            content[0] = {"type": "input_text", "text": f"Error: {first['text']}"}
        elif not said:
            content.insert(0, {"type": "input_text", "text": "Error"})
    output = _shortest(content) if content else ""
    return {"type": "function_call_output", "call_id": result.tool_call_id, "output": output}


# --- What the model said ---------------------------------------------------------------------------------------------


def _map_assistant(parts: Sequence[Part], path: str, dialect: str) -> list[InputItem]:
    """In order; neighbouring texts are one message. Reasoning goes back only as state of this dialect."""
    items: list[InputItem] = []
    texts: list[str] = []
    for index, part in enumerate(parts):
        if isinstance(part.content, Text):
            texts.append(part.content.text)
            continue
        items.extend(_said(texts))
        texts.clear()
        items.extend(_map_said(part, f"{path}.parts[{index}]", dialect))
    return [*items, *_said(texts)]


def _said(texts: Sequence[str]) -> list[InputItem]:
    text = "".join(texts)
    return [_message(Role.ASSISTANT, text)] if text else []


def _map_said(part: Part, path: str, dialect: str) -> list[InputItem]:
    match part.content:
        case ToolCall(id=call_id, name=name, arguments=arguments):
            return [{"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments or "{}"}]
        case Reasoning():
            return _reasoning(own_state(part, dialect))
        case Refusal(text=text):
            return [_refusal(text)]
        case Text() | Blob() | ToolResult():
            return refuse_part(path, part, "Responses takes only text and tool calls from the model")
        case _:
            return assert_never(part.content)


def _refusal(text: str) -> InputItem:
    """A refusal can only be said in an output message, which must have an id; the id is ours."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
    item = _message(Role.ASSISTANT, [{"type": "refusal", "refusal": text}])
    return item | {"id": f"msg_{digest}", "status": "completed"}


def _reasoning(state: JsonValue) -> list[InputItem]:
    """https://platform.openai.com/docs/guides/reasoning#keeping-reasoning-items-in-context.

    Nothing is stored at the provider, so only a whole item can go back: its id alone says nothing there.
    """
    item = as_object(state)
    if item.get("type") != "reasoning" or not as_text(item.get("encrypted_content")):
        return []
    fields: InputItem = {name: item[name] for name in ("id", "encrypted_content") if as_text(item.get(name))}
    if content := as_list(item.get("content")):
        fields["content"] = content
    return [{"type": "reasoning", **fields, "summary": as_list(item.get("summary"))}]
