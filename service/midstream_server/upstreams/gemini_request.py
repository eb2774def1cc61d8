"""A prompt as a Gemini request: https://ai.google.dev/api/generate-content#request-body.

What Gemini cannot be told is refused with the path of its field; nothing that was asked for is left out in silence.
Whether a model takes a value (a level, a budget) is the provider's to say.
"""

from collections.abc import Iterator, Mapping
from typing import assert_never
from urllib.parse import quote

import msgspec

from midstream_server.errors import ContinueUnsupported, FieldViolation, InvalidRequest
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
from midstream_server.upstreams.gemini_contents import ContentMapper, WireContent, map_instructions
from midstream_server.upstreams.mapping import described_schema, merge_options, prefix_text, raw_object

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
    if profile.continue_prefix != "assistant_prefill":
        raise ContinueUnsupported
    return [{"role": "model", "parts": [{"text": prefix_text(prompt.prefix)}]}]


# --- Tools ------------------------------------------------------------------------------------------------------------


def _tool_fields(tools: tuple[Tool, ...], choice: ToolChoice, parameters: GenerationParameters) -> WireObject:
    """https://ai.google.dev/gemini-api/docs/function-calling."""
    if not tools:
        if choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL):
            raise InvalidRequest(FieldViolation("tool_choice", "needs tools"))
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
    config: WireObject = {}
    violations = []
    for parameter, value in _given_parameters(parameters):
        if field := names.get(parameter):
            config[field] = value
        else:
            violations.append(FieldViolation(f"parameters.{parameter}", "this model's endpoint has no such parameter"))
    if parameters.seed is not None and not -_MAX_SEED <= parameters.seed <= _MAX_SEED:
        violations.append(FieldViolation("parameters.seed", "must fit into 32 bits for Gemini"))
    if violations:
        raise InvalidRequest(*violations)
    config.update(_response_format(parameters.response_format))
    if thinking := _thinking_config(model, parameters.reasoning or ReasoningParameters()):
        config["thinkingConfig"] = thinking
    return config


def _given_parameters(parameters: GenerationParameters) -> Iterator[tuple[str, object]]:
    """Every parameter that was set and is a field of its own, by its path."""
    values: dict[str, object] = {
        "max_output_tokens": parameters.max_output_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_k": parameters.top_k,
        "seed": parameters.seed,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "stop": list(parameters.stop) or None,
        "logprobs": parameters.logprobs,
        "top_logprobs": parameters.top_logprobs,
    }
    return ((name, value) for name, value in values.items() if value is not None)


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
        fields = {_camel_case(name): value for name, value in _object(config, 'provider_options["generationConfig"]')}
        _add(body, "generationConfig", fields, frozenset({_CANDIDATES}))
    if tool_config is not None:
        _merge_tool_config(body, tool_config)
    if tools is not None:
        body["tools"] = [*_list(body.get("tools")), *_hosted_tools(tools)]


def _merge_tool_config(body: WireObject, value: JsonValue) -> None:
    fields = {_camel_case(name): each for name, each in _object(value, 'provider_options["toolConfig"]')}
    calling = fields.pop("functionCallingConfig", {})
    _add(body, "toolConfig", fields, frozenset())
    if calling:
        path = 'provider_options["toolConfig"]["functionCallingConfig"]'
        inner = {_camel_case(name): each for name, each in _object(calling, path)}
        config = body["toolConfig"]
        assert isinstance(config, dict)
        _add(config, "functionCallingConfig", inner, _CHOICE, path)


def _add(holder: WireObject, name: str, fields: Mapping[str, JsonValue], shape: frozenset[str], path: str = "") -> None:
    """Adds fields to an object in the body; its own come first.

    Raises:
        InvalidRequest: it has one already, or one may not be set.
    """
    own = holder.get(name)
    target: WireObject = dict(own) if isinstance(own, dict) else {}
    path = path or f'provider_options["{name}"]'
    for field, value in fields.items():
        if field in shape:
            raise InvalidRequest(
                FieldViolation(f'{path}["{field}"]', "may not be set: it changes the shape of the answer")
            )
        if field in target:
            raise InvalidRequest(FieldViolation(f'{path}["{field}"]', "is set already by the request"))
        target[field] = value
    holder[name] = target


def _hosted_tools(value: JsonValue) -> list[object]:
    """Tools that Google runs: https://ai.google.dev/gemini-api/docs/google-search."""
    path = 'provider_options["tools"]'
    if not isinstance(value, list) or not all(isinstance(each, dict) and each for each in value):
        raise InvalidRequest(FieldViolation(path, "must be a list of objects"))
    for index, each in enumerate(value):
        if isinstance(each, dict) and _FUNCTIONS & each.keys():
            raise InvalidRequest(FieldViolation(f"{path}[{index}]", "functions belong in the request's own tools"))
    return list(value)


def _object(value: JsonValue, path: str) -> list[tuple[str, JsonValue]]:
    if not isinstance(value, dict):
        raise InvalidRequest(FieldViolation(path, "must be an object"))
    return list(value.items())


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _camel_case(name: str) -> str:
    """Google reads both ways of writing a name: https://protobuf.dev/programming-guides/json/."""
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)
