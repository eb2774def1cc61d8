"""The recorded streams of real providers, cut in every way, say what a reference reader says of them."""

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import Profile, StreamParser
from midstream_server.upstreams.gemini import GeminiDialect
from midstream_server.upstreams.json_stream import JsonStream
from midstream_server.upstreams.ndjson import NdjsonDecoder
from midstream_server.upstreams.ollama import OllamaDialect
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from midstream_server.upstreams.sse import SseDecoder
from recordings import recordings_folder
from stream_folding import Folded, parse

pytestmark = pytest.mark.recorded


class Framing(Protocol):
    """Splits a body into frames."""

    def feed(self, data: bytes) -> Sequence[object]: ...

    def close(self) -> Sequence[object]: ...


PARSERS: dict[str, Callable[[], StreamParser]] = {
    "anthropic": lambda: AnthropicDialect().parser(Profile()),
    "gemini": lambda: GeminiDialect().parser(Profile()),
    "ollama": lambda: OllamaDialect().parser(Profile()),
    "openai_chat": lambda: OpenAIChatDialect().parser(Profile()),
    "openai_responses": lambda: OpenAIResponsesDialect().parser(Profile()),
}
FRAMINGS: dict[str, Callable[[], Framing]] = {".sse": SseDecoder, ".json": JsonStream, ".ndjson": NdjsonDecoder}
UNTOLD = {"cache_write_tokens"}
"""Counts that the reference reader tells of some dialects only."""


def _names() -> list[str]:
    folder = recordings_folder()
    if folder is None:
        return ["absent/absent"]
    return sorted(name for name in json.loads((folder / "EXPECTED.json").read_text()) if name.split("/")[0] in PARSERS)


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
    return parse(PARSERS[name.split("/")[0]](), pieces)


def _frames(name: str, pieces: list[bytes]) -> list[object]:
    decoder = FRAMINGS[Path(name).suffix]()
    return [*itertools.chain.from_iterable(map(decoder.feed, pieces)), *decoder.close()]


def _check(result: Folded, expected: dict[str, Any]) -> None:
    for kind in ("text", "reasoning", "refusal"):
        assert result.text(kind) == expected[kind]
    assert all(call_id for call_id, _, _ in result.calls())
    calls = [(call["id"], call["name"], call["arguments"]) for call in expected["tool_calls"]]
    made = [call["id"] is None for call in expected["tool_calls"]]
    assert [(None if ours else call[0], *call[1:]) for call, ours in zip(result.calls(), made, strict=True)] == calls
    assert [finish.raw for finish in result.finishes] == [expected["finish_reason"]]
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


def test_whole_stream(name: str, body: bytes, expected: dict[str, Any]):
    """In one piece."""
    _check(_read(name, [body]), expected)


def test_frames_cut_at_every_byte(name: str, body: bytes):
    """In two pieces, wherever the cut is, the frames are the same, and they are all that a parser sees."""
    whole = _frames(name, [body])

    for position in range(1, len(body)):
        assert _frames(name, [body[:position], body[position:]]) == whole, position


def test_stream_cut_in_two(name: str, body: bytes, expected: dict[str, Any]):
    """In two pieces at places all over the stream: the same in every fact."""
    whole = _read(name, [body])
    _check(whole, expected)

    for position in range(1, len(body), max(1, len(body) // 400)):
        assert _read(name, [body[:position], body[position:]]).summary() == whole.summary(), position


def test_byte_by_byte(name: str, body: bytes):
    """One byte at a time."""
    assert _read(name, [body[i : i + 1] for i in range(len(body))]).summary() == _read(name, [body]).summary()


def test_random_pieces(name: str, body: bytes):
    """In pieces as a network makes them."""
    whole = _read(name, [body]).summary()

    for seed in range(10):
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
