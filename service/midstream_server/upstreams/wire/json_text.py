"""JSON as providers write it."""

import json
from collections.abc import Callable
from typing import TypeVar

import msgspec

from midstream_server.model import JsonValue

_Kind = TypeVar("_Kind")


def decode_json(data: bytes) -> JsonValue:
    """The value of a JSON text. Lone surrogates stay, bytes that are not UTF-8 become U+FFFD.

    Raises:
        ValueError: it is not one whole JSON value.
    """
    try:
        value: JsonValue = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _decode_leniently(data)
    return value


def plain_decoder(kind: type[_Kind]) -> Callable[[bytes], _Kind | None]:
    """A fast reader of one shape of object: of anything else, also of what is no JSON, it makes None."""
    decode = msgspec.json.Decoder(kind).decode

    def read(data: bytes) -> _Kind | None:
        try:
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    return read


def _decode_leniently(data: bytes) -> JsonValue:
    """With the standard library, which reads half a surrogate pair: https://bugs.python.org/issue17906."""
    try:
        value: JsonValue = json.loads(data.decode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error
    return value


def encode_json(value: object) -> str:
    """Compact JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def as_text(value: object) -> str:
    """A string, or nothing: providers put null and odd types where strings belong."""
    return value if isinstance(value, str) else ""


def as_object(value: JsonValue) -> dict[str, JsonValue]:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: JsonValue) -> list[JsonValue]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def as_count(value: JsonValue) -> int | None:
    """A number of something, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if 0 <= value < 2**63 else None


def cut_words(text: str, max_bytes: int = 1024) -> str:
    """A provider's words as they may be shown: whole code points, at most so many bytes."""
    return text.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")
