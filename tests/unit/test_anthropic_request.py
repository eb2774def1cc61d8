"""Prompts as Messages requests: what is sent, and what is refused."""

import json
from typing import Any

import pytest

from anthropic_prompts import FIND, HELLO, NOW, PNG, PROMPTS, SIGNED, message, result, stated
from anthropic_schema import check
from midstream_server.errors import ContinueUnsupported, InvalidRequest
from midstream_server.model import (
    Blob,
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
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
from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import Profile

PREFILL = Profile(continue_prefix="assistant_prefill")
CANARY = "sk-canary-0123456789"


def _build(prompt: Prompt, profile: Profile | None = None, model: str = "claude") -> dict[str, Any]:
    """The body, which must be one that the API's documentation allows."""
    request = AnthropicDialect().build_request(model, prompt, profile or Profile())
    assert request.path == "/v1/messages"
    assert request.headers["anthropic-version"] == "2023-06-01"
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


def _parameters(profile: Profile | None = None, **parameters: Any) -> dict[str, Any]:
    body = _body(profile=profile, parameters=GenerationParameters(**parameters))
    return {name: value for name, value in body.items() if name not in ("model", "messages", "stream")}


def _reasoning(**fields: Any) -> dict[str, Any]:
    return _parameters(reasoning=ReasoningParameters(**fields))


# --- The whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROMPTS)
def test_requests_are_as_documented(name: str):
    """Every field is known and of its type, turns alternate, and results of tools come first."""
    _build(PROMPTS[name], PREFILL)


def test_smallest_request():
    """A stream, with the limit that the API wants."""
    assert _body() == {
        "model": "claude",
        "max_tokens": 32_000,
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
    }


def test_the_key_goes_into_its_header_only():
    """As the API wants it."""
    assert AnthropicDialect().authorization(CANARY) == {"x-api-key": CANARY}


# --- Messages --------------------------------------------------------------------------------------------------------


def test_instructions_at_the_beginning_are_the_system_prompt():
    """Those that come later stay in their place."""
    body = _build(PROMPTS["instructions"])

    assert [block["text"] for block in body["system"]] == ["Be brief.", "Say", "please."]
    assert [(each["role"], each["content"]) for each in body["messages"]] == [
        ("user", "Hello"),
        ("assistant", "Please?"),
        ("user", "Hello"),
        ("system", "Now be long."),
    ]
    assert _body(message(Role.SYSTEM, Text(text="Be brief.")), HELLO)["system"] == "Be brief."


def test_results_of_tools_come_first_in_the_users_turn():
    """And their order stays; the ids of another provider become ones that this API takes, of call and result alike."""
    _, assistant, user = _build(PROMPTS["tools"])["messages"]
    ids = [block["id"] for block in assistant["content"] if block["type"] == "tool_use"]

    assert [block["type"] for block in user["content"]] == ["tool_result"] * 3 + ["text"]
    assert [block["tool_use_id"] for block in user["content"][:3]] == [*ids, "toolu_3"]
    assert ids[0] == "toolu_1"
    assert user["content"][1] == {"type": "tool_result", "tool_use_id": ids[1], "content": "no clock", "is_error": True}
    assert user["content"][2] == {"type": "tool_result", "tool_use_id": "toolu_3"}


def test_thinking_goes_back_as_it_came():
    """With its signature, in its place; that of other dialects, and that without state, is left out."""
    assistant = _build(PROMPTS["tools"])["messages"][1]

    assert assistant["content"][:3] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        {"type": "text", "text": "Let me see."},
    ]


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'{"signature":7}'])
def test_damaged_state_is_no_state(data: bytes):
    """A caller may send anything."""
    assert _body(HELLO, message(Role.ASSISTANT, stated("Hm.", data), Text(text="Hi")))["messages"][1] == {
        "role": "assistant",
        "content": "Hi",
    }


def test_a_turn_of_nothing_is_no_turn():
    """What is left of the model's turn may be nothing; then the turns around it are one."""
    nothing = message(Role.ASSISTANT, Reasoning(text="Mine."), Text(text=""))

    assert _body(HELLO, nothing, HELLO)["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}] * 2}
    ]


def test_arguments_go_as_they_came():
    """Byte for byte; none are an empty object."""
    arguments = '{"b": 1.50, "a": [ ]}'
    call = ToolCall(id="toolu_1", name="find", arguments=arguments)
    prompt = Prompt(messages=(HELLO, message(Role.ASSISTANT, call)))

    assert arguments.encode() in AnthropicDialect().build_request("claude", prompt, Profile()).body


def test_what_only_one_side_says_is_refused_from_the_other():
    """With the path of the part; and what the API has no place for."""
    call = ToolCall(id="toolu_1", name="find", arguments="[1]")

    assert _refused(message(Role.USER, Text(text="a"), Reasoning(text="b"))) == ["messages[0].parts[1].reasoning"]
    assert _refused(HELLO, message(Role.ASSISTANT, PNG)) == ["messages[1].parts[0].blob"]
    assert _refused(message(Role.SYSTEM, PNG), HELLO) == ["messages[0].parts[0].blob"]
    assert _refused(HELLO, message(Role.DEVELOPER, PNG)) == ["messages[1].parts[0].blob"]
    assert _refused(HELLO, message(Role.ASSISTANT, call)) == ["messages[1].parts[0].tool_call.arguments"]
    assert _refused(message(Role.USER, Text(text=""))) == ["messages[0].parts"]
    assert _refused(message(Role.SYSTEM, Text(text="Be brief."))) == ["messages"]


def test_blobs():
    """Images and documents, here, at an address, or in the provider's store; by their media type, or what looks so."""
    [user] = _build(PROMPTS["blobs"])["messages"]

    assert [(block["type"], block["source"]["type"]) for block in user["content"][1:]] == [
        ("image", "base64"),
        ("image", "url"),
        ("image", "file"),
        ("document", "base64"),
        ("document", "url"),
        ("document", "text"),
        ("document", "file"),
    ]
    assert user["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}
    assert user["content"][6]["source"]["data"] == "für"


@pytest.mark.parametrize(
    ("blob", "field"),
    [
        (Blob(mime_type="image/tiff", data=b"x"), "mime_type"),
        (Blob(mime_type="audio/wav", data=b"x"), "mime_type"),
        (Blob(mime_type="text/plain", data=b"\xff"), "data"),
        (Blob(mime_type="text/html", url="https://a.example/"), "url"),
    ],
)
def test_blobs_that_the_api_has_no_place_for(blob: Blob, field: str):
    """Also in the result of a tool."""
    assert _refused(message(Role.USER, blob)) == [f"messages[0].parts[0].blob.{field}"]
    assert _refused(HELLO, message(Role.TOOL, result("toolu_1", Text(text="a"), blob))) == [
        f"messages[1].parts[0].tool_result.parts[1].blob.{field}"
    ]


# --- Parameters ------------------------------------------------------------------------------------------------------


def test_sampling_and_limits():
    """Under their names here."""
    assert _parameters(max_output_tokens=9, temperature=0.5, top_p=0.9, top_k=4, stop=("END",)) == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "stop_sequences": ["END"],
    }


@pytest.mark.parametrize(
    "parameters",
    [{"seed": 1}, {"presence_penalty": 0.0}, {"frequency_penalty": 1.0}, {"logprobs": True}, {"top_logprobs": 2}],
)
def test_parameters_that_the_api_lacks(parameters: dict[str, Any]):
    """Refused by their paths, all at once."""
    assert _refused(parameters=GenerationParameters(temperature=1, **parameters)) == [
        f"parameters.{name}" for name in parameters
    ]


def test_a_profile_moves_parameters():
    """It may add one, take one away, also one that is part of another field, and set another default limit."""
    profile = Profile(
        parameter_fields={"seed": "seed", "top_k": "", "reasoning.effort": ""}, extra_body={"max_tokens": 50, "x": 1}
    )

    assert _parameters(profile, seed=3) == {"max_tokens": 50, "x": 1, "seed": 3}
    assert _parameters(profile, max_output_tokens=7)["max_tokens"] == 7
    assert _refused(profile=profile, parameters=GenerationParameters(top_k=1)) == ["parameters.top_k"]
    effort = GenerationParameters(reasoning=ReasoningParameters(effort=ReasoningEffort.LOW))
    assert _refused(profile=profile, parameters=effort) == ["parameters.reasoning.effort"]


def test_effort():
    """As much thinking as the model finds right for it; none is none."""
    assert _reasoning(effort=ReasoningEffort.MEDIUM) == {
        "max_tokens": 32_000,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
    }
    assert _reasoning(effort=ReasoningEffort.NONE) == {"max_tokens": 32_000, "thinking": {"type": "disabled"}}


def test_budget():
    """It is part of the limit, so the default limit grows by it; a limit that the caller set stays."""
    assert _reasoning(budget_tokens=2048) == {
        "max_tokens": 34_048,
        "thinking": {"type": "enabled", "budget_tokens": 2048},
    }
    limited = _parameters(max_output_tokens=4000, reasoning=ReasoningParameters(budget_tokens=2048))
    assert limited["max_tokens"] == 4000


def test_showing_the_thinking():
    """Or leaving it out; asking for it alone lets the model think."""
    assert _reasoning(include=True)["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert _reasoning(include=False, budget_tokens=2048)["thinking"]["display"] == "omitted"
    assert "thinking" not in _reasoning()


@pytest.mark.parametrize(
    ("reasoning", "field"),
    [
        (ReasoningParameters(effort=ReasoningEffort.MINIMAL), "effort"),
        (ReasoningParameters(effort=ReasoningEffort.NONE, budget_tokens=5), "budget_tokens"),
        (ReasoningParameters(include=False), "include"),
    ],
)
def test_reasoning_that_the_api_cannot_say(reasoning: ReasoningParameters, field: str):
    """Nothing near it is sent in its place."""
    assert _refused(parameters=GenerationParameters(reasoning=reasoning)) == [f"parameters.reasoning.{field}"]


def test_schema_of_the_answer():
    """Byte for byte, and its description in it."""
    schema = '{"type":"object", "properties":{"z":{},"a":{}}}'
    plain = GenerationParameters(response_format=JsonSchemaFormat(name="x", schema=schema))
    request = AnthropicDialect().build_request("claude", Prompt(messages=(HELLO,), parameters=plain), Profile())
    described = _parameters(response_format=JsonSchemaFormat(name="x", schema=schema, description="D"))

    assert schema.encode() in request.body
    assert list(described["output_config"]["format"]["schema"].items())[:2] == [
        ("description", "D"),
        ("type", "object"),
    ]


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (JsonObjectFormat(), "json_object"),
        (JsonSchemaFormat(name="x", schema="[]"), "json_schema.schema"),
        (JsonSchemaFormat(name="x", schema="{}", strict=False), "json_schema.strict"),
        (JsonSchemaFormat(name="x", schema='{"description":"a"}', description="b"), "json_schema.description"),
    ],
)
def test_forms_of_the_answer_that_the_api_lacks(form: JsonObjectFormat | JsonSchemaFormat, field: str):
    """With the path of what is wrong."""
    assert _refused(parameters=GenerationParameters(response_format=form)) == [f"parameters.response_format.{field}"]


# --- Tools -----------------------------------------------------------------------------------------------------------


def _choice(mode: ToolChoiceMode, parallel: bool | None = None, name: str = "") -> object:
    choice = ToolChoice(mode=mode, tool_name=name)
    parameters = GenerationParameters(parallel_tool_calls=parallel)
    return _body(tools=(FIND, NOW), tool_choice=choice, parameters=parameters).get("tool_choice")


def test_tool_choice():
    """The default is not sent; one call at a time is part of it."""
    assert _choice(ToolChoiceMode.AUTO) is None
    assert _choice(ToolChoiceMode.AUTO, True) is None
    assert _choice(ToolChoiceMode.AUTO, False) == {"type": "auto", "disable_parallel_tool_use": True}
    assert _choice(ToolChoiceMode.REQUIRED, False) == {"type": "any", "disable_parallel_tool_use": True}
    assert _choice(ToolChoiceMode.TOOL, name="now") == {"type": "tool", "name": "now"}
    assert _choice(ToolChoiceMode.NONE, False) == {"type": "none"}


def test_a_choice_needs_tools():
    """And without tools there is nothing to say of parallel calls."""
    assert _refused(tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED)) == ["tool_choice"]
    assert "tool_choice" not in _body(parameters=GenerationParameters(parallel_tool_calls=False))


def test_a_schema_that_is_none():
    """Refused by its path; a tool without one takes nothing."""
    broken = Tool(name="x", parameters_schema='{"type":')

    assert _refused(tools=(NOW, broken)) == ["tools[1].parameters_schema"]
    assert _body(tools=(NOW,))["tools"] == [{"name": "now", "input_schema": {"type": "object", "properties": {}}}]


# --- Options and continuation ----------------------------------------------------------------------------------------


def test_provider_options():
    """Those on the list reach the upstream as they are."""
    options: dict[str, JsonValue] = {
        "metadata": {"user_id": "u"},
        "thinking": {"type": "between_tools"},
        "container": "c",
    }

    sent = json.loads(
        AnthropicDialect().build_request("m", Prompt(messages=(HELLO,), provider_options=options), Profile()).body
    )

    assert {name: sent[name] for name in options} == options


@pytest.mark.parametrize("name", ["stream", "model", "messages", "max_tokens", "n", "tools", "temperature", "sparkle"])
def test_provider_options_that_may_not_be_set(name: str):
    """They have their own places, or change the shape, or are not known."""
    assert _refused(provider_options={name: 1}) == [f'provider_options["{name}"]']


def test_provider_options_do_not_contradict_the_request():
    """What the request says already stays."""
    parameters = GenerationParameters(reasoning=ReasoningParameters(effort=ReasoningEffort.LOW))

    assert _refused(parameters=parameters, provider_options={"thinking": {}}) == ['provider_options["thinking"]']


def _continued(text: str, model: str = "claude-haiku-4-5", profile: Profile = PREFILL) -> Any:
    prompt = Prompt(messages=(HELLO,), prefix=message(Role.ASSISTANT, Text(text=text)))
    return _build(prompt, profile, model)["messages"][-1]


@pytest.mark.parametrize(
    "model", ["claude-haiku-4-5", "claude-sonnet-4-5-20250929", "claude-mythos-preview", "smollm2"]
)
def test_a_partial_answer_is_continued(model: str):
    """As the last message, by models that can, and by those that nothing is known of."""
    assert _continued("Well,", model) == {"role": "assistant", "content": "Well,"}


@pytest.mark.parametrize(
    "model", ["claude-opus-4-6", "claude-opus-4-8", "claude-sonnet-5", "claude-opus-5-5", "claude-opus-5-5-20260901"]
)
def test_later_models_do_not_continue(model: str):
    """They would refuse it."""
    with pytest.raises(ContinueUnsupported):
        _continued("Well,", model)


def test_what_cannot_be_continued():
    """Not here, not with anything but text, and not where the text ends in white space."""
    with pytest.raises(ContinueUnsupported):
        _continued("Well,", profile=Profile())
    for text in ("Well, ", "Well\n", ""):
        with pytest.raises(ContinueUnsupported):
            _continued(text)
    with pytest.raises(ContinueUnsupported):
        _build(Prompt(messages=(HELLO,), prefix=message(Role.ASSISTANT, SIGNED, Text(text="a"))), PREFILL)
