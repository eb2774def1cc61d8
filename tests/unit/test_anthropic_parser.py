"""Messages streams, written by hand: one per rule of DESIGN §5 and of the provider's, whole and cut."""

import itertools
import json
from pathlib import Path

import pytest

from midstream_server.engine.assembler import MessageAssembler
from midstream_server.errors import (
    RunFailure,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.model import Annotation, FinishReason, PartState, ProviderState, TokenCount, Usage, UsageSource
from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import MetadataReported, ModelFinished, PartDelta, Profile, UsageReported
from stream_folding import Folded, parse

STREAMS = Path(__file__).resolve().parent.parent / "streams" / "anthropic"
COMPLETE = PartState.COMPLETE
FINAL, RUNNING = UsageSource.UPSTREAM_FINAL, UsageSource.UPSTREAM_RUNNING
OPTIONAL_FINISH = Profile(finish_reason_required=False)


def _parse(*pieces: bytes, profile: Profile | None = None) -> Folded:
    return parse(AnthropicDialect().parser(profile or Profile()), pieces)


def _body(name: str) -> bytes:
    return (STREAMS / f"{name}.sse").read_bytes()


def _read(name: str, profile: Profile | None = None) -> Folded:
    return _parse(_body(name), profile=profile)


def _until(name: str, mark: bytes) -> bytes:
    """The stream up to the first event with this mark."""
    blocks = _body(name).split(b"\n\n")
    kept = itertools.takewhile(lambda block: mark not in block, blocks)
    return b"".join(block + b"\n\n" for block in kept)


def _finishes(result: Folded) -> list[tuple[FinishReason | None, str]]:
    return [(finish.reason, finish.raw) for finish in result.finishes]


def _usage(source: UsageSource, **counts: int) -> Usage:
    values = {name: TokenCount(value=value, source=source) for name, value in counts.items()}
    short = values.pop("short", None)
    return Usage(**values, other={"cache_creation.ephemeral_5m_input_tokens": short} if short else {})


# --- Blocks ----------------------------------------------------------------------------------------------------------


def test_a_block_is_a_part():
    """Text after text too; the provider closes it, and pings say nothing."""
    result = _read("text-blocks")

    assert result.shape() == [("text", "Moss grows.", COMPLETE), ("text", " So do ferns 🌿.", COMPLETE)]
    assert _finishes(result) == [(FinishReason.STOP, "end_turn")]
    assert (result.request_id, result.model, result.ignored) == ("msg_7", "writer-2", [])


def test_a_block_is_closed_when_it_stops():
    """Not only at the end of the answer."""
    result = _parse(_until("text-blocks", b'"index":1'))

    assert result.shape() == [("text", "Moss grows.", COMPLETE)]


def test_thinking_keeps_what_must_go_back():
    """The signature, the redacted data, and the signature of thinking that is not shown, each with its own part."""
    result = _read("thinking")

    assert result.shape() == [
        ("reasoning", "Two and two.", COMPLETE),
        ("reasoning", "", COMPLETE),
        ("reasoning", "", COMPLETE),
        ("text", "Four", COMPLETE),
    ]
    states = [part.state for part in result.parts.values()]
    assert states[3] is None
    assert [state and (state.dialect, json.loads(state.data)) for state in states[:3]] == [
        ("anthropic", {"type": "thinking", "signature": "c2ln"}),
        ("anthropic", {"type": "redacted_thinking", "data": "c2VjcmV0"}),
        ("anthropic", {"type": "thinking", "signature": "b21pdA=="}),
    ]
    assert result.usage == _usage(FINAL, input=3, output=40, reasoning=33)


def test_tool_calls():
    """Arguments in pieces, none, or whole at the beginning; a call without an id gets one that is always the same."""
    result = _read("tools")

    *known, made = result.calls()
    assert known == [
        ("toolu_a", "find", '{"q": "moss"}'),
        ("toolu_b", "now", ""),
        ("toolu_c", "open", '{"n":1,"s":"ü"}'),
    ]
    assert made[0].startswith("call_")
    assert made[1:] == ("find", '{"q":')
    assert made == _read("tools").calls()[3]
    assert _finishes(result) == [(FinishReason.TOOL_CALLS, "tool_use")]


def test_a_closed_call_is_judged_by_its_arguments():
    """The provider closed all four; one of them is no JSON object."""
    assembler = MessageAssembler()
    parser = AnthropicDialect().parser(Profile())
    ends: dict[int, PartState | None] = {}
    for event in parser.feed(_body("tools")):
        for delta in assembler.add(event) if isinstance(event, PartDelta) else ():
            ends[delta.part_index] = delta.part_end or ends.get(delta.part_index)

    assert list(ends.values()) == [COMPLETE, COMPLETE, COMPLETE, COMPLETE, PartState.MALFORMED]


def test_a_call_that_the_limit_cut_stays_open():
    """Whoever ends the run says that it is truncated."""
    result = _read("cut-tool")

    assert result.shape() == [("tool_call", '{"lines": ["one", "tw', None)]
    assert _finishes(result) == [(FinishReason.LENGTH, "max_tokens")]


def test_arguments_of_a_call_that_is_never_closed():
    """They are not lost."""
    assert _read("input-without-stop").calls() == [("toolu_a", "open", '{"n":1}')]


def test_arguments_that_come_in_pieces_replace_those_of_the_beginning():
    """They are the same, or better."""
    assert _read("input-twice").calls() == [("toolu_a", "open", '{"n":2}')]


def test_interleaved_calls():
    """Each goes on by its index."""
    assert _read("interleaved-blocks").calls() == [("toolu_a", "find", '{"q":1}'), ("toolu_b", "open", '{"n":2}')]


def test_the_providers_own_tools_are_not_calls():
    """They are counted, and what they cost is told; the text that came of them has its sources."""
    result = _read("server-tools")

    assert result.shape() == [("text", "Moss is green", COMPLETE)]
    assert result.ignored == ["block server_tool_use", "delta input_json_delta", "block web_search_tool_result"]
    assert result.metadata == {"server_tool_use.web_search_requests": "2"}
    [citation] = next(iter(result.parts.values())).annotations
    assert (citation.type, citation.url, citation.title) == ("web_search_result_location", "https://a.example/", "A")
    assert citation.cited_text == "green"


def test_a_citation_may_come_before_its_text():
    """Its places are in the source, not in the text; they are kept as they came."""
    result = _read("citation-first")

    assert result.shape() == [("text", "It is moss.", COMPLETE)]
    assert next(iter(result.parts.values())).annotations == [
        Annotation(
            type="char_location",
            title="Plants",
            cited_text="Moss.",
            raw_json='{"type":"char_location","cited_text":"Moss.","document_index":0,"document_title":"Plants",'
            '"start_char_index":10,"end_char_index":15}',
        )
    ]


def test_blocks_that_begin_with_content():
    """What a beginning already says counts."""
    result = _read("text-in-start")

    assert result.shape() == [("reasoning", "Hm.", COMPLETE), ("text", "Hello", COMPLETE)]
    assert next(iter(result.parts.values())).state == ProviderState(
        dialect="anthropic", data=b'{"type":"thinking","signature":"c2ln"}'
    )


@pytest.mark.parametrize("name", ["content-in-message-start", "whole-message"])
def test_a_message_that_comes_whole(name: str):
    """What code that the provider runs has called, or from a gateway that only looks as if it streamed."""
    result = _read(name)

    assert result.shape() == [("text", "One more.", COMPLETE), ("tool_call", '{"q":["moss",1]}', COMPLETE)]
    assert result.calls() == [("toolu_a", "find", '{"q":["moss",1]}')]
    assert _finishes(result) == [(FinishReason.TOOL_CALLS, "tool_use")]
    assert (result.failure, result.usage) == (None, _usage(FINAL, input=3, output=7))
    assert result.ignored == ["block code_execution_tool_result"]
    cited = [(each.cited_text, each.title) for part in result.parts.values() for each in part.annotations]
    assert cited == [("One", "Moss")]


def test_blocks_that_nobody_announced():
    """A delta begins one; after a stop too."""
    assert _read("unannounced-blocks").shape() == [
        ("text", "No start", COMPLETE),
        ("reasoning", "hm", COMPLETE),
        ("tool_call", "{}", COMPLETE),
        ("text", " and after", None),
    ]


def test_index_used_again_is_another_block():
    """Rule 4: the one before is closed."""
    assert _read("index-used-again").shape() == [("text", "One", COMPLETE), ("text", "Two", COMPLETE)]


# --- Usage -----------------------------------------------------------------------------------------------------------


def test_input_includes_the_cache():
    """What was written to it and read from it."""
    assert _read("text-blocks").usage == _usage(FINAL, input=123, cached_input=100, cache_write_input=20, output=5)


def test_usage_is_merged_field_by_field():
    """Rule 6: a number wins over null, the last number over the one before."""
    result = _read("usage-in-pieces")

    assert result.usage == _usage(FINAL, input=21, cached_input=10, cache_write_input=4, output=3, short=4)
    assert result.metadata == {"service_tier": "standard", "stop_sequence": "\n\n"}
    assert _finishes(result) == [(FinishReason.STOP, "stop_sequence")]


def test_usage_is_running_until_the_stop_reason():
    """A stream that is stopped has a running account. What `message_start` counts as output is none of what came."""
    begun = _parse(_until("usage-in-pieces", b'"message_delta"'))

    assert begun.usage == _usage(RUNNING, input=7, short=4)
    parser = AnthropicDialect().parser(Profile())
    reports = [
        e.usage for e in parser.feed(_until("usage-in-pieces", b'"content_block_stop"')) if isinstance(e, UsageReported)
    ]
    assert reports[-1] == _usage(RUNNING, input=17, cached_input=10, output=2, short=4)


def test_the_account_comes_right_behind_the_marker():
    """So that nobody waits for it any longer."""
    events = AnthropicDialect().parser(Profile()).feed(_body("pause-turn"))
    [marker] = [index for index, event in enumerate(events) if isinstance(event, ModelFinished)]

    assert isinstance(events[marker + 1], UsageReported)


def test_facts_are_told_once():
    """Not with every account again."""
    events = AnthropicDialect().parser(Profile()).feed(_body("usage-in-pieces"))

    assert [event.metadata for event in events if isinstance(event, MetadataReported)] == [
        {"service_tier": "standard"},
        {"stop_sequence": "\n\n"},
    ]


def test_a_stream_that_fails_tells_its_last_account():
    """All that the provider ever said of the output."""
    assert _read("error-overloaded").usage == _usage(RUNNING, input=3, output=1)


# --- Endings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("tool_use", FinishReason.TOOL_CALLS),
        ("refusal", FinishReason.REFUSAL),
        ("pause_turn", FinishReason.OTHER),
        ("compaction", FinishReason.OTHER),
    ],
)
def test_stop_reasons(word: str, reason: FinishReason):
    """Each with the provider's own word."""
    result = _parse(_body("pause-turn").replace(b"pause_turn", word.encode()))

    assert _finishes(result) == [(reason, word)]
    assert result.failure is None


def test_refusal_is_an_answer():
    """Without text there is no part; why is told beside it."""
    result = _read("refusal")

    assert result.shape() == []
    assert _finishes(result) == [(FinishReason.REFUSAL, "refusal")]
    assert result.metadata == {"stop_details.category": "bio", "stop_details.explanation": "Not this."}
    assert result.usage == _usage(FINAL, input=3, output=0)


ERRORS: dict[str, tuple[type[RunFailure], str, str, str]] = {
    "error-overloaded": (UpstreamUnavailable, "overloaded_error", "Overloaded", "Half"),
    "error-rate-limit": (UpstreamRateLimited, "rate_limit_error", "Slow down", "Half"),
    "error-invalid": (UpstreamRejected, "invalid_request_error", "Bad image", "Half"),
    "error-unknown": (UpstreamUnavailable, "surprise_error", "Hm", "Half"),
    "error-before-text": (UpstreamUnavailable, "api_error", "Internal server error", ""),
    "error-after-stop-reason": (UpstreamUnavailable, "api_error", "Boom", "Half"),
    "error-unnamed": (UpstreamRejected, "authentication_error", "No key", "Half"),
    "error-words": (UpstreamUnavailable, "", "upstream went away", "Half"),
    "error-field": (UpstreamRejected, "permission_error", "Not yours", "Half"),
    "error-bare": (UpstreamRejected, "not_found_error", "No such model", "Half"),
    "error-beside-delta": (UpstreamRejected, "exceed", "Too long", "Halfx"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_in_every_dress(name: str):
    """Rules 7 and 8: the text stays, and the run fails with the provider's words."""
    failure, code, message, text = ERRORS[name]

    result = _read(name)

    assert type(result.failure) is failure
    assert (result.failure.provider_code, result.failure.message) == (code, message)
    assert result.text() == text


def test_error_after_the_stop_reason_keeps_it():
    """Rule 7: and the usage too."""
    result = _read("error-after-stop-reason")

    assert _finishes(result) == [(FinishReason.STOP, "end_turn")]
    assert result.usage == _usage(FINAL, input=3, output=2)


def test_message_stop_is_not_a_finish():
    """Rule 10: without a stop reason it is a truncation, at once, unless this provider sends none."""
    result = _read("stop-without-reason")

    assert type(result.failure) is UpstreamTruncated
    assert (result.text(), result.finishes) == ("Some text", [])
    assert _finishes(_read("stop-without-reason", OPTIONAL_FINISH)) == [(FinishReason.OTHER, "")]
    assert type(_parse(b"event: message_stop\ndata: {}\n\n", profile=OPTIONAL_FINISH).failure) is UpstreamTruncated


@pytest.mark.parametrize("name", ["end-without-message-stop", "unterminated-last-event", "done-word"])
def test_ends_after_the_stop_reason(name: str):
    """Rules 1 and 10: the stop reason is the finish, whatever follows it or does not."""
    result = _read(name)

    assert (result.text(), result.failure) == ("Hi", None)
    assert _finishes(result) == [(FinishReason.STOP, "end_turn")]
    assert result.usage == _usage(FINAL, input=3, output=1)


def test_nothing_but_facts_after_the_stop_reason():
    """The account counts, more content and another stop reason do not."""
    result = _read("after-the-stop-reason")

    assert result.text() == "Hi"
    assert _finishes(result) == [(FinishReason.STOP, "end_turn")]
    assert result.ignored == [f"content_block_{each} after the stop reason" for each in ("start", "delta", "stop")]
    assert result.usage == _usage(FINAL, input=3, output=2)


# --- What nobody expects ---------------------------------------------------------------------------------------------


def test_unknown_events_are_counted():
    """Rule 13: events, blocks, deltas, and deltas of another kind than their block."""
    result = _read("unknown-events")

    assert result.text() == "Hi"
    assert result.ignored == [
        "weather",
        "delta sparkle_delta",
        "delta thinking_delta",
        "block sculpture",
        "json int",
        "event",
    ]


def test_odd_types_do_no_harm():
    """Null, numbers and text where they do not belong; no number is no count, and no zero."""
    result = _read("odd-types")

    assert (result.text(), result.failure, result.usage) == ("ok", None, None)


def test_half_characters_survive():
    """A pair of surrogates that two deltas share comes through as two halves, for the engine to join."""
    assert [part.text for part in _read("surrogates").parts.values()] == ["\ud83c\udf43 "]
