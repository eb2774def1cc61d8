"""What the parsers of all dialects have in common, however a provider writes it: DESIGN §5, "Reading the wire"."""

import gzip
import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialect_table import FRAMINGS, ROWS, DialectRow
from midstream_server.errors import (
    RunFailure,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.model import FinishReason, UsageSource
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.wire.frame import Frame
from stream_folding import Folded

PATHS = [path for row in ROWS.values() for path in sorted(row.folder.iterdir())]
BLAMED = {"rate": UpstreamRateLimited, "request": UpstreamRejected, "nobody": UpstreamUnavailable}
OPTIONAL_FINISH = Profile(finish_reason_required=False)


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> DialectRow:
    """Each dialect in turn."""
    return ROWS[request.param]


@pytest.fixture(params=PATHS, ids=lambda path: f"{path.parent.name}/{path.name}")
def stream(request: pytest.FixtureRequest) -> Path:
    """Each hand-written stream in turn."""
    path = request.param
    assert isinstance(path, Path)
    return path


def _row_of(stream: Path) -> DialectRow:
    return next(row for row in ROWS.values() if row.folder == stream.parent)


def _frames(stream: Path, *pieces: bytes) -> list[Frame]:
    framing = FRAMINGS[stream.suffix]()
    return [frame for piece in pieces for frame in framing.feed(piece)] + framing.close()


def _bytes_of(body: bytes) -> Iterator[bytes]:
    return (body[i : i + 1] for i in range(len(body)))


def _finishes(result: Folded) -> list[tuple[FinishReason | None, str]]:
    return [(finish.reason, finish.raw) for finish in result.finishes]


# --- Cuts ------------------------------------------------------------------------------------------------------------


def test_cut_at_every_byte(stream: Path):
    """In two pieces a stream has the same frames, wherever the cut is; in single bytes it says what it says whole."""
    body, row = stream.read_bytes(), _row_of(stream)
    frames, whole = _frames(stream, body), row.parse(body).summary()

    for position in range(1, len(body)):
        assert _frames(stream, body[:position], body[position:]) == frames, position
    for position in range(1, len(body), 1 + len(body) // 20):
        assert row.parse(body[:position], body[position:]).summary() == whole, position
    assert row.parse(*_bytes_of(body)).summary() == whole


def test_other_line_ends(stream: Path):
    """CRLF and CR are the same, behind a byte order mark, in one piece and in single bytes."""
    body, row = stream.read_bytes().replace(b"\r\n", b"\n"), _row_of(stream)
    whole = row.parse(body).summary()

    for end in (b"\r\n", b"\r"):
        converted = b"\xef\xbb\xbf" + body.replace(b"\n", end)
        assert row.parse(*_bytes_of(converted)).summary() == whole
        if b"{\n" not in body or stream.suffix != ".sse":  # bare JSON keeps its line ends as white space
            assert row.parse(converted).summary() == whole


def test_as_gzip_leaves_it(stream: Path):
    """In the pieces into which an inflater turns what arrives, some of them empty."""
    body, row, generator = stream.read_bytes(), _row_of(stream), random.Random(7)
    packed, inflater = gzip.compress(body, mtime=0), zlib.decompressobj(zlib.MAX_WBITS | 16)
    pieces, position = [], 0
    while position < len(packed):
        size = generator.choice((1, 2, 7, 64))
        pieces.append(inflater.decompress(packed[position : position + size]))
        position += size

    assert row.parse(*pieces).summary() == row.parse(body).summary()


# --- Whole answers ---------------------------------------------------------------------------------------------------


def test_an_answer(row: DialectRow):
    """Its text, its finish with the provider's word, its account."""
    result = row.parse(row.body(row.text("Good "), row.text("day"), *row.end))

    assert (result.text(), _finishes(result), result.failure) == (
        "Good day",
        [(FinishReason.STOP, row.raw_finish)],
        None,
    )
    assert result.usage is not None
    assert (result.usage.input, result.usage.output) != (None, None)
    counts = [count for count in (result.usage.input, result.usage.output) if count is not None]
    assert [(count.value, count.source) for count in counts] == [
        (3, UsageSource.UPSTREAM_FINAL),
        (2, UsageSource.UPSTREAM_FINAL),
    ]


def test_unterminated_last_frame_counts(row: DialectRow):
    """Rule 1: if its data is whole JSON."""
    *rest, _ = row.end if len(row.end) > 1 else (*row.end, {})
    result = row.parse(row.body(row.text("Hi"), *rest).rstrip(b"\n"))

    assert (result.text(), _finishes(result)) == ("Hi", [(FinishReason.STOP, row.raw_finish)])


def test_cut_last_frame_does_not_count(row: DialectRow):
    """Rule 1: half a frame is the sign of a truncation, not of malformed output."""
    result = row.parse(row.body(row.text("Hi"), row.text(" there"))[:-9])

    assert (result.text(), result.finishes) == ("Hi", [])
    assert type(result.failure) is UpstreamTruncated


def test_unknown_frames_are_counted(row: DialectRow):
    """Rule 13: and skipped, in the middle of an answer."""
    result = row.parse(row.body(row.text("Good "), {"novelty": 1}, 7, ["x"], row.text("day"), *row.end))

    assert result.text() == "Good day"
    assert result.ignored == ["novelty", "json int", "json list"]
    assert result.failure is None


def test_nothing_counts_after_the_end(row: DialectRow):
    """No text, and no other finish."""
    result = row.parse(row.body(row.text("Hi"), *row.end, row.text(" there"), *row.end))

    assert (result.text(), len(result.finishes), result.failure) == ("Hi", 1, None)


def test_half_characters_and_bad_bytes(row: DialectRow):
    """Bytes that are no UTF-8 become U+FFFD: one of them does not cost the stream."""
    body = row.body(row.text("a?b"), *row.end).replace(b"?", b"\xff")

    assert row.parse(body).text() == "a\ufffdb"


# --- Endings that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"\n\n", b" \r\n", b"\xef\xbb\xbf", b'{"error'])
@pytest.mark.parametrize("profile", [Profile(), OPTIONAL_FINISH], ids=["required", "optional"])
def test_empty_answer_is_a_truncation(row: DialectRow, body: bytes, profile: Profile):
    """No output and no finish, also where the provider sends none."""
    assert type(row.parse(body, profile=profile).failure) is UpstreamTruncated


@pytest.mark.parametrize("body", [b": nothing\n\n", b"data:\n\n", b"event: ping\n\n", b"id: 1\nretry: 2\n\n"])
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.frames_are_events])
def test_events_without_data_say_nothing(name: str, body: bytes):
    """Neither alone nor between the others."""
    row = ROWS[name]
    hello = row.body(row.text("Hi"))

    assert type(row.parse(body).failure) is UpstreamTruncated
    assert row.parse(body, hello, body, row.body(*row.end)).summary() == row.parse(hello, row.body(*row.end)).summary()


def test_end_without_a_finish(row: DialectRow):
    """Rule 10: a truncation with the text; but where the provider sends none it is the end, for no reason given."""
    body = row.body(row.text("Some text"))

    required, optional = row.parse(body), row.parse(body, profile=OPTIONAL_FINISH)

    assert (required.text(), required.finishes, type(required.failure)) == ("Some text", [], UpstreamTruncated)
    assert (optional.text(), _finishes(optional), optional.failure) == ("Some text", [(FinishReason.OTHER, "")], None)


def test_done_is_no_finish(row: DialectRow):
    """Rule 10: at once, and nothing follows it; where there is no such word it is no JSON."""
    parser = row.dialect.parser(Profile())
    events = parser.feed(row.body(row.text("Hi")) + (b"data: [DONE]\n\n" if row.frames_are_events else b"[DONE]\n"))

    assert type(getattr(events[-1], "failure", None)) is UpstreamTruncated
    assert parser.feed(row.body(*row.end)) == parser.close() == []


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blamed", BLAMED)
@pytest.mark.parametrize("place", ["before", "during", "after"])
def test_error_frames(row: DialectRow, blamed: str, place: str):
    """Rules 7 and 8: the text stays, and so does a finish that came before; then the run fails, in the words given."""
    before = {"before": (), "during": (row.text("Half"),), "after": (row.text("Half"), *row.end)}[place]

    result = row.parse(row.body(*before, row.errors[blamed], row.text("lost")))

    assert type(result.failure) is BLAMED[blamed]
    assert result.failure.message.startswith("Words")
    assert result.text() == ("" if place == "before" else "Half")
    finished = [finish for finish in _finishes(result) if finish[0] is not None]
    assert finished == ([(FinishReason.STOP, row.raw_finish)] if place == "after" else [])
    assert (result.usage is not None) == (place == "after")


def test_an_error_instead_of_a_stream(row: DialectRow):
    """Bare JSON with the status of a success, on several lines."""
    value = row.errors["request"] if row.frames_are_events else {"error": "Words: invalid"}
    text = json.dumps(value, indent=2 if row.frames_are_events else None).encode()

    assert type(row.parse(text).failure) is UpstreamRejected


@pytest.mark.parametrize("name", ["anthropic", "openai-chat", "openai-responses"])
def test_words_of_a_server_in_between(name: str):
    """Bare JSON that is no error of the dialect, but says in words what is wrong."""
    failure = ROWS[name].parse(b'{"detail": "Not Found"}').failure

    assert type(failure) is UpstreamUnavailable
    assert failure.message == "Not Found"


def test_no_event_follows_a_failure(row: DialectRow):
    """A parser that failed is silent."""
    parser = row.dialect.parser(Profile())
    parser.feed(row.body(row.errors["nobody"]))

    assert parser.feed(row.body(row.text("x"), *row.end)) == []
    assert parser.close() == []


def test_long_words_are_cut(row: DialectRow):
    """At most 1 KiB of a provider's words, whole characters; in a frame as under a status."""
    error = json.dumps(row.errors["nobody"]).replace("Words", "ü" * 2000)

    for failure in (row.parse(row.body(json.loads(error))).failure, row.dialect.map_error(500, error.encode())):
        assert failure is not None
        assert failure.message == "ü" * 512
        assert len(failure.provider_code) <= 128


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, UpstreamRejected),
        (401, UpstreamRejected),
        (404, UpstreamRejected),
        (408, UpstreamUnavailable),
        (429, UpstreamRateLimited),
        (500, UpstreamUnavailable),
        (503, UpstreamUnavailable),
        (529, UpstreamUnavailable),
        (302, UpstreamMalformed),
    ],
)
def test_http_errors(row: DialectRow, status: int, failure: type[RunFailure]):
    """By the status; the body has the words, if it can be read."""
    found = row.dialect.map_error(status, json.dumps(row.errors["nobody"]).encode())
    bare = row.dialect.map_error(status, b"<html>")

    assert (type(found), type(bare)) == (failure, failure)
    assert (found.message, found.http_status) == ("Words", status)
    assert (bare.message, bare.http_status) == (f"the upstream answered with HTTP status {status}", status)


# --- Malformed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"{nonsense}", b'{"a": [', b"[" * 200_000, b"9" * 5_000, b"x" * 4_200_000, b'{"a":"' + b"x" * 4_200_000 + b'"}'],
    ids=["words", "half", "deep", "long number", "long", "long JSON"],
)
def test_malformed(row: DialectRow, data: bytes):
    """What is no JSON, or too large; the text before it stays."""
    result = row.parse(row.body(row.text("Hi")) + (b"data: " if row.frames_are_events else b"") + data, b"\n\n")

    assert type(result.failure) is UpstreamMalformed
    assert result.text() == "Hi"


@pytest.mark.parametrize("body", [b"<!DOCTYPE html>\n<html>", b"  \r\n<html>", b"\xef\xbb\xbf<html>", b"<"])
def test_markup(row: DialectRow, body: bytes):
    """A page is no stream, however it is cut."""
    assert type(row.parse(body).failure) is UpstreamMalformed
    assert type(row.parse(*_bytes_of(body)).failure) is UpstreamMalformed


def _values(words: tuple[str, ...]) -> st.SearchStrategy[object]:
    names = st.sampled_from(words)
    return st.recursive(
        st.none() | st.booleans() | st.integers(-1, 3) | st.floats() | st.text(max_size=3) | names,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
        max_leaves=8,
    )


VALUES = {name: _values(row.words) for name, row in ROWS.items()}


@pytest.mark.parametrize("name", ROWS)
@given(data=st.data())
def test_nothing_raises(name: str, data: st.DataObject):
    """Whatever an upstream sends, a parser answers with events, the same ones however it is cut."""
    row = ROWS[name]
    pieces = data.draw(st.lists(st.binary(max_size=40) | VALUES[name].map(row.frame), max_size=6))
    body = b"".join(pieces)

    result = row.parse(*pieces)

    assert result.failure is not None or result.finishes
    assert row.parse(*_bytes_of(body)).summary() == result.summary()
