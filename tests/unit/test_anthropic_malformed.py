"""Messages streams and errors that are not as they should be: a parser answers with events, and never raises."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midstream_server.errors import (
    RunFailure,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import Profile
from stream_folding import Folded, parse


def _parse(*pieces: bytes) -> Folded:
    return parse(AnthropicDialect().parser(Profile()), pieces)


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


WORDS = st.sampled_from(
    [
        *("type", "index", "delta", "content_block", "message", "usage", "error", "text", "thinking", "signature"),
        *("data", "id", "name", "input", "partial_json", "citation", "stop_reason", "stop_details", "category"),
        *("input_tokens", "output_tokens", "output_tokens_details", "thinking_tokens", "cache_creation", "model"),
        *("server_tool_use", "cited_text", "code", "tool_use", "redacted_thinking", "text_delta", "end_turn"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=5,
)
BLOCKS = st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "other"])
DELTAS = st.sampled_from(
    ["text_delta", "thinking_delta", "signature_delta", "input_json_delta", "citations_delta", "other"]
)
INDEXES = st.integers(0, 2) | VALUES
EVENTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("message_start"), "message": VALUES}),
    st.fixed_dictionaries({"type": st.just("message_delta"), "delta": VALUES, "usage": VALUES}),
    st.fixed_dictionaries({"type": st.just("content_block_stop"), "index": INDEXES}),
    st.fixed_dictionaries(
        {
            "type": st.just("content_block_start"),
            "index": INDEXES,
            "content_block": st.fixed_dictionaries(
                {"type": BLOCKS}, optional={"text": VALUES, "thinking": VALUES, "data": VALUES, "input": VALUES}
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("content_block_delta"),
            "index": INDEXES,
            "delta": st.fixed_dictionaries(
                {"type": DELTAS},
                optional={"text": VALUES, "thinking": VALUES, "partial_json": VALUES, "citation": VALUES},
            ),
        }
    ),
)


@settings(max_examples=50)
@given(st.lists(EVENTS, max_size=8))
def test_odd_events_raise_nothing(events: list[object]):
    """Events that look almost right, in any order: parts keep their kind, and nothing is said of one that has ended."""
    result = _parse(*map(_data, events))

    assert result.failure is not None or result.finishes


STATUSES: list[tuple[int, object, type[RunFailure], str, str]] = [
    (
        400,
        {"error": {"type": "invalid_request_error", "message": "Bad"}},
        UpstreamRejected,
        "invalid_request_error",
        "Bad",
    ),
    (
        401,
        {"error": {"type": "authentication_error", "message": "Key"}},
        UpstreamRejected,
        "authentication_error",
        "Key",
    ),
    (
        404,
        {"type": "error", "error": {"type": "not_found_error", "message": "m"}},
        UpstreamRejected,
        "not_found_error",
        "m",
    ),
    (413, {"error": {"type": "request_too_large", "message": "Big"}}, UpstreamRejected, "request_too_large", "Big"),
    (429, {"error": {"type": "rate_limit_error", "message": "Slow"}}, UpstreamRateLimited, "rate_limit_error", "Slow"),
    (408, None, UpstreamUnavailable, "", "the upstream answered with HTTP status 408"),
    (500, {"error": {"type": "api_error", "message": "Boom"}}, UpstreamUnavailable, "api_error", "Boom"),
    (
        529,
        {"error": {"type": "overloaded_error", "message": "Later"}},
        UpstreamUnavailable,
        "overloaded_error",
        "Later",
    ),
    (403, {"detail": "Forbidden"}, UpstreamRejected, "", "Forbidden"),
    (400, {"error": "words"}, UpstreamRejected, "", "words"),
    (400, ["x"], UpstreamRejected, "", "the upstream answered with HTTP status 400"),
]


@pytest.mark.parametrize(("status", "body", "failure", "code", "message"), STATUSES)
def test_error_statuses(status: int, body: object, failure: type[RunFailure], code: str, message: str):
    """The status decides, the body explains."""
    mapped = AnthropicDialect().map_error(status, b"" if body is None else json.dumps(body).encode())

    assert type(mapped) is failure
    assert (mapped.http_status, mapped.provider_code, mapped.message) == (status, code, message)
