"""Chat Completions streams that are not as they should be: a parser answers with events, and never raises."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from midstream_server.upstreams.base import ModelFinished, Profile
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from stream_folding import Folded, parse


def _parse(*pieces: bytes) -> Folded:
    return parse(OpenAIChatDialect().parser(Profile()), pieces)


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


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


CHOICES = st.lists(
    st.fixed_dictionaries({"index": st.just(0) | VALUES, "delta": VALUES, "logprobs": VALUES}), max_size=2
)


@settings(max_examples=50)
@given(st.lists(st.fixed_dictionaries({"choices": CHOICES}), max_size=3))
def test_odd_deltas_raise_nothing(chunks: list[object]):
    """Chunks that look almost right."""
    result = _parse(*map(_data, chunks))

    assert result.failure is not None


def test_finish_comes_after_the_text_of_its_chunk():
    """And after its usage, so that a reader of the finish knows the account."""
    events = (
        OpenAIChatDialect()
        .parser(Profile())
        .feed(_data({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}))
    )

    assert isinstance(events[-1], ModelFinished)
    assert len(events) == 3
