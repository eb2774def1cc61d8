"""The framing of `application/x-ndjson`: bytes in, lines out, however the bytes are cut.

https://github.com/ndjson/ndjson-spec. Lines end with LF, CRLF or CR and nothing else: U+2028 may stand in a string.
"""

from midstream_server.upstreams.sse import MAX_EVENT_BYTES

_BOM = b"\xef\xbb\xbf"


class NdjsonDecoder:
    """Splits a body into lines that are not blank. Pure; a line is at most 4 MiB."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        """Pieces of a line whose end has not come."""
        self._size = 0
        self.overflowed = False
        """A line was too large: nothing comes out any more."""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete."""
        if self.overflowed:
            return []
        *ended, rest = data.replace(b"\r", b"\n").split(b"\n")
        lines = []
        for piece in ended:
            line = self._take(piece)
            if self.overflowed:
                return lines
            if line:
                lines.append(line)
        self._keep(rest)
        return lines

    def close(self) -> list[bytes]:
        """The last line, if it has no end: whole or not."""
        line = self._take(b"")
        return [line] if line and not self.overflowed else []

    def _take(self, end: bytes) -> bytes:
        self._keep(end)
        line = b"".join(self._line).strip().removeprefix(_BOM)
        self._line, self._size = [], 0
        return line

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._line.append(piece)
            self._size += len(piece)
        if self._size > MAX_EVENT_BYTES:
            self.overflowed = True
            self._line = []
