"""Responses streams, written by hand: one per rule of DESIGN §5, whole and cut."""

import json
from pathlib import Path

import pytest

from midstream_server.errors import (
    RunFailure,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.model import Annotation, FinishReason, PartState, TokenCount, TokenLogprob, Usage, UsageSource
from midstream_server.upstreams.base import Profile, UsageReported
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from stream_folding import Folded, parse

STREAMS = Path(__file__).resolve().parent.parent / "streams" / "openai_responses"
COMPLETE = PartState.COMPLETE
FINAL, RUNNING = UsageSource.UPSTREAM_FINAL, UsageSource.UPSTREAM_RUNNING


def _parse(*pieces: bytes, profile: Profile | None = None) -> Folded:
    return parse(OpenAIResponsesDialect().parser(profile or Profile()), pieces)


def _bytes(name: str) -> bytes:
    return (STREAMS / f"{name}.sse").read_bytes()


def _read(name: str, profile: Profile | None = None) -> Folded:
    return _parse(_bytes(name), profile=profile)


def _event(kind: str, **fields: object) -> bytes:
    return b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


def _finishes(result: Folded) -> list[tuple[FinishReason | None, str]]:
    return [(finish.reason, finish.raw) for finish in result.finishes]


def _usage(source: UsageSource, **counts: int) -> Usage:
    values = {name: TokenCount(value=value, source=source) for name, value in counts.items()}
    return Usage(**values, other={})


# --- Output ----------------------------------------------------------------------------------------------------------


def test_text():
    """Deltas, not what the events around them say again; the account comes before the finish."""
    result = _read("text")

    assert result.shape() == [("text", "Good morning", COMPLETE)]
    assert _finishes(result) == [(FinishReason.STOP, "completed")]
    assert result.usage == _usage(FINAL, input=9, output=7, cached_input=4, reasoning=3)
    assert (result.request_id, result.model) == ("resp_1", "writer-1-2025")
    assert result.metadata == {"service_tier": "default"}
    assert result.ignored == []


def test_every_message_is_a_part():
    """Two items, two texts."""
    assert _read("two-messages").shape() == [("text", "First.", COMPLETE), ("text", "Second.", COMPLETE)]


def test_ids_may_change_from_event_to_event():
    """Rule 11: only indices are stable."""
    result = _read("changing-ids")

    assert result.shape() == [("text", "One answer", COMPLETE), ("tool_call", '{"q":1}', COMPLETE)]
    assert result.calls() == [("call_a", "find", '{"q":1}')]
    assert _finishes(result) == [(FinishReason.TOOL_CALLS, "completed")]


def test_a_server_without_indices_is_read_by_its_ids():
    """llama.cpp: and its timings are a running account."""
    result = _read("without-index")

    assert result.shape() == [
        ("reasoning", "Hm.", COMPLETE),
        ("text", "Look", COMPLETE),
        ("tool_call", '{"q":1}', COMPLETE),
    ]
    assert result.usage == _usage(FINAL, input=9, output=6, cached_input=4)
    assert _read("running-usage-only").usage == _usage(RUNNING, input=9, output=1, cached_input=4)


def test_timings_are_read_beside_an_index_too():
    """They are no part of a plain delta."""
    timings = {"cache_n": 4, "prompt_n": 5, "predicted_n": 1}

    result = _parse(_event("response.output_text.delta", output_index=0, delta="Hi", timings=timings))

    assert (result.text(), result.usage) == ("Hi", _usage(RUNNING, input=9, output=1, cached_input=4))


def test_each_summary_is_a_part_and_the_last_has_the_state():
    """The whole item as it was done, with all its summaries; what came with `added` was only half of it."""
    result = _read("summaries")

    first, last, _ = result.parts.values()
    assert result.shape() == [
        ("reasoning", "Weighing.", COMPLETE),
        ("reasoning", "Choosing.", COMPLETE),
        ("text", "Blue.", COMPLETE),
    ]
    assert first.state is None
    assert last.state is not None
    assert last.state.dialect == "openai-responses"
    assert json.loads(last.state.data) == {
        "type": "reasoning",
        "id": "rs_0",
        "summary": [{"type": "summary_text", "text": "Weighing."}, {"type": "summary_text", "text": "Choosing."}],
        "encrypted_content": "c2VjcmV0",
    }


def test_thoughts_and_their_summary_count_once():
    """Rule 5: of an item's two kinds of reasoning the first is read; without encryption there is no state."""
    result = _read("thoughts-told-twice")

    assert result.shape() == [("reasoning", "Long thoughts", COMPLETE), ("text", "Done.", COMPLETE)]
    assert result.ignored == ["reasoning told twice"]
    assert next(iter(result.parts.values())).state is None


def test_encrypted_reasoning_is_a_part_without_text():
    """It must be sent back all the same."""
    result = _read("encrypted-reasoning")

    assert result.shape() == [("reasoning", "", COMPLETE), ("text", "Four", COMPLETE)]
    assert next(iter(result.parts.values())).state is not None


def test_refusal():
    """An answer that declines, alone or after some text."""
    assert _read("refusal").shape() == [("refusal", "I can't do that.", COMPLETE)]
    assert _read("text-and-refusal").shape() == [("text", "Well. ", COMPLETE), ("refusal", "No.", COMPLETE)]
    for name in ("refusal", "text-and-refusal"):
        assert _finishes(_read(name)) == [(FinishReason.REFUSAL, "completed")]


def test_parallel_calls():
    """Each goes on by its index, and ends in its own time."""
    result = _read("parallel-calls")

    assert result.calls() == [("call_a", "find", '{"q":1}'), ("call_b", "open", '{"n":2}')]
    assert [end for _, _, end in result.shape()] == [COMPLETE] * 3


def test_repeated_call_head_replaces():
    """Rule 3: neither name nor id grows."""
    assert _read("repeated-call-head").calls() == [("call_a", "seek", '{"q":1}')]
    assert _read("late-call-head").calls() == [("call_a", "find", '{"q":1}')]


def test_index_used_again_is_another_call():
    """Rule 4: a new id and a name; the call before is closed."""
    result = _read("index-used-again")

    assert result.calls() == [("call_a", "find", '{"q":1}'), ("call_b", "open", '{"n":2}')]
    assert [end for _, _, end in result.shape()] == [COMPLETE, COMPLETE]


def test_calls_without_id_get_one():
    """A result must be able to name its call: two calls, two ids, the same each time."""
    calls = _read("calls-without-id").calls()

    assert [(name, arguments) for _, name, arguments in calls] == [("find", '{"q":1}'), ("find", "{}")]
    assert calls[0][0].startswith("call_")
    assert calls[0][0] != calls[1][0]
    assert calls == _read("calls-without-id").calls()


def test_what_did_not_come_as_deltas_is_read_from_the_items():
    """Some servers only send whole items, or only the last event."""
    result = _read("items-without-deltas")

    assert result.shape() == [
        ("reasoning", "Hm.", COMPLETE),
        ("text", "Hello", COMPLETE),
        ("refusal", "No.", COMPLETE),
        ("tool_call", '{"q":1}', COMPLETE),
    ]
    assert _read("ending-alone").shape() == [("text", "All at once", COMPLETE)]


def test_what_deltas_left_out_is_read_from_the_items():
    """Each by its own place: an item of which nothing streamed, half of one, and a call that only the end completes."""
    assert _read("items-partly-streamed").shape() == [
        ("reasoning", "One.", COMPLETE),
        ("reasoning", "Two.", COMPLETE),
        ("text", "First", COMPLETE),
        ("text", "Second", COMPLETE),
        ("tool_call", '{"q":1}', COMPLETE),
    ]


def test_items_may_interleave():
    """Each goes on by its index."""
    assert _read("interleaved-items").shape() == [("text", "Aa", COMPLETE), ("text", "Bb", COMPLETE)]


def test_annotations():
    """Where they belong; a file has a name for a title."""
    [part] = _read("annotations").parts.values()

    raw = '{"type":"url_citation","url":"https://a.example/","title":"A","start_index":0,"end_index":4}'
    link = Annotation(
        type="url_citation", url="https://a.example/", title="A", start_offset=0, end_offset=4, raw_json=raw
    )
    page, file = part.annotations
    assert page == link
    assert (file.type, file.title) == ("file_citation", "rain.pdf")


def test_annotations_that_come_with_the_item_alone():
    """Once; a provider counts characters, so in other text than ASCII the offsets are left out."""
    [part] = _read("late-annotations").parts.values()

    [found] = part.annotations
    assert (found.url, found.start_offset, found.end_offset) == ("https://a.example/", None, None)


def test_logprobs():
    """With the text of their delta; a token that is half a character has no text yet."""
    [part] = _read("logprobs").parts.values()

    assert part.text == "Hi!"
    assert part.logprobs == [
        TokenLogprob(token="Hi", logprob=-0.5, top=(TokenLogprob(token="Ho", logprob=-1.5),)),
        TokenLogprob(token="\ufffd", logprob=-0.25, token_bytes=b"\xf0\x9f"),
        TokenLogprob(token="!", logprob=0.0),
    ]


def test_half_characters_survive():
    """A pair of surrogates that two deltas share comes through as two halves, for the engine to join."""
    result = _read("surrogates")

    assert [part.text for part in result.parts.values()] == ["\ud83c\udf43 ", '{"q":"\ud83c\udf43"}']


# --- Endings ---------------------------------------------------------------------------------------------------------


INCOMPLETE = {
    "incomplete-length": (FinishReason.LENGTH, "incomplete:max_output_tokens"),
    "incomplete-filter": (FinishReason.CONTENT_FILTER, "incomplete:content_filter"),
    "incomplete-own-word": (FinishReason.OTHER, "incomplete:max_messages"),
    "incomplete-without-reason": (FinishReason.OTHER, "incomplete"),
    "incomplete-call": (FinishReason.LENGTH, "incomplete:max_output_tokens"),
    "end-by-done": (FinishReason.LENGTH, "incomplete:max_output_tokens"),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_incomplete(name: str):
    """An answer that was cut has an account and its reason."""
    result = _read(name)

    assert _finishes(result) == [INCOMPLETE[name]]
    assert result.failure is None
    assert result.usage == _usage(FINAL, input=9, output=7, cached_input=4, reasoning=3)


@pytest.mark.parametrize("name", ["incomplete-length", "incomplete-call"])
def test_an_item_that_is_not_whole_stays_open(name: str):
    """So that the end of the run says that it was cut."""
    assert [end for _, _, end in _read(name).shape()] == [None]


def test_broken_arguments_are_closed():
    """The engine says what they are then."""
    assert _read("broken-arguments").shape() == [("tool_call", '{"q":', COMPLETE)]


ERRORS: dict[str, tuple[type[RunFailure], str, str, str, list[str]]] = {
    "failed": (UpstreamUnavailable, "server_error", "Boom", "Half", ["failed"]),
    "failed-for-the-prompt": (UpstreamRejected, "invalid_prompt", "Flagged", "", ["failed"]),
    "failed-without-words": (UpstreamUnavailable, "", UpstreamUnavailable.default_message, "Half", ["failed"]),
    "error-event": (UpstreamRateLimited, "rate_limit_exceeded", "Slow down", "Half", ["failed"]),
    "error-event-then-failed": (UpstreamUnavailable, "server_error", "Boom", "Half", ["failed"]),
    "error-event-nested": (UpstreamRejected, "invalid_request_error", "Bad image", "Half", ["failed"]),
    "error-event-words": (UpstreamUnavailable, "", "upstream went away", "Half", []),
    "error-bare": (UpstreamUnavailable, "server_error", "Boom", "Half", []),
    "error-field": (UpstreamRejected, "BadRequestError", "Bad schema", "Half", []),
    "error-in-event": (UpstreamUnavailable, "502", "Provider returned error", "Half?", []),
    "error-after-the-end": (UpstreamUnavailable, "server_error", "Too late", "Almost", ["completed"]),
    "cancelled": (UpstreamUnavailable, "", "the response was cancelled at the upstream", "Half", ["cancelled"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_in_every_dress(name: str):
    """Rules 7 and 8: the text stays, and the run fails once, with the provider's words and its status."""
    failure, code, message, text, endings = ERRORS[name]

    result = _read(name)

    assert type(result.failure) is failure
    assert (result.failure.provider_code, result.failure.message) == (code, message)
    assert result.text() == text
    assert [finish.raw for finish in result.finishes] == endings


def test_a_response_that_failed_is_no_finish_of_the_model():
    """It has an ending of the provider's name, and no reason; an error after the finish keeps the reason."""
    assert _finishes(_read("failed")) == [(None, "failed")]
    assert _finishes(_read("error-after-the-end")) == [(FinishReason.STOP, "completed")]


def test_a_failed_response_has_its_account():
    """Half an answer is paid for."""
    assert _read("failed").usage == _usage(FINAL, input=9, output=7, cached_input=4, reasoning=3)


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("server_error", UpstreamUnavailable),
        ("vector_store_timeout", UpstreamUnavailable),
        ("rate_limit_exceeded", UpstreamRateLimited),
        ("invalid_image_url", UpstreamRejected),
        ("image_content_policy_violation", UpstreamRejected),
        ("unsupported_image_media_type", UpstreamRejected),
        ("failed_to_download_image", UpstreamRejected),
        ("empty_image_file", UpstreamRejected),
        ("bio_policy", UpstreamRejected),
        ("data_residency_mismatch", UpstreamRejected),
    ],
)
def test_the_documented_codes_of_a_failed_response(code: str, failure: type[RunFailure]):
    """Who is to blame: https://platform.openai.com/docs/api-reference/responses/object."""
    error = {"code": code, "message": "x"}

    assert type(_parse(_event("response.failed", response={"error": error})).failure) is failure


@pytest.mark.parametrize("name", ["cut", "cut-last-event", "done-without-ending"])
def test_without_an_ending_event_it_is_a_truncation(name: str):
    """Rules 1 and 10: half an event does not count, and `[DONE]` is no finish."""
    result = _read(name)

    assert type(result.failure) is UpstreamTruncated
    assert result.text() == "Half"
    assert result.finishes == []


def test_an_end_without_ending_is_one_where_the_profile_says_so():
    """Rule 10: with output, and the reason is then OTHER; the last account is final."""
    optional = Profile(finish_reason_required=False)

    assert _finishes(_read("done-without-ending", optional)) == [(FinishReason.OTHER, "")]
    assert type(_parse(b"data: [DONE]\n\n", profile=optional).failure) is UpstreamTruncated
    assert _read("running-usage-only", optional).usage == _usage(FINAL, input=9, output=1, cached_input=4)


def test_unknown_events_are_counted():
    """Rule 13: and items that are none of the message."""
    result = _read("unknown-events")

    assert result.text() == "Rain."
    assert result.ignored == ["response.web_search_call.searching", "item web_search_call", "json int"]
    assert result.failure is None


def test_nothing_but_errors_counts_after_the_end():
    """Neither text nor another ending."""
    result = _read("after-the-end")

    assert result.text() == "Hi"
    assert _finishes(result) == [(FinishReason.STOP, "completed")]
    assert result.ignored == ["response.output_text.delta", "response.incomplete"]


def test_odd_types_do_no_harm():
    """Null, numbers and text where they do not belong; unknown counts are absent."""
    result = _read("odd-types")

    assert result.text() == "ok"
    assert result.failure is None
    assert result.usage == _usage(FINAL, reasoning=2)


def test_an_account_is_told_once_where_it_comes_once():
    """The last event of llama.cpp has both an account and timings."""
    events = OpenAIResponsesDialect().parser(Profile()).feed(_bytes("without-index").rpartition(b"event: ")[2])

    assert len([event for event in events if isinstance(event, UsageReported)]) == 1
