"""Errors of Cohere: words alone, under a status, in a frame, or as the end of a message."""

from midstream_server.errors import RunFailure
from midstream_server.model import JsonValue
from midstream_server.upstreams.failures import class_of_words, failure_of_status, json_of_body
from midstream_server.upstreams.wire.json_text import as_object, as_text, cut_words

FAILED_ENDINGS = ("ERROR", "TIMEOUT")
"""Finish reasons of a model that did not finish: https://docs.cohere.com/reference/chat-stream."""
_EXPLAINED_ENDINGS = ("ERROR_LIMIT", "ERROR_TOXIC")
"""Finish reasons of older models that end an answer, for which the error beside them is no more than the reason."""
_RATE_LIMIT_WORDS = ("rate limit", "request limit", "too many requests", "api calls /")
_BLAMING_WORDS = ("invalid", "not found", "not supported", "unauthorized", "no api key", "expired", "too many tokens")


def find_error(value: JsonValue) -> JsonValue:
    """The error in a frame: what has no type but a message, what is called one, or how the message ended."""
    frame = as_object(value)
    kind, delta = as_text(frame.get("type")), as_object(frame.get("delta"))
    if frame.get("error") or kind == "error":
        return value
    if kind in ("", "message-end") and _is_failed(delta):
        return delta
    return value if not kind and frame.get("message") else None


def _is_failed(delta: dict[str, JsonValue]) -> bool:
    word = as_text(delta.get("finish_reason"))
    return word in FAILED_ENDINGS or bool(delta.get("error") and word not in _EXPLAINED_ENDINGS)


def failure_of_frame(error: JsonValue) -> RunFailure:
    """The failure that an error means: by its words, as Cohere has no codes."""
    ending = as_text(as_object(error).get("finish_reason"))
    code = ending if ending in FAILED_ENDINGS else ""
    words = _words(error) or f"the upstream ended its answer with {code or 'an error'}"
    failure = class_of_words([words.lower()], 0, rate_limits=_RATE_LIMIT_WORDS, blame=_BLAMING_WORDS)
    return failure(cut_words(words), provider_code=code)


def failure_of_http(status: int, body: bytes) -> RunFailure:
    """The failure that an HTTP error status and its body mean: https://docs.cohere.com/reference/errors."""
    return failure_of_status(status, "", _words(json_of_body(body)))


def _words(value: JsonValue) -> str:
    """`{"message": …}`; a server in between says `error` or `detail`."""
    fields = as_object(value)
    error = fields.get("error")
    said = (value, fields.get("message"), error, as_object(error).get("message"), fields.get("detail"))
    return next((text for each in said if (text := as_text(each))), "")
