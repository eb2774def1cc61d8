"""What an error of an OpenAI-like server means, in a frame or under an HTTP status.

https://platform.openai.com/docs/guides/error-codes, https://openrouter.ai/docs/api-reference/errors
"""

from midstream_server.errors import RunFailure
from midstream_server.model import JsonValue
from midstream_server.upstreams.failures import class_of_words, cut_code, failure_of_status, json_of_body, status_in
from midstream_server.upstreams.wire.json_text import (
    as_count,
    as_list,
    as_object,
    as_text,
    cut_words,
    encode_json,
)

_RATE_LIMIT_WORDS = ("ratelimit", "toomanyrequests", "resourceexhausted", "quota", "throttl", "capacityexceeded")
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
    "inspection",
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


def failure_of_body(status: int, body: bytes) -> RunFailure:
    """The failure that an HTTP error status and its body mean."""
    value = json_of_body(body)
    return failure_of_status(status, *_describe(find_error(value) or value))


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
    return cut_code(word), cut_words(message)


def _detail(detail: JsonValue) -> str:
    return detail if isinstance(detail, str) else encode_json(detail) if detail else ""


def _class_of(error: JsonValue) -> type[RunFailure]:
    frame = as_object(error)
    words = ["".join(filter(str.isalnum, as_text(frame.get(key)))).lower() for key in ("code", "type", "status")]
    status = status_in(frame, "code", "status")
    return class_of_words(words, status, rate_limits=_RATE_LIMIT_WORDS, blame=_BLAMING_WORDS, outages=_OUTAGE_WORDS)
