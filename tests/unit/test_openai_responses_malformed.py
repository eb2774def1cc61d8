"""Responses streams that are not as they should be: a parser answers with events, and never raises."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from midstream_server.errors import UpstreamRateLimited, UpstreamRejected
from midstream_server.model import ToolCallDelta
from midstream_server.upstreams.base import PartDelta, Profile, ResponseStarted
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from stream_folding import Folded, parse


def _parse(*pieces: bytes) -> Folded:
    return parse(OpenAIResponsesDialect().parser(Profile()), pieces)


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _delta(text: str) -> bytes:
    return _data({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": text})


def test_error_of_a_status():
    """The provider's own code and words; a body that is no JSON has none."""
    body = b'{"error": {"message": "Too fast", "type": "requests", "param": null, "code": "rate_limit_exceeded"}}'

    failure = OpenAIResponsesDialect().map_error(429, body)

    assert type(failure) is UpstreamRateLimited
    assert (failure.message, failure.provider_code, failure.http_status) == ("Too fast", "rate_limit_exceeded", 429)
    assert type(OpenAIResponsesDialect().map_error(401, b"<html>")) is UpstreamRejected


def test_a_state_that_is_too_large_is_left_out():
    """The reasoning stays, without what would not fit into a run."""
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "x" * 2**20}

    [part] = _parse(_data({"type": "response.output_item.done", "output_index": 0, "item": item})).parts.values()

    assert (part.text, part.state) == ("Hm.", None)


def test_a_part_opens_with_its_first_piece():
    """One delta, not an empty one before it: every delta has a number in the run's log."""
    parser = OpenAIResponsesDialect().parser(Profile())
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}

    assert len(parser.feed(_delta("x"))) == 1
    opened = parser.feed(_data({"type": "response.output_item.added", "output_index": 1, "item": call}))
    assert [event.payload for event in opened if isinstance(event, PartDelta)] == [ToolCallDelta(id="c", name="f")]


def test_the_id_is_that_of_the_first_event():
    """An account is asked for by it; the model may be told more exactly later."""
    parser = OpenAIResponsesDialect().parser(Profile())

    first = parser.feed(_data({"type": "response.created", "response": {"id": "a", "model": "m"}}))
    again = parser.feed(_data({"type": "response.in_progress", "response": {"id": "b", "model": "m"}}))
    later = parser.feed(_data({"type": "response.in_progress", "response": {"id": "c", "model": "m-1"}}))

    assert first == [ResponseStarted(upstream_request_id="a", upstream_model="m")]
    assert again == []
    assert later == [ResponseStarted(upstream_model="m-1")]


TYPES = st.sampled_from(
    [
        *("response.created", "response.output_item.added", "response.output_item.done", "response.output_text.delta"),
        *("response.refusal.delta", "response.reasoning_summary_text.delta", "response.reasoning_text.delta"),
        *("response.function_call_arguments.delta", "response.output_text.annotation.added", "response.completed"),
        *("response.incomplete", "response.failed", "response.cancelled", "response.done", "error", "keepalive"),
        *("message", "reasoning", "function_call", "output_text", "refusal", "summary_text", "reasoning_text"),
    ]
)
WORDS = st.sampled_from(
    [
        *("type", "response", "item", "item_id", "output_index", "content_index", "summary_index", "delta", "part"),
        *(
            "annotation",
            "annotations",
            "logprobs",
            "id",
            "call_id",
            "name",
            "arguments",
            "status",
            "summary",
            "content",
        ),
        *("encrypted_content", "text", "refusal", "error", "code", "message", "usage", "output", "incomplete_details"),
        *("reason", "input_tokens", "timings", "url", "token", "model", "service_tier"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | st.text(max_size=3) | TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=5,
)
ITEMS = st.fixed_dictionaries(
    {"type": TYPES},
    optional={
        "id": VALUES,
        "call_id": st.sampled_from(["a", "b", ""]),
        "name": st.sampled_from(["f", "g", ""]),
        "arguments": VALUES,
        "status": st.sampled_from(["completed", "incomplete"]),
        "content": VALUES,
        "summary": VALUES,
        "encrypted_content": VALUES,
    },
)
EVENTS = st.fixed_dictionaries(
    {"type": TYPES},
    optional={
        "output_index": st.integers(0, 1) | VALUES,
        "content_index": st.integers(0, 1) | VALUES,
        "summary_index": st.integers(0, 1) | VALUES,
        "delta": st.text(max_size=3) | VALUES,
        "item": ITEMS | VALUES,
        "annotation": VALUES,
        "logprobs": VALUES,
        "response": VALUES,
        "timings": VALUES,
    },
)


@settings(max_examples=50)
@given(st.lists(EVENTS.map(_data), max_size=8))
def test_odd_events_raise_nothing(pieces: list[bytes]):
    """Events that look almost right: no part changes its kind or goes on after its end."""
    result = _parse(*pieces)

    assert result.failure is not None or result.finishes
