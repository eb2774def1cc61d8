"""Ollama streams, written by hand: one per rule, whole and cut; and those that are not as they should be."""

import itertools
from pathlib import Path

import pytest

from midstream_server.errors import (
    RunFailure,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.model import FinishReason, PartState, TokenCount, TokenLogprob, Usage, UsageSource
from midstream_server.upstreams.base import Profile, ResponseStarted
from midstream_server.upstreams.ollama import OllamaDialect
from midstream_server.upstreams.wire.frame import Frame
from midstream_server.upstreams.wire.ndjson import NdjsonDecoder
from stream_folding import Folded, parse

STREAMS = Path(__file__).resolve().parent.parent / "streams" / "ollama"
COMPLETE = PartState.COMPLETE
TIMINGS = {"total_duration": "90", "load_duration": "10", "prompt_eval_duration": "20", "eval_duration": "60"}


def _parse(*pieces: bytes, profile: Profile | None = None) -> Folded:
    return parse(OllamaDialect().parser(profile or Profile()), pieces)


def _body(name: str) -> bytes:
    return (STREAMS / f"{name}.ndjson").read_bytes()


def _read(name: str, profile: Profile | None = None) -> Folded:
    return _parse(_body(name), profile=profile)


def _finishes(result: Folded) -> list[tuple[FinishReason | None, str]]:
    return [(finish.reason, finish.raw) for finish in result.finishes]


def _usage(**counts: int) -> Usage:
    def final(value: int | None) -> TokenCount | None:
        return None if value is None else TokenCount(value=value, source=UsageSource.UPSTREAM_FINAL)

    return Usage(input=final(counts.get("input")), output=final(counts.get("output")))


# --- Framing ---------------------------------------------------------------------------------------------------------


def _lines(*pieces: bytes) -> list[bytes]:
    decoder = NdjsonDecoder()
    frames = [*itertools.chain.from_iterable(map(decoder.feed, pieces)), *decoder.close()]
    return [frame.data for frame in frames]


def test_line_that_never_ends():
    """Is given up at 4 MiB, and nothing comes after it."""
    decoder = NdjsonDecoder()

    assert decoder.feed(b"a\n" + b"x" * 4_194_305) == [Frame(b"a")]
    assert decoder.failure
    assert (decoder.feed(b"\nb\n"), decoder.close()) == ([], [])


def test_large_line():
    """4 MiB are no more than a line may have, in one piece or many."""
    line = b"x" * 4_194_304

    assert _lines(line + b"\n") == [line]
    assert _lines(line[:7], line[7:], b"\n") == [line]


# --- Parts -----------------------------------------------------------------------------------------------------------


def test_text():
    """One part; what Python takes for line ends stays in it."""
    result = _read("text")

    assert result.shape() == [("text", "Green moss\u2028 grows\u0085.", None)]
    assert OllamaDialect().parser(Profile()).feed(_body("text"))[0] == ResponseStarted(upstream_model="painter:1b")
    assert _finishes(result) == [(FinishReason.STOP, "stop")]


def test_thinking():
    """Comes before the text, also in one line with it."""
    assert _read("thinking").shape() == [("reasoning", "Hm, moss.", COMPLETE), ("text", "It is moss.", None)]
    assert _read("thinking-and-text-in-one").shape() == [
        ("reasoning", "Hm.", COMPLETE),
        ("text", "So.", COMPLETE),
        ("reasoning", "Wait.", COMPLETE),
        ("text", "No.", None),
    ]


def test_calls():
    """Whole, their arguments an object; ids are ours where there is none, the same each time."""
    result = _read("calls")
    ids = [call[0] for call in result.calls()]

    assert [call[1:] for call in result.calls()] == [
        ("find", '{"q":"moss","n":[1,2.5]}'),
        ("open", "{}"),
        ("list", "{}"),
        ("odd", '{"a":1}'),
    ]
    assert [end for _, _, end in result.shape()] == [COMPLETE] * 5
    assert (ids[1], len(set(ids))) == ("own-1", 4)
    assert result.calls() == _read("calls").calls()
    assert _finishes(result) == [(FinishReason.TOOL_CALLS, "stop")]


def test_ids_differ_between_answers():
    """Their time tells them apart."""
    later = _body("calls").replace(b"03:04:05.6Z", b"03:04:05.7Z")

    assert _parse(later).calls()[0][0] != _read("calls").calls()[0][0]


def test_text_on_the_last_line_counts():
    """Before the finish."""
    assert _read("text-on-the-last-line").text() == "Moss."


def test_logprobs():
    """With their text."""
    [text] = _read("logprobs").parts.values()

    top = (TokenLogprob(token="Ho", logprob=-1.5),)
    assert text.logprobs == [TokenLogprob(token="Hi", logprob=-0.5, token_bytes=b"Hi", top=top)]


def test_half_characters_survive():
    """A pair of surrogates that two lines share comes through as two halves, for the engine to join."""
    assert _read("surrogates").text() == "\ud83c\udf43"


def test_odd_types_do_no_harm():
    """Null, numbers and text where they do not belong; what has no place is counted."""
    result = _read("odd-types")

    assert result.text() == "xok"
    assert result.ignored == [*["tool call without a name"] * 3, "json list", "json int", "status", "message images"]
    assert result.usage is None


def test_blank_lines_are_nothing():
    """Between lines, and before them."""
    assert _read("blank-lines").text() == "ab"
    assert _read("blank-lines").ignored == []


# --- Endings ---------------------------------------------------------------------------------------------------------


def test_account():
    """Of the last line, with its timings in nanoseconds."""
    result = _read("text")

    assert result.usage == _usage(input=7, output=3)
    assert result.metadata == TIMINGS


def test_no_account_before_the_end():
    """What is stopped has none: it is not made up."""
    assert _parse(*_body("text").splitlines(keepends=True)[:-1]).usage is None


def test_finish_words():
    """The provider's own word is kept; an answer without one is done all the same."""
    assert _finishes(_read("length")) == [(FinishReason.LENGTH, "length")]
    assert _read("length").usage == _usage(output=1)
    assert _finishes(_read("load")) == [(FinishReason.OTHER, "load")]
    assert _read("load").parts == {}
    assert _finishes(_read("no-reason")) == [(FinishReason.OTHER, "")]


def test_end_without_done():
    """A truncation, unless the profile says that this endpoint sends none."""
    assert type(_read("end-without-done").failure) is UpstreamTruncated
    assert _read("end-without-done").text() == "Some text"
    optional = Profile(finish_reason_required=False)
    assert _finishes(_read("end-without-done", optional)) == [(FinishReason.OTHER, "")]
    assert type(_parse(b"", profile=optional).failure) is UpstreamTruncated


def test_nothing_counts_after_the_last_line():
    """But an error."""
    result = _read("after-the-last")

    assert result.text() == "Hi"
    assert result.ignored == ["line after the last"] * 2


# --- Errors ----------------------------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[type[RunFailure], str, str, str]] = {
    "error": (
        UpstreamUnavailable,
        "",
        "an error was encountered while running the model: unexpected EOF",
        "Half",
    ),
    "error-words": (UpstreamRejected, "", "model 'moss' not found", ""),
    "error-status": (UpstreamRateLimited, "429", "slow down", "Half"),
    "error-object": (UpstreamUnavailable, "", "Boom", "Half"),
    "error-after-finish": (UpstreamUnavailable, "", "Boom", "Almost"),
    "not-json": (UpstreamMalformed, "", "an event of the upstream is not JSON", "Half"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str):
    """The text stays, and the run fails with the provider's words."""
    failure, code, message, text = ERRORS[name]

    result = _read(name)

    assert type(result.failure) is failure
    assert (result.failure.provider_code, result.failure.message) == (code, message)
    assert result.text() == text


def test_error_after_the_finish_keeps_it():
    """And the account too."""
    result = _read("error-after-finish")

    assert _finishes(result) == [(FinishReason.STOP, "stop")]
    assert result.usage == _usage(input=7, output=3)
