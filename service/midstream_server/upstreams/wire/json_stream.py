"""JSON objects one after the other, or as the elements of one array: each comes out as soon as it is whole."""

import re

from midstream_server.errors import RunFailure, UpstreamMalformed
from midstream_server.upstreams.wire.frame import MAX_FRAME_BYTES, Frame

_BETWEEN = re.compile(rb"[^\s\[\],\xef\xbb\xbf]")
"""The first byte between two elements that is neither white space, nor the array's own, nor a byte order mark."""
_INSIDE = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_REST_OF_STRING = re.compile(_INSIDE + rb'("|\\?)', re.DOTALL)
"""What a string goes on with: its end, or that of the data, which may fall behind a backslash."""
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"' + _INSIDE + rb'"[^"{}\[\]]*+)*+', re.DOTALL)
"""Everything before the next bracket, whole strings included."""


class JsonStream:
    """Splits a body into its objects. Pure; nothing comes after a `failure`."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        """What has come of an object that is not whole."""
        self._size = 0
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self.failure: RunFailure | None = None
        """Why the body cannot be read any further; look once its events are used up."""

    def feed(self, data: bytes) -> list[Frame]:
        """The objects that these bytes complete."""
        events: list[Frame] = []
        position = 0
        while self.failure is None and position < len(data):
            start = position
            if not self._depth:
                first = _BETWEEN.search(data, position)
                if first is None:
                    break
                start = first.start()
                if data[start : start + 1] != b"{":
                    self.failure = UpstreamMalformed("the upstream sent something else where JSON should be")
                    break
            position = self._scan(data, start)
            self._keep(data[start:position])
            if not self._depth and self.failure is None:
                events.append(Frame(b"".join(self._pieces)))
                self._pieces, self._size = [], 0
        return events

    def close(self) -> list[Frame]:
        """What the end of the body leaves: half an object is none."""
        return []

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > MAX_FRAME_BYTES:
            self._pieces = []
            self.failure = UpstreamMalformed("an element of the upstream's answer is larger than 4 MiB")

    def _scan(self, data: bytes, position: int) -> int:
        """Goes on to the end of the object, or of the data; returns where that is."""
        if self._is_escaped:
            self._is_escaped = False
            position += 1
        if self._in_string:
            position = self._scan_string(data, position)
        while position < len(data):
            before = _TO_BRACKET.match(data, position)
            assert before is not None, "it matches nothing too"
            position = before.end()
            mark = data[position : position + 1]
            if mark == b'"':
                position = self._scan_string(data, position + 1)
            elif mark:
                position += 1
                self._depth += 1 if mark in b"{[" else -1
                if not self._depth:
                    break
        return position

    def _scan_string(self, data: bytes, position: int) -> int:
        """Goes on to the end of the string, or of the data."""
        found = _REST_OF_STRING.match(data, position)
        assert found is not None, "it matches nothing too"
        self._in_string = found[1] != b'"'
        self._is_escaped = found[1] == b"\\"
        return found.end()
