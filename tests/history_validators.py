"""Strict readers of conversation histories, written from the providers' documents: what breaks a rule is named.

Chat Completions: https://platform.openai.com/docs/api-reference/chat/create#chat-create-messages and
https://platform.openai.com/docs/guides/function-calling. Messages: https://platform.claude.com/docs/en/api/messages,
…/build-with-claude/working-with-messages, …/agents-and-tools/tool-use/handle-tool-calls and
…/build-with-claude/extended-thinking. They know only what an answer of a model, and the turns around it, can hold.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_USE_ID = re.compile(r"[A-Za-z0-9_-]+")
_CHAT_KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "refusal", "tool_calls", "audio"},
    "tool": {"role", "content", "tool_call_id"},
}


def chat_problems(body: Mapping[str, Any], *, extra_keys: frozenset[str] = frozenset()) -> list[str]:
    """What a strict Chat Completions endpoint would refuse. `extra_keys`: what its relative takes in an answer."""
    return list(_chat(body.get("messages"), extra_keys))


def anthropic_problems(body: Mapping[str, Any]) -> list[str]:
    """What a strict Messages endpoint would refuse."""
    return list(_anthropic(body))


# --- Chat Completions ------------------------------------------------------------------------------------------------


def _chat(messages: Any, extra_keys: frozenset[str]) -> Iterator[str]:
    if not isinstance(messages, list) or not messages:
        yield "messages: empty"
        return
    unanswered: list[str] = []
    for index, message in enumerate(messages):
        where, role = f"messages[{index}]", message.get("role")
        if role not in _CHAT_KEYS:
            yield f"{where}.role: {role!r}"
            continue
        unknown = message.keys() - _CHAT_KEYS[role] - (extra_keys if role == "assistant" else set())
        if unknown:
            yield f"{where}: unknown {sorted(unknown)}"
        if role == "tool":
            if message.get("tool_call_id") not in unanswered:
                yield f"{where}: answers {message.get('tool_call_id')!r}, which nobody asks"
            else:
                unanswered.remove(message["tool_call_id"])
        elif unanswered:
            yield f"{where}: the calls {unanswered} have no answer"
            unanswered = []
        yield from _chat_content(message, where)
        calls = list(message.get("tool_calls") or ())
        yield from _chat_calls(message, calls, where)
        unanswered += [call.get("id") for call in calls]
    if unanswered:
        yield f"the calls {unanswered} have no answer"


def _chat_content(message: Mapping[str, Any], where: str) -> Iterator[str]:
    content, role = message.get("content"), message["role"]
    if content is None:
        if role != "assistant" or not message.get("tool_calls"):
            yield f"{where}.content: missing"
    elif isinstance(content, str):
        if not content and role != "tool":
            yield f"{where}.content: empty"
    elif isinstance(content, list) and content:
        yield from _chat_items(content, role, where)
    else:
        yield f"{where}.content: {content!r}"


def _chat_items(content: Sequence[Any], role: str, where: str) -> Iterator[str]:
    kinds = [item.get("type") for item in content]
    allowed = {"text", "refusal"} if role == "assistant" else {"text", "image_url", "input_audio", "file"}
    if unknown := set(kinds) - allowed:
        yield f"{where}.content: {sorted(map(str, unknown))}"
    if "refusal" in kinds and kinds != ["refusal"]:
        yield f"{where}.content: a refusal stands alone, not in {kinds}"
    for item in content:
        if item.get("type") in ("text", "refusal") and not item.get(item["type"]):
            yield f"{where}.content: an empty {item['type']}"


def _chat_calls(message: Mapping[str, Any], calls: Sequence[Any], where: str) -> Iterator[str]:
    if "tool_calls" in message and not calls:
        yield f"{where}.tool_calls: empty"
    if len({call.get("id") for call in calls}) != len(calls):
        yield f"{where}.tool_calls: an id comes twice"
    for call in calls:
        function = call.get("function") or {}
        if call.get("type") != "function" or not call.get("id"):
            yield f"{where}.tool_calls: {call!r}"
        if not _FUNCTION_NAME.fullmatch(function.get("name") or ""):
            yield f"{where}.tool_calls: the name {function.get('name')!r}"
        if not _is_object(function.get("arguments")):
            yield f"{where}.tool_calls: the arguments {function.get('arguments')!r}"


def _is_object(arguments: Any) -> bool:
    try:
        value = json.loads(arguments)
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError):
        return False
    return isinstance(value, dict)


# --- Messages --------------------------------------------------------------------------------------------------------


def _anthropic(body: Mapping[str, Any]) -> Iterator[str]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages: empty"
        return
    if messages[0].get("role") != "user":
        yield "messages[0].role: a conversation begins with the user"
    asked: list[str] = []
    used: set[str] = set()
    for index, message in enumerate(messages):
        where, role = f"messages[{index}]", message.get("role")
        if role not in ("user", "assistant") or message.keys() != {"role", "content"}:
            yield f"{where}: {role!r} with {sorted(message)}"
        if index and role == messages[index - 1].get("role"):
            yield f"{where}.role: {role} twice"
        blocks = _blocks(message.get("content"))
        if not blocks:
            yield f"{where}.content: empty"
        yield from _anthropic_blocks(blocks, role, where)
        yield from _answers(blocks, asked, where)
        asked = [str(block.get("id")) for block in blocks if block.get("type") == "tool_use"]
        if used & set(asked) or len(set(asked)) != len(asked):
            yield f"{where}: an id comes twice in {asked}"
        used.update(asked)
    if asked:
        yield f"the calls {asked} have no result"
    yield from _last_turn(messages[-1])
    if used and not body.get("tools"):
        yield "tools: missing, though there are calls"


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else []


def _answers(blocks: Sequence[Mapping[str, Any]], asked: Sequence[str], where: str) -> Iterator[str]:
    """Results come at once, for every call, and before anything else."""
    results = [block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"]
    if sorted(map(str, results)) != sorted(map(str, asked)):
        yield f"{where}: asked for {list(asked)}, got {results}"
    if any(block.get("type") != "tool_result" for block in blocks[: len(results)]):
        yield f"{where}: results come first"


def _anthropic_blocks(blocks: Sequence[Mapping[str, Any]], role: Any, where: str) -> Iterator[str]:
    allowed = {
        "user": {"text", "image", "document", "tool_result"},
        "assistant": {"text", "tool_use", "thinking", "redacted_thinking"},
    }
    for block in blocks:
        kind = block.get("type")
        if kind not in allowed.get(role, set()):
            yield f"{where}: a {kind} of the {role}"
        match kind:
            case "text" if not str(block.get("text") or "").strip():
                yield f"{where}: a text without content"
            case "thinking" if not block.get("signature") or not isinstance(block.get("thinking"), str):
                yield f"{where}: thinking without its signature"
            case "redacted_thinking" if not block.get("data"):
                yield f"{where}: redacted thinking without its data"
            case "tool_use":
                yield from _tool_use(block, where)
    if blocks and role == "assistant" and blocks[-1].get("type") in ("thinking", "redacted_thinking"):
        yield f"{where}: the last block may not be thinking"


def _tool_use(block: Mapping[str, Any], where: str) -> Iterator[str]:
    if not _TOOL_USE_ID.fullmatch(str(block.get("id") or "")):
        yield f"{where}: the id {block.get('id')!r}"
    if not _FUNCTION_NAME.fullmatch(str(block.get("name") or "")):
        yield f"{where}: the name {block.get('name')!r}"
    if not isinstance(block.get("input"), dict):
        yield f"{where}: the input {block.get('input')!r}"


def _last_turn(message: Mapping[str, Any]) -> Iterator[str]:
    """A final answer is gone on with; it may not end in white space."""
    if message.get("role") != "assistant":
        return
    last = _blocks(message.get("content"))[-1:]
    if last and last[0].get("type") == "text" and last[0]["text"] != last[0]["text"].rstrip():
        yield "the final answer ends in white space"
