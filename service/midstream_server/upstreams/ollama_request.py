"""A prompt as an Ollama chat request: https://docs.ollama.com/api/chat.

What Ollama cannot be told is refused with the path of its field; nothing that was asked for is left out in silence.
"""

from collections.abc import Iterator, Mapping
from typing import assert_never

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
from midstream_server.upstreams.mapping import described_schema, merge_options, prefix_text, raw_object
from midstream_server.upstreams.ollama_messages import MessageMapper, WireMessage

_PATH = "/api/chat"
_HEADERS = {"content-type": "application/json", "accept": "application/x-ndjson"}
_SHAPE = frozenset({"messages", "model", "n", "stream", "tools"})
"""Fields that decide what is asked or what the answer looks like: they have places in GenerateRequest, or none."""
_OPTIONS = frozenset({"keep_alive", "options", "shift", "think", "truncate"})
"""What `provider_options` may set. `options` takes the fields that the request does not set, such as `num_ctx`:
https://docs.ollama.com/modelfile#valid-parameters-and-values."""
_FIELDS = {
    "max_output_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}
"""Where parameters go in `options`."""
_NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')
_LEVELS = {ReasoningEffort.LOW: "low", ReasoningEffort.MEDIUM: "medium", ReasoningEffort.HIGH: "high"}

WireObject = dict[str, object]


def build_ollama_request(model: str, prompt: Prompt, profile: Profile) -> HttpRequest:
    """The request, streamed.

    Raises:
        InvalidRequest: a field cannot be expressed.
        ContinueUnsupported: the prompt has a prefix that this endpoint cannot go on with.
    """
    mapper = MessageMapper()
    for index, message in enumerate(prompt.messages):
        mapper.add(message, f"messages[{index}]")
    messages = mapper.messages + _prefix(prompt, profile)
    body: WireObject = {"model": model, "messages": messages, "stream": True}
    body.update(_tool_fields(prompt.tools, prompt.tool_choice, prompt.parameters))
    if options := _options(prompt.parameters, profile):
        body["options"] = options
    body.update(_other_fields(prompt.parameters))
    body.update(profile.extra_body)
    _merge_options(body, prompt.provider_options)
    return HttpRequest(path=_PATH, body=msgspec.json.encode(body), headers=_HEADERS)


def _prefix(prompt: Prompt, profile: Profile) -> list[WireMessage]:
    """The beginning of the answer, as what the model said last."""
    if prompt.prefix is None:
        return []
    if profile.continue_prefix != "assistant_prefill":
        raise ContinueUnsupported
    return [{"role": "assistant", "content": prefix_text(prompt.prefix)}]


def _tool_fields(tools: tuple[Tool, ...], choice: ToolChoice, parameters: GenerationParameters) -> WireObject:
    """https://docs.ollama.com/capabilities/tool-calling: the model decides; without tools it cannot call any."""
    if choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL):
        raise InvalidRequest(FieldViolation("tool_choice.mode", "Ollama cannot make a model call a tool"))
    if not tools or choice.mode is ToolChoiceMode.NONE:
        return {}
    if parameters.parallel_tool_calls is False:
        raise InvalidRequest(
            FieldViolation("parameters.parallel_tool_calls", "Ollama cannot keep a model from calling several tools")
        )
    return {"tools": [_map_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]}


def _map_tool(tool: Tool, path: str) -> WireObject:
    if tool.strict:
        raise InvalidRequest(FieldViolation(f"{path}.strict", "Ollama does not hold calls to their schemas"))
    function: WireObject = {"name": tool.name, "description": tool.description, "parameters": _NO_PARAMETERS}
    if tool.parameters_schema:
        function["parameters"] = raw_object(tool.parameters_schema, f"{path}.parameters_schema")
    return {"type": "function", "function": function}


def _options(parameters: GenerationParameters, profile: Profile) -> WireObject:
    names = {**_FIELDS, **profile.parameter_fields}
    options: WireObject = {}
    violations = []
    for parameter, value in _given_parameters(parameters):
        if field := names.get(parameter):
            options[field] = value
        else:
            violations.append(FieldViolation(f"parameters.{parameter}", "this model's endpoint has no such parameter"))
    if violations:
        raise InvalidRequest(*violations)
    return options


def _given_parameters(parameters: GenerationParameters) -> Iterator[tuple[str, object]]:
    """Every parameter of the sampler that was set, by its path."""
    reasoning = parameters.reasoning or ReasoningParameters()
    values: dict[str, object] = {
        "max_output_tokens": parameters.max_output_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_k": parameters.top_k,
        "seed": parameters.seed,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "stop": list(parameters.stop) or None,
        "reasoning.budget_tokens": reasoning.budget_tokens,
    }
    return ((name, value) for name, value in values.items() if value is not None)


def _other_fields(parameters: GenerationParameters) -> WireObject:
    fields: WireObject = {
        "format": _format(parameters.response_format),
        "think": _think(parameters.reasoning or ReasoningParameters()),
        "logprobs": parameters.logprobs,
        "top_logprobs": parameters.top_logprobs,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _format(form: ResponseFormat | None) -> object:
    """https://docs.ollama.com/capabilities/structured-outputs; a schema is always kept to, and has no name."""
    match form:
        case None:
            return None
        case JsonObjectFormat():
            return "json"
        case JsonSchemaFormat():
            return described_schema(form)
        case _:
            assert_never(form)


def _think(reasoning: ReasoningParameters) -> bool | str | None:
    """https://docs.ollama.com/capabilities/thinking: who thinks shows it."""
    effort = reasoning.effort
    if effort is ReasoningEffort.MINIMAL:
        raise InvalidRequest(FieldViolation("parameters.reasoning.effort", "Ollama has no such level"))
    if effort is ReasoningEffort.NONE:
        return False
    if reasoning.include is False:
        raise InvalidRequest(
            FieldViolation(
                "parameters.reasoning.include", "Ollama does not hide thoughts; turn them off with the effort"
            )
        )
    return _LEVELS[effort] if effort is not None else reasoning.include


def _merge_options(body: WireObject, options: Mapping[str, JsonValue]) -> None:
    """The caller's own fields: see `_OPTIONS`."""
    plain = dict(options)
    own = plain.pop("options", None)
    merge_options(body, plain, _SHAPE, _OPTIONS)
    if own is None:
        return
    path = 'provider_options["options"]'
    if not isinstance(own, dict):
        raise InvalidRequest(FieldViolation(path, "must be an object"))
    present = body.get("options")
    target: WireObject = dict(present) if isinstance(present, dict) else {}
    taken = [FieldViolation(f'{path}["{name}"]', "is set already by the request") for name in own if name in target]
    if taken:
        raise InvalidRequest(*taken)
    body["options"] = target | own
