"""What an error of the Gemini API means, in a frame or under an HTTP status.

https://ai.google.dev/gemini-api/docs/troubleshooting, https://cloud.google.com/apis/design/errors#error_model
"""

import re

from midstream_server.errors import (
    RunFailure,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from midstream_server.model import JsonValue
from midstream_server.upstreams.json_text import as_count, as_list, as_object, as_text, cut_words, decode_json

_BLAMING = frozenset(
    {
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
        "OUT_OF_RANGE",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "UNIMPLEMENTED",
    }
)
"""Status names that blame the request, its key or its content; all others are outages."""
_MAX_CODE_BYTES = 128
_DELAY = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)s", re.ASCII)


def find_error(value: JsonValue) -> JsonValue:
    """The error in a chunk or a body, or None; a body may be a list with the error in it."""
    if isinstance(value, list):
        return next((error for error in map(find_error, value[:1]) if error), None)
    return as_object(value).get("error") or None


def failure_of_frame(error: JsonValue) -> RunFailure:
    """The failure that an error frame means: by the name of its status, or else by its number."""
    frame = as_object(error)
    name, number = as_text(frame.get("status")), as_count(frame.get("code")) or 0
    failure: type[RunFailure] = UpstreamUnavailable
    if name == "RESOURCE_EXHAUSTED" or (not name and number == 429):
        failure = UpstreamRateLimited
    elif name in _BLAMING or (not name and 400 <= number < 500 and number not in (408, 499)):
        failure = UpstreamRejected
    return _describe(failure, error)


def failure_of_status(status: int, body: bytes) -> RunFailure:
    """The failure that an HTTP error status means."""
    try:
        error = find_error(decode_json(body))
    except ValueError:
        error = None
    failure: type[RunFailure]
    if status == 429:
        failure = UpstreamRateLimited
    elif status == 408 or status >= 500:
        failure = UpstreamUnavailable
    elif status >= 400:
        failure = UpstreamRejected
    else:
        failure = UpstreamMalformed
    return _describe(failure, error, status)


def _describe(failure: type[RunFailure], error: JsonValue, http_status: int | None = None) -> RunFailure:
    """The provider's own code and words, and how long it asks to be left alone."""
    frame = as_object(error)
    number = as_count(frame.get("code"))
    code = as_text(frame.get("status")) or (str(number) if number is not None else "")
    words = as_text(frame.get("message")) or as_text(error)
    if not words and http_status is not None:
        words = f"the upstream answered with HTTP status {http_status}"
    return failure(
        cut_words(words),
        http_status=http_status,
        provider_code=cut_words(code, _MAX_CODE_BYTES),
        retry_after_seconds=_retry_delay(frame),
    )


def _retry_delay(error: dict[str, JsonValue]) -> float | None:
    """https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto, `RetryInfo`."""
    for detail in as_list(error.get("details")):
        if found := _DELAY.fullmatch(as_text(as_object(detail).get("retryDelay"))):
            return float(found[1])
    return None
