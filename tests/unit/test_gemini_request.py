"""Prompts as Gemini requests: what is sent, and what is refused."""

import json
from typing import Any

import pytest

from gemini_prompts import FIND, HELLO, PNG, PROMPTS, SCHEMA, message, result, signed
from gemini_schema import check
from midstream_server.errors import ContinueUnsupported, InvalidRequest
from midstream_server.model import (
    Blob,
    GenerationParameters,
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
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.gemini import GeminiDialect

PREFILL = Profile(continue_prefix="assistant_prefill")


def _build(prompt: Prompt, profile: Profile | None = None, model: str = "gemini-3-pro") -> dict[str, Any]:
    """The body, which must be one that the API's documentation allows."""
    request = GeminiDialect().build_request(model, prompt, profile or Profile())
    assert request.query == {"alt": "sse"}
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


def _config(profile: Profile | None = None, model: str = "gemini-3-pro", **parameters: Any) -> Any:
    prompt = Prompt(messages=(HELLO,), parameters=GenerationParameters(**parameters))
    return _build(prompt, profile, model).get("generationConfig")


@pytest.mark.parametrize("name", PROMPTS)
def test_requests_fit_the_documentation(name: str):
    """Every field is known there, and has the type that it should."""
    body = _build(PROMPTS[name], PREFILL)

    assert body["contents"]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3-pro", "models/gemini-3-pro"),
        ("tunedModels/mine", "tunedModels/mine"),
        ("a/../b?c#d%e", "models/a%2F..%2Fb%3Fc%23d%25e"),
        ("..", "models/.."),
    ],
)
def test_path(model: str, path: str):
    """The model is in it, and cannot leave its place."""
    request = GeminiDialect().build_request(model, PROMPTS["hello"], Profile())

    assert request.path == f"/v1beta/{path}:streamGenerateContent"


# --- Messages --------------------------------------------------------------------------------------------------------


def test_smallest_request():
    """Nothing that was not asked for."""
    assert _body() == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


def test_instructions_stand_apart():
    """Those that a conversation begins with, of both roles."""
    body = _build(PROMPTS["instructions"])

    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "Say"}, {"text": "please."}]}
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    assert body["contents"][1]["parts"] == [{"text": "Please?"}, {"text": "No."}]


def test_instructions_elsewhere_are_refused():
    """Gemini has no place for them; nor for anything but text in them."""
    instruction = message(Role.SYSTEM, Text(text="Be long."))

    assert _refused(HELLO, instruction) == ["messages[1].role"]
    assert _refused(message(Role.SYSTEM, Text(text="a"), PNG), HELLO) == ["messages[0].parts[1].blob"]
    assert _refused(instruction) == ["messages"]


def test_files():
    """By their bytes, an address, or Google's own name for it."""
    [_, image, pdf, video, audio] = _build(PROMPTS["files"])["contents"][0]["parts"]

    assert image == {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}
    assert pdf == {"fileData": {"fileUri": "https://example.com/a.pdf", "mimeType": "application/pdf"}}
    assert video == {"fileData": {"fileUri": "gs://bucket/a.mp4"}}
    assert audio["fileData"]["fileUri"] == "https://generativelanguage.googleapis.com/v1beta/files/abc"


def test_bytes_without_a_type_are_refused():
    """Gemini wants to know what they are."""
    assert _refused(message(Role.USER, Blob(data=b"x"))) == ["messages[0].parts[0].blob.mime_type"]


def test_calls_and_their_results():
    """Results that stand together are one content, with their calls' names; signatures go back where they were."""
    _, said, results, words = _build(PROMPTS["tools"])["contents"]

    assert said == {
        "role": "model",
        "parts": [
            {"text": "Hm.", "thought": True, "thoughtSignature": "c2ln"},
            {"text": "Let me see.", "thoughtSignature": "c2ln"},
            {
                "functionCall": {"id": "c1", "name": "find", "args": {"z": "moss"}},
                "thoughtSignature": "c2ln",
            },
            {"functionCall": {"id": "c2", "name": "now", "args": {}}},
        ],
    }
    image = {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}
    assert [part["functionResponse"] for part in results["parts"]] == [
        {"id": "c1", "name": "find", "response": {"output": "green"}, "parts": [image]},
        {"id": "c2", "name": "now", "response": {"error": ""}},
    ]
    assert (results["role"], words) == ("user", {"role": "user", "parts": [{"text": "And?"}]})


def test_words_of_the_user_between_results():
    """The order stays; several texts of a result stay apart."""
    call = message(Role.ASSISTANT, ToolCall(id="c1", name="f", arguments="{}"))
    results = result("c1", Text(text="a"), Text(text="b"))
    request = GeminiDialect().build_request(
        "m", Prompt(messages=(call, message(Role.USER, Text(text="x"), results, Text(text="y")))), Profile()
    )

    [_, before, answer, after] = json.loads(request.body)["contents"]

    assert (before["parts"], after["parts"]) == ([{"text": "x"}], [{"text": "y"}])
    assert answer["parts"][0]["functionResponse"]["response"] == {"output": ["a", "b"]}


def test_results_of_calls_that_are_not_there_are_refused():
    """Gemini wants their names."""
    assert _refused(message(Role.TOOL, result("c9"))) == ["messages[0].parts[0].tool_result.tool_call_id"]


def test_results_that_are_addresses_are_refused():
    """Only text and bytes."""
    call = message(Role.ASSISTANT, ToolCall(id="c1", name="f", arguments="{}"))
    answer = message(Role.TOOL, result("c1", Blob(url="https://example.com/a.png")))

    assert _refused(call, answer) == ["messages[1].parts[0].tool_result.parts[0].blob"]


def test_arguments_keep_their_text():
    """The order of keys, and numbers; what is no object is refused."""
    call = ToolCall(id="c1", name="f", arguments='{"b": 1.0, "a": 12345678901234567890}')
    request = GeminiDialect().build_request("m", Prompt(messages=(message(Role.ASSISTANT, call),)), Profile())

    assert b'{"b": 1.0, "a": 12345678901234567890}' in request.body
    bad = message(Role.ASSISTANT, ToolCall(id="c1", name="f", arguments="[1"))
    assert _refused(HELLO, bad) == ["messages[1].parts[0].tool_call.arguments"]


def test_state_of_other_dialects_stays_here():
    """Neither their signatures nor their thoughts; a message of nothing else is left out."""
    foreign = signed(Reasoning(text="Hm."), dialect="anthropic")
    text = signed(Text(text="Hi"), dialect="anthropic")

    body = _body(HELLO, message(Role.ASSISTANT, foreign), message(Role.ASSISTANT, foreign, text), HELLO)

    assert [content["parts"] for content in body["contents"]] == [
        [{"text": "Hello"}],
        [{"text": "Hi"}],
        [{"text": "Hello"}],
    ]


def test_signature_without_a_thought_goes_back_as_it_came():
    """With an empty text."""
    body = _body(HELLO, message(Role.ASSISTANT, signed(Reasoning(text="")), Text(text="Hi")))

    assert body["contents"][1]["parts"][0] == {"text": "", "thoughtSignature": "c2ln"}


# --- Tools ------------------------------------------------------------------------------------------------------------


def test_tools():
    """A schema byte for byte; a tool may have none."""
    prompt = Prompt(messages=(HELLO,), tools=(FIND, Tool(name="now")))

    assert SCHEMA.encode() in GeminiDialect().build_request("m", prompt, Profile()).body
    assert _build(prompt)["tools"] == [
        {
            "functionDeclarations": [
                {"name": "find", "description": "Finds things.", "parametersJsonSchema": json.loads(SCHEMA)},
                {"name": "now"},
            ]
        }
    ]


@pytest.mark.parametrize(
    ("choice", "strict", "expected"),
    [
        (ToolChoice(), None, None),
        (ToolChoice(), True, {"mode": "VALIDATED"}),
        (ToolChoice(mode=ToolChoiceMode.NONE), None, {"mode": "NONE"}),
        (ToolChoice(mode=ToolChoiceMode.REQUIRED), True, {"mode": "ANY"}),
        (
            ToolChoice(mode=ToolChoiceMode.TOOL, tool_name="f"),
            None,
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
    ],
)
def test_tool_choice(choice: ToolChoice, strict: bool | None, expected: JsonValue):
    """Strict tools are validated."""
    body = _body(tools=(Tool(name="f", strict=strict),), tool_choice=choice)

    assert body.get("toolConfig") == (expected and {"functionCallingConfig": expected})


def test_choices_that_cannot_be_made():
    """Without tools, or of one call at a time."""
    assert _refused(tool_choice=ToolChoice(mode=ToolChoiceMode.REQUIRED)) == ["tool_choice"]
    one = GenerationParameters(parallel_tool_calls=False)
    assert _refused(tools=(FIND,), parameters=one) == ["parameters.parallel_tool_calls"]
    assert _body(parameters=one) == _body()


def test_schema_that_is_no_object_is_refused():
    """By its path."""
    assert _refused(tools=(FIND, Tool(name="f", parameters_schema="7"))) == ["tools[1].parameters_schema"]


# --- Parameters ------------------------------------------------------------------------------------------------------


def test_parameters():
    """Each by Gemini's own name; the description of an answer goes into its schema."""
    config = _build(PROMPTS["parameters"])["generationConfig"]

    assert config == {
        "maxOutputTokens": 9,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "seed": 7,
        "presencePenalty": 0.1,
        "frequencyPenalty": -0.1,
        "stopSequences": ["END", "\n"],
        "responseLogprobs": True,
        "logprobs": 3,
        "responseMimeType": "application/json",
        "responseJsonSchema": {"description": "An answer.", **json.loads(SCHEMA)},
        "thinkingConfig": {"thinkingBudget": 512, "includeThoughts": True},
    }


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("gemini-3-pro", ReasoningEffort.MINIMAL, {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-pro", ReasoningEffort.HIGH, {"thinkingLevel": "HIGH"}),
        ("gemini-3-flash", ReasoningEffort.NONE, {"thinkingBudget": 0}),
        ("gemini-2.5-flash", ReasoningEffort.NONE, {"thinkingBudget": 0}),
        ("gemini-2.5-flash", ReasoningEffort.LOW, {"thinkingBudget": 1024}),
        ("gemini-2.5-pro", ReasoningEffort.MEDIUM, {"thinkingBudget": 8192}),
        ("gemini-2.5-pro", ReasoningEffort.HIGH, {"thinkingBudget": 24576}),
    ],
)
def test_reasoning_effort(model: str, effort: ReasoningEffort, expected: dict[str, JsonValue]):
    """A level, or a budget where the model knows no levels."""
    config = _config(model=model, reasoning=ReasoningParameters(effort=effort))

    assert config == {"thinkingConfig": expected}


def test_parameters_that_cannot_be_expressed():
    """Each by its path, in one answer."""
    both = ReasoningParameters(effort=ReasoningEffort.LOW, budget_tokens=1)
    described = JsonSchemaFormat(name="a", schema='{"description":"x"}', description="y")
    path = "parameters.response_format.json_schema"

    assert _refused(parameters=GenerationParameters(reasoning=both)) == ["parameters.reasoning.budget_tokens"]
    assert _refused(parameters=GenerationParameters(seed=2**31)) == ["parameters.seed"]
    assert _refused(parameters=GenerationParameters(response_format=described)) == [f"{path}.description"]
    no_schema = JsonSchemaFormat(name="a", schema="[]")
    assert _refused(parameters=GenerationParameters(response_format=no_schema)) == [f"{path}.schema"]


def test_parameters_by_profile():
    """An endpoint may lack one, or have it elsewhere."""
    profile = Profile(parameter_fields={"seed": "", "top_k": "topKay"}, extra_body={"serviceTier": "flex"})

    assert _config(profile, top_k=3) == {"topKay": 3}
    assert _refused(profile=profile, parameters=GenerationParameters(seed=1)) == ["parameters.seed"]
    assert _body(profile=profile)["serviceTier"] == "flex"


# --- Options ----------------------------------------------------------------------------------------------------------


def test_provider_options():
    """Fields of the request, of its configuration, and tools that Google runs, beside our own."""
    body = _build(PROMPTS["options"])

    assert body["cachedContent"] == "cachedContents/1"
    assert [list(tool) for tool in body["tools"]] == [["functionDeclarations"], ["googleSearch"], ["urlContext"]]
    assert body["toolConfig"] == {"functionCallingConfig": {"streamFunctionCallArguments": True}}
    assert body["generationConfig"] == {
        "responseModalities": ["TEXT", "IMAGE"],
        "mediaResolution": "MEDIA_RESOLUTION_LOW",
    }


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"contents": []}, '["contents"]'),
        ({"model": "x"}, '["model"]'),
        ({"systemInstruction": {}}, '["systemInstruction"]'),
        ({"unheardOf": 1}, '["unheardOf"]'),
        ({"generationConfig": 7}, '["generationConfig"]'),
        ({"generationConfig": {"candidateCount": 2}}, '["generationConfig"]["candidateCount"]'),
        ({"generationConfig": {"candidate_count": 2}}, '["generationConfig"]["candidateCount"]'),
        ({"generationConfig": {"max_output_tokens": 2}}, '["generationConfig"]["maxOutputTokens"]'),
        (
            {"toolConfig": {"function_calling_config": {"mode": "NONE"}}},
            '["toolConfig"]["functionCallingConfig"]["mode"]',
        ),
        ({"tools": [{"functionDeclarations": []}]}, '["tools"][0]'),
        ({"tools": {"googleSearch": {}}}, '["tools"]'),
    ],
)
def test_provider_options_that_are_refused(options: dict[str, JsonValue], path: str):
    """What changes the shape, contradicts the request, or is no field of Gemini."""
    parameters = GenerationParameters(max_output_tokens=1)

    assert _refused(parameters=parameters, provider_options=options) == [f"provider_options{path}"]


def test_options_contradict_neither_request_nor_upstream():
    """What is said is not said twice."""
    profile = Profile(extra_body={"serviceTier": "flex"})

    assert _refused(profile=profile, provider_options={"serviceTier": "x"}) == ['provider_options["serviceTier"]']


# --- Continuing, keys -------------------------------------------------------------------------------------------------


def test_continuing_a_partial():
    """As what the model said last, where the profile says that this works; only text."""
    assert _build(PROMPTS["continued"], PREFILL)["contents"][-1] == {
        "role": "model",
        "parts": [{"text": "Once upon "}],
    }
    with pytest.raises(ContinueUnsupported):
        _build(PROMPTS["continued"])
    with pytest.raises(ContinueUnsupported):
        _body(prefix=message(Role.ASSISTANT, Reasoning(text="Hm")), profile=PREFILL)


def test_key_is_a_header():
    """And not part of the address, which is logged on the way."""
    assert GeminiDialect().authorization("k") == {"x-goog-api-key": "k"}
