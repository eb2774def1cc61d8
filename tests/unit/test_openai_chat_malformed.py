"""Chat Completions streams that are not as they should be: a parser answers with events, and never raises."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream_server.errors import UpstreamMalformed, UpstreamTruncated
from midstream_server.upstreams.base import ModelFinished, Profile
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from stream_folding import Folded, parse


def _parse(*pieces: bytes) -> Folded:
    return parse(OpenAIChatDialect().parser(Profile()), pieces)


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@pytest.mark.parametrize(
    "body",
    [
        b"data: {nonsense}\n\n",
        b'data: {"choices": [\n\n',
        b"<!DOCTYPE html>\n<html>",
        b"  \n<html>",
        b'{"choices": [{"message": {"content": "Hi"}}]}',
        b"data: " + b"[" * 200_000 + b"\n\n",
        b"data: " + b"9" * 5_000 + b"\n\n",
        b"data: " + b"x" * 4_200_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_malformed(body: bytes):
    """What is no JSON, or no event stream."""
    result = _parse(_data({"choices": [{"delta": {"content": "Hi"}}]}) * (b"<" not in body), body, b"\n\n")

    assert type(result.failure) is UpstreamMalformed
    assert result.text() == ("" if b"<" in body else "Hi")


@pytest.mark.parametrize("body", [b"", b"\n\n", b": nothing\n\n", b"data:\n\n", b'{"error'])
def test_empty_answer_is_a_truncation(body: bytes):
    """No output and no finish."""
    assert type(_parse(body).failure) is UpstreamTruncated


def test_bytes_that_are_no_utf8_become_replacement_characters():
    """One bad byte does not cost the stream."""
    result = _parse(b'data: {"choices":[{"delta":{"content":"a\xffb"},"finish_reason":"stop"}]}\n\n')

    assert result.text() == "a\ufffdb"


def test_long_words_are_cut():
    """At most 1 KiB of a provider's words, whole characters."""
    failure = _parse(_data({"error": {"message": "ü" * 2000, "code": "c" * 500}})).failure

    assert failure is not None
    assert failure.message == "ü" * 512
    assert len(failure.provider_code) == 128


def test_names_that_never_stop_changing_are_not_told_for_ever():
    """Facts beside the message are few."""
    chunks = b"".join(_data({"model": f"m{i}", "choices": [{"delta": {"content": "x"}}]}) for i in range(500))
    parser = OpenAIChatDialect().parser(Profile())

    events = parser.feed(chunks)

    assert len(events) < 550


WORDS = st.sampled_from(
    [
        *(
            "choices",
            "delta",
            "content",
            "index",
            "tool_calls",
            "function",
            "arguments",
            "name",
            "id",
            "error",
            "usage",
        ),
        *("finish_reason", "message", "code", "logprobs", "reasoning_details", "type", "text", "annotations", "bytes"),
        *("timings", "x_groq", "prompt_tokens", "citations", "token", "signature", "thinking", "refusal", "status"),
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


CHOICES = st.lists(
    st.fixed_dictionaries({"index": st.just(0) | VALUES, "delta": VALUES, "logprobs": VALUES}), max_size=2
)


@settings(max_examples=50)
@given(st.lists(st.fixed_dictionaries({"choices": CHOICES}), max_size=3))
def test_odd_deltas_raise_nothing(chunks: list[object]):
    """Chunks that look almost right."""
    result = _parse(*map(_data, chunks))

    assert result.failure is not None


def test_no_event_follows_a_failure():
    """A parser that failed is silent."""
    parser = OpenAIChatDialect().parser(Profile())
    parser.feed(_data({"error": {"message": "no"}}))

    assert parser.feed(_data({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]})) == []
    assert parser.close() == []


def test_finish_comes_after_the_text_of_its_chunk():
    """And after its usage, so that a reader of the finish knows the account."""
    events = (
        OpenAIChatDialect()
        .parser(Profile())
        .feed(_data({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}))
    )

    assert isinstance(events[-1], ModelFinished)
    assert len(events) == 3
