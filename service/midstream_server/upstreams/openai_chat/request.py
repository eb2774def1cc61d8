"""A prompt as a Chat Completions request: https://platform.openai.com/docs/api-reference/chat/create.

What cannot be said in Chat Completions, or not to this endpoint, is refused with the path of its field; nothing that
was asked for is left out in silence.
"""

from typing import assert_never

import msgspec

from midstream_server.model import (
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    Prompt,
    ResponseFormat,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from midstream_server.upstreams.base import HttpRequest, Profile
from midstream_server.upstreams.mapping import (
    given_parameters,
    merge_options,
    place_parameters,
    raw_object,
    require_tools,
)
from midstream_server.upstreams.openai_chat.messages import map_messages, prefix_fields

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
    messages = map_messages(prompt.messages, dialect, profile)
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
        require_tools(choice)
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
    """https://platform.openai.com/docs/api-reference/chat/create, …/guides/reasoning."""
    names = {"max_output_tokens": profile.max_tokens_field, **_FIELDS, **profile.parameter_fields}
    given = given_parameters(parameters)
    if not has_tools:
        given.pop("parallel_tool_calls", None)  # there is nothing to call at a time, and OpenAI refuses the field
    if given.get("reasoning.include") is True and not names.get("reasoning.include"):
        del given["reasoning.include"]  # who thinks shows it
    if parameters.response_format is not None:
        given["response_format"] = _map_response_format(parameters.response_format)
    return place_parameters(given, names)


def _map_response_format(form: ResponseFormat) -> dict[str, object]:
    """https://platform.openai.com/docs/guides/structured-outputs."""
    match form:
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
