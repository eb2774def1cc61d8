"""Messages as Chat Completions has them: https://platform.openai.com/docs/api-reference/chat/create#chat-create-messages."""

import base64
import mimetypes
from collections.abc import Sequence
from typing import assert_never

from midstream_server.errors import ContinueUnsupported, FieldViolation, InvalidRequest
from midstream_server.model import Blob, Message, Part, Reasoning, Refusal, Role, Text
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.mapping import failed_result, own_state, prefix_text
from midstream_server.upstreams.openai_chat.reasoning import DETAILS
from midstream_server.upstreams.turns import Instructions, ModelTurn, ResultTurn, UserTurn, WireObject, read_turns

_AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


def map_messages(messages: Sequence[Message], dialect: str, profile: Profile) -> list[WireObject]:
    """All messages; tool results become messages of their own.

    Raises:
        InvalidRequest: a part cannot be expressed; names it.
    """
    mapped: list[WireObject] = []
    for turn in read_turns(messages):
        match turn:
            case Instructions():
                role = "system" if turn.role is Role.SYSTEM else profile.developer_role
                mapped.append({"role": role, "content": _plain_content(turn.texts)})
            case UserTurn():
                mapped.append(_map_user(turn))
            case ResultTurn():
                mapped.append(_map_result(turn))
            case ModelTurn():
                mapped.append(_map_model(turn, dialect, profile.reasoning_history))
            case _:
                assert_never(turn)
    return mapped


def prefix_fields(prefix: Message | None, messages: list[WireObject], profile: Profile) -> dict[str, object]:
    """Appends the beginning of the answer to the messages, and returns the fields that tell to go on with it.

    vLLM: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html; DeepSeek:
    https://api-docs.deepseek.com/guides/chat_prefix_completion; Mistral: https://docs.mistral.ai/capabilities/completion/.

    Raises:
        ContinueUnsupported: the endpoint cannot, or not with these parts.
    """
    if prefix is None:
        return {}
    message: WireObject = {"role": "assistant", "content": prefix_text(prefix)}
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


def _plain_content(texts: list[str]) -> str | list[WireObject]:
    """Text alone: as a string if there is one, because that is what every relative reads."""
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _map_user(turn: UserTurn) -> WireObject:
    content = [
        {"type": "text", "text": each.text} if isinstance(each, Text) else _map_blob(each, path)
        for each, path in turn.contents
    ]
    is_one_text = len(content) == 1 and content[0]["type"] == "text"
    return {"role": "user", "content": content[0]["text"] if is_one_text else content}


def _map_result(turn: ResultTurn) -> WireObject:
    """A result is text. Chat Completions has no place for a failure."""
    content = failed_result("".join(turn.texts)) if turn.is_error else _plain_content(turn.texts)
    return {"role": "tool", "tool_call_id": turn.tool_call_id, "content": content or ""}


def _map_blob(blob: Blob, path: str) -> WireObject:
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


def _map_model(turn: ModelTurn, dialect: str, reasoning_field: str) -> WireObject:
    """What the model said before. Which reasoning goes back is the profile's to say: other endpoints read none.

    https://openrouter.ai/docs/use-cases/reasoning-tokens, https://api-docs.deepseek.com/guides/thinking_mode#tool-calls
    """
    text = "".join(said.text for said in turn.said if isinstance(said, Text))
    refusals = [said.text for said in turn.said if isinstance(said, Refusal)]
    content: object = None if turn.calls and not text else text
    if refusals:
        parts: list[WireObject] = [{"type": "text", "text": text}] if text else []
        content = [*parts, *({"type": "refusal", "refusal": refusal} for refusal in refusals)]
    message: WireObject = {"role": "assistant", "content": content}
    if turn.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
            for call, _ in turn.calls
        ]
    if reasoning_field == DETAILS:
        states = [state for part in turn.thoughts if isinstance(state := own_state(part, dialect), list) and state]
        message |= {DETAILS: states[-1]} if states else {}
    elif reasoning_field and turn.calls:
        message[reasoning_field] = "".join(_own_thought(part, dialect) for part in turn.thoughts)
    return message


def _own_thought(part: Part, dialect: str) -> str:
    """The text of reasoning; what carries another dialect's state is not for this endpoint."""
    is_own = part.provider_state is None or part.provider_state.dialect == dialect
    return part.content.text if is_own and isinstance(part.content, Reasoning) else ""
