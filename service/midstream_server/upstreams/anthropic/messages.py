"""Messages as the Messages API has them: https://platform.claude.com/docs/en/api/messages/create.

Turns of one side are put together, results of tools first in theirs: the API wants them right behind their calls.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import assert_never

from midstream_server.errors import FieldViolation, InvalidRequest
from midstream_server.model import (
    Message,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from midstream_server.upstreams.anthropic.blobs import map_blob
from midstream_server.upstreams.mapping import own_state, raw_object, refuse_part
from midstream_server.upstreams.wire.json_text import as_object, as_text

WireBlock = dict[str, object]
WireMessage = dict[str, object]

_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")


def map_system(messages: Sequence[Message]) -> tuple[list[WireBlock], int]:
    """The instructions that a conversation begins with, and how many messages they are."""
    blocks: list[WireBlock] = []
    count = 0
    for index, message in enumerate(messages):
        if message.role not in (Role.SYSTEM, Role.DEVELOPER):
            break
        blocks += _map_texts(message.parts, f"messages[{index}]")
        count += 1
    return blocks, count


def map_messages(messages: Sequence[Message], dialect: str, first: int) -> list[WireMessage]:
    """The messages from the one at `first`. Instructions in mid-conversation stay where they are.

    https://platform.claude.com/docs/en/build-with-claude/mid-conversation-system-messages

    Raises:
        InvalidRequest: a part cannot be expressed; names it.
    """
    turns: list[tuple[str, list[WireBlock]]] = []
    for index, message in enumerate(messages[first:], first):
        path = f"messages[{index}]"
        match message.role:
            case Role.SYSTEM | Role.DEVELOPER:
                role, blocks = "system", _map_texts(message.parts, path)
            case Role.USER | Role.TOOL:
                role, blocks = "user", _map_user(message.parts, path)
                if not blocks:
                    raise InvalidRequest(FieldViolation(f"{path}.parts", "this API takes no empty text"))
            case Role.ASSISTANT:
                role, blocks = "assistant", _map_assistant(message.parts, path, dialect)
            case _:
                assert_never(message.role)
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((role, blocks))
    return [{"role": role, "content": shortest(_results_first(blocks))} for role, blocks in turns]


def shortest(blocks: list[WireBlock]) -> object:
    """A single text as a string, which is what every server reads."""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks


def _results_first(blocks: list[WireBlock]) -> list[WireBlock]:
    """https://platform.claude.com/docs/en/agents-and-tools/tool-use/handle-tool-calls."""
    return sorted(blocks, key=lambda block: block["type"] != "tool_result")


def _map_text(text: str) -> list[WireBlock]:
    """The API refuses empty texts, and they say nothing."""
    return [{"type": "text", "text": text}] if text else []


def _map_texts(parts: Sequence[Part], path: str) -> list[WireBlock]:
    blocks: list[WireBlock] = []
    for index, part in enumerate(parts):
        if not isinstance(part.content, Text):
            refuse_part(f"{path}.parts[{index}]", part, "instructions are only text here")
        blocks += _map_text(part.content.text)
    return blocks


def _map_user(parts: Sequence[Part], path: str) -> list[WireBlock]:
    """What the user says, and what tools returned."""
    blocks: list[WireBlock] = []
    for index, part in enumerate(parts):
        part_path = f"{path}.parts[{index}]"
        if isinstance(part.content, ToolResult):
            blocks.append(_map_result(part.content, f"{part_path}.tool_result"))
        else:
            blocks += _map_said(part, part_path)
    return blocks


def _map_said(part: Part, path: str) -> list[WireBlock]:
    """Text, an image or a document, of a user or a tool."""
    if isinstance(part.content, Text):
        return _map_text(part.content.text)
    if isinstance(part.content, ToolCall | Reasoning | Refusal | ToolResult):
        refuse_part(path, part, "only the model says this")
    return [map_blob(part.content, f"{path}.blob")]


def _map_result(result: ToolResult, path: str) -> WireBlock:
    block: WireBlock = {"type": "tool_result", "tool_use_id": _wire_id(result.tool_call_id)}
    content = [each for index, part in enumerate(result.parts) for each in _map_said(part, f"{path}.parts[{index}]")]
    if content:
        block["content"] = shortest(content)
    if result.is_error:
        block["is_error"] = True
    return block


def _map_assistant(parts: Sequence[Part], path: str, dialect: str) -> list[WireBlock]:
    """What the model said before."""
    blocks: list[WireBlock] = []
    for index, part in enumerate(parts):
        match part.content:
            case Text(text=text) | Refusal(text=text):
                blocks += _map_text(text)
            case ToolCall() as call:
                blocks.append(_map_call(call, f"{path}.parts[{index}].tool_call"))
            case Reasoning(text=text):
                blocks += _map_reasoning(part, text, dialect)
            case _:
                refuse_part(f"{path}.parts[{index}]", part, "this API takes only text and tool calls from the model")
    return blocks


def _map_call(call: ToolCall, path: str) -> WireBlock:
    arguments = raw_object(call.arguments or "{}", f"{path}.arguments")
    return {"type": "tool_use", "id": _wire_id(call.id), "name": call.name, "input": arguments}


def _map_reasoning(part: Part, text: str, dialect: str) -> list[WireBlock]:
    """Thinking goes back as it came, or not at all: without its signature the API refuses it.

    https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks
    """
    state = as_object(own_state(part, dialect))
    if data := as_text(state.get("data")):
        return [{"type": "redacted_thinking", "data": data}]
    if signature := as_text(state.get("signature")):
        return [{"type": "thinking", "thinking": text, "signature": signature}]
    return []


def _wire_id(call_id: str) -> str:
    """The API is strict about ids; another provider's may have any characters. A call and its result stay a pair."""
    if _CALL_ID.fullmatch(call_id):
        return call_id
    return f"call_{hashlib.sha256(call_id.encode('utf-8', 'replace')).hexdigest()[:24]}"
