"""JSON bodies, as dialects with messages read and write them."""

import json

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
