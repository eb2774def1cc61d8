"""The framing of `text/event-stream`: bytes in, events out, however the bytes are cut.

Follows https://html.spec.whatwg.org/multipage/server-sent-events.html, with three additions for what providers send
(DESIGN §5): an event left open by the end of the body is still given, a field named `error` is kept, and JSON that
stands bare between the events is found.
"""

from midstream_server.errors import RunFailure, UpstreamMalformed
from midstream_server.upstreams.wire.frame import BYTE_ORDER_MARK, MAX_FRAME_BYTES, Frame
from midstream_server.upstreams.wire.json_text import decode_json

MAX_BARE_BYTES = 64 * 1024
MAX_BARE_LINES = 512

_BARE_STARTS = (b"{", b"[")
_LINE_STARTS_OF_EVENTS = (b"data:", b"event:", b":")


class SseDecoder:
    """Splits a body into events. Pure; an event, and what waits for its end, is at most 4 MiB."""

    __slots__ = (
        "_at_start",
        "_bare",
        "_bare_bytes",
        "_data",
        "_error",
        "_event_bytes",
        "_is_inside",
        "_line",
        "_name",
        "_skip_line_feed",
        "failure",
    )

    def __init__(self) -> None:
        self._line: list[bytes] = []
        """Pieces of a line whose end has not come."""
        self._data: list[bytes] = []
        self._name = b""
        self._error: bytes | None = None
        self._bare: list[bytes] = []
        """Lines that may become bare JSON."""
        self._bare_bytes = 0
        self._event_bytes = 0
        self._at_start = True
        self._skip_line_feed = False
        self._is_inside = False
        """Whether bytes wait for the end of their line, or lines for the end of their event."""
        self.failure: RunFailure | None = None
        """An event was too large: nothing comes out any more."""

    def feed(self, data: bytes) -> list[Frame]:
        """The events that these bytes complete."""
        events: list[Frame] = []
        if self.failure is not None:
            return events
        if self._at_start or self._skip_line_feed or b"\r" in data:
            data = self._plain_line_ends(data)
        if self._is_inside:
            data = self._finish_event(data, events)
        if data:
            self._feed_blocks(data, events)
        return events

    def close(self) -> list[Frame]:
        """What the end of the body leaves: an event without its blank line, whole or not."""
        events: list[Frame] = []
        if self.failure is not None:
            return events
        if self._line:
            self._finish_line(b"", events)
        if self._bare:
            events.append(Frame(b"\n".join(self._bare), bare=True, unterminated=True))
        elif self._data or self._error is not None or self._name == b"error":
            events.append(self._take_event()._replace(unterminated=True))
        return events

    def _plain_line_ends(self, data: bytes) -> bytes:
        """The bytes with LF for every line end, and without the byte order mark; a mark may come in pieces."""
        if self._at_start:
            data = b"".join([*self._line, data])
            self._line = []
            if len(data) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(data):
                self._line = [data]
                return b""
            self._at_start = False
            data = data.removeprefix(BYTE_ORDER_MARK)
        if self._skip_line_feed and data:
            data = data.removeprefix(b"\n")
            self._skip_line_feed = False
        if b"\r" in data:
            self._skip_line_feed = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _finish_event(self, data: bytes, events: list[Frame]) -> bytes:
        """Reads on in the event that is open, line by line, and returns what follows it."""
        while self._is_inside and (end := data.find(b"\n")) >= 0:
            self._finish_line(data[:end], events)
            data = data[end + 1 :]
        if self._is_inside:
            self._keep(data)
            return b""
        return data

    def _feed_blocks(self, data: bytes, events: list[Frame]) -> None:
        """The fast path: bytes that begin with an event are split at blank lines, whole events at a time."""
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        for block in blocks:
            if self.failure is not None:
                return
            if not self._bare and len(block) <= MAX_FRAME_BYTES and (event := _whole_event(block)) is not None:
                events.append(event)
                continue
            for line in block.split(b"\n"):
                self._finish_line(line, events)
            self._finish_line(b"", events)
        if rest:
            *lines, last = rest.split(b"\n")
            for line in lines:
                self._finish_line(line, events)
            self._keep(last)

    def _keep(self, data: bytes) -> None:
        if data and self.failure is None:
            self._line.append(data)
            self._is_inside = True
            self._count(len(data))

    def _count(self, size: int) -> None:
        self._event_bytes += size
        if self._event_bytes > MAX_FRAME_BYTES:
            self.failure = UpstreamMalformed("an event of the upstream is larger than 4 MiB")
            self._line, self._data, self._bare = [], [], []

    def _finish_line(self, end: bytes, events: list[Frame]) -> None:
        if self._line:
            self._line.append(end)
            line = b"".join(self._line)
            self._line = []
        else:
            line = end
        self._count(len(end) + 1)
        if self.failure is not None:
            return
        self._is_inside = True
        if self._bare or line.lstrip().startswith(_BARE_STARTS):
            self._read_bare_line(line, events)
        elif line:
            self._read_field(line)
        else:
            if self._data or self._error is not None or self._name == b"error":
                events.append(self._take_event())
            self._reset()

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value
        elif name == b"error":
            self._error = value
        elif not (self._data or self._name or self._error is not None):
            self._reset()  # a comment, or a field that nobody reads: keep-alives add up to nothing

    def _read_bare_line(self, line: bytes, events: list[Frame]) -> None:
        """Collects bare JSON until it is whole, or until something shows that it was none."""
        if line.startswith(_LINE_STARTS_OF_EVENTS):
            self._drop_bare()
            self._is_inside = True
            self._read_field(line)
            return
        self._bare.append(line)
        self._bare_bytes += len(line)
        if line.rstrip().endswith((b"}", b"]")):
            text = b"\n".join(self._bare)
            if _is_json(text):
                events.append(Frame(text, bare=True))
                self._drop_bare()
        if self._bare_bytes > MAX_BARE_BYTES or len(self._bare) > MAX_BARE_LINES:
            self._drop_bare()

    def _drop_bare(self) -> None:
        self._bare = []
        self._bare_bytes = 0
        self._is_inside = bool(self._data or self._name or self._error is not None)

    def _take_event(self) -> Frame:
        event = Frame(b"\n".join(self._data), self._name, self._error or b"")
        self._reset()
        return event

    def _reset(self) -> None:
        self._data = []
        self._name = b""
        self._error = None
        self._event_bytes = 0
        self._is_inside = False


def _whole_event(block: bytes) -> Frame | None:
    """The event of a block that is one line of data, with or without a name before it, as almost all are."""
    if block.startswith(b"data:"):
        name, data = b"", block
    else:
        name, _, data = block.partition(b"\n")
        if not (name.startswith(b"event:") and data.startswith(b"data:")):
            return None
    if b"\n" in data:
        return None
    return Frame(data[6:] if data.startswith(b" ", 5) else data[5:], name[6:].removeprefix(b" "))


def _is_json(text: bytes) -> bool:
    try:
        decode_json(text)
    except ValueError:
        return False
    return True
