"""What a body is made of, however it is framed: an event, a line, or an element of an array."""

from typing import NamedTuple

MAX_FRAME_BYTES = 4 * 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Frame(NamedTuple):
    """One frame; its data are JSON, as far as it keeps to its dialect."""

    data: bytes
    name: bytes = b""
    """Of an event, if it has one."""
    error: bytes = b""
    """The value of a field named `error`, which no standard has."""
    bare: bool = False
    """Whether `data` is JSON that stood where lines of an event should."""
    unterminated: bool = False
    """Whether the body ended before the frame did."""
