"""The REPLAY view: a message that any strict provider accepts as history, wherever it was cut.

Rules: a tool call only if the model finished for its tool calls, and the call is whole; reasoning only if it is whole,
carries its provider's state, and another part follows; text without content is dropped, and so is a blob, since most
providers take none from the assistant.
"""

import json
from dataclasses import replace
from typing import assert_never

from midstream_server.model import (
    Blob,
    FinishReason,
    Part,
    PartState,
    Reasoning,
    Refusal,
    Run,
    Text,
    ToolCall,
    ToolResult,
)

# Numbers are not read: Python refuses integers of more than 4,300 digits, which are JSON all the same.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)


def replay_view(run: Run) -> Run:
    """The run with the message that is safe to send back; without one if nothing is left."""
    if run.message is None:
        return run
    for_tools = run.finish_reason is FinishReason.TOOL_CALLS
    parts = [part for part in run.message.parts if _is_safe(part, for_tools=for_tools)]
    parts = [part for index, part in enumerate(parts) if not _is_dangling(parts, index)]
    return replace(run, message=replace(run.message, parts=tuple(parts)) if parts else None)


def _is_safe(part: Part, *, for_tools: bool) -> bool:
    match part.content:
        case Text(text=text) | Refusal(text=text):
            return bool(text.strip())
        case ToolCall() as call:
            return for_tools and part.state is PartState.COMPLETE and _is_whole(call)
        case Reasoning():
            return part.state is PartState.COMPLETE and part.provider_state is not None
        case Blob() | ToolResult():
            return False
        case _:
            assert_never(part.content)


def _is_whole(call: ToolCall) -> bool:
    """Whether a result can name the call, and every parser reads its arguments: some refuse half a surrogate pair."""
    try:
        json.dumps(_JSON.decode(call.arguments or "{}"), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return bool(call.id and call.name)


def _is_dangling(parts: list[Part], index: int) -> bool:
    """Whether a reasoning part is followed by nothing but reasoning."""
    return all(isinstance(part.content, Reasoning) for part in parts[index:])
