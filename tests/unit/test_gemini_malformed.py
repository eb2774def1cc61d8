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


@pytest.mark.parametrize("rest", [b"nonsense", b"{a}", b'{"a":"' + b"x" * 4_200_000, b"}", b'{"a"]]}', b'"text"'])
def test_malformed_arrays(rest: bytes):
    """What is no object where one should be, or too large."""
    result = _parse(b"[", json.dumps(HELLO).encode(), b",", rest, b"]")

    assert type(result.failure) is UpstreamMalformed
    assert result.text() == "Hi"


@pytest.mark.parametrize("body", [b'[{"error', b"[", b"[]", b" " * 9000])
def test_empty_array_is_a_truncation(body: bytes):
    """No output and no finish."""
    assert type(_parse(body).failure) is UpstreamTruncated


def test_bytes_that_are_no_utf8_become_replacement_characters():
    """One bad byte does not cost the stream."""
    body = b'[{"candidates":[{"content":{"parts":[{"text":"a\xffb"}]},"finishReason":"STOP"}]}]'

    assert _parse(body).text() == "a\ufffdb"


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
