"""What an error of the Gemini API means, in a frame or under an HTTP status.

https://ai.google.dev/gemini-api/docs/troubleshooting, https://cloud.google.com/apis/design/errors#error_model
"""

import re

from midstream_server.errors import (
    RunFailure,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from midstream_server.model import JsonValue
from midstream_server.upstreams.failures import cut_code, failure_of_status, json_of_body
from midstream_server.upstreams.wire.json_text import as_count, as_list, as_object, as_text, cut_words

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
    code, message = _describe(error)
    return failure(message, provider_code=code, retry_after_seconds=_retry_delay(error))


def failure_of_body(status: int, body: bytes) -> RunFailure:
    """The failure that an HTTP error status and its body mean."""
    error = find_error(json_of_body(body))
    return failure_of_status(status, *_describe(error), retry_after_seconds=_retry_delay(error))


def _describe(error: JsonValue) -> tuple[str, str]:
    """The provider's own code and words."""
    frame = as_object(error)
    number = as_count(frame.get("code"))
    code = as_text(frame.get("status")) or (str(number) if number is not None else "")
    return cut_code(code), cut_words(as_text(frame.get("message")) or as_text(error))


def _retry_delay(error: JsonValue) -> float | None:
    """How long it asks to be left alone.

    https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto, `RetryInfo`
    """
    for detail in as_list(as_object(error).get("details")):
        if found := _DELAY.fullmatch(as_text(as_object(detail).get("retryDelay"))):
            return float(found[1])
    return None
