"""The recorded streams of real providers, cut in every way, say what a reference reader says of them."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dialect_table import FRAMINGS, ROWS
from midstream_server.upstreams.wire.frame import Frame
from recordings import recordings_folder
from stream_folding import Folded

pytestmark = pytest.mark.recorded


UNTOLD = {"cache_write_tokens"}
"""Counts that the reference reader tells of some dialects only."""


def _dialect(name: str) -> str:
    return name.split("/")[0].replace("_", "-")


def _names() -> list[str]:
    """All there are: one of a dialect that has no row fails, it is not left out."""
    folder = recordings_folder()
    return sorted(json.loads((folder / "EXPECTED.json").read_text())) if folder else ["absent/absent"]


@pytest.fixture(params=_names())
def name(request: pytest.FixtureRequest) -> str:
    """A recorded stream."""
    return str(request.param)


@pytest.fixture
def body(name: str, recordings: Path) -> bytes:
    """Its bytes."""
    return (recordings / name).read_bytes()


@pytest.fixture
def expected(name: str, recordings: Path) -> dict[str, Any]:
    """What it says."""
    value = json.loads((recordings / "EXPECTED.json").read_text())[name]
    assert isinstance(value, dict)
    return value


def _read(name: str, pieces: list[bytes]) -> Folded:
    return ROWS[_dialect(name)].parse(*pieces)


def _frames(name: str, *pieces: bytes) -> list[Frame]:
    framing = FRAMINGS[Path(name).suffix]()
    return [frame for piece in pieces for frame in framing.feed(piece)] + framing.close()


def _windows(name: str, body: bytes) -> Iterator[bytes]:
    """Runs of three frames, each with one of the run before; an array is one run."""
    ends = {".sse": rb"\n\r?\n", ".ndjson": rb"\n", ".json": rb"\Z"}[Path(name).suffix]
    bounds = [0, *(found.end() for found in re.finditer(ends, body)), len(body)]
    for first in range(0, len(bounds) - 1, 2):
        yield body[bounds[first] : bounds[min(first + 3, len(bounds) - 1)]]


def _check(result: Folded, expected: dict[str, Any]) -> None:
    for kind in ("text", "reasoning", "refusal"):
        assert result.text(kind) == expected[kind]
    assert all(call_id for call_id, _, _ in result.calls())
    calls = [(call["id"], call["name"], call["arguments"]) for call in expected["tool_calls"]]
    made = [call["id"] is None for call in expected["tool_calls"]]
    assert [(None if ours else call[0], *call[1:]) for call, ours in zip(result.calls(), made, strict=True)] == calls
    assert [finish.raw for finish in result.finishes] == [expected["finish_reason"]]
    assert result.metadata.get("tool_plan", "") == expected.get("tool_plan", "")
    assert (result.failure is not None) == (expected["outcome"] == "error")
    if result.failure is not None:
        assert result.failure.message == expected["error"]["message"]
        assert result.failure.provider_code == str(expected["error"]["code"])
    counts = {name: count for name, count in expected["usage"].items() if name != "total_tokens"}
    if expected["dialect"].startswith("gemini") and "output_tokens" in counts:
        counts["output_tokens"] += counts.get("reasoning_tokens", 0)  # it counts them apart, we together
    assert {name: count for name, count in _counts(result).items() if name in counts or name not in UNTOLD} == counts


def _counts(result: Folded) -> dict[str, int]:
    usage = result.usage
    if usage is None:
        return {}
    counts = {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cached_tokens": usage.cached_input,
        "reasoning_tokens": usage.reasoning,
        "cache_write_tokens": usage.cache_write_input,
    }
    return {name: count.value for name, count in counts.items() if count is not None}


@pytest.mark.usefixtures("recordings")
def test_every_recorded_stream_has_a_dialect():
    """A folder without a row in `dialect_table` would be a promise that nobody checks."""
    folder = recordings_folder()
    assert folder is not None
    files = {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*")}

    assert {_dialect(name) for name in files} - set(ROWS) == set()
    assert set(_names()) == files


def test_whole_stream(name: str, body: bytes, expected: dict[str, Any]):
    """In one piece."""
    _check(_read(name, [body]), expected)


def test_frames_cut_at_every_byte(name: str, body: bytes):
    """In two pieces, wherever the cut is, the frames are the same, and they are all that a parser sees.

    Between two frames a decoder is as it was at first, so the cuts are made in short runs of frames, not in the whole.
    """
    for window in _windows(name, body):
        whole = _frames(name, window)
        for position in range(1, len(window)):
            assert _frames(name, window[:position], window[position:]) == whole, (window, position)


def test_stream_cut_in_two(name: str, body: bytes, expected: dict[str, Any]):
    """In two pieces at places all over the stream: the same in every fact."""
    whole = _read(name, [body])
    _check(whole, expected)

    for position in range(1, len(body), max(1, len(body) // 100)):
        assert _read(name, [body[:position], body[position:]]).summary() == whole.summary(), position


def test_byte_by_byte(name: str, body: bytes):
    """One byte at a time."""
    assert _read(name, [body[i : i + 1] for i in range(len(body))]).summary() == _read(name, [body]).summary()


def test_random_pieces(name: str, body: bytes):
    """In pieces as a network makes them."""
    whole = _read(name, [body]).summary()

    for seed in range(5):
        assert _read(name, list(_pieces(body, random.Random(seed)))).summary() == whole, seed


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"], ids=["CRLF", "CR"])
def test_other_line_ends(name: str, body: bytes, line_end: bytes):
    """With other line ends, whole and in pieces, also between CR and LF."""
    whole = _read(name, [body]).summary()
    converted = body.replace(b"\r\n", b"\n").replace(b"\n", line_end)

    assert _read(name, [converted]).summary() == whole
    assert _read(name, [converted[i : i + 1] for i in range(len(converted))]).summary() == whole


def _pieces(body: bytes, generator: random.Random) -> Iterator[bytes]:
    position = 0
    while position < len(body):
        size = generator.choice((1, 2, 7, 64, 300, 1500))
        yield body[position : position + size]
        position += size
