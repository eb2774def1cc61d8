"""Gemini streams, written by hand: how they are framed, how they end, their account and their errors."""

import json

import pytest

from gemini_streams import body_of, early_events, finishes, parsed, read, usage
from midstream_server.errors import (
    RunFailure,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.model import FinishReason, PartState, UsageSource
from midstream_server.upstreams.base import ModelFinished, PartDelta, Profile, ResponseStarted, UsageReported
from midstream_server.upstreams.gemini import GeminiDialect

COMPLETE = PartState.COMPLETE
FINAL, RUNNING = UsageSource.UPSTREAM_FINAL, UsageSource.UPSTREAM_RUNNING
OPTIONAL_FINISH = Profile(finish_reason_required=False)


def test_mixed_line_ends():
    """LF behind the data, CRLF as the blank line: what Google's own samples have."""
    body = body_of("text").replace(b"\n\n", b"\n\r\n")

    assert parsed(body).summary() == read("text").summary()


# --- Framing ---------------------------------------------------------------------------------------------------------


def test_array_says_what_events_say():
    """Without `alt=sse`: brackets and quotes in strings are no structure."""
    result = read("array.json")

    assert result.shape() == [("text", 'Braces: {"[\\" ] é \\', COMPLETE), ("tool_call", '{"q":"\\"}"}', COMPLETE)]
    assert finishes(result) == [(FinishReason.TOOL_CALLS, "STOP")]
    assert result.usage == usage(FINAL, input=2, output=6)


def test_elements_of_an_array_come_as_they_complete():
    """Not at its end."""
    body = body_of("array.json")
    end_of_first = body.index(b"\n,") + 1
    parser = GeminiDialect().parser(Profile())

    assert parser.feed(body[: end_of_first - 2]) == []
    assert any(isinstance(event, PartDelta) for event in parser.feed(body[end_of_first - 2 : end_of_first]))


def test_array_that_is_cut():
    """Half an element is the sign of a truncation."""
    result = read("array-cut.json")

    assert result.text() == 'Braces: {"[\\" '
    assert type(result.failure) is UpstreamTruncated


# --- Endings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "calls", "facts", "cut-call", "blocked"])
def test_finish_that_is_sure_counts_at_once(name: str):
    """Before the end of the body: who stops then has an answer that is whole."""
    assert any(isinstance(event, ModelFinished) for event in early_events(name))


def test_stop_on_every_chunk_is_no_end():
    """Some servers put it there; all text counts, and the finish at the end of the body."""
    result = read("stop-on-every-chunk")

    assert result.text() == "One two three"
    assert finishes(result) == [(FinishReason.STOP, "STOP")]
    assert result.usage == usage(FINAL, input=2, output=3)
    assert not any(isinstance(event, ModelFinished) for event in early_events("stop-on-every-chunk"))


def test_stop_before_the_text_is_no_end():
    """Gateways that translate put it on every chunk without content."""
    assert read("stop-before-the-text").text() == "Late text"
    assert len(read("stop-before-the-text").finishes) == 1


def test_stop_before_text_that_is_cut_is_no_end():
    """What followed it did not end."""
    body = body_of("stop-before-the-text").split(b"\n\n")

    assert type(parsed(b"\n\n".join(body[:3]) + b"\n\n").failure) is UpstreamTruncated


def test_last_word_counts():
    """A filter after a STOP that was none."""
    result = read("stop-then-safety")

    assert result.text() == "Some "
    assert finishes(result) == [(FinishReason.CONTENT_FILTER, "SAFETY")]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", FinishReason.STOP),
        ("MAX_TOKENS", FinishReason.LENGTH),
        *(
            (word, FinishReason.CONTENT_FILTER)
            for word in (
                "SAFETY",
                "RECITATION",
                "LANGUAGE",
                "BLOCKLIST",
                "PROHIBITED_CONTENT",
                "SPII",
                "IMAGE_SAFETY",
                "MODEL_ARMOR",
            )
        ),
        ("MALFORMED_FUNCTION_CALL", FinishReason.OTHER),
        ("UNEXPECTED_TOOL_CALL", FinishReason.OTHER),
        ("OTHER", FinishReason.OTHER),
        ("SOMETHING_NEW", FinishReason.OTHER),
    ],
)
def test_finish_words(word: str, reason: FinishReason):
    """The unified reason, and the provider's own word."""
    body = json.dumps([{"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": word}]}]).encode()

    assert finishes(parsed(body)) == [(reason, word)]


def test_blocked_prompt_is_an_answer():
    """Without a message; with its account."""
    result = read("blocked")

    assert result.parts == {}
    assert finishes(result) == [(FinishReason.CONTENT_FILTER, "PROHIBITED_CONTENT")]
    assert result.failure is None
    assert result.usage == usage(FINAL, input=8)
    assert result.metadata == {"promptFeedback.blockReasonMessage": "Not this."}


def test_end_without_finish():
    """A truncation, unless the profile says that this endpoint sends none; the account stays a running one."""
    assert type(read("end-without-finish").failure) is UpstreamTruncated
    assert read("end-without-finish").usage == usage(RUNNING, input=2, output=2)
    assert finishes(read("end-without-finish", OPTIONAL_FINISH)) == [(FinishReason.OTHER, "")]
    assert type(parsed(b"[]", profile=OPTIONAL_FINISH).failure) is UpstreamTruncated


def test_nothing_but_facts_after_the_finish():
    """The account counts, text does not."""
    result = read("after-the-finish")

    assert result.text() == "Hi"
    assert result.usage == usage(FINAL, input=1, output=1)
    assert result.ignored == ["candidate after its finish reason", "json int", "novelty"]


def test_upstream_is_known_from_its_first_chunk():
    """Before its text; and again when it changes."""
    first, second, *_ = body_of("text").split(b"\n\n")
    events = (
        GeminiDialect()
        .parser(Profile())
        .feed(b"\n\n".join([first, second, second.replace(b"painter-1", b"painter-2"), b""]))
    )

    told = [event for event in events if isinstance(event, ResponseStarted)]
    assert events[0] == told[0] == ResponseStarted(upstream_request_id="resp-7", upstream_model="painter-1")
    assert told[1:] == [ResponseStarted(upstream_model="painter-2")]


def test_facts_are_told_once():
    """What the account and the finish say besides."""
    assert read("facts").metadata == {
        "serviceTier": "standard",
        "finishMessage": "Malformed function call: find(",
    }


# --- Usage -----------------------------------------------------------------------------------------------------------


def test_last_usage_wins():
    """Input includes cached, output includes thoughts, tools' results are input."""
    assert read("text").usage == usage(FINAL, input=4, output=5, cached_input=2)
    assert read("thoughts-and-signatures").usage == usage(FINAL, input=14, output=9, reasoning=6, tool_use=5)


def test_usage_is_running_until_the_finish():
    """A stream that is stopped has a running account; output that is not told is not 0."""
    first, second, *_ = body_of("text").split(b"\n\n")

    assert parsed(first + b"\n\n").usage == usage(RUNNING, input=4)
    assert parsed(first + b"\n\n" + second + b"\n\n").usage == usage(RUNNING, input=4, output=3)


def test_closing_account_is_told_once():
    """Not again at the end of the body."""
    parser = GeminiDialect().parser(Profile())
    events = [*parser.feed(body_of("text")), *parser.close()]

    accounts = [event.usage for event in events if isinstance(event, UsageReported)]
    assert [account.input and account.input.source for account in accounts] == [RUNNING, RUNNING, FINAL]


def test_unknown_counts_are_absent():
    """Null, text, fractions and negative numbers are no counts."""
    assert read("odd-usage").usage is None


# --- Errors ----------------------------------------------------------------------------------------------------------


ERRORS: dict[str, tuple[type[RunFailure], str, str, str]] = {
    "error-status": (UpstreamRateLimited, "RESOURCE_EXHAUSTED", "Quota", "Half"),
    "error-number": (UpstreamRejected, "400", "Bad", "Half"),
    "error-in-chunk": (UpstreamUnavailable, "INTERNAL", "Boom", "Half"),
    "error-list": (UpstreamRejected, "INVALID_ARGUMENT", "Bad schema", ""),
    "error-bare": (UpstreamUnavailable, "CANCELLED", "The operation was cancelled.", "Half"),
    "error-event": (UpstreamRejected, "PERMISSION_DENIED", "Key leaked", "Half"),
    "error-after-finish": (UpstreamUnavailable, "UNAVAILABLE", "Overloaded", "Almost"),
    "stop-on-every-chunk-then-error": (UpstreamUnavailable, "UNAVAILABLE", "The model is overloaded.", "Half"),
    "array-error.json": (UpstreamUnavailable, "INTERNAL", "Boom", 'Braces: {"[\\" '),
    "array-of-an-error.json": (UpstreamRejected, "NOT_FOUND", "models/x is not found", ""),
    "object-error.json": (UpstreamRejected, "UNAUTHENTICATED", "No key", ""),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_in_every_dress(name: str):
    """The text stays, and the run fails with the provider's words."""
    failure, code, message, text = ERRORS[name]

    result = read(name)

    assert type(result.failure) is failure
    assert (result.failure.provider_code, result.failure.message) == (code, message)
    assert result.text() == text


def test_error_says_when_to_come_back():
    """Google puts it into the details."""
    failure = read("error-status").failure

    assert failure is not None
    assert failure.retry_after_seconds == 17.5


@pytest.mark.parametrize("name", ["error-after-finish", "stop-on-every-chunk-then-error"])
def test_error_after_the_finish_keeps_it(name: str):
    """And the account too."""
    result = read(name)

    assert finishes(result) == [(FinishReason.STOP, "STOP")]
    assert result.usage == usage(FINAL, input=2, output=1)


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("RESOURCE_EXHAUSTED", UpstreamRateLimited),
        *(
            (name, UpstreamRejected)
            for name in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_FOUND")
        ),
        *(
            (name, UpstreamUnavailable)
            for name in ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED", "UNKNOWN", "SOMETHING_NEW")
        ),
    ],
)
def test_status_names(name: str, failure: type[RunFailure]):
    """Whom an error blames."""
    result = parsed(json.dumps([{"error": {"code": 1, "status": name, "message": "no"}}]).encode())

    assert type(result.failure) is failure


@pytest.mark.parametrize(
    ("number", "failure"),
    [
        (400, UpstreamRejected),
        (408, UpstreamUnavailable),
        (429, UpstreamRateLimited),
        (499, UpstreamUnavailable),
        (500, UpstreamUnavailable),
        (None, UpstreamUnavailable),
    ],
)
def test_numbers_where_there_is_no_name(number: int | None, failure: type[RunFailure]):
    """As HTTP has them; a call that was cancelled there is nobody's fault here."""
    result = parsed(json.dumps([{"error": {"code": number, "message": "no"}}]).encode())

    assert type(result.failure) is failure


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, UpstreamRejected),
        (403, UpstreamRejected),
        (404, UpstreamRejected),
        (408, UpstreamUnavailable),
        (429, UpstreamRateLimited),
        (499, UpstreamRejected),
        (500, UpstreamUnavailable),
        (504, UpstreamUnavailable),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_http_errors(status: int, failure: type[RunFailure], wrapped: bool):
    """By the status; the body, an object or a list of one, has the words."""
    error = {"error": {"code": status, "message": "API key not valid", "status": "WORD"}}

    found = GeminiDialect().map_error(status, json.dumps([error] if wrapped else error).encode())
    bare = GeminiDialect().map_error(status, b"<html>")

    assert (type(found), type(bare)) == (failure, failure)
    assert (found.message, found.provider_code, found.http_status) == ("API key not valid", "WORD", status)
    assert bare.message == f"the upstream answered with HTTP status {status}"
