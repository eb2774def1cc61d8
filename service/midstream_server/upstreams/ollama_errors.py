"""What an error of Ollama means, in a line or under an HTTP status: https://docs.ollama.com/api/errors."""

from midstream_server.errors import (
    RunFailure,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from midstream_server.model import JsonValue
from midstream_server.upstreams.json_text import as_count, as_object, as_text, cut_words, decode_json

_STATUS_FIELDS = ("status", "status_code", "StatusCode", "code")
_RATE_LIMIT_WORDS = ("rate limit", "too many requests", "usage limit")
_BLAMING_WORDS = ("not found", "does not support", "invalid", "unauthorized", "unsupported", "exceeds the context")


def failure_of_frame(line: JsonValue) -> RunFailure:
    """The failure that an error line means. It is mostly words alone, so those that Ollama uses decide."""
    words, status = _words(line), _status(line)
    plain = words.lower()
    failure: type[RunFailure] = UpstreamUnavailable
    if status == 429 or any(each in plain for each in _RATE_LIMIT_WORDS):
        failure = UpstreamRateLimited
    elif status:
        failure = _class_of(status)
    elif any(each in plain for each in _BLAMING_WORDS):
        failure = UpstreamRejected
    return failure(cut_words(words), provider_code=str(status) if status else "")


def failure_of_status(status: int, body: bytes) -> RunFailure:
    """The failure that an HTTP error status means."""
    try:
        words = _words(decode_json(body))
    except ValueError:
        words = ""
    return _class_of(status)(cut_words(words) or f"the upstream answered with HTTP status {status}", http_status=status)


def _class_of(status: int) -> type[RunFailure]:
    if status == 429:
        return UpstreamRateLimited
    if status == 408 or status >= 500:
        return UpstreamUnavailable
    return UpstreamRejected if status >= 400 else UpstreamMalformed


def _words(value: JsonValue) -> str:
    error = as_object(value).get("error")
    return as_text(error) or as_text(as_object(error).get("message"))


def _status(line: JsonValue) -> int:
    numbers = (as_count(as_object(line).get(field)) for field in _STATUS_FIELDS)
    return next((number for number in numbers if number and 400 <= number <= 599), 0)
