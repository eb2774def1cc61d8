"""Prompts as Responses requests: what is sent, and what is refused."""

import json
from typing import Any

import msgspec
import pytest

from midstream_server.errors import ContinueUnsupported, InvalidRequest
from midstream_server.model import (
    Blob,
    GenerationParameters,
    JsonSchemaFormat,
    Message,
    Part,
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
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from midstream_server.upstreams.profiles import PRESETS
from openai_responses_prompts import FIND, HELLO, PICTURE, PROMPTS, SCHEMA, STATE, THOUGHT, said
from openai_responses_schema import ResponsesRequest

LLAMACPP = PRESETS["llamacpp"].profile
ENCRYPTED = "reasoning.encrypted_content"


def _built(prompt: Prompt, profile: Profile | None = None, model: str = "gpt-4o") -> bytes:
    request = OpenAIResponsesDialect().build_request(model, prompt, profile or Profile())
    assert request.path == "/responses"
    return request.body


def _body(*messages: Message, profile: Profile | None = None, model: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    body = json.loads(_built(Prompt(messages=messages or (HELLO,), **fields), profile, model))
    assert isinstance(body, dict)
    return body


def _input(*messages: Message) -> Any:
    return _body(*messages)["input"]


def _refused(*messages: Message, profile: Profile | None = None, **fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        _body(*messages, profile=profile, **fields)
    return [violation.field for violation in caught.value.violations]


def _parameters(profile: Profile | None = None, **parameters: Any) -> dict[str, Any]:
    body = _body(profile=profile, parameters=GenerationParameters(**parameters))
    return {name: value for name, value in body.items() if name not in ("model", "input", "stream", "store")}


# --- All of it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROMPTS)
def test_a_strict_reader_of_the_documentation_accepts_all_that_we_say(name: str):
    """Every field is known there, of its type, and where it must be."""
    body = _built(PROMPTS[name], model="o4-mini")

    read = msgspec.json.decode(body, type=ResponsesRequest)

    assert read.include[0] == ENCRYPTED


def test_smallest_request():
    """A stream of which the provider keeps nothing."""
    assert _body() == {
        "model": "gpt-4o",
        "input": [{"type": "message", "role": "user", "content": "Hello"}],
        "stream": True,
        "store": False,
    }


# --- Messages --------------------------------------------------------------------------------------------------------


def test_a_system_message_at_the_beginning_is_the_instructions():
    """One text, with others after it; every other system message stays where it is."""
    first = said(Role.SYSTEM, Text(text="Be brief"))
    body = _body(first, HELLO, first)

    assert body["instructions"] == "Be brief"
    assert [item["role"] for item in body["input"]] == ["user", "system"]
    assert "instructions" not in _body(first)
    assert "instructions" not in _body(HELLO, first)
    assert "instructions" not in _body(said(Role.SYSTEM, Text(text="a"), Text(text="b")), HELLO)


def test_paths_count_the_instructions_too():
    """A path names the message that the caller sent."""
    assert _refused(said(Role.SYSTEM, Text(text="Be brief")), said(Role.SYSTEM, PICTURE)) == [
        "messages[1].parts[0].blob"
    ]


def test_what_the_model_said_keeps_its_order():
    """Texts that touch are one message; reasoning, calls and refusals are items between them."""
    call = Part(content=ToolCall(id="c1", name="find", arguments=""))
    texts = [Part(content=Text(text=text)) for text in ("a", "b", "c")]
    refusal = Part(content=Refusal(text="No."))

    items = _input(Message(role=Role.ASSISTANT, parts=(THOUGHT, *texts[:2], call, texts[2], refusal)))

    assert items[:4] == [
        STATE,
        {"type": "message", "role": "assistant", "content": "ab"},
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{}"},
        {"type": "message", "role": "assistant", "content": "c"},
    ]
    assert items[4]["content"] == [{"type": "refusal", "refusal": "No."}]
    assert items[4]["id"].startswith("msg_")
    assert items[4]["status"] == "completed"


def test_an_answer_without_content_is_no_item():
    """An empty text, and reasoning that may not go back."""
    parts = (Part(content=Text(text="")), Part(content=Reasoning(text="hm")))

    assert _input(HELLO, Message(role=Role.ASSISTANT, parts=parts)) == _input(HELLO)


@pytest.mark.parametrize(
    "state",
    [
        ProviderState(dialect="anthropic", data=json.dumps(STATE).encode()),
        ProviderState(dialect="openai-responses", data=b"{"),
        ProviderState(dialect="openai-responses", data=json.dumps(STATE | {"type": "message"}).encode()),
        ProviderState(dialect="openai-responses", data=json.dumps(STATE | {"encrypted_content": ""}).encode()),
        None,
    ],
    ids=["another dialect's", "broken", "of another item", "of no use", "none"],
)
def test_reasoning_goes_back_only_as_own_whole_state(state: ProviderState | None):
    """Nothing is stored there, so an id alone names nothing."""
    thought = Part(content=Reasoning(text="hm"), provider_state=state)

    assert _input(Message(role=Role.ASSISTANT, parts=(thought, Part(content=Text(text="Hi"))))) == [
        {"type": "message", "role": "assistant", "content": "Hi"}
    ]


def test_tool_results_between_words_of_the_user():
    """The order stays."""
    result = ToolResult(tool_call_id="c1", parts=(Part(content=Text(text="x")),))

    assert _input(said(Role.USER, Text(text="a"), result, Text(text="b"))) == [
        {"type": "message", "role": "user", "content": "a"},
        {"type": "function_call_output", "call_id": "c1", "output": "x"},
        {"type": "message", "role": "user", "content": "b"},
    ]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((Text(text="x"),), "Error: x"),
        ((Text(text="ERROR 7"),), "ERROR 7"),
        ((), "Error"),
        ((PICTURE,), [{"type": "input_text", "text": "Error"}, "picture"]),
    ],
)
def test_a_failed_tool_says_so_in_its_first_word(parts: tuple[Any, ...], expected: object):
    """There is no other place for it; what says it itself is left alone."""
    result = ToolResult(tool_call_id="c1", parts=tuple(Part(content=part) for part in parts), is_error=True)

    output = _input(said(Role.TOOL, result))[0]["output"]

    picture = {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AQI="}
    assert output == (
        [picture if each == "picture" else each for each in expected] if isinstance(expected, list) else expected
    )


def test_images_and_files():
    """By URL, by id, or as data; an address shows by its ending what it is."""
    [message] = _input(PROMPTS["images and files"].messages[0])

    assert message["content"] == [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AQI="},
        {"type": "input_image", "detail": "auto", "image_url": "https://example.com/a.png"},
        {"type": "input_image", "detail": "auto", "file_id": "file_1"},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "input_file", "filename": "file.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        {"type": "input_file", "file_id": "file_2"},
    ]


def test_an_address_that_shows_nothing_is_an_image():
    """That is what most are; another type must be said."""
    [message] = _input(
        said(
            Role.USER, Blob(url="https://example.com/a"), Blob(url="https://[x"), Blob(url="x:y", mime_type="text/csv")
        )
    )

    assert [content["type"] for content in message["content"]] == ["input_image", "input_image", "input_file"]


def _of_tool(blob: Blob) -> Message:
    return said(Role.TOOL, ToolResult(tool_call_id="c", parts=(Part(content=blob),)))


UNSPEAKABLE: dict[str, tuple[Message, str]] = {
    "image in system": (said(Role.SYSTEM, Text(text="a"), PICTURE), "messages[0].parts[1].blob"),
    "image of the model": (said(Role.ASSISTANT, PICTURE), "messages[0].parts[0].blob"),
    "result of the model": (said(Role.ASSISTANT, ToolResult(tool_call_id="c")), "messages[0].parts[0].tool_result"),
    "call of the user": (said(Role.USER, ToolCall(id="c", name="f", arguments="")), "messages[0].parts[0].tool_call"),
    "thought of the user": (said(Role.USER, Reasoning(text="hm")), "messages[0].parts[0].reasoning"),
    "refusal of the user": (said(Role.USER, Refusal(text="No")), "messages[0].parts[0].refusal"),
    "audio": (said(Role.USER, Blob(data=b"x", mime_type="audio/wav")), "messages[0].parts[0].blob.mime_type"),
    "video": (said(Role.USER, Blob(url="https://example.com/a.mp4")), "messages[0].parts[0].blob.mime_type"),
    "data without type": (said(Role.USER, Blob(data=b"x")), "messages[0].parts[0].blob.mime_type"),
    "audio of a tool": (
        _of_tool(Blob(data=b"x", mime_type="audio/wav")),
        "messages[0].parts[0].tool_result.parts[0].blob.mime_type",
    ),
}


@pytest.mark.parametrize("name", UNSPEAKABLE)
def test_parts_that_responses_cannot_say(name: str):
    """Refused by their path."""
    message, path = UNSPEAKABLE[name]

    assert _refused(message) == [path]


# --- Tools and schemas -----------------------------------------------------------------------------------------------


def test_tools():
    """Schemas go through byte for byte; null leaves the rest to the provider."""
    tool = Tool(name="find", description="Finds", parameters_schema=SCHEMA, strict=True)
    body = _built(Prompt(messages=(HELLO,), tools=(tool, FIND)))

    assert SCHEMA.encode() in body
    assert json.loads(body)["tools"] == [
        {
            "type": "function",
            "name": "find",
            "description": "Finds",
            "parameters": json.loads(SCHEMA),
            "strict": True,
        },
        {"type": "function", "name": "find", "parameters": None, "strict": None},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice(), None),
        (ToolChoice(mode=ToolChoiceMode.NONE), "none"),
        (ToolChoice(mode=ToolChoiceMode.REQUIRED), "required"),
        (ToolChoice(mode=ToolChoiceMode.TOOL, tool_name="find"), {"type": "function", "name": "find"}),
    ],
)
def test_tool_choice(choice: ToolChoice, expected: object):
    """AUTO is what every endpoint does anyway."""
    assert _body(tools=(FIND,), tool_choice=choice).get("tool_choice") == expected


def test_tool_choice_without_tools():
    """NONE is nothing then, REQUIRED is impossible."""
    assert "tool_choice" not in _body(tool_choice=ToolChoice(mode=ToolChoiceMode.NONE))
    assert _refused(tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED)) == ["tool_choice"]


def test_response_formats():
    """Under `text`, the schema byte for byte."""
    form = JsonSchemaFormat(name="x", schema=SCHEMA, description="d", strict=False)
    body = _built(Prompt(messages=(HELLO,), parameters=GenerationParameters(response_format=form)))

    assert SCHEMA.encode() in body
    assert json.loads(body)["text"] == {
        "format": {
            "type": "json_schema",
            "name": "x",
            "description": "d",
            "schema": json.loads(SCHEMA),
            "strict": False,
        }
    }
    assert json.loads(_built(PROMPTS["json"]))["text"] == {"format": {"type": "json_object"}}


@pytest.mark.parametrize("schema", ["{", "[]", "", '{}, "n": 9'])
def test_schema_that_is_none(schema: str):
    """It would break the body, or break out of it."""
    form = JsonSchemaFormat(name="x", schema=schema)

    path = "parameters.response_format.json_schema.schema"
    assert _refused(parameters=GenerationParameters(response_format=form)) == [path]
    if schema:
        assert _refused(tools=(FIND, Tool(name="b", parameters_schema=schema))) == ["tools[1].parameters_schema"]


# --- Parameters ------------------------------------------------------------------------------------------------------


def test_all_parameters():
    """Each where Responses has it."""
    body = json.loads(_built(PROMPTS["parameters"]))

    assert {name: body[name] for name in body if name not in ("model", "input", "stream", "store", "tools")} == {
        "max_output_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "parallel_tool_calls": False,
        "top_logprobs": 3,
        "reasoning": {"effort": "minimal", "summary": "auto"},
        "include": [ENCRYPTED, "message.output_text.logprobs"],
    }


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"stop": ("x",)}, "parameters.stop"),
        ({"seed": 0}, "parameters.seed"),
        ({"top_k": 4}, "parameters.top_k"),
        ({"presence_penalty": 0.0}, "parameters.presence_penalty"),
        ({"frequency_penalty": 1.0}, "parameters.frequency_penalty"),
        ({"reasoning": ReasoningParameters(budget_tokens=7)}, "parameters.reasoning.budget_tokens"),
    ],
)
def test_parameters_that_responses_does_not_have(parameters: dict[str, Any], path: str):
    """Refused by name, not dropped."""
    assert _refused(parameters=GenerationParameters(**parameters)) == [path]


def test_parameters_by_profile():
    """One more, one less, one elsewhere."""
    fields = {"top_k": "top_k", "temperature": "", "logprobs": "logprobs", "reasoning.include": "include_reasoning"}
    profile = Profile(parameter_fields=fields)

    assert _parameters(profile, top_k=4, logprobs=True, reasoning=ReasoningParameters(include=False)) == {
        "top_k": 4,
        "logprobs": True,
        "include_reasoning": False,
    }
    assert _refused(profile=profile, parameters=GenerationParameters(temperature=1.0)) == ["parameters.temperature"]


def test_what_is_the_default_anyway_is_not_said():
    """No log probabilities and no summary; and parallel calls need tools."""
    reasoning = ReasoningParameters(include=False)

    assert _parameters(logprobs=False, parallel_tool_calls=True, reasoning=reasoning) == {}


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        ("o3", True),
        ("o4-mini-2025-04-16", True),
        ("gpt-5.1-codex", True),
        ("openai/gpt-5", True),
        ("gpt-oss-20b", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4o", False),
        ("gpt-4.1-mini", False),
        ("my-deployment", False),
    ],
)
def test_models_that_reason_are_asked_for_it(model: str, reasons: bool):
    """Encrypted, for nothing is stored; another model would refuse the whole request."""
    assert (ENCRYPTED in _body(model=model).get("include", [])) is reasons


def test_who_asks_for_reasoning_gets_its_state():
    """Whatever the model's name; the history may show it too."""
    asked = GenerationParameters(reasoning=ReasoningParameters(effort=ReasoningEffort.LOW))
    shown = GenerationParameters(reasoning=ReasoningParameters(include=True))
    off = GenerationParameters(reasoning=ReasoningParameters(effort=ReasoningEffort.NONE))
    history = Message(role=Role.ASSISTANT, parts=(THOUGHT, Part(content=Text(text="Hi"))))

    assert _body(parameters=asked)["include"] == [ENCRYPTED]
    assert _body(parameters=shown)["include"] == [ENCRYPTED]
    assert _body(HELLO, history)["include"] == [ENCRYPTED]
    assert "include" not in _body(parameters=off)


def test_timings_by_profile():
    """llama.cpp reports usage while the stream goes on."""
    assert _body(profile=LLAMACPP)["timings_per_token"] is True


# --- The caller's own fields -----------------------------------------------------------------------------------------


def test_provider_options():
    """Those of the list are passed on; text, reasoning and include join what the request says."""
    body = json.loads(_built(PROMPTS["options"]))

    assert body["text"] == {"format": {"type": "json_object"}, "verbosity": "low"}
    assert body["reasoning"] == {"effort": "high", "summary": "detailed"}
    assert body["include"] == [ENCRYPTED, "web_search_call.results"]
    assert body["store"] is True
    assert body["metadata"] == {"a": "b"}


@pytest.mark.parametrize(
    "name",
    [
        *("background", "conversation", "input", "instructions", "messages", "model", "n", "previous_response_id"),
        *("prompt", "stream", "tool_choice", "tools", "unheard_of"),
    ],
)
def test_provider_options_that_may_not_be_set(name: str):
    """What changes the shape, and what is not on the list; each by its key."""
    assert _refused(provider_options={name: 1, "user": "u"}) == [f'provider_options["{name}"]']


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", {"format": {"type": "text"}}),
        ("reasoning", {"effort": "low"}),
        ("reasoning", "low"),
        ("metadata", {"a": "c"}),
    ],
)
def test_provider_options_that_contradict_the_request(name: str, value: Any):
    """What the request says, or its upstream, is not said twice."""
    parameters = GenerationParameters(reasoning=ReasoningParameters(effort=ReasoningEffort.LOW))
    profile = Profile(extra_body={"metadata": {"a": "b"}})

    fields = _refused(profile=profile, parameters=parameters, provider_options={name: value})

    assert fields == [f'provider_options["{name}"]']


# --- Continuing ------------------------------------------------------------------------------------------------------


PREFIX = said(Role.ASSISTANT, Text(text="Once upon "))


def test_continuing_a_partial():
    """The partial is the last message, its white space untouched."""
    assert _body(prefix=PREFIX, profile=LLAMACPP)["input"][-1] == {
        "type": "message",
        "role": "assistant",
        "content": "Once upon ",
    }


@pytest.mark.parametrize(
    ("prefix", "profile"),
    [
        (PREFIX, Profile()),
        (PREFIX, Profile(continue_prefix="continue_final_message")),
        (said(Role.ASSISTANT, Text(text="a"), ToolCall(id="c", name="f", arguments="")), LLAMACPP),
    ],
    ids=["no way", "a way of another API", "more than text"],
)
def test_partial_that_cannot_be_continued(prefix: Message, profile: Profile):
    """Told before anything is sent."""
    with pytest.raises(ContinueUnsupported):
        _body(prefix=prefix, profile=profile)


def test_key():
    """As a bearer token."""
    assert OpenAIResponsesDialect().authorization("k") == {"authorization": "Bearer k"}
