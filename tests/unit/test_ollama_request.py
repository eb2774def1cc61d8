"""Prompts as Ollama requests: what is sent, and what is refused."""

import json
from typing import Any

import pytest

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
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.ollama import OllamaDialect
from ollama_prompts import PROMPTS
from ollama_schema import check

PREFILL = Profile(continue_prefix="assistant_prefill")
CALL = message(Role.ASSISTANT, ToolCall(id="c1", name="f", arguments="{}"))


def _build(prompt: Prompt, profile: Profile | None = None) -> dict[str, Any]:
    """The body, which must be one that the documentation allows."""
    request = OllamaDialect().build_request("moss:1b", prompt, profile or Profile())
    assert request.path == "/api/chat"
    if profile in (None, PREFILL):
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
    assert _build(PROMPTS[name], PREFILL)["stream"] is True


def test_smallest_request():
    """Nothing that was not asked for."""
    assert _body() == {"model": "moss:1b", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


def test_messages():
    """One text each; instructions of both roles, anywhere; images beside the text."""
    assert _build(PROMPTS["instructions"])["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Say\nplease."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Please? No."},
        {"role": "system", "content": "Be long."},
        {"role": "user", "content": "What is this?", "images": ["iVBORw=="]},
    ]


def test_calls_and_their_results():
    """With the names of their calls; a failure says so in its first word; foreign thoughts stay here."""
    assert _build(PROMPTS["tools"])["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "Hm.",
            "tool_calls": [
                {"id": "c1", "function": {"name": "find", "arguments": {"z": "moss"}}},
                {"id": "c2", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "green", "tool_name": "find", "tool_call_id": "c1"},
        {"role": "tool", "content": "Error: ", "tool_name": "now", "tool_call_id": "c2"},
        {"role": "user", "content": "And?"},
    ]


def test_messages_that_cannot_be_expressed():
    """Each by the path of its field."""
    url, file = Blob(url="https://example.com/a.png"), Blob(file_id="f")
    pdf = Blob(mime_type="application/pdf", data=b"x")
    bad = message(Role.ASSISTANT, ToolCall(id="c1", name="f", arguments="7"))

    assert _refused(message(Role.USER, Text(text="a"), url)) == ["messages[0].parts[1].blob.url"]
    assert _refused(message(Role.USER, file)) == ["messages[0].parts[0].blob.file_id"]
    assert _refused(message(Role.USER, pdf)) == ["messages[0].parts[0].blob.mime_type"]
    assert _refused(message(Role.SYSTEM, PNG)) == ["messages[0].parts[0].blob"]
    assert _refused(HELLO, message(Role.ASSISTANT, PNG)) == ["messages[1].parts[0].blob"]
    assert _refused(CALL, message(Role.TOOL, result("c1", PNG))) == ["messages[1].parts[0].tool_result.parts[0].blob"]
    assert _refused(message(Role.TOOL, result("c9"))) == ["messages[0].parts[0].tool_result.tool_call_id"]
    assert _refused(HELLO, bad) == ["messages[1].parts[0].tool_call.arguments"]


def test_message_of_foreign_thoughts_alone_is_left_out():
    """There is nothing in it that Ollama may read."""
    foreign = message(Role.ASSISTANT, signed(Reasoning(text="Hm."), dialect="anthropic"))

    assert len(_body(HELLO, foreign)["messages"]) == 1


def test_tools():
    """A schema byte for byte; one without parameters has none to describe."""
    prompt = Prompt(messages=(HELLO,), tools=(FIND, NOW))

    assert SCHEMA.encode() in OllamaDialect().build_request("m", prompt, Profile()).body
    assert [tool["function"]["parameters"] for tool in _build(prompt)["tools"]] == [
        json.loads(SCHEMA),
        {"type": "object", "properties": {}},
    ]


def test_tool_choice():
    """A model without tools calls none; it cannot be made to call one, or one at a time."""
    none = _body(tools=(FIND,), tool_choice=ToolChoice(mode=ToolChoiceMode.NONE))
    required = ToolChoice(mode=ToolChoiceMode.REQUIRED)
    one = GenerationParameters(parallel_tool_calls=False)

    assert "tools" not in none
    assert _refused(tools=(FIND,), tool_choice=required) == ["tool_choice.mode"]
    assert _refused(tools=(FIND,), parameters=one) == ["parameters.parallel_tool_calls"]
    assert _refused(tools=(FIND, Tool(name="f", strict=True))) == ["tools[1].strict"]


def test_parameters():
    """Those of the sampler among the options, the others by their own names."""
    body = _build(PROMPTS["parameters"])

    assert body["options"] == {
        "num_predict": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "stop": ["END", "\n"],
    }
    assert body["format"] == {"description": "An answer.", **json.loads(SCHEMA)}
    assert (body["think"], body["logprobs"], body["top_logprobs"]) == ("high", True, 3)
    assert _build(PROMPTS["thinking"])["format"] == "json"


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        (ReasoningParameters(), None),
        (ReasoningParameters(include=True), True),
        (ReasoningParameters(effort=ReasoningEffort.NONE), False),
        (ReasoningParameters(effort=ReasoningEffort.NONE, include=False), False),
        (ReasoningParameters(effort=ReasoningEffort.LOW), "low"),
    ],
)
def test_thinking(reasoning: ReasoningParameters, expected: JsonValue):
    """On, off, or how much."""
    assert _body(parameters=GenerationParameters(reasoning=reasoning)).get("think") == expected


@pytest.mark.parametrize(
    ("reasoning", "field"),
    [
        (ReasoningParameters(effort=ReasoningEffort.MINIMAL), "effort"),
        (ReasoningParameters(include=False), "include"),
        (ReasoningParameters(effort=ReasoningEffort.LOW, include=False), "include"),
        (ReasoningParameters(budget_tokens=7), "budget_tokens"),
    ],
)
def test_thinking_that_cannot_be_expressed(reasoning: ReasoningParameters, field: str):
    """Ollama hides no thoughts and counts none."""
    assert _refused(parameters=GenerationParameters(reasoning=reasoning)) == [f"parameters.reasoning.{field}"]


def test_parameters_by_profile():
    """An endpoint may lack one, and want something in every request."""
    profile = Profile(parameter_fields={"seed": ""}, extra_body={"keep_alive": -1})

    assert _refused(profile=profile, parameters=GenerationParameters(seed=1)) == ["parameters.seed"]
    assert _body(profile=profile)["keep_alive"] == -1


def test_what_an_endpoint_needs_comes_over_what_is_asked_for():
    """Also where both set the same field."""
    asked = GenerationParameters(reasoning=ReasoningParameters(include=True))

    assert _body(profile=Profile(extra_body={"think": False}), parameters=asked)["think"] is False


def test_provider_options():
    """Among the options those that the request does not set."""
    body = _build(PROMPTS["options"])

    assert body["options"] == {"temperature": 0.0, "num_ctx": 4096, "min_p": 0.1}
    assert (body["keep_alive"], body["truncate"]) == ("5m", False)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"messages": []}, '["messages"]'),
        ({"stream": False}, '["stream"]'),
        ({"tools": []}, '["tools"]'),
        ({"unheard_of": 1}, '["unheard_of"]'),
        ({"think": True}, '["think"]'),
        ({"options": 7}, '["options"]'),
        ({"options": {"num_predict": 9}}, '["options"]["num_predict"]'),
    ],
)
def test_provider_options_that_are_refused(options: dict[str, JsonValue], path: str):
    """What changes the shape, contradicts the request, or is no field of Ollama."""
    parameters = GenerationParameters(max_output_tokens=1, reasoning=ReasoningParameters(include=True))

    assert _refused(parameters=parameters, provider_options=options) == [f"provider_options{path}"]


def test_continuing_a_partial():
    """As what the model said last, where the profile says that this works; only text."""
    assert _build(PROMPTS["continued"], PREFILL)["messages"][-1] == {"role": "assistant", "content": "Once upon "}
    with pytest.raises(ContinueUnsupported):
        _build(PROMPTS["continued"])
    with pytest.raises(ContinueUnsupported):
        _body(prefix=message(Role.ASSISTANT, Reasoning(text="Hm")), profile=PREFILL)


def test_key_is_a_header():
    """For Ollama's own servers."""
    assert OllamaDialect().authorization("k") == {"authorization": "Bearer k"}
