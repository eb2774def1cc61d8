"""A prompt as a Gemini request: https://ai.google.dev/api/generate-content#request-body.

What Gemini cannot be told is refused with the path of its field; nothing that was asked for is left out in silence.
Whether a model takes a value (a level, a budget) is the provider's to say.
"""

from collections.abc import Mapping
from typing import assert_never
from urllib.parse import quote

import msgspec

from midstream_server.errors import FieldViolation, InvalidRequest
from midstream_server.model import (
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    JsonValue,
    Prompt,
    ReasoningEffort,
    ReasoningParameters,
    ResponseFormat,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from midstream_server.upstreams.base import HttpRequest, Profile
from midstream_server.upstreams.gemini.contents import ContentMapper, WireContent, map_instructions
from midstream_server.upstreams.mapping import (
    described_schema,
    given_parameters,
    merge_object,
    merge_options,
    option_object,
    place_parameters,
    prefill_text,
    raw_object,
    require_tools,
)

_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}
_QUERY = {"alt": "sse"}
_TUNED = "tunedModels/"
_SHAPE = frozenset({"contents", "messages", "model", "n", "stream", "systemInstruction", "system_instruction"})
"""Fields that decide what is asked or what the answer looks like: they have places in GenerateRequest, or none."""
_OPTIONS = frozenset(
    {"cachedContent", "generationConfig", "labels", "safetySettings", "serviceTier", "store", "toolConfig", "tools"}
)
"""What `provider_options` may set: https://ai.google.dev/api/generate-content#request-body.

`generationConfig` takes every field but `candidateCount` and those that the request sets; `tools` those that Google
runs (`{"googleSearch": {}}`), and no functions; `toolConfig` everything but whether and which functions are called.
"""
_CHOICE = frozenset({"mode", "allowedFunctionNames"})
_CANDIDATES = "candidateCount"
_FUNCTIONS = frozenset({"functionDeclarations", "function_declarations"})
_FIELDS = {
    "max_output_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "stop": "stopSequences",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
}
"""Where parameters go in `generationConfig`: https://ai.google.dev/api/generate-content#generationconfig."""
_BUDGETS = {
    ReasoningEffort.NONE: 0,
    ReasoningEffort.MINIMAL: 1024,
    ReasoningEffort.LOW: 1024,
    ReasoningEffort.MEDIUM: 8192,
    ReasoningEffort.HIGH: 24576,
}
"""What an effort is to models that know only budgets: https://ai.google.dev/gemini-api/docs/openai#thinking."""
_BUDGET_MODELS = ("gemini-2", "gemini-flash-lite-2", "gemini-robotics-er-1")
_MAX_SEED = 2**31 - 1
_BUILT = ("response_format", "parallel_tool_calls")
"""Parameters that are more than a field of their own, as those of reasoning are."""

WireObject = dict[str, object]


def build_gemini_request(model: str, prompt: Prompt, profile: Profile, dialect: str) -> HttpRequest:
    """The request, streamed as events.

    Raises:
        InvalidRequest: a field cannot be expressed.
        ContinueUnsupported: the prompt has a prefix that this endpoint cannot go on with.
    """
    system, first = map_instructions(prompt.messages)
    mapper = ContentMapper(dialect)
    for index, message in enumerate(prompt.messages[first:], first):
        mapper.add(message, f"messages[{index}]")
    if not mapper.contents:
        raise InvalidRequest(FieldViolation("messages", "needs a message of a user"))
    body: WireObject = {"contents": mapper.contents + _prefix(prompt, profile)}
    if system is not None:
        body["systemInstruction"] = system
    body.update(_tool_fields(prompt.tools, prompt.tool_choice, prompt.parameters))
    if config := _generation_config(model, prompt.parameters, profile):
        body["generationConfig"] = config
    body.update(profile.extra_body)
    _merge_options(body, prompt.provider_options)
    return HttpRequest(path=_path(model), body=msgspec.json.encode(body), headers=_HEADERS, query=_QUERY)


def _path(model: str) -> str:
    """https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent; a tuned model is no `model`."""
    collection, name = (_TUNED, model.removeprefix(_TUNED)) if model.startswith(_TUNED) else ("models/", model)
    return f"/v1beta/{collection}{quote(name, safe='')}:streamGenerateContent"


def _prefix(prompt: Prompt, profile: Profile) -> list[WireContent]:
    """The beginning of the answer, as what the model said last."""
    if prompt.prefix is None:
        return []
    return [{"role": "model", "parts": [{"text": prefill_text(prompt.prefix, profile)}]}]


# --- Tools ------------------------------------------------------------------------------------------------------------


def _tool_fields(tools: tuple[Tool, ...], choice: ToolChoice, parameters: GenerationParameters) -> WireObject:
    """https://ai.google.dev/gemini-api/docs/function-calling."""
    if not tools:
        require_tools(choice)
        return {}
    if parameters.parallel_tool_calls is False:
        raise InvalidRequest(
            FieldViolation("parameters.parallel_tool_calls", "Gemini cannot be kept from calling several tools")
        )
    fields: WireObject = {"tools": [{"functionDeclarations": [_map_tool(*each) for each in enumerate(tools)]}]}
    if config := _calling_config(choice, is_strict=any(tool.strict for tool in tools)):
        fields["toolConfig"] = {"functionCallingConfig": config}
    return fields


def _map_tool(index: int, tool: Tool) -> WireObject:
    """https://ai.google.dev/api/caching#FunctionDeclaration."""
    declaration: WireObject = {"name": tool.name}
    if tool.description:
        declaration["description"] = tool.description
    if tool.parameters_schema:
        schema = raw_object(tool.parameters_schema, f"tools[{index}].parameters_schema")
        declaration["parametersJsonSchema"] = schema
    return declaration


def _calling_config(choice: ToolChoice, *, is_strict: bool) -> WireObject:
    """https://ai.google.dev/api/caching#FunctionCallingConfig; ANY holds calls to their schemas, as VALIDATED does."""
    match choice.mode:
        case ToolChoiceMode.AUTO:
            return {"mode": "VALIDATED"} if is_strict else {}
        case ToolChoiceMode.NONE:
            return {"mode": "NONE"}
        case ToolChoiceMode.REQUIRED:
            return {"mode": "ANY"}
        case ToolChoiceMode.TOOL:
            return {"mode": "ANY", "allowedFunctionNames": [choice.tool_name]}
        case _:
            assert_never(choice.mode)


# --- Parameters -------------------------------------------------------------------------------------------------------


def _generation_config(model: str, parameters: GenerationParameters, profile: Profile) -> WireObject:
    names = {**_FIELDS, **profile.parameter_fields}
    if parameters.seed is not None and not -_MAX_SEED <= parameters.seed <= _MAX_SEED:
        raise InvalidRequest(FieldViolation("parameters.seed", "must fit into 32 bits for Gemini"))
    given = given_parameters(parameters)
    built = [name for name in given if name in _BUILT or name.startswith("reasoning.")]
    config = place_parameters({name: value for name, value in given.items() if name not in built}, names)
    config.update(_response_format(parameters.response_format))
    if thinking := _thinking_config(model, parameters.reasoning or ReasoningParameters()):
        config["thinkingConfig"] = thinking
    return config


def _response_format(form: ResponseFormat | None) -> WireObject:
    """https://ai.google.dev/gemini-api/docs/structured-output; a schema is always kept to, and has no name."""
    match form:
        case None:
            return {}
        case JsonObjectFormat():
            return {"responseMimeType": "application/json"}
        case JsonSchemaFormat():
            return {"responseMimeType": "application/json", "responseJsonSchema": described_schema(form)}
        case _:
            assert_never(form)


def _thinking_config(model: str, reasoning: ReasoningParameters) -> WireObject:
    """https://ai.google.dev/gemini-api/docs/thinking: a level, or a budget, never both."""
    config: WireObject = {}
    effort, budget = reasoning.effort, reasoning.budget_tokens
    if effort is not None and budget is not None:
        path = "parameters.reasoning.budget_tokens"
        raise InvalidRequest(FieldViolation(path, "Gemini takes either an effort or a budget"))
    if budget is not None:
        config["thinkingBudget"] = budget
    elif effort is not None and (effort is ReasoningEffort.NONE or model.startswith(_BUDGET_MODELS)):
        config["thinkingBudget"] = _BUDGETS[effort]
    elif effort is not None:
        config["thinkingLevel"] = effort.name
    if reasoning.include is not None:
        config["includeThoughts"] = reasoning.include
    return config


# --- Options ----------------------------------------------------------------------------------------------------------


def _merge_options(body: WireObject, options: Mapping[str, JsonValue]) -> None:
    """The caller's own fields: see `_OPTIONS`."""
    plain = dict(options)
    config, tool_config = plain.pop("generationConfig", None), plain.pop("toolConfig", None)
    tools = plain.pop("tools", None)
    merge_options(body, plain, _SHAPE, _OPTIONS)
    if config is not None:
        fields = _camel_cased(config, 'provider_options["generationConfig"]')
        merge_object(body, "generationConfig", fields, frozenset({_CANDIDATES}))
    if tool_config is not None:
        _merge_tool_config(body, tool_config)
    if tools is not None:
        body["tools"] = [*_list(body.get("tools")), *_hosted_tools(tools)]


def _merge_tool_config(body: WireObject, value: JsonValue) -> None:
    fields = _camel_cased(value, 'provider_options["toolConfig"]')
    calling = fields.pop("functionCallingConfig", {})
    merge_object(body, "toolConfig", fields)
    if calling:
        path = 'provider_options["toolConfig"]["functionCallingConfig"]'
        config = body["toolConfig"]
        assert isinstance(config, dict)
        merge_object(config, "functionCallingConfig", _camel_cased(calling, path), _CHOICE, path)


def _hosted_tools(value: JsonValue) -> list[object]:
    """Tools that Google runs: https://ai.google.dev/gemini-api/docs/google-search."""
    path = 'provider_options["tools"]'
    if not isinstance(value, list) or not all(isinstance(each, dict) and each for each in value):
        raise InvalidRequest(FieldViolation(path, "must be a list of objects"))
    for index, each in enumerate(value):
        if isinstance(each, dict) and _FUNCTIONS & each.keys():
            raise InvalidRequest(FieldViolation(f"{path}[{index}]", "functions belong in the request's own tools"))
    return list(value)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _camel_cased(value: JsonValue, path: str) -> dict[str, JsonValue]:
    return {_camel_case(name): each for name, each in option_object(value, path).items()}


def _camel_case(name: str) -> str:
    """Google reads both ways of writing a name: https://protobuf.dev/programming-guides/json/."""
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)
