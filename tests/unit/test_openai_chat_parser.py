"""Chat Completions streams, written by hand: one per rule of DESIGN §5, whole and cut."""

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
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from stream_folding import Folded, parse

STREAMS = Path(__file__).resolve().parent.parent / "streams" / "openai_chat"
COMPLETE = PartState.COMPLETE
FINAL, RUNNING = UsageSource.UPSTREAM_FINAL, UsageSource.UPSTREAM_RUNNING
OPTIONAL_FINISH = Profile(finish_reason_required=False)


def _parse(*pieces: bytes, profile: Profile | None = None) -> Folded:
    return parse(OpenAIChatDialect().parser(profile or Profile()), pieces)


def _read(name: str, profile: Profile | None = None) -> Folded:
    return _parse((STREAMS / f"{name}.sse").read_bytes(), profile=profile)


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _finishes(result: Folded) -> list[tuple[FinishReason | None, str]]:
    return [(finish.reason, finish.raw) for finish in result.finishes]


def _usage(source: UsageSource, **counts: int) -> Usage:
    values = {name: TokenCount(value=value, source=source) for name, value in counts.items()}
    other = {"prompt.audio_tokens": values.pop("audio")} if "audio" in values else {}
    return Usage(**values, other=other)


# --- Rules -----------------------------------------------------------------------------------------------------------


def test_only_choice_0_is_the_message():
    """Rule 2: the others are counted."""
    result = _read("two-choices")

    assert result.text() == "one"
    assert _finishes(result) == [(FinishReason.STOP, "stop")]
    assert result.ignored == ["choice", "choice"]
    assert result.usage == _usage(FINAL, input=3, output=4)


def test_repeated_tool_name_replaces():
    """Rule 3: neither name nor id grows."""
    assert _read("repeated-tool-head").calls() == [("call_a", "find", '{"q":"moss"}')]
    assert _read("late-tool-name").calls() == [("call_a", "seek", "{}")]


def test_index_used_again_is_another_call():
    """Rule 4: a new id and a name; the call before is closed."""
    result = _read("index-used-again")

    assert result.calls() == [("call_a", "find", '{"q":1}'), ("call_b", "open", '{"q":2}')]
    assert [end for _, _, end in result.shape()] == [COMPLETE, None]


def test_interleaved_tool_calls():
    """Each goes on by its index."""
    assert _read("interleaved-tools").calls() == [("call_a", "find", '{"q":1}'), ("call_b", "open", '{"n":2}')]


def test_tool_calls_without_index():
    """A piece without head belongs to the last call; arguments as an object become compact JSON."""
    assert _read("tools-without-index").calls() == [
        ("call_a", "find", '{"q":1}'),
        ("call_b", "open", '{"n":[1.0,"ü"]}'),
    ]


def test_tool_calls_without_id_get_one():
    """A result must be able to name its call: two calls, two ids, the same each time."""
    calls = _read("tools-without-id").calls()

    assert [(name, arguments) for _, name, arguments in calls] == [("find", '{"q":1}'), ("open", "{}")]
    assert calls[0][0].startswith("call_")
    assert calls[0][0] != calls[1][0]
    assert calls == _read("tools-without-id").calls()


def test_pieces_whose_head_is_repeated_without_an_index():
    """Rule 3: they go on with the call as long as its arguments are not whole; then another call begins."""
    calls = _read("name-in-every-piece").calls()

    assert [call[1:] for call in calls] == [("find", '{"q":1}'), ("find", '{"q":2}')]
    assert calls[0][0] != calls[1][0]


def test_calls_that_share_an_index_and_have_no_ids():
    """What follows whole arguments is another call: together they would be no JSON."""
    calls = _read("index-of-all-calls").calls()

    assert [call[1:] for call in calls] == [("find", '{"q":1}'), ("find", '{"q":2}'), ("open", "{}")]


def test_a_stop_with_calls_waits_for_tools():
    """OpenAI says `stop` where the request names the tool; its word is kept."""
    assert _finishes(_read("stop-with-calls")) == [(FinishReason.TOOL_CALLS, "stop")]


def test_a_stop_after_a_refusal_is_one():
    """As Responses and Anthropic say of it; cut by the limit it is not."""
    refusal = _data({"choices": [{"delta": {"refusal": "No."}}]})

    for word, reason in (("stop", FinishReason.REFUSAL), ("length", FinishReason.LENGTH)):
        result = _parse(refusal + _data({"choices": [{"delta": {}, "finish_reason": word}]}))
        assert (_finishes(result), result.shape()) == ([(reason, word)], [("refusal", "No.", None)])


def test_an_answer_that_broke_off_has_failed():
    """Some have a word for that, with an error beside it or without: the model did not finish."""
    for name, words in (("broken-off", "the upstream broke its answer off"), ("broken-off-with-error", "Provider")):
        result = _read(name)

        assert _finishes(result) == [(None, "error")]
        assert type(result.failure) is UpstreamUnavailable
        assert result.failure.message.startswith(words)
        assert result.text() == "Half"


def test_a_message_that_comes_whole():
    """From a gateway that only looks as if it streamed."""
    assert _read("whole-message").text() == "All at once"
    assert _read("whole-message").usage == _usage(FINAL, input=2, output=3)


def test_an_account_before_the_text_is_a_running_one():
    """Rule 6: it counts nothing of what comes after it. Nulls, empty words and chunks without choices say nothing."""
    result = _read("account-before-the-text")

    assert (result.text(), result.finishes, result.ignored) == ("Hi", [], [])
    assert result.usage == _usage(RUNNING, input=5, output=0)


def test_legacy_function_call():
    """The field that tool calls replaced."""
    result = _read("legacy-function")

    assert [call[1:] for call in result.calls()] == [("find", '{"q":1}')]
    assert _finishes(result) == [(FinishReason.TOOL_CALLS, "function_call")]


def test_text_after_another_kind_is_a_new_part():
    """What ends is closed, but for tool calls, which may go on; the last part stays open."""
    assert _read("text-tool-text").shape() == [
        ("reasoning", "Hm. ", COMPLETE),
        ("text", "Let me look. ", COMPLETE),
        ("tool_call", '{"q":1}', None),
        ("text", "Found", COMPLETE),
        ("text", " it.", COMPLETE),
        ("refusal", "But no.", None),
    ]


def test_reasoning_counts_once():
    """Rule 5: of three fields that say the same, one is read; a signature becomes state."""
    result = _read("reasoning-in-three-fields")

    assert result.shape() == [("reasoning", "One two three", COMPLETE), ("text", "Four", None)]
    state = next(iter(result.parts.values())).state
    assert state is not None
    assert state.dialect == "openai-chat"
    assert json.loads(state.data) == [
        {"type": "reasoning.text", "text": "One two three", "index": 0, "signature": "c2ln"}
    ]


def test_encrypted_reasoning_is_state():
    """A part without text."""
    result = _read("encrypted-reasoning")

    assert result.shape() == [("reasoning", "", COMPLETE), ("text", "Four", None)]
    assert next(iter(result.parts.values())).state is not None


def test_last_usage_wins():
    """Rule 6: running until the finish, then final; input includes cached."""
    assert _read("running-usage").usage == _usage(FINAL, input=5, output=3, cached_input=4, audio=1)
    assert _read("running-usage-only").usage == _usage(FINAL, input=5, output=2)
    assert _read("timings").usage == _usage(FINAL, input=8, output=2, cached_input=6)


def test_usage_is_running_until_the_finish():
    """A stream that is stopped has a running account."""
    for name, expected in (
        ("running-usage", {"input": 5, "output": 1}),
        ("timings", {"input": 8, "output": 1, "cached_input": 6}),
    ):
        body = (STREAMS / f"{name}.sse").read_bytes().split(b"\n\n")[0] + b"\n\n"

        assert _parse(body).usage == _usage(RUNNING, **expected)


def test_output_includes_reasoning():
    """xAI counts it apart: the total shows that."""
    assert _read("usage-beside-reasoning").usage == _usage(FINAL, input=10, output=24, reasoning=20)


def test_usage_in_a_choice():
    """Moonshot puts it there."""
    assert _read("usage-in-choice").usage == _usage(FINAL, input=2, output=1, cached_input=1)


def test_unknown_counts_are_absent():
    """Null, text and negative numbers are no counts, and no zeros."""
    assert _read("odd-usage").usage == _usage(FINAL, reasoning=2)


ERRORS: dict[str, tuple[type[RunFailure], str, str, str]] = {
    "error-after-finish": (UpstreamUnavailable, "overloaded", "The engine is overloaded", "Almost"),
    "error-bare": (UpstreamUnavailable, "server_error", "Boom", "Half"),
    "error-event": (UpstreamRateLimited, "rate_limit_exceeded", "Slow down", "Half"),
    "error-event-words": (UpstreamUnavailable, "", "upstream went away", "Half"),
    "error-field": (UpstreamRejected, "BadRequestError", "Bad schema", "Half"),
    "error-in-chunk": (UpstreamUnavailable, "502", "Provider returned error", "Half way"),
    "error-in-choice": (UpstreamRejected, "403", "Flagged", "Half"),
    "error-as-object": (UpstreamRejected, "NotFoundError", "No such model", "Half"),
    "error-typed": (UpstreamUnavailable, "overloaded", "Come back", "Half"),
    "error-in-list": (UpstreamRateLimited, "RESOURCE_EXHAUSTED", "Quota", ""),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_in_every_dress(name: str):
    """Rules 7 and 8: the text stays, and the run fails with the provider's words."""
    failure, code, message, text = ERRORS[name]

    result = _read(name)

    assert type(result.failure) is failure
    assert (result.failure.provider_code, result.failure.message) == (code, message)
    assert result.text() == text


def test_error_after_the_finish_keeps_it():
    """Rule 7: and the usage too."""
    result = _read("error-after-finish")

    assert _finishes(result) == [(FinishReason.STOP, "stop")]
    assert result.usage == _usage(FINAL, input=2, output=1)


def test_typed_content():
    """Rule 9: strings and lists of items, mixed; unknown items are counted."""
    result = _read("typed-content")

    assert result.shape() == [("text", "A", COMPLETE), ("reasoning", "hm", COMPLETE), ("text", "BCDE", None)]
    assert result.ignored == ["content video"]
    annotations = list(result.parts.values())[2].annotations
    assert [(each.type, json.loads(each.raw_json)["reference_ids"]) for each in annotations] == [("reference", [1])]


def test_done_is_not_a_finish():
    """Rule 10: `[DONE]` alone is a truncation, at once."""
    result = _read("done-without-finish")

    assert type(result.failure) is UpstreamTruncated
    assert result.text() == "Some text"
    assert result.finishes == []


def test_done_is_a_finish_where_the_profile_says_so():
    """Rule 10: with output, and the reason is then OTHER."""
    assert _finishes(_read("done-without-finish", OPTIONAL_FINISH)) == [(FinishReason.OTHER, "")]
    assert type(_read("done-without-anything", OPTIONAL_FINISH).failure) is UpstreamTruncated
    assert _finishes(_parse(_data({"choices": [{"delta": {"content": "Hi"}}]}), profile=OPTIONAL_FINISH)) == [
        (FinishReason.OTHER, "")
    ]


def test_end_without_done():
    """Perplexity and others just end."""
    assert _finishes(_read("end-without-done")) == [(FinishReason.LENGTH, "length")]
    assert _read("end-without-done").failure is None


def test_unknown_events_are_counted():
    """Rule 13: and what comes after `[DONE]`."""
    result = _read("unknown-events")

    assert result.text() == "Hi there"
    assert result.ignored == ["ping", "progress", "json int", "json list", "chat.completion.chunk"]


def test_nothing_but_facts_after_the_finish():
    """Usage and metadata count, text and another finish do not; an empty choice beside the account says nothing."""
    result = _read("after-the-finish")

    assert result.text() == "Hi"
    assert _finishes(result) == [(FinishReason.STOP, "stop")]
    assert result.ignored == ["choice after its finish reason"]
    assert result.usage == _usage(FINAL, input=1, output=1)
    assert result.metadata == {"service_tier": "flex"}


def test_finish_words():
    """The provider's own word is kept; one that is none is no finish; blocked output is an answer."""
    assert _finishes(_read("own-finish-word")) == [(FinishReason.OTHER, "weary")]
    assert _finishes(_read("no-finish-words")) == [(FinishReason.STOP, "stop")]
    assert _read("no-finish-words").text() == "Hi!"
    assert _finishes(_read("content-filter")) == [(FinishReason.CONTENT_FILTER, "content_filter")]
    assert _read("content-filter").failure is None


def test_half_characters_survive():
    """A pair of surrogates that two chunks share comes through as two halves, for the engine to join."""
    result = _read("surrogates")

    assert [part.text for part in result.parts.values()] == ["\ud83c\udf43 ", '{"q":"\ud83c\udf43"}']


def test_odd_types_do_no_harm():
    """Null, numbers and text where they do not belong."""
    result = _read("odd-types")

    assert result.text() == "ok"
    assert result.calls() == [("3", "", "")]
    assert result.failure is None
    assert result.request_id == "chat-7"


def test_citations():
    """Lists that every chunk repeats are told once; offsets are bytes where that is known."""
    result = _read("citations")

    assert next(iter(result.parts.values())).annotations == [
        Annotation(type="citation", url="https://a.example/", title="A"),
        Annotation(type="citation", url="https://b.example/"),
        Annotation(
            type="url_citation",
            url="https://c.example/",
            title="C",
            start_offset=0,
            end_offset=3,
            raw_json='{"type":"url_citation","url_citation":{"url":"https://c.example/","title":"C","start_index":0,'
            '"end_index":3}}',
        ),
    ]
    assert result.metadata == {"citations": '["https://d.example/"]'}


def test_citation_offsets_in_other_text_are_left_out():
    """A provider counts characters; where they are not bytes, no offset is better than a wrong one."""
    annotation = {
        "type": "url_citation",
        "url_citation": {"url": "https://c.example/", "start_index": 0, "end_index": 1},
    }
    result = _parse(_data({"choices": [{"delta": {"content": "ü", "annotations": [annotation]}}]}))

    [found] = next(iter(result.parts.values())).annotations
    assert (found.start_offset, found.end_offset) == (None, None)


def test_logprobs():
    """With the text of their chunk; a token that is half a character has no text yet."""
    [part] = _read("logprobs").parts.values()

    assert part.text == "Hi!"
    assert part.logprobs == [
        TokenLogprob(token="Hi", logprob=-0.5, token_bytes=b"Hi", top=(TokenLogprob(token="Ho", logprob=-1.5),)),
        TokenLogprob(token="\ufffd", logprob=-0.25, token_bytes=b"\xf0\x9f"),
        TokenLogprob(token="!", logprob=0.0, token_bytes=b"!"),
    ]


def test_metadata_and_identity():
    """Told when they change."""
    result = _read("metadata")

    assert (result.request_id, result.model) == ("chat-7", "writer-1-large")
    assert result.metadata == {
        "system_fingerprint": "fp_1",
        "provider": "Elsewhere",
        "x_groq.id": "req_1",
        "service_tier": "default",
        "usage.cost": "0.00012",
    }


def test_cumulative_message_is_not_read():
    """Perplexity repeats the whole message beside each delta."""
    assert _read("cumulative-message").text() == "1 2 3"
