"""A prompt as a Chat Completions request: https://platform.openai.com/docs/api-reference/chat/create.

What cannot be said in Chat Completions, or not to this endpoint, is refused with the path of its field; nothing that
was asked for is left out in silence.
"""

from collections.abc import Iterator
from typing import assert_never

import msgspec

from midstream_server.errors import FieldViolation, InvalidRequest
from midstream_server.model import (
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    Prompt,
    ReasoningParameters,
    ResponseFormat,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from midstream_server.upstreams.base import HttpRequest, Profile
from midstream_server.upstreams.mapping import merge_options, raw_object
from midstream_server.upstreams.openai_chat_messages import map_messages, prefix_fields

_PATH = "/chat/completions"
_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}
_SHAPE = frozenset(
    {
        "audio",
        "function_call",
        "functions",
        "messages",
        "modalities",
        "model",
        "n",
        "prompt",
        "stream",
        "stream_options",
        "tool_choice",
        "tools",
    }
)
"""Fields that decide what is asked or what the answer looks like: they have places in GenerateRequest, or none."""
_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "parallel_tool_calls": "parallel_tool_calls",
    "response_format": "response_format",
    "reasoning.effort": "reasoning_effort",
}
"""The parameters that Chat Completions has. A profile adds to them, or takes away."""


def build_chat_request(model: str, prompt: Prompt, profile: Profile, dialect: str) -> HttpRequest:
    """The request, streamed, with usage where the endpoint can report it.

    Raises:
        InvalidRequest: a field cannot be expressed.
        ContinueUnsupported: the prompt has a prefix that this endpoint cannot go on with.
    """
    messages = map_messages(prompt.messages, dialect)
    continuing = prefix_fields(prompt.prefix, messages, profile)
    body: dict[str, object] = {"model": model, "messages": messages, **_stream_fields(profile), **continuing}
    body.update(_tool_fields(prompt.tools, prompt.tool_choice))
    body.update(_parameter_fields(prompt.parameters, profile, has_tools=bool(prompt.tools)))
    body.update(profile.extra_body)
    merge_options(body, prompt.provider_options, _SHAPE)
    return HttpRequest(path=_PATH, body=msgspec.json.encode(body), headers=_HEADERS)


def _stream_fields(profile: Profile) -> dict[str, object]:
    """How the answer is to come.

    https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html for `continuous_usage_stats`,
    https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md for `timings_per_token`.
    """
    fields: dict[str, object] = {"stream": True}
    if profile.running_usage == "continuous_usage_stats":
        fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    elif profile.usage_option:
        fields["stream_options"] = {"include_usage": True}
    if profile.running_usage == "timings":
        fields["timings_per_token"] = True
    return fields


def _tool_fields(tools: tuple[Tool, ...], choice: ToolChoice) -> dict[str, object]:
    """https://platform.openai.com/docs/guides/function-calling."""
    if not tools:
        if choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL):
            raise InvalidRequest(FieldViolation("tool_choice", "needs tools"))
        return {}
    fields: dict[str, object] = {"tools": [_map_tool(tool, index) for index, tool in enumerate(tools)]}
    match choice.mode:
        case ToolChoiceMode.AUTO:
            pass
        case ToolChoiceMode.NONE:
            fields["tool_choice"] = "none"
        case ToolChoiceMode.REQUIRED:
            fields["tool_choice"] = "required"
        case ToolChoiceMode.TOOL:
            fields["tool_choice"] = {"type": "function", "function": {"name": choice.tool_name}}
        case _:
            assert_never(choice.mode)
    return fields


def _map_tool(tool: Tool, index: int) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_schema:
        function["parameters"] = raw_object(tool.parameters_schema, f"tools[{index}].parameters_schema")
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _parameter_fields(parameters: GenerationParameters, profile: Profile, *, has_tools: bool) -> dict[str, object]:
    names = {"max_output_tokens": profile.max_tokens_field, **_FIELDS, **profile.parameter_fields}
    fields: dict[str, object] = {}
    violations = []
    for parameter, value in _given_parameters(parameters):
        if parameter == "parallel_tool_calls" and not has_tools:
            continue  # without tools there is nothing to call at a time, and OpenAI refuses the field
        if field := names.get(parameter):
            fields[field] = value
        elif (parameter, value) != ("reasoning.include", True):
            violations.append(FieldViolation(f"parameters.{parameter}", "this model's endpoint has no such parameter"))
    if violations:
        raise InvalidRequest(*violations)
    return fields


def _given_parameters(parameters: GenerationParameters) -> Iterator[tuple[str, object]]:
    """Every parameter that was set, by its path, as its JSON value."""
    values: dict[str, object] = {
        "max_output_tokens": parameters.max_output_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_k": parameters.top_k,
        "seed": parameters.seed,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "stop": list(parameters.stop) or None,
        "parallel_tool_calls": parameters.parallel_tool_calls,
        "logprobs": parameters.logprobs,
        "top_logprobs": parameters.top_logprobs,
        "response_format": _map_response_format(parameters.response_format),
        **_map_reasoning(parameters.reasoning or ReasoningParameters()),
    }
    return ((name, value) for name, value in values.items() if value is not None)


def _map_reasoning(reasoning: ReasoningParameters) -> dict[str, object]:
    """https://platform.openai.com/docs/guides/reasoning."""
    return {
        "reasoning.effort": None if reasoning.effort is None else reasoning.effort.name.lower(),
        "reasoning.budget_tokens": reasoning.budget_tokens,
        "reasoning.include": reasoning.include,
    }


def _map_response_format(form: ResponseFormat | None) -> dict[str, object] | None:
    """https://platform.openai.com/docs/guides/structured-outputs."""
    match form:
        case None:
            return None
        case JsonObjectFormat():
            return {"type": "json_object"}
        case JsonSchemaFormat():
            schema: dict[str, object] = {"name": form.name}
            if form.description:
                schema["description"] = form.description
            schema["schema"] = raw_object(form.schema, "parameters.response_format.json_schema.schema")
            if form.strict is not None:
                schema["strict"] = form.strict
            return {"type": "json_schema", "json_schema": schema}
        case _:
            assert_never(form)
