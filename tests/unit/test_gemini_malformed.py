"""Gemini streams that are not as they should be: a parser answers with events, and never raises."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream_server.errors import UpstreamMalformed, UpstreamTruncated
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.gemini import GeminiDialect
from stream_folding import Folded, parse

HELLO = {"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}


def _parse(*pieces: bytes) -> Folded:
    return parse(GeminiDialect().parser(Profile()), pieces)


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@pytest.mark.parametrize(
    "body",
    [b"data: {nonsense}\n\n", b'data: {"candidates": [\n\n', b"data: " + b"[" * 200_000, b"data: " + b"x" * 4_200_000],
    ids=lambda body: repr(body[:20]),
)
def test_malformed_events(body: bytes):
    """What is no JSON."""
    result = _parse(_data(HELLO), body, b"\n\n")

    assert type(result.failure) is UpstreamMalformed
    assert result.text() == "Hi"


@pytest.mark.parametrize("rest", [b"nonsense", b"{a}", b'{"a":"' + b"x" * 4_200_000, b"}", b'{"a"]]}', b'"text"'])
def test_malformed_arrays(rest: bytes):
    """What is no object where one should be, or too large."""
    result = _parse(b"[", json.dumps(HELLO).encode(), b",", rest, b"]")

    assert type(result.failure) is UpstreamMalformed
    assert result.text() == "Hi"


@pytest.mark.parametrize("body", [b"<!DOCTYPE html>\n<html>", b"  \n<html>"])
def test_markup(body: bytes):
    """A page is no stream."""
    assert type(_parse(body).failure) is UpstreamMalformed


@pytest.mark.parametrize("body", [b"", b"\n\n", b": nothing\n\n", b"data:\n\n", b'{"error', b"[", b"[]", b" " * 9000])
def test_empty_answer_is_a_truncation(body: bytes):
    """No output and no finish."""
    assert type(_parse(body).failure) is UpstreamTruncated


def test_bytes_that_are_no_utf8_become_replacement_characters():
    """One bad byte does not cost the stream."""
    body = b'[{"candidates":[{"content":{"parts":[{"text":"a\xffb"}]},"finishReason":"STOP"}]}]'

    assert _parse(body).text() == "a\ufffdb"


def test_long_words_are_cut():
    """At most 1 KiB of a provider's words, whole characters."""
    failure = _parse(_data({"error": {"message": "ü" * 2000, "status": "c" * 500}})).failure

    assert failure is not None
    assert (failure.message, len(failure.provider_code)) == ("ü" * 512, 128)


def test_names_that_never_stop_changing_are_not_told_for_ever():
    """Facts beside the message are few."""
    parser = GeminiDialect().parser(Profile())

    events = parser.feed(b"".join(_data({**HELLO, "modelVersion": f"m{i}", "responseId": f"r{i}"}) for i in range(500)))

    assert len(events) < 550


WORDS = st.sampled_from(
    [
        *(
            "candidates",
            "content",
            "parts",
            "text",
            "thought",
            "thoughtSignature",
            "functionCall",
            "name",
            "args",
            "id",
        ),
        *(
            "partialArgs",
            "jsonPath",
            "stringValue",
            "numberValue",
            "willContinue",
            "$.a",
            "$.a[0]",
            "$.b.c",
            "inlineData",
        ),
        *("data", "mimeType", "finishReason", "STOP", "finishMessage", "index", "usageMetadata", "promptTokenCount"),
        *("error", "code", "status", "message", "details", "promptFeedback", "blockReason", "groundingMetadata"),
        *("groundingChunks", "groundingSupports", "segment", "groundingChunkIndices", "logprobsResult"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=10,
)


@given(st.lists(st.binary(max_size=40) | VALUES.map(_data), max_size=6))
def test_nothing_raises(pieces: list[bytes]):
    """Whatever an upstream sends, a parser answers with events, the same ones however it is cut."""
    body = b"".join(pieces)

    result = _parse(*pieces)

    assert result.failure is not None or result.finishes
    assert _parse(*(body[i : i + 1] for i in range(len(body)))).summary() == result.summary()


@given(st.lists(st.binary(max_size=20) | VALUES.map(lambda value: json.dumps(value).encode() + b","), max_size=6))
def test_nothing_raises_in_an_array(pieces: list[bytes]):
    """Nor where the chunks stand in an array."""
    body = b"[" + b"".join(pieces)

    result = _parse(body)

    assert result.failure is not None or result.finishes
    assert _parse(*(body[i : i + 1] for i in range(len(body)))).summary() == result.summary()


CALLS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("f"),
        "args": VALUES,
        "willContinue": st.booleans(),
        "partialArgs": st.lists(
            st.fixed_dictionaries(
                {"jsonPath": st.sampled_from(["$.a", "$.b.c", "$.b.d[0]", "$.b.d[1]", "$['x y']"])},
                optional={"stringValue": st.text(max_size=3), "numberValue": st.floats(), "boolValue": VALUES},
            ),
            max_size=4,
        ),
    },
)
PARTS = st.fixed_dictionaries(
    {}, optional={"text": VALUES, "thought": st.booleans(), "thoughtSignature": WORDS, "functionCall": CALLS}
)
CANDIDATES = st.fixed_dictionaries(
    {"content": st.fixed_dictionaries({"parts": st.lists(PARTS, max_size=3)})},
    optional={"finishReason": st.sampled_from(["STOP", "SAFETY", ""]), "groundingMetadata": VALUES},
)


@settings(max_examples=50)
@given(st.lists(st.fixed_dictionaries({"candidates": st.lists(CANDIDATES, max_size=2)}), max_size=4))
def test_odd_parts_raise_nothing(chunks: list[object]):
    """Chunks that look almost right: no part changes its kind, none goes on after its end (the fold checks it)."""
    result = _parse(*map(_data, chunks))

    assert result.failure is not None or result.finishes


def test_no_event_follows_a_failure():
    """A parser that failed is silent."""
    parser = GeminiDialect().parser(Profile())
    parser.feed(_data({"error": {"message": "no"}}))

    assert parser.feed(_data(HELLO)) == []
    assert parser.close() == []
