"""What relatives of Chat Completions do in their own way, in streams and in requests."""

import json
from pathlib import Path
from typing import Any

import pytest

from midstream_server.errors import RunFailure, UpstreamRateLimited, UpstreamRejected, UpstreamUnavailable
from midstream_server.model import (
    BlobDelta,
    FinishReason,
    Message,
    Part,
    PartState,
    Prompt,
    ProviderState,
    Reasoning,
    Role,
    Text,
    TextDelta,
    ToolCall,
    UsageSource,
)
from midstream_server.upstreams.answer import account
from midstream_server.upstreams.base import EventIgnored, PartDelta, Profile
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from midstream_server.upstreams.profiles import PRESETS
from stream_folding import Folded, parse

STREAMS = Path(__file__).resolve().parent.parent / "streams" / "openai_chat"


def _parse(body: bytes, profile: Profile | None = None) -> Folded:
    return parse(OpenAIChatDialect().parser(profile or Profile()), [body])


def _data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _messages(profile: Profile, *messages: Message) -> Any:
    request = OpenAIChatDialect().build_request("gpt", Prompt(messages=messages), profile)
    return json.loads(request.body)["messages"]


# --- Streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("end_turn", "eos", "eos_token", "COMPLETE", "STOP"), FinishReason.STOP),
        (("max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded"), FinishReason.LENGTH),
        (("tool_use", "tool_call", "TOOL_CALLS"), FinishReason.TOOL_CALLS),
        (("sensitive", "SAFETY", "RECITATION"), FinishReason.CONTENT_FILTER),
        (("refusal",), FinishReason.REFUSAL),
        (("network_error", "abort", "insufficient_system_resource"), None),
    ],
)
def test_finish_words_of_relatives(words: tuple[str, ...], reason: FinishReason | None):
    """What they mean is one of ours, or that the answer broke off; the word itself stays as it is."""
    for word in words:
        result = _parse(_data({"choices": [{"delta": {"content": "Hi"}, "finish_reason": word}]}))

        assert [(finish.reason, finish.raw) for finish in result.finishes] == [(reason, word)]
        assert (type(result.failure) is UpstreamUnavailable) == (reason is None)
        assert result.text() == "Hi"


def test_a_cost_that_is_a_sum():
    """Perplexity says what it is made of; the sum of the closing account counts."""
    result = _parse((STREAMS / "cost-as-a-sum.sse").read_bytes())

    assert result.metadata == {"usage.cost": "0.00501"}
    assert result.usage == account(UsageSource.UPSTREAM_FINAL, input=3, output=2)


def test_a_stream_that_groq_stopped_early():
    """It says why in a place of its own, beside its id; the text stays, and the account is the last there will be."""
    result = _parse((STREAMS / "error-in-x-groq.sse").read_bytes())

    assert type(result.failure) is UpstreamUnavailable
    assert (result.failure.message, result.text(), result.finishes) == ("over capacity", "Half", [])
    assert result.usage == account(UsageSource.UPSTREAM_FINAL, input=3, output=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3}},
        {"prompt_tokens_details": {"cached_tokens": 4, "cache_creation_tokens": 3}},
        {"prompt_tokens_details": {"cached_tokens": 4}, "cache_creation_input_tokens": 3},
    ],
)
def test_what_was_written_to_the_cache(fields: dict[str, object]):
    """Gateways to Anthropic tell it, each under a name of its own; it is part of the input already."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10, **fields}
    result = _parse(_data({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}))

    assert result.usage == account(UsageSource.UPSTREAM_FINAL, input=9, output=1, cached_input=4, cache_write_input=3)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"type": "service_tier_capacity_exceeded", "code": "3505"}, UpstreamRateLimited),
        ({"code": "DataInspectionFailed", "request_id": "r"}, UpstreamRejected),
    ],
)
def test_error_words_of_relatives(error: dict[str, str], failure: type[RunFailure]):
    """Mistral's tier that is full, and DashScope's filter."""
    result = _parse(b"event: error\n" + _data({**error, "message": "Words"}))

    assert type(result.failure) is failure
    assert (result.failure.message, result.failure.provider_code) == ("Words", error["code"])


def test_images_are_blobs():
    """By their bytes or their URL, between texts; what is no image is counted."""
    no_images = ("data:image/png;base64,AQI=!", "data:image/png;base64,", "data:,x", "", None)
    urls = ("data:image/png;base64,AQI=", "https://a.example/b.png", *no_images)
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = _data({"choices": [{"delta": {"content": "Look: "}}]}) + _data({"choices": [{"delta": {"images": images}}]})
    events = OpenAIChatDialect().parser(Profile()).feed(body + _data({"choices": [{"delta": {"content": "Nice"}}]}))

    deltas = [event for event in events if isinstance(event, PartDelta)]
    assert [(each.payload, each.part_end) for each in deltas] == [
        (TextDelta("Look: "), None),
        (None, PartState.COMPLETE),
        (BlobDelta(mime_type="image/png", data=b"\x01\x02"), PartState.COMPLETE),
        (BlobDelta(url="https://a.example/b.png"), PartState.COMPLETE),
        (TextDelta("Nice"), None),
    ]
    assert len({each.part for each in deltas}) == 4
    assert [event.kind for event in events if isinstance(event, EventIgnored)] == ["delta images"] * len(no_images)


def test_reasoning_that_must_go_back_says_so():
    """By its text alone, where the profile names the field; it is state, or no view that can be sent back had it."""
    body = _data({"choices": [{"delta": {"reasoning_content": "One "}}]})
    body += _data({"choices": [{"delta": {"reasoning_content": "two", "content": "Three"}}]})

    for profile, expected in (
        (Profile(), None),
        (
            Profile(reasoning_history="reasoning_content"),
            ProviderState(dialect="openai-chat", data=b'{"field":"reasoning_content"}'),
        ),
    ):
        reasoning, text = _parse(body, profile=profile).parts.values()
        assert (reasoning.text, reasoning.state, text.text, text.state) == ("One two", expected, "Three", None)


def test_a_call_outside_a_list():
    """Older TGI: one call, its name in every piece, its arguments in pieces."""
    pieces = ('{"q"', ":1}")
    body = b"".join(
        _data({"choices": [{"delta": {"tool_calls": {"index": 0, "function": {"name": "find", "arguments": piece}}}}]})
        for piece in pieces
    )

    assert [call[1:] for call in _parse(body).calls()] == [("find", '{"q":1}')]


# --- Requests --------------------------------------------------------------------------------------------------------


def test_reasoning_goes_back_where_an_endpoint_wants_it():
    """DeepSeek refuses calls without it, OpenRouter takes its details, and others refuse what they do not know."""
    deepseek = PRESETS["deepseek"].profile
    mark = ProviderState(dialect="openai-chat", data=b'{"field":"reasoning_content"}')
    details = ProviderState(dialect="openai-chat", data=b'[{"type":"reasoning.text"}]')
    foreign = ProviderState(dialect="anthropic", data=b"{}")
    call, text = Part(content=ToolCall(id="c", name="find", arguments="{}")), Part(content=Text(text="Hi"))

    for state, said, profile, expected in (
        (mark, call, deepseek, {"reasoning_content": "hm"}),
        (None, call, deepseek, {"reasoning_content": "hm"}),
        (foreign, call, deepseek, {"reasoning_content": ""}),
        (mark, text, deepseek, {}),
        (mark, call, Profile(), {}),
        (details, call, deepseek, {"reasoning_content": "hm"}),
        (details, text, PRESETS["openrouter"].profile, {"reasoning_details": [{"type": "reasoning.text"}]}),
        (details, text, PRESETS["openai"].profile, {}),
        (details, text, PRESETS["mistral"].profile, {}),
    ):
        reasoning = Part(content=Reasoning(text="hm"), provider_state=state)
        [mapped] = _messages(profile, Message(role=Role.ASSISTANT, parts=(reasoning, said)))
        assert {name: value for name, value in mapped.items() if name.startswith("reasoning")} == expected


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.dialect == "openai-chat"])
def test_instructions_of_a_developer(name: str):
    """Most relatives refuse a role that they do not know; to them a developer is the system."""
    said = [Message(role=role, parts=(Part(content=Text(text="Hi")),)) for role in (Role.SYSTEM, Role.DEVELOPER)]

    roles = [each["role"] for each in _messages(PRESETS[name].profile, *said)]

    assert roles == ["system", "developer" if name in ("openai", "azure") else "system"]
