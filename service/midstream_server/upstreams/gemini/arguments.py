"""Arguments of a function call that come leaf by leaf, each with its JSON path, as JSON text that only grows.

https://docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/function-calling#streaming-fc
"""

import re
from dataclasses import dataclass, field

from midstream_server.model import JsonValue
from midstream_server.upstreams.wire.json_text import as_text, encode_json

_MAX_DEPTH = 64
_SEGMENT = re.compile(r"\.([^.\[\]]+)|\[(\d{1,9})\]|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]")
_ESCAPED = re.compile(r"\\(.)")
_VALUES = ("stringValue", "numberValue", "boolValue", "nullValue")

Segment = str | int


@dataclass(slots=True)
class _Container:
    """An object or an array that is open in the text."""

    is_array: bool
    keys: set[Segment] = field(default_factory=set)
    last: Segment | None = None

    def accepts(self, segment: Segment) -> bool:
        """Whether this can be written next: text that was written cannot be changed."""
        if self.is_array:
            return segment == len(self.keys)
        return isinstance(segment, str) and segment not in self.keys

    def opening(self, segment: Segment) -> str:
        """What stands before the value of the next segment."""
        comma = "," if self.keys else ""
        self.keys.add(segment)
        self.last = segment
        return comma if self.is_array else f"{comma}{encode_json(segment)}:"

    @property
    def end(self) -> str:
        return "]" if self.is_array else "}"


class PartialArguments:
    """Writes the arguments of one call. A path that goes back breaks it: the text then stays without its end."""

    def __init__(self) -> None:
        self._open: list[_Container] = []
        self._string_path: list[Segment] | None = None
        """Of the string that may go on."""
        self.is_broken = False

    def add(self, partial: dict[str, JsonValue]) -> str:
        """The text that one `PartialArg` adds."""
        kind = next((name for name in _VALUES if name in partial), "")
        path = parse_path(as_text(partial.get("jsonPath")))
        if self.is_broken or not kind:
            return ""
        if not path or len(path) > _MAX_DEPTH:
            self.is_broken = True
            return ""
        value = None if kind == "nullValue" else partial[kind]
        if path == self._string_path and isinstance(value, str):
            return encode_json(value)[1:-1]
        return self._write(path, value)

    def close(self) -> str:
        """The text that ends the arguments; after a break there is none."""
        if self.is_broken:
            return ""
        if not self._open:
            return "{}"
        return self._end_string() + self._end_containers(0)

    def _write(self, path: list[Segment], value: JsonValue) -> str:
        text = [self._end_string()]
        if not self._open:
            self._open.append(_Container(is_array=False))
            text.append("{")
        depth = self._shared_depth(path)
        text.append(self._end_containers(depth + 1))
        for level in range(depth, len(path)):
            container = self._open[level]
            if not container.accepts(path[level]):
                self.is_broken = True
                break
            text.append(container.opening(path[level]))
            if level + 1 < len(path):
                inner = _Container(is_array=isinstance(path[level + 1], int))
                self._open.append(inner)
                text.append("[" if inner.is_array else "{")
            elif isinstance(value, str):
                self._string_path = path
                text.append(encode_json(value)[:-1])
            else:
                text.append(encode_json(value))
        return "".join(text)

    def _shared_depth(self, path: list[Segment]) -> int:
        """How many of the open containers the path goes through, less the first."""
        depth = 0
        while depth + 1 < min(len(self._open), len(path)) and self._open[depth].last == path[depth]:
            depth += 1
        return depth

    def _end_string(self) -> str:
        was_open, self._string_path = self._string_path is not None, None
        return '"' if was_open else ""

    def _end_containers(self, depth: int) -> str:
        ended, self._open = self._open[depth:], self._open[:depth]
        return "".join(container.end for container in reversed(ended))


def parse_path(path: str) -> list[Segment]:
    """The segments of a path such as `$.places[0]['zip code']`; none if it is no such path (RFC 9535)."""
    segments: list[Segment] = []
    position = 1
    while path.startswith("$") and position < len(path):
        found = _SEGMENT.match(path, position)
        if found is None:
            return []
        name, index, *quoted = found.groups()
        segments.append(int(index) if index is not None else name or _unescape(quoted))
        position = found.end()
    return segments


def _unescape(quoted: list[str | None]) -> str:
    return _ESCAPED.sub(r"\1", next((each for each in quoted if each is not None), ""))
