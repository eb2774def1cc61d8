"""Which failure an HTTP status means, or a frame that has one or says it in words."""

from collections.abc import Iterable, Mapping

from midstream_server.errors import (
    RunFailure,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from midstream_server.model import JsonValue
from midstream_server.upstreams.wire.json_text import as_count, cut_words, decode_json

_MAX_CODE_BYTES = 128


def class_of_status(status: int) -> type[RunFailure] | None:
    """The failure that a status means; None if it is no error's."""
    if status == 429:
        return UpstreamRateLimited
    if status == 408 or status >= 500:
        return UpstreamUnavailable
    return UpstreamRejected if status >= 400 else None


def class_of_words(
    words: Iterable[str], status: int, *, rate_limits: Iterable[str], blame: Iterable[str], outages: Iterable[str] = ()
) -> type[RunFailure]:
    """The failure that a frame means: by its words and its status, if it has one; what blames nobody is an outage."""
    text = "\n".join(words)
    if any(mark in text for mark in rate_limits):
        return UpstreamRateLimited
    blames = any(mark in text for mark in blame) and not any(mark in text for mark in outages)
    return class_of_status(status) or (UpstreamRejected if blames else UpstreamUnavailable)


def failure_of_words(words: str, status: int, *, rate_limits: Iterable[str], blame: Iterable[str]) -> RunFailure:
    """The failure that words alone mean, in a dialect that has no codes but perhaps a status."""
    failure = class_of_words([words.lower()], status, rate_limits=rate_limits, blame=blame)
    return failure(cut_words(words), provider_code=str(status) if status else "")


def status_in(frame: Mapping[str, JsonValue], *fields: str) -> int:
    """The HTTP error status that a frame has under one of these names, as a number or in digits; 0 if none."""
    for value in map(frame.get, fields):
        digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3
        number = int(str(value)) if digits else as_count(value)
        if number is not None and 400 <= number <= 599:
            return number
    return 0


def failure_of_status(status: int, code: str, message: str, *, retry_after_seconds: float | None = None) -> RunFailure:
    """The failure that an HTTP error status means, with the provider's own code and words where there are any."""
    failure = class_of_status(status) or UpstreamMalformed
    return failure(
        cut_words(message) or f"the upstream answered with HTTP status {status}",
        http_status=status,
        provider_code=cut_code(code),
        retry_after_seconds=retry_after_seconds,
    )


def cut_code(code: str) -> str:
    """A provider's code as it may be shown."""
    return cut_words(code, _MAX_CODE_BYTES)


def json_of_body(body: bytes) -> JsonValue:
    """The body of an error, or None if it is no JSON."""
    try:
        return decode_json(body)
    except ValueError:
        return None
