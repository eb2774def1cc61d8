"""Cohere streams, written by hand: one per rule, whole and cut; and those that are not as they should be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dialect_table import as_event
from midstream_server.errors import (
    RunFailure,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.model import Annotation, FinishReason, PartState, TokenCount, TokenLogprob, Usage, UsageSource
from midstream_server.upstreams.base import MetadataReported, Profile, ResponseStarted
from midstream_server.upstreams.cohere import CohereDialect
from stream_folding import Folded, parse

STREAMS = Path(__file__).resolve().parent.parent / "streams" / "cohere"
COMPLETE = PartState.COMPLETE


def _parse(*pieces: bytes, profile: Profile | None = None) -> Folded:
    return parse(CohereDialect().parser(profile or Profile()), pieces)


def _body(name: str) -> bytes:
    return (STREAMS / f"{name}.sse").read_bytes()


def _read(name: str, profile: Profile | None = None) -> Folded:
    return _parse(_body(name), profile=profile)


def _finishes(result: Folded) -> list[tuple[FinishReason | None, str]]:
    return [(finish.reason, finish.raw) for finish in result.finishes]


def _final(value: int) -> TokenCount:
    return TokenCount(value=value, source=UsageSource.UPSTREAM_FINAL)


# --- Text and thinking -----------------------------------------------------------------------------------------------


def test_text():
    """One part, closed by the provider; what Python takes for line ends stays in it; the id is the answer's."""
    result = _read("text")

    assert result.shape() == [("text", "Green moss\u2028 grows\u0085.", COMPLETE)]
    assert CohereDialect().parser(Profile()).feed(_body("text"))[0] == ResponseStarted(upstream_request_id="9a1c")
    assert _finishes(result) == [(FinishReason.STOP, "COMPLETE")]


def test_thinking():
    """A block of its own, before the text or before a call."""
    assert _read("thinking").shape() == [("reasoning", "Hm, moss.", COMPLETE), ("text", "It is moss.", COMPLETE)]
    assert _read("thinking-and-tools").shape() == [
        ("reasoning", "A tool.", COMPLETE),
        ("tool_call", '{"q":1}', COMPLETE),
    ]


def test_blocks_that_are_not_announced():
    """Pieces alone make a part, which the engine closes."""
    assert _read("no-blocks").shape() == [("text", "Moss.", None)]


def test_another_number_is_another_block():
    """Also where nothing announces it; what is cited has its place in the part of its own block."""
    result = _read("block-numbers")
    _, second = result.parts.values()

    assert result.shape() == [("text", "Moss.", COMPLETE), ("text", "Fern.", None)]
    assert [(each.start_offset, each.end_offset) for each in second.annotations] == [(0, 4)]


@pytest.mark.parametrize("name", ["types-only", "names-only"])
def test_an_event_says_what_it_is_once(name: str):
    """Its name and the type in its data are the same; either is enough."""
    result = _read(name)

    assert result.shape() == [("text", "Moss.", COMPLETE)]
    assert (_finishes(result), result.ignored) == ([(FinishReason.STOP, "COMPLETE")], [])


def test_lists_where_one_thing_is_sent():
    """Content as a list, or a string; a call in a list, as the field's name says."""
    assert _read("lists").shape() == [
        ("reasoning", "Hm.", COMPLETE),
        ("text", "Moss.", COMPLETE),
        ("tool_call", "{}", COMPLETE),
    ]


def test_half_characters_survive():
    """A pair of surrogates that two events share comes through as two halves, for the engine to join."""
    assert _read("surrogates").text() == "\ud83c\udf43"


def test_logprobs():
    """With their text; several tokens that are not told apart have the probability of them all."""
    [text] = _read("logprobs").parts.values()

    assert text.logprobs == [TokenLogprob(token="Hi", logprob=-0.5), TokenLogprob(token=" you", logprob=-1.25)]


def test_debug_events_say_nothing():
    """They bring the prompt back."""
    result = _read("debug")

    assert (result.text(), result.ignored, result.metadata) == ("Hi", [], {})


def test_odd_types_do_no_harm():
    """Null, numbers and text where they do not belong; what has no place is counted."""
    result = _read("odd-types")

    assert result.shape() == [("text", "ok", None)]
    assert result.ignored == ["tool call that has not begun", "citation", "novelty"]
    assert result.usage is None


def test_blank_lines_are_nothing():
    """Nor are comments, before the events and between them."""
    assert (_read("blank-lines").text(), _read("blank-lines").ignored) == ("ab", [])


# --- Tools -----------------------------------------------------------------------------------------------------------


def test_tools():
    """Calls in pieces, byte for byte, and one without arguments; the plan is neither text nor reasoning."""
    result = _read("tools")

    assert result.calls() == [("find_1", "find", '{\n    "q": "moss"\n}'), ("now_2", "now", "")]
    assert [end for _, _, end in result.shape()] == [COMPLETE, COMPLETE]
    assert result.metadata == {"tool_plan": "I will look it up."}
    assert _finishes(result) == [(FinishReason.TOOL_CALLS, "TOOL_CALL")]


def test_a_plan_is_told_as_it_grows():
    """What is stopped in the middle of one has kept it so far; and so has what breaks off."""
    events = CohereDialect().parser(Profile()).feed(_body("cut-plan"))

    told = [event.metadata for event in events if isinstance(event, MetadataReported)]
    assert told == [{"tool_plan": "I will "}, {"tool_plan": "I will look "}]
    assert _read("cut-plan").metadata == {"tool_plan": "I will look "}
    assert type(_read("cut-plan").failure) is UpstreamTruncated


def test_a_plan_without_end_is_cut():
    """At 2,048 characters, and nothing is told of it any more."""
    piece = as_event({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "moss " * 100}}})
    events = CohereDialect().parser(Profile()).feed(piece * 1000)

    assert len(events) == 5
    assert len(_parse(piece * 1000).metadata["tool_plan"]) == 2048


def test_text_around_a_call():
    """Text after a call is another part, and so is another block of it where the last one has not ended."""
    assert _read("text-around-a-call").shape() == [
        ("text", "First ", COMPLETE),
        ("tool_call", '{"q":1}', COMPLETE),
        ("text", "then ", COMPLETE),
        ("text", "last.", None),
    ]


def test_ids_and_names_of_calls():
    """Where there is no id it is ours; what is said again replaces; both anew are another call (rules 3 and 4)."""
    result = _read("call-ids")
    [first, *others] = result.calls()

    assert first[1:] == ("find", "{}")
    assert first == _read("call-ids").calls()[0]
    assert others == [("b", "one", "{}"), ("c", "two", "{}")]
    assert result.ignored == ["tool call that has not begun"] * 2


def test_made_ids_differ_between_answers():
    """Their ids tell them apart."""
    other = _body("call-ids").replace(b"9a1c", b"9a1d")

    assert _parse(other).calls()[0][0] != _read("call-ids").calls()[0][0]


def test_a_call_that_the_limit_cuts_stays_open():
    """For the engine to say that it is truncated."""
    result = _read("cut-call")

    assert result.shape() == [("tool_call", '{"q": "mo', None)]
    assert _finishes(result) == [(FinishReason.LENGTH, "MAX_TOKENS")]


# --- Citations -------------------------------------------------------------------------------------------------------


def test_citations():
    """For each source one, also behind the end of the text; characters are counted there, bytes here."""
    [text] = _read("citations").parts.values()
    document = Annotation(type="document", url="https://moss.example/a", title="On moss")

    assert text.text.encode()[14:19] + text.text.encode()[24:29] == b"greensmall"
    assert [replace(each, raw_json="") for each in text.annotations] == [
        replace(document, start_offset=14, end_offset=19),
        replace(document, start_offset=24, end_offset=29),
        Annotation(type="tool", title="find_1:0", start_offset=24, end_offset=29),
    ]
    assert [json.loads(each.raw_json)["text"] for each in text.annotations] == ["green", "small", "small"]


def test_citations_of_something_else_are_counted():
    """Of a thought, of a plan, and before any text; where the cited words are not, no place is named."""
    result = _read("citations-elsewhere")
    _, text = result.parts.values()

    assert result.ignored == ["citation"] * 3
    [unplaced] = text.annotations
    assert (unplaced.type, unplaced.start_offset, unplaced.end_offset) == ("citation", None, None)
    assert json.loads(unplaced.raw_json)["text"] == "Fern"


def test_citations_name_their_block():
    """Or mean the latest."""
    first, second = _read("citations-of-two-blocks").parts.values()

    assert [each.end_offset for each in (*first.annotations, *second.annotations)] == [4, 4]
    assert '"Moss"' in first.annotations[0].raw_json
    assert '"Fern"' in second.annotations[0].raw_json


def test_no_place_behind_half_a_character():
    """It is something else in the part."""
    [text] = _read("citation-of-half-a-character").parts.values()

    assert [(each.start_offset, each.end_offset) for each in text.annotations] == [(None, None)]


def test_too_many_citations_are_counted():
    """256 are kept, and of a large one only what is not its own JSON."""
    large = {"start": 0, "end": 2, "text": "Hi", "sources": [{"type": "document", "document": {"text": "x" * 5000}}]}
    text = as_event({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hi"}}}})
    cited = as_event({"type": "citation-start", "index": 0, "delta": {"message": {"citations": large}}})
    result = _parse(text, cited * 300)
    [part] = result.parts.values()

    assert (len(part.annotations), result.ignored) == (256, ["citation"] * 44)
    assert part.annotations[0] == Annotation(type="document", start_offset=0, end_offset=2)


# --- Endings ---------------------------------------------------------------------------------------------------------


def test_account():
    """What the model read and wrote; of it what a cache had; beside it what is billed."""
    billed = {"billed_input_tokens": _final(7), "billed_output_tokens": _final(3), "billed_search_units": _final(1)}

    assert _read("text").usage == Usage(input=_final(70), cached_input=_final(64), output=_final(12), other=billed)


def test_no_account_is_made_up():
    """What is billed is not what was counted; a stream without an account, or cut before it, has none."""
    assert _read("no-tokens").usage == Usage(other={"billed_input_tokens": _final(7)})
    assert _read("no-usage").usage is None
    assert _parse(_body("text").partition(b"event: message-end")[0]).usage is None


@pytest.mark.parametrize(
    ("name", "reason", "word"),
    [
        ("stop-sequence", FinishReason.STOP, "STOP_SEQUENCE"),
        ("length", FinishReason.LENGTH, "MAX_TOKENS"),
        ("limit", FinishReason.LENGTH, "ERROR_LIMIT"),
        ("toxic", FinishReason.CONTENT_FILTER, "ERROR_TOXIC"),
        ("other", FinishReason.OTHER, "USER_CANCEL"),
    ],
)
def test_finish_words(name: str, reason: FinishReason, word: str):
    """The provider's own word is kept; the words beside a filtered answer are no failure."""
    assert (_finishes(_read(name)), _read(name).failure) == ([(reason, word)], None)


def test_message_that_ends_without_a_reason():
    """A truncation, unless the profile says that this endpoint sends none."""
    optional = Profile(finish_reason_required=False)

    assert type(_read("no-reason").failure) is UpstreamTruncated
    assert _finishes(_read("no-reason", optional)) == [(FinishReason.OTHER, "")]


@pytest.mark.parametrize("name", ["end-without-done", "unterminated"])
def test_done_is_not_needed(name: str):
    """The message's end is the end."""
    assert (_finishes(_read(name)), _read(name).failure) == ([(FinishReason.STOP, "COMPLETE")], None)


def test_nothing_counts_after_the_end():
    """No text, and no other finish."""
    result = _read("after-the-end")

    assert (result.text(), result.ignored) == ("Hi", ["content-delta"])
    assert _finishes(result) == [(FinishReason.STOP, "COMPLETE")]


# --- Errors ----------------------------------------------------------------------------------------------------------

ENDED = "the upstream ended its answer with "
ERRORS: dict[str, tuple[type[RunFailure], str, str, str]] = {
    "error-ending": (UpstreamUnavailable, "ERROR", "internal server error, try again", "Half"),
    "error-without-words": (UpstreamUnavailable, "ERROR", f"{ENDED}ERROR", "Half"),
    "error-names-only": (UpstreamUnavailable, "ERROR", f"{ENDED}ERROR", "Half"),
    "timeout": (UpstreamUnavailable, "TIMEOUT", f"{ENDED}TIMEOUT", "Half"),
    "error-beside-a-finish": (UpstreamRejected, "", "invalid request: too much", "Half"),
    "error-words": (
        UpstreamRateLimited,
        "",
        "trial token rate limit exceeded, limit is 100000 tokens per minute",
        "Half",
    ),
    "error-event": (UpstreamRejected, "", "invalid api token", "Half"),
    "error-type": (UpstreamUnavailable, "", "Boom", "Half"),
    "error-after-the-end": (UpstreamUnavailable, "", "Boom", "Almost"),
    "not-json": (UpstreamMalformed, "", "an event of the upstream is not JSON", "Half"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str):
    """The text stays, and the run fails with the provider's words."""
    failure, code, message, text = ERRORS[name]

    result = _read(name)

    assert type(result.failure) is failure
    assert (result.failure.provider_code, result.failure.message) == (code, message)
    assert result.text() == text


def test_a_failed_ending_is_no_finish():
    """The provider's word is kept, and the account that comes with it."""
    result = _read("error-ending")

    assert _finishes(result) == [(None, "ERROR")]
    assert result.usage is not None
    assert result.usage.output == _final(12)


def test_error_after_the_end_keeps_it():
    """And the account too."""
    result = _read("error-after-the-end")

    assert _finishes(result) == [(FinishReason.STOP, "COMPLETE")]
    assert result.usage is not None


@pytest.mark.parametrize("body", [b'{"message":"Words"}', b'{"error":{"message":"Words"}}', b'{"detail":"Words"}'])
def test_words_of_an_http_error(body: bytes):
    """Cohere's own, and those of a server in between."""
    assert CohereDialect().map_error(400, body).message == "Words"
