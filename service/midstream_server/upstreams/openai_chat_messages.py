"""Messages as Chat Completions has them: https://platform.openai.com/docs/api-reference/chat/create#chat-create-messages."""

import base64
import mimetypes
from collections.abc import Sequence
from typing import assert_never

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

_AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}

WireMessage = dict[str, object]


def map_messages(messages: Sequence[Message], dialect: str) -> list[WireMessage]:
    """All messages; tool results become messages of their own.

    Raises:
        InvalidRequest: a part cannot be expressed; names it.
    """
    mapped: list[WireMessage] = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        match message.role:
            case Role.SYSTEM | Role.DEVELOPER:
                mapped.append({"role": message.role.name.lower(), "content": _plain_content(message.parts, path)})
            case Role.USER | Role.TOOL:
                mapped.extend(_map_user(message.parts, path))
            case Role.ASSISTANT:
                mapped.append(_map_assistant(message.parts, path, dialect))
            case _:
                assert_never(message.role)
    return mapped


def prefix_fields(prefix: Message | None, messages: list[WireMessage], profile: Profile) -> dict[str, object]:
    """Appends the beginning of the answer to the messages, and returns the fields that tell to go on with it.

    vLLM: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html; DeepSeek:
    https://api-docs.deepseek.com/guides/chat_prefix_completion; Mistral: https://docs.mistral.ai/capabilities/completion/.

    Raises:
        ContinueUnsupported: the endpoint cannot, or not with these parts.
    """
    if prefix is None:
        return {}
    texts = [part.content.text for part in prefix.parts if isinstance(part.content, Text)]
    if len(texts) != len(prefix.parts):
        raise ContinueUnsupported("only an answer of nothing but text can be continued here")
    message: WireMessage = {"role": "assistant", "content": "".join(texts)}
    messages.append(message)
    match profile.continue_prefix:
        case "assistant_prefill":
            return {}
        case "continue_final_message":
            return {"add_generation_prompt": False, "continue_final_message": True}
        case "prefix_flag":
            message["prefix"] = True
            return {}
        case _:
            raise ContinueUnsupported


def _plain_content(parts: Sequence[Part], path: str) -> str | list[WireMessage]:
    """Text alone: as a string if there is one, because that is what every relative reads."""
    texts = []
    for index, part in enumerate(parts):
        if not isinstance(part.content, Text):
            refuse_part(f"{path}.parts[{index}]", part, "Chat Completions takes only text here")
        texts.append(part.content.text)
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _map_user(parts: Sequence[Part], path: str) -> list[WireMessage]:
    """What the user says, and what tools returned, in order."""
    mapped: list[WireMessage] = []
    content: list[WireMessage] = []
    for index, part in enumerate(parts):
        part_path = f"{path}.parts[{index}]"
        match part.content:
            case Text(text=text):
                content.append({"type": "text", "text": text})
            case Blob() as blob:
                content.append(_map_blob(blob, f"{part_path}.blob"))
            case ToolResult() as result:
                if content:
                    mapped.append({"role": "user", "content": _shortest(content)})
                    content = []
                mapped.append(_map_tool_result(result, f"{part_path}.tool_result"))
            case ToolCall() | Reasoning() | Refusal():
                refuse_part(part_path, part, "only the model says this")
            case _:
                assert_never(part.content)
    if content:
        mapped.append({"role": "user", "content": _shortest(content)})
    return mapped


def _shortest(content: list[WireMessage]) -> object:
    return content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else content


def _map_tool_result(result: ToolResult, path: str) -> WireMessage:
    """A result is text. Chat Completions has no place for a failure, so a failed result says so in its first word."""
    content = _plain_content(result.parts, path)
    if result.is_error:
        words = content if isinstance(content, str) else "".join(str(item["text"]) for item in content)
        content = words if words.lower().startswith("error") else f"Error: {words}"
    return {"role": "tool", "tool_call_id": result.tool_call_id, "content": content or ""}


def _map_blob(blob: Blob, path: str) -> WireMessage:
    """Images, audio and files: https://platform.openai.com/docs/guides/images-vision and …/pdf-files."""
    mime_type = blob.mime_type.lower()
    if blob.file_id:
        return {"type": "file", "file": {"file_id": blob.file_id}}
    if blob.url:
        if mime_type and not mime_type.startswith("image/"):
            raise InvalidRequest(FieldViolation(f"{path}.url", "Chat Completions takes only images by URL"))
        return {"type": "image_url", "image_url": {"url": blob.url}}
    if not mime_type:
        raise InvalidRequest(FieldViolation(f"{path}.mime_type", "is needed with data"))
    data = base64.b64encode(blob.data).decode("ascii")
    if audio_format := _AUDIO_FORMATS.get(mime_type):
        return {"type": "input_audio", "input_audio": {"data": data, "format": audio_format}}
    data_url = f"data:{mime_type};base64,{data}"
    if mime_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": data_url}}
    file_name = f"file{mimetypes.guess_extension(mime_type) or ''}"
    return {"type": "file", "file": {"filename": file_name, "file_data": data_url}}


def _map_assistant(parts: Sequence[Part], path: str, dialect: str) -> WireMessage:
    """What the model said before. Reasoning goes back only as state of this dialect: no endpoint reads it otherwise."""
    texts: list[str] = []
    refusals: list[str] = []
    calls: list[WireMessage] = []
    state: JsonValue = None
    for index, part in enumerate(parts):
        match part.content:
            case Text(text=text):
                texts.append(text)
            case Refusal(text=text):
                refusals.append(text)
            case ToolCall(id=call_id, name=name, arguments=arguments):
                function = {"name": name, "arguments": arguments or "{}"}
                calls.append({"id": call_id, "type": "function", "function": function})
            case Reasoning():
                state = own_state(part, dialect) or state  # https://openrouter.ai/docs/use-cases/reasoning-tokens
            case Blob() | ToolResult():
                refuse_part(
                    f"{path}.parts[{index}]", part, "Chat Completions takes only text and tool calls from the model"
                )
            case _:
                assert_never(part.content)
    message: WireMessage = {"role": "assistant", "content": _assistant_content("".join(texts), refusals, bool(calls))}
    if calls:
        message["tool_calls"] = calls
    if state:
        message["reasoning_details"] = state
    return message


def _assistant_content(text: str, refusals: list[str], has_calls: bool) -> object:
    if refusals:
        said: list[WireMessage] = [{"type": "text", "text": text}] if text else []
        return [*said, *({"type": "refusal", "refusal": refusal} for refusal in refusals)]
    return None if has_calls and not text else text
