"""Prompts as Chat Completions requests: what is sent, and what is refused."""

import json
from typing import Any

import pytest

from midstream_server.errors import ContinueUnsupported, InvalidRequest
from midstream_server.model import (
    Blob,
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Part,
    PartContent,
    Prompt,
    ProviderState,
    Reasoning,
    ReasoningEffort,
    ReasoningParameters,
    Refusal,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolResult,
)
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.openai_chat import OpenAIChatDialect

HELLO = Message(role=Role.USER, parts=(Part(content=Text(text="Hello")),))
TOOL = Tool(name="find")


def _message(role: Role, *contents: PartContent) -> Message:
    return Message(role=role, parts=tuple(Part(content=content) for content in contents))


def _body(*messages: Message, profile: Profile | None = None, **fields: Any) -> dict[str, Any]:
    prompt = Prompt(messages=messages or (HELLO,), **fields)
    request = OpenAIChatDialect().build_request("gpt", prompt, profile or Profile())
    assert request.path == "/chat/completions"
    body = json.loads(request.body)
    assert isinstance(body, dict)
    return body


def _messages(*messages: Message) -> Any:
    return _body(*messages)["messages"]


def _refused(*messages: Message, profile: Profile | None = None, **fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        _body(*messages, profile=profile, **fields)
    return [violation.field for violation in caught.value.violations]


def _parameters(profile: Profile | None = None, **parameters: Any) -> dict[str, Any]:
    body = _body(profile=profile, parameters=GenerationParameters(**parameters))
    return {
        name: value for name, value in body.items() if name not in ("model", "messages", "stream", "stream_options")
    }


# --- Messages --------------------------------------------------------------------------------------------------------


def test_smallest_request():
    """A stream, with usage."""
    assert _body() == {
        "model": "gpt",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_roles():
    """One text is a string, several are a list, tools answer one by one."""
    mapped = _messages(
        _message(Role.SYSTEM, Text(text="Be brief")),
        _message(Role.DEVELOPER, Text(text="a"), Text(text="b")),
        HELLO,
        _message(
            Role.ASSISTANT, Text(text="Let me "), Text(text="see"), ToolCall(id="c1", name="find", arguments='{"q": 1}')
        ),
        _message(Role.TOOL, ToolResult(tool_call_id="c1", parts=(Part(content=Text(text="moss")),))),
    )

    assert mapped == [
        {"role": "system", "content": "Be brief"},
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": "Let me see",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "moss"},
    ]


def test_tool_calls_alone():
    """No text is null, no arguments are an empty object."""
    [mapped] = _messages(_message(Role.ASSISTANT, ToolCall(id="c1", name="find", arguments="")))

    assert mapped["content"] is None
    assert mapped["tool_calls"][0]["function"]["arguments"] == "{}"


def test_tool_results_between_words_of_the_user():
    """The order stays."""
    result = ToolResult(tool_call_id="c1", parts=(Part(content=Text(text="x")),), is_error=True)

    assert _messages(_message(Role.USER, Text(text="a"), result, Text(text="b"))) == [
        {"role": "user", "content": "a"},
        {"role": "tool", "tool_call_id": "c1", "content": "Error: x"},
        {"role": "user", "content": "b"},
    ]


def test_failed_tool_that_says_so_itself():
    """The word is not said twice; a result without parts is empty text."""
    failed = ToolResult(tool_call_id="c1", parts=(Part(content=Text(text="Error 7")),), is_error=True)

    mapped = _messages(_message(Role.TOOL, failed, ToolResult(tool_call_id="c2")))

    assert [message["content"] for message in mapped] == ["Error 7", ""]


def test_refusal_of_the_model():
    """As an item of its own."""
    [mapped] = _messages(_message(Role.ASSISTANT, Text(text="Well. "), Refusal(text="No.")))

    assert mapped["content"] == [{"type": "text", "text": "Well. "}, {"type": "refusal", "refusal": "No."}]


def test_images_audio_and_files():
    """By URL, by id, or as data."""
    [mapped] = _messages(
        _message(
            Role.USER,
            Text(text="Look"),
            Blob(url="https://example.com/a.png", mime_type="image/png"),
            Blob(data=b"\x01\x02", mime_type="image/PNG"),
            Blob(data=b"\x01", mime_type="audio/wav"),
            Blob(data=b"%PDF", mime_type="application/pdf"),
            Blob(file_id="file-1"),
        )
    )

    assert mapped["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AQI="}},
        {"type": "input_audio", "input_audio": {"data": "AQ==", "format": "wav"}},
        {"type": "file", "file": {"filename": "file.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]


def test_reasoning_goes_back_only_as_own_state():
    """Another dialect's state, and bare thoughts, stay here."""
    details = [{"type": "reasoning.text", "text": "hm", "signature": "s"}]
    own = ProviderState(dialect="openai-chat", data=json.dumps(details).encode())
    other = ProviderState(dialect="anthropic", data=b"x")
    text = Part(content=Text(text="Hi"))

    for state, expected in ((own, details), (other, None), (None, None)):
        reasoning = Part(content=Reasoning(text="hm"), provider_state=state)
        [mapped] = _messages(Message(role=Role.ASSISTANT, parts=(reasoning, text)))
        assert mapped.get("reasoning_details") == expected
        assert mapped["content"] == "Hi"


BLOB = Blob(data=b"x", mime_type="image/png")
UNSPEAKABLE: dict[str, tuple[Message, str]] = {
    "image in system": (_message(Role.SYSTEM, Text(text="a"), BLOB), "messages[0].parts[1].blob"),
    "image of the model": (_message(Role.ASSISTANT, BLOB), "messages[0].parts[0].blob"),
    "result of the model": (_message(Role.ASSISTANT, ToolResult(tool_call_id="c")), "messages[0].parts[0].tool_result"),
    "call of the user": (
        _message(Role.USER, ToolCall(id="c", name="f", arguments="")),
        "messages[0].parts[0].tool_call",
    ),
    "file by url": (
        _message(Role.USER, Blob(url="https://example.com/a.pdf", mime_type="application/pdf")),
        "messages[0].parts[0].blob.url",
    ),
    "data without type": (_message(Role.USER, Blob(data=b"x")), "messages[0].parts[0].blob.mime_type"),
    "image from a tool": (
        _message(Role.TOOL, ToolResult(tool_call_id="c", parts=(Part(content=BLOB),))),
        "messages[0].parts[0].tool_result.parts[0].blob",
    ),
}


@pytest.mark.parametrize("name", UNSPEAKABLE)
def test_parts_that_chat_cannot_say(name: str):
    """Refused by their path."""
    message, path = UNSPEAKABLE[name]

    assert _refused(message) == [path]


# --- Tools and schemas -----------------------------------------------------------------------------------------------


def test_tools():
    """Schemas go through byte for byte, the order of keys and the form of numbers included."""
    schema = '{"type":"object", "properties":{"z":{"type":"string"},"a":{"const":1.0}}}'
    tool = Tool(name="find", description="Finds", parameters_schema=schema, strict=True)
    request = OpenAIChatDialect().build_request("gpt", Prompt(messages=(HELLO,), tools=(tool, TOOL)), Profile())

    assert schema.encode() in request.body
    assert json.loads(request.body)["tools"] == [
        {
            "type": "function",
            "function": {"name": "find", "description": "Finds", "parameters": json.loads(schema), "strict": True},
        },
        {"type": "function", "function": {"name": "find"}},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice(), None),
        (ToolChoice(mode=ToolChoiceMode.NONE), "none"),
        (ToolChoice(mode=ToolChoiceMode.REQUIRED), "required"),
        (ToolChoice(mode=ToolChoiceMode.TOOL, tool_name="find"), {"type": "function", "function": {"name": "find"}}),
    ],
)
def test_tool_choice(choice: ToolChoice, expected: object):
    """AUTO is what every endpoint does anyway."""
    assert _body(tools=(TOOL,), tool_choice=choice).get("tool_choice") == expected


def test_tool_choice_without_tools():
    """NONE is nothing then, REQUIRED is impossible."""
    assert "tool_choice" not in _body(tool_choice=ToolChoice(mode=ToolChoiceMode.NONE))
    assert _refused(tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED)) == ["tool_choice"]


def test_response_formats():
    """The schema again byte for byte."""
    schema = '{"b": 1, "a": 2}'
    form = JsonSchemaFormat(name="x", schema=schema, description="d", strict=False)

    assert _parameters(response_format=JsonObjectFormat()) == {"response_format": {"type": "json_object"}}
    assert _parameters(response_format=form)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "x", "description": "d", "schema": {"b": 1, "a": 2}, "strict": False},
    }
    request = OpenAIChatDialect().build_request(
        "gpt", Prompt(messages=(HELLO,), parameters=GenerationParameters(response_format=form)), Profile()
    )
    assert schema.encode() in request.body


@pytest.mark.parametrize("schema", ["{", "[]", "", '{}, "n": 9'])
def test_schema_that_is_none(schema: str):
    """It would break the body, or break out of it."""
    path = "parameters.response_format.json_schema.schema"

    assert _refused(parameters=GenerationParameters(response_format=JsonSchemaFormat(name="x", schema=schema))) == [
        path
    ]
    if schema:
        assert _refused(tools=(TOOL, Tool(name="b", parameters_schema=schema))) == ["tools[1].parameters_schema"]


# --- Parameters ------------------------------------------------------------------------------------------------------


def test_all_parameters():
    """Each where Chat Completions has it."""
    parameters = GenerationParameters(
        max_output_tokens=9,
        temperature=0.0,
        top_p=0.5,
        seed=0,
        presence_penalty=-1.0,
        frequency_penalty=1.0,
        stop=("x", "y"),
        parallel_tool_calls=False,
        logprobs=True,
        top_logprobs=0,
        reasoning=ReasoningParameters(effort=ReasoningEffort.MINIMAL, include=True),
    )

    body = _body(tools=(TOOL,), parameters=parameters)

    assert {name: body[name] for name in list(body)[5:]} == {
        "max_completion_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 0,
        "presence_penalty": -1.0,
        "frequency_penalty": 1.0,
        "stop": ["x", "y"],
        "parallel_tool_calls": False,
        "logprobs": True,
        "top_logprobs": 0,
        "reasoning_effort": "minimal",
    }


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"top_k": 4}, "parameters.top_k"),
        ({"reasoning": ReasoningParameters(budget_tokens=7)}, "parameters.reasoning.budget_tokens"),
        ({"reasoning": ReasoningParameters(include=False)}, "parameters.reasoning.include"),
    ],
)
def test_parameters_that_chat_does_not_have(parameters: dict[str, Any], path: str):
    """Refused by name, not dropped."""
    assert _refused(parameters=GenerationParameters(**parameters)) == [path]


def test_parameters_by_profile():
    """Another name, one more, one less."""
    profile = Profile(
        max_tokens_field="max_tokens", parameter_fields={"top_k": "top_k", "seed": "random_seed", "logprobs": ""}
    )

    assert _parameters(profile, top_k=4, seed=7, max_output_tokens=1) == {"max_tokens": 1, "top_k": 4, "random_seed": 7}
    assert _refused(profile=profile, parameters=GenerationParameters(logprobs=True)) == ["parameters.logprobs"]


def test_parallel_calls_without_tools_are_not_mentioned():
    """OpenAI refuses the field then."""
    assert _parameters(parallel_tool_calls=True) == {}


def test_usage_by_profile():
    """How the endpoint reports it while the stream goes on."""
    vllm = _body(profile=Profile(running_usage="continuous_usage_stats"))
    llamacpp = _body(profile=Profile(running_usage="timings", extra_body={"return_progress": True}))

    assert vllm["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (llamacpp["timings_per_token"], llamacpp["return_progress"]) == (True, True)
    assert "stream_options" not in _body(profile=Profile(usage_option=False))


def test_provider_options():
    """The caller's own fields are passed on."""
    options = {"user": "u", "web_search_options": {"a": [1, 2.5, None]}}

    body = _body(provider_options=options)

    assert {name: body[name] for name in options} == options


@pytest.mark.parametrize(
    "name", ["n", "stream", "stream_options", "model", "messages", "tools", "tool_choice", "functions", "modalities"]
)
def test_provider_options_that_change_the_shape(name: str):
    """Refused, each by its key."""
    assert _refused(provider_options={name: 1, "user": "u"}) == [f'provider_options["{name}"]']


def test_provider_options_that_contradict_the_request():
    """What the request says, or its upstream, is not said twice."""
    assert _refused(
        profile=Profile(extra_body={"safe": 1}),
        parameters=GenerationParameters(temperature=1.0),
        provider_options={"temperature": 0, "safe": 0},
    ) == ['provider_options["temperature"]', 'provider_options["safe"]']


# --- Continuing ------------------------------------------------------------------------------------------------------


PREFIX = _message(Role.ASSISTANT, Text(text="Once upon "))


@pytest.mark.parametrize(
    ("way", "message", "fields"),
    [
        ("assistant_prefill", {}, {}),
        ("continue_final_message", {}, {"add_generation_prompt": False, "continue_final_message": True}),
        ("prefix_flag", {"prefix": True}, {}),
    ],
)
def test_continuing_a_partial(way: str, message: dict[str, Any], fields: dict[str, Any]):
    """The partial is the last message, its white space untouched."""
    body = _body(prefix=PREFIX, profile=Profile(continue_prefix=way))

    assert body["messages"][-1] == {"role": "assistant", "content": "Once upon ", **message}
    assert {name: body[name] for name in fields} == fields
    assert "continue_final_message" in fields or "continue_final_message" not in body


def test_continuing_what_cannot_be_continued():
    """Not by this endpoint, or not with these parts."""
    with pytest.raises(ContinueUnsupported):
        _body(prefix=PREFIX)
    with pytest.raises(ContinueUnsupported):
        _body(
            prefix=_message(Role.ASSISTANT, ToolCall(id="c", name="f", arguments="{")),
            profile=Profile(continue_prefix="prefix_flag"),
        )
