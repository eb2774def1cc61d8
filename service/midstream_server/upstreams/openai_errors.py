"""What an error of an OpenAI-like server means, in a frame or under an HTTP status.

https://platform.openai.com/docs/guides/error-codes, https://openrouter.ai/docs/api-reference/errors
"""

from midstream_server.errors import (
    RunFailure,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from midstream_server.model import JsonValue
from midstream_server.upstreams.json_text import (
    as_count,
    as_list,
    as_object,
    as_text,
    cut_words,
    decode_json,
    encode_json,
)

_MAX_CODE_BYTES = 128
_RATE_LIMIT_WORDS = ("ratelimit", "toomanyrequests", "resourceexhausted", "quota", "throttl")
_OUTAGE_WORDS = (
    "overloaded",
    "servererror",
    "internal",
    "unavailable",
    "timeout",
    "timedout",
    "apierror",
    "engineerror",
)
_BLAMING_WORDS = (
    "invalid",
    "badrequest",
    "authentication",
    "unauthorized",
    "unauthenticated",
    "permission",
    "forbidden",
    "notfound",
    "contextlength",
    "contextsize",
    "contentfilter",
    "policy",
    "image",
    "residency",
    "moderation",
    "unsupported",
    "unprocessable",
    "validation",
    "payment",
    "billing",
    "apikey",
)


def find_error(value: JsonValue) -> JsonValue:
    """The error in a frame or a body, or None: under `error`, in a choice, as the object itself, or in a list."""
    if isinstance(value, list):
        return next((error for error in map(find_error, value[:1]) if error), None)
    frame = as_object(value)
    if error := frame.get("error"):
        return error
    if frame.get("object") == "error":
        return frame
    return next((error for choice in as_list(frame.get("choices")) if (error := as_object(choice).get("error"))), None)


def failure_of_frame(error: JsonValue) -> RunFailure:
    """The failure that an error frame means: rate limit, the request's own fault, or else the upstream's."""
    code, message = _describe(error)
    return _class_of(error)(message, provider_code=code)


def failure_of_status(status: int, body: bytes) -> RunFailure:
    """The failure that an HTTP error status means."""
    code, message = _describe(_error_in_body(body))
    failure: type[RunFailure]
    if status == 429:
        failure = UpstreamRateLimited
    elif status == 408 or status >= 500:
        failure = UpstreamUnavailable
    elif status >= 400:
        failure = UpstreamRejected
    else:
        failure = UpstreamMalformed
    return failure(
        message or f"the upstream answered with HTTP status {status}", http_status=status, provider_code=code
    )


def _error_in_body(body: bytes) -> JsonValue:
    try:
        value = decode_json(body)
    except ValueError:
        return None
    return find_error(value) or value


def _describe(error: JsonValue) -> tuple[str, str]:
    """The provider's own code and words."""
    if isinstance(error, str):
        return "", cut_words(error)
    frame = as_object(error)
    code = frame.get("code")
    word = next((each for each in (code, frame.get("type"), frame.get("status")) if isinstance(each, str) and each), "")
    if not word and (number := as_count(code)) is not None:
        word = str(number)
    message = _detail(frame.get("message")) or _detail(frame.get("detail")) or as_text(frame.get("error"))
    return cut_words(word, _MAX_CODE_BYTES), cut_words(message)


def _detail(detail: JsonValue) -> str:
    return detail if isinstance(detail, str) else encode_json(detail) if detail else ""


def _class_of(error: JsonValue) -> type[RunFailure]:
    frame = as_object(error)
    words = [_plain(as_text(frame.get(key))) for key in ("code", "type", "status")]
    numbers = [_http_status(frame.get(key)) for key in ("code", "status")]
    status = next((number for number in numbers if number), 0)
    if status == 429 or _has(words, _RATE_LIMIT_WORDS):
        return UpstreamRateLimited
    if status == 408 or status >= 500:
        return UpstreamUnavailable
    if status >= 400:
        return UpstreamRejected
    return UpstreamRejected if _has(words, _BLAMING_WORDS) and not _has(words, _OUTAGE_WORDS) else UpstreamUnavailable


def _plain(word: str) -> str:
    return "".join(filter(str.isalnum, word)).lower()


def _has(words: list[str], marks: tuple[str, ...]) -> bool:
    return any(mark in word for word in words for mark in marks)


def _http_status(value: JsonValue) -> int:
    number = (
        int(value)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3
        else as_count(value)
    )
    return number if number is not None and 400 <= number <= 599 else 0
