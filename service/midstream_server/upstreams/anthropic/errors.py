"""What an error of the Messages API means, in a frame or under an HTTP status.

https://platform.claude.com/docs/en/api/errors
"""

from midstream_server.errors import (
    RunFailure,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from midstream_server.model import JsonValue
from midstream_server.upstreams.failures import class_of_status, cut_code, failure_of_status, json_of_body
from midstream_server.upstreams.wire.json_text import as_count, as_object, as_text, cut_words, encode_json

_FAILURES: dict[str, type[RunFailure]] = {
    "rate_limit_error": UpstreamRateLimited,
    "invalid_request_error": UpstreamRejected,
    "authentication_error": UpstreamRejected,
    "billing_error": UpstreamRejected,
    "permission_error": UpstreamRejected,
    "not_found_error": UpstreamRejected,
    "conflict_error": UpstreamRejected,
    "request_too_large": UpstreamRejected,
    "exceed_context_size_error": UpstreamRejected,
    "timeout_error": UpstreamUnavailable,
    "api_error": UpstreamUnavailable,
    "overloaded_error": UpstreamUnavailable,
}
"""By the error's type; `exceed_context_size_error` is llama.cpp's. Others go by their status, if they have one."""


def find_error(value: JsonValue) -> JsonValue:
    """The error in a frame or a body, or None."""
    frame = as_object(value)
    return frame.get("error") or (frame if frame.get("type") == "error" else None)


def failure_of_frame(error: JsonValue) -> RunFailure:
    """The failure that an error frame means: rate limit, the request's own fault, or else the upstream's."""
    code, message = _describe(error)
    failure = _FAILURES.get(code) or class_of_status(as_count(as_object(error).get("code")) or 0) or UpstreamUnavailable
    return failure(message, provider_code=code)


def failure_of_body(status: int, body: bytes) -> RunFailure:
    """The failure that an HTTP error status and its body mean."""
    value = json_of_body(body)
    return failure_of_status(status, *_describe(find_error(value) or value))


def _describe(error: JsonValue) -> tuple[str, str]:
    """The provider's own code and words."""
    if isinstance(error, str):
        return "", cut_words(error)
    frame = as_object(error)
    detail = frame.get("message") or frame.get("detail")
    message = detail if isinstance(detail, str) else encode_json(detail) if detail else ""
    return cut_code(as_text(frame.get("type"))), cut_words(message)
