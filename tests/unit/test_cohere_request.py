"""Prompts as Cohere requests: what is sent, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from cohere_prompts import PROMPTS
from cohere_schema import check
from gemini_prompts import FIND, HELLO, NOW, PNG, SCHEMA, message, result, signed
from midstream_server.errors import ContinueUnsupported, InvalidRequest
from midstream_server.model import (
    Blob,
    GenerationParameters,
    JsonValue,
    Message,
    Prompt,
    Reasoning,
    ReasoningEffort,
    ReasoningParameters,
    Role,
    Text,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.cohere import CohereDialect


def _build(prompt: Prompt, profile: Profile | None = None) -> dict[str, Any]:
    """The body, which must be one that the documentation allows."""
    request = CohereDialect().build_request("command-a", prompt, profile or Profile())
    assert request.path == "/v2/chat"
    if profile is None:
        check(request.body)
    body = json.loads(request.body)
    assert isinstance(body, dict)
    return body


def _body(*messages: Message, profile: Profile | None = None, **fields: Any) -> dict[str, Any]:
    return _build(Prompt(messages=messages or (HELLO,), **fields), profile)


def _refused(*messages: Message, profile: Profile | None = None, **fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        _body(*messages, profile=profile, **fields)
    return [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize("name", PROMPTS)
def test_requests_fit_the_documentation(name: str):
    """Every field is known there, and has the type that it should."""
    assert _build(PROMPTS[name])["stream"] is True


def test_smallest_request():
    """Nothing that was not asked for."""
    assert _body() == {"model": "command-a", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


def test_messages():
    """One text is a string, more are blocks; a developer is a system; images by their bytes and by address."""
    assert _build(PROMPTS["instructions"])["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": "please."}]},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Please? No."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            ],
        },
    ]


def test_calls_and_their_results():
    """Arguments byte for byte; a failure says so in its first word; foreign thoughts stay here."""
    assert _build(PROMPTS["tools"])["messages"][1:] == [
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Wait."}],
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"z": "moss"}'}},
                {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": [{"type": "text", "text": "green"}, {"type": "text", "text": "small"}],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "Error: "},
        {"role": "user", "content": "And?"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c3", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c3", "content": "noon"},
    ]


def test_a_result_of_nothing_is_an_empty_text():
    """The tool has answered."""
    assert _body(message(Role.TOOL, result("c1")))["messages"] == [
        {"role": "tool", "tool_call_id": "c1", "content": ""}
    ]


def test_messages_that_cannot_be_expressed():
    """Each by the path of its field."""
    pdf = Blob(mime_type="application/pdf", data=b"x")
    bad = message(Role.ASSISTANT, ToolCall(id="c1", name="f", arguments="7"))

    assert _refused(message(Role.USER, Text(text="a"), Blob(file_id="f"))) == ["messages[0].parts[1].blob.file_id"]
    assert _refused(message(Role.USER, pdf)) == ["messages[0].parts[0].blob.mime_type"]
    assert _refused(message(Role.USER, Blob(data=b"x"))) == ["messages[0].parts[0].blob.mime_type"]
    page = Blob(mime_type="text/html", url="https://example.com")
    assert _refused(message(Role.USER, page)) == ["messages[0].parts[0].blob.mime_type"]
    assert _refused(message(Role.SYSTEM, PNG)) == ["messages[0].parts[0].blob"]
    assert _refused(HELLO, message(Role.ASSISTANT, PNG)) == ["messages[1].parts[0].blob"]
    assert _refused(message(Role.TOOL, result("c1", PNG))) == ["messages[0].parts[0].tool_result.parts[0].blob"]
    assert _refused(HELLO, bad) == ["messages[1].parts[0].tool_call.arguments"]


def test_message_of_foreign_thoughts_alone_is_left_out():
    """There is nothing in it that Cohere may read."""
    foreign = message(Role.ASSISTANT, signed(Reasoning(text="Hm."), dialect="anthropic"))

    assert len(_body(HELLO, foreign)["messages"]) == 1


def test_tools():
    """A schema byte for byte; one without parameters has none to describe; what has no description says nothing."""
    prompt = Prompt(messages=(HELLO,), tools=(FIND, NOW))
    find, now = (tool["function"] for tool in _build(prompt)["tools"])

    assert SCHEMA.encode() in CohereDialect().build_request("m", prompt, Profile()).body
    assert find == {"name": "find", "description": "Finds things.", "parameters": json.loads(SCHEMA)}
    assert now == {"name": "now", "parameters": {"type": "object", "properties": {}}}
    assert _refused(tools=(replace(FIND, parameters_schema="7"),)) == ["tools[0].parameters_schema"]


def test_tool_choice():
    """Some tool, or none, or as the model likes; but not this one, and not one at a time."""
    assert _build(PROMPTS["tools"])["tool_choice"] == "REQUIRED"
    assert _build(PROMPTS["strict"])["tool_choice"] == "NONE"
    assert "tool_choice" not in _body(tools=(FIND,))
    named = ToolChoice(mode=ToolChoiceMode.TOOL, tool_name="find")
    assert _refused(tools=(FIND,), tool_choice=named) == ["tool_choice.mode"]
    assert _refused(tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED)) == ["tool_choice"]
    one = GenerationParameters(parallel_tool_calls=False)
    assert _refused(tools=(FIND,), parameters=one) == ["parameters.parallel_tool_calls"]


def test_strict_tools():
    """All of them, or none."""
    strict = replace(FIND, strict=True)

    assert _build(PROMPTS["strict"])["strict_tools"] is True
    assert "strict_tools" not in _body(tools=(FIND, replace(NOW, strict=False)))
    assert _refused(tools=(NOW, strict)) == ["tools[1].strict"]


def test_parameters():
    """By Cohere's own names."""
    body = _build(PROMPTS["parameters"])

    assert {name: body[name] for name in body if name not in ("model", "messages", "stream")} == {
        "max_tokens": 9,
        "temperature": 0.5,
        "p": 0.9,
        "k": 40,
        "seed": 7,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "stop_sequences": ["END", "\n"],
        "logprobs": True,
        "response_format": {
            "type": "json_object",
            "json_schema": {"description": "An answer.", **json.loads(SCHEMA)},
        },
        "thinking": {"type": "enabled", "token_budget": 500},
    }
    assert _build(PROMPTS["not thinking"])["response_format"] == {"type": "json_object"}
    assert _refused(parameters=GenerationParameters(top_logprobs=3)) == ["parameters.top_logprobs"]


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        (ReasoningParameters(), None),
        (ReasoningParameters(include=True), None),
        (ReasoningParameters(effort=ReasoningEffort.NONE), {"type": "disabled"}),
        (ReasoningParameters(effort=ReasoningEffort.NONE, include=False), {"type": "disabled"}),
        (ReasoningParameters(effort=ReasoningEffort.HIGH), {"type": "enabled"}),
        (ReasoningParameters(budget_tokens=100), {"type": "enabled", "token_budget": 100}),
    ],
)
def test_thinking(reasoning: ReasoningParameters, expected: JsonValue):
    """On, off, or up to a budget; a model that thinks shows it."""
    assert _body(parameters=GenerationParameters(reasoning=reasoning)).get("thinking") == expected


@pytest.mark.parametrize(
    ("reasoning", "field"),
    [
        (ReasoningParameters(effort=ReasoningEffort.MINIMAL), "effort"),
        (ReasoningParameters(effort=ReasoningEffort.LOW), "effort"),
        (ReasoningParameters(effort=ReasoningEffort.MEDIUM), "effort"),
        (ReasoningParameters(include=False), "include"),
        (ReasoningParameters(effort=ReasoningEffort.NONE, budget_tokens=7), "budget_tokens"),
    ],
)
def test_thinking_that_cannot_be_expressed(reasoning: ReasoningParameters, field: str):
    """Cohere knows no levels, and hides no thoughts."""
    assert _refused(parameters=GenerationParameters(reasoning=reasoning)) == [f"parameters.reasoning.{field}"]


def test_parameters_by_profile():
    """An endpoint may lack one, and want something in every request."""
    profile = Profile(parameter_fields={"seed": ""}, extra_body={"safety_mode": "OFF"})

    assert _refused(profile=profile, parameters=GenerationParameters(seed=1)) == ["parameters.seed"]
    assert _body(profile=profile)["safety_mode"] == "OFF"


def test_provider_options():
    """As they are."""
    options = PROMPTS["options"].provider_options

    assert {name: value for name, value in _build(PROMPTS["options"]).items() if name in options} == options


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"messages": []}, '["messages"]'),
        ({"stream": False}, '["stream"]'),
        ({"tool_choice": "NONE"}, '["tool_choice"]'),
        ({"strict_tools": True}, '["strict_tools"]'),
        ({"unheard_of": 1}, '["unheard_of"]'),
        ({"thinking": {"type": "disabled"}}, '["thinking"]'),
    ],
)
def test_provider_options_that_are_refused(options: dict[str, JsonValue], path: str):
    """What changes the shape, contradicts the request, or is no field of Cohere."""
    parameters = GenerationParameters(reasoning=ReasoningParameters(budget_tokens=7))

    assert _refused(parameters=parameters, provider_options=options) == [f"provider_options{path}"]


@pytest.mark.parametrize("form", ["none", "assistant_prefill", "prefix_flag"])
def test_a_partial_is_not_continued(form: str):
    """Whatever a profile says: nothing is written of it."""
    prefix = message(Role.ASSISTANT, Text(text="Once upon "))

    with pytest.raises(ContinueUnsupported):
        _body(prefix=prefix, profile=Profile(continue_prefix=form))


def test_key_is_a_header():
    """A bearer's."""
    assert CohereDialect().authorization("k") == {"authorization": "Bearer k"}
