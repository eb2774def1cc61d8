"""JSON bodies, as dialects with messages read and write them."""

import json
from collections.abc import Sequence

from midstream_simulator.dialect import JsonObject


def to_json(value: object) -> str:
    """JSON as providers send it; half a surrogate pair, which UTF-8 cannot carry, is escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if _is_encodable(text) else json.dumps(value, separators=(",", ":"))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def messages_of(body: JsonObject) -> list[JsonObject]:
    """Those that are objects; the others have been refused, or will be."""
    messages = body.get("messages")
    return [each for each in messages if isinstance(each, dict)] if isinstance(messages, list) else []


def text_of(message: JsonObject) -> str:
    """The text of a message; its content may be a string, a list of typed parts, or null."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content or () if isinstance(part, dict)]
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


class MessageBodies:
    """What every dialect whose requests have `messages` reads of one in the same way."""

    def last_user_text(self, body: JsonObject) -> str:
        """The text of the last message whose role is user."""
        return next((text_of(each) for each in reversed(messages_of(body)) if each.get("role") == "user"), "")

    def tool_names(self, body: JsonObject) -> Sequence[str]:
        """The functions that the request offers; Anthropic has no object around them."""
        return [tool.get("function", tool)["name"] for tool in body.get("tools") or ()]
