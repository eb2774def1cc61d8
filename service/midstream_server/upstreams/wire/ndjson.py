"""The framing of `application/x-ndjson`: bytes in, lines out, however the bytes are cut.

https://github.com/ndjson/ndjson-spec. Lines end with LF, CRLF or CR and nothing else: U+2028 may stand in a string.
"""

from midstream_server.errors import RunFailure, UpstreamMalformed
from midstream_server.upstreams.wire.frame import BYTE_ORDER_MARK, MAX_FRAME_BYTES, Frame


class NdjsonDecoder:
    """Splits a body into lines that are not blank. Pure; a line is at most 4 MiB."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        """Pieces of a line whose end has not come."""
        self._size = 0
        self.failure: RunFailure | None = None
        """A line was too large: nothing comes out any more."""

    def feed(self, data: bytes) -> list[Frame]:
        """The lines that these bytes complete."""
        if self.failure is not None:
            return []
        *ended, rest = data.replace(b"\r", b"\n").split(b"\n")
        frames = []
        for piece in ended:
            line = self._take(piece)
            if self.failure is not None:
                return frames
            if line:
                frames.append(Frame(line))
        self._keep(rest)
        return frames

    def close(self) -> list[Frame]:
        """The last line, if it has no end: whole or not."""
        line = self._take(b"")
        return [Frame(line, unterminated=True)] if line and self.failure is None else []

    def _take(self, end: bytes) -> bytes:
        self._keep(end)
        line = b"".join(self._line).strip().removeprefix(BYTE_ORDER_MARK)
        self._line, self._size = [], 0
        return line

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._line.append(piece)
            self._size += len(piece)
        if self._size > MAX_FRAME_BYTES:
            self.failure = UpstreamMalformed("a line of the upstream is larger than 4 MiB")
            self._line = []
