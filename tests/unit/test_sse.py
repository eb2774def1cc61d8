"""The framing of event streams, whole and cut."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream_server.upstreams.wire.frame import MAX_FRAME_BYTES, Frame
from midstream_server.upstreams.wire.sse import SseDecoder


def _decode(*pieces: bytes) -> list[Frame]:
    decoder = SseDecoder()
    return [*itertools.chain.from_iterable(map(decoder.feed, pieces)), *decoder.close()]


FRAMES = {
    "line feeds": (b"data: a\n\ndata: b\n\n", [Frame(b"a"), Frame(b"b")]),
    "carriage returns": (b"data: a\r\rdata: b\r\r", [Frame(b"a"), Frame(b"b")]),
    "both": (b"data: a\r\n\r\ndata: b\r\n\r\n", [Frame(b"a"), Frame(b"b")]),
    "mixed": (
        b"data: a\n\r\ndata: b\r\ndata: c\r\n\rdata: d\r\r\n",
        [Frame(b"a"), Frame(b"b\nc"), Frame(b"d")],
    ),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [Frame(b"a")]),
    "comments": (b": x\n\n:\ndata: a\n: y\n\n: z\n\n", [Frame(b"a")]),
    "no space": (b"data:a\n\ndata:  b\n\n", [Frame(b"a"), Frame(b" b")]),
    "several lines": (b"data: a\ndata\ndata: b\n\n", [Frame(b"a\n\nb")]),
    "names": (b"event: x\ndata: a\n\ndata: b\n\n", [Frame(b"a", b"x"), Frame(b"b")]),
    "names of several lines": (
        b"event: x\ndata: a\ndata: b\n\nevent:y\ndata:c\nid: 7\n\n",
        [Frame(b"a\nb", b"x"), Frame(b"c", b"y")],
    ),
    "name without data": (b"event: x\n\ndata: b\n\n", [Frame(b"b")]),
    "error without data": (b"event: error\n\n", [Frame(b"", b"error")]),
    "error field": (b"error: {}\n\n", [Frame(b"", error=b"{}")]),
    "other fields": (b"id: 7\nretry: 1\ndata: a\nfoo: b\nbar\n\n", [Frame(b"a")]),
    "blank lines": (b"\n\n\n\ndata: a\n\n\n\ndata: b\n\n\n", [Frame(b"a"), Frame(b"b")]),
    "separators of text": (
        "data: a\u2028b\u0085c\u2029\x0b\x0c\x1c\n\n".encode(),
        [Frame("a\u2028b\u0085c\u2029\x0b\x0c\x1c".encode())],
    ),
    "unterminated": (b"data: a\n\ndata: b", [Frame(b"a"), Frame(b"b", unterminated=True)]),
    "unterminated after its line": (b"data: b\n", [Frame(b"b", unterminated=True)]),
    "unterminated name": (b"event: x\n", []),
    "bare": (b'{"a": 1}\n\n', [Frame(b'{"a": 1}', bare=True)]),
    "bare, nothing after": (b'{"a": 1}', [Frame(b'{"a": 1}', bare=True)]),
    "bare, on lines": (
        b'\n{\n "a": [\n1]\n}\ndata: b\n\n',
        [Frame(b'{\n "a": [\n1]\n}', bare=True), Frame(b"b")],
    ),
    "bare, half": (b'{"a": \n', [Frame(b'{"a": ', bare=True, unterminated=True)]),
    "bare, after all not": (b"{x\ndata: a\n\n", [Frame(b"a")]),
    "bare, half, and an event": (b"{\n\ndata: a\n\n", [Frame(b"a")]),
    "bare, half, and a named event": (b"{\n\nevent: x\ndata: a\n\n", [Frame(b"a", b"x")]),
    "bare, inside an event": (b"data: a\n{}\n\n", [Frame(b"{}", bare=True), Frame(b"a")]),
    "bare, half a character": (b'["\\ud83d"]\n', [Frame(b'["\\ud83d"]', bare=True)]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames(name: str):
    """Each in one piece, and cut at every byte."""
    body, events = FRAMES[name]

    assert _decode(body) == events
    for position in range(len(body) + 1):
        assert _decode(body[:position], body[position:]) == events
    assert _decode(*(body[i : i + 1] for i in range(len(body)))) == events


def test_events_come_as_soon_as_they_are_whole():
    """The blank line is enough, also if it is a CR whose LF has not come."""
    decoder = SseDecoder()

    assert decoder.feed(b"data: a\r\n\r") == [Frame(b"a")]
    assert decoder.feed(b"\ndata: b\r\n\r\n") == [Frame(b"b")]
    assert decoder.close() == []


def test_event_that_is_too_large():
    """One byte too many, in one piece, in many, or on many lines: what came before is given, nothing after it."""
    largest = b"data: " + b"x" * (MAX_FRAME_BYTES - 6 - 2) + b"\n\n"

    for body in (largest, largest.replace(b"x" * 100, b"x" * 92 + b"\ndata: y"[:8], 1)):
        assert len(_decode(b"data: a\n\n" + body)) == 2
    for body in (
        largest.replace(b"\n", b"xxxx\n", 1),
        b"data: x\n" * (MAX_FRAME_BYTES // 8 + 1),
        b": " + b"x" * MAX_FRAME_BYTES,
    ):
        for pieces in ([body], [body[i : i + 65_536] for i in range(0, len(body), 65_536)]):
            decoder = SseDecoder()
            assert decoder.feed(b"data: a\n\n") == [Frame(b"a")]
            for piece in pieces:
                assert decoder.feed(piece) == []
            assert decoder.failure
            assert decoder.feed(b"\n\ndata: b\n\n") == []
            assert decoder.close() == []


def test_keep_alives_do_not_add_up():
    """A stream of nothing but comments may be as long as it likes."""
    decoder = SseDecoder()

    for _ in range(200):
        assert decoder.feed((b": " + b"x" * 60_000 + b"\n\n") * 2) == []

    assert not decoder.failure
    assert decoder.feed(b"data: a\n\n") == [Frame(b"a")]


def test_long_event_in_small_pieces_is_not_slow():
    """The time goes with the bytes, not with their square."""
    body = b"data: " + b"x" * 1_000_000 + b"\n\n"
    decoder = SseDecoder()

    started = time.process_time()
    events = [event for i in range(0, len(body), 7) for event in decoder.feed(body[i : i + 7])]

    assert [len(event.data) for event in events] == [1_000_000]
    assert time.process_time() - started < 5


SCRAPS = [
    *(b"data: ", b"data:", b"event: error", b"error: x", b"{", b"}", b"[", b"]", b'"', b"a", b":"),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\xff", b"\xe2\x80\xa8"),
]


@given(st.lists(st.sampled_from(SCRAPS), max_size=30), st.integers(0, 60))
def test_any_bytes_frame_alike_however_they_are_cut(pieces: list[bytes], position: int):
    """Whatever comes, the cut does not matter."""
    body = b"".join(pieces)

    whole = _decode(body)

    assert _decode(body[:position], body[position:]) == whole
    assert _decode(*(body[i : i + 1] for i in range(len(body)))) == whole
