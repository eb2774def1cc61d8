"""A prompt as a Messages request: https://platform.claude.com/docs/en/api/messages/create.

What cannot be said in the Messages API, or not to this endpoint, is refused with the path of its field; nothing that
was asked for is left out in silence. Whether a model takes a value (a temperature, a budget) is the provider's to say.
"""

import re
from collections.abc import Mapping
from typing import assert_never

import msgspec

from midstream_server.errors import ContinueUnsupported, FieldViolation, InvalidRequest
from midstream_server.model import (
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Prompt,
    ResponseFormat,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from midstream_server.upstreams.anthropic.messages import WireMessage, map_messages, map_system, shortest
from midstream_server.upstreams.base import HttpRequest, Profile
from midstream_server.upstreams.mapping import (
    described_schema,
    given_parameters,
    merge_options,
    place_parameters,
    prefill_text,
    raw_object,
    require_tools,
)

DEFAULT_MAX_TOKENS = 32_000
"""The API wants a limit in every request. Every model that it serves may say this much; a profile's
`extra_body.max_tokens` sets another default. A thinking budget comes on top."""
VERSION = "2023-06-01"
"""https://platform.claude.com/docs/en/api/versioning. Versions from 2026-10-21 on refuse temperature, top_p and top_k;
the stream is the same."""

_PATH = "/v1/messages"
_HEADERS = {"content-type": "application/json", "accept": "text/event-stream", "anthropic-version": VERSION}
_SHAPE = frozenset({"max_tokens", "messages", "model", "n", "stream", "system", "tool_choice", "tools"})
"""Fields that decide what is asked or what the answer looks like: they have places in GenerateRequest, or none."""
_OPTIONS = frozenset(
    {
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "metadata",
        "output_config",
        "service_tier",
        "speed",
        "thinking",
    }
)
"""What `provider_options` may set: https://platform.claude.com/docs/en/api/messages/create."""
_FIELDS = {
    "max_output_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop_sequences",
}
"""The parameters that are a field of their own. A profile adds to them."""
_BUILT = frozenset({"response_format", "reasoning.effort", "reasoning.budget_tokens", "reasoning.include"})
"""The parameters that are part of another field."""
_CLAUDE = re.compile(r"claude-[a-z]+(?:-[a-z]+)*-(\d{1,2})(?:-(\d{1,2}))?(?:-.*)?")
_LAST_WITH_PREFILL = (4, 5)


def build_messages_request(model: str, prompt: Prompt, profile: Profile, dialect: str) -> HttpRequest:
    """The request, streamed.

    Raises:
        InvalidRequest: a field cannot be expressed.
        ContinueUnsupported: the prompt has a prefix that this model cannot go on with.
    """
    system, count = map_system(prompt.messages)
    messages = map_messages(prompt.messages, dialect, count)
    if prompt.prefix is not None:
        messages.append(_map_prefix(model, prompt.prefix, profile))
    if not messages:
        raise InvalidRequest(FieldViolation("messages", "needs a message of a user"))
    body: dict[str, object] = {"model": model, "max_tokens": DEFAULT_MAX_TOKENS, **profile.extra_body}
    body.update(messages=messages, stream=True)
    if system:
        body["system"] = shortest(system)
    body.update(_parameter_fields(prompt.parameters, profile))
    _make_room_for_thinking(body, prompt.parameters)
    body.update(_tool_fields(prompt.tools, prompt.tool_choice, prompt.parameters.parallel_tool_calls))
    merge_options(body, prompt.provider_options, _SHAPE, _OPTIONS)
    return HttpRequest(path=_PATH, body=msgspec.json.encode(body), headers=_HEADERS)


def _make_room_for_thinking(body: dict[str, object], parameters: GenerationParameters) -> None:
    """A budget is part of the limit, and must be smaller: the default goes on top of it."""
    budget = parameters.reasoning.budget_tokens if parameters.reasoning else None
    default = body.get("max_tokens")
    if budget is not None and parameters.max_output_tokens is None and isinstance(default, int):
        body["max_tokens"] = budget + default


def _map_prefix(model: str, prefix: Message, profile: Profile) -> WireMessage:
    """The beginning of the answer, as the last message; it may not end in white space, and Claude 4.6 ff. take none.

    https://platform.claude.com/docs/en/build-with-claude/working-with-messages#putting-words-in-claudes-mouth
    """
    version = _CLAUDE.fullmatch(model)
    if version and (int(version[1]), int(version[2] or 0)) > _LAST_WITH_PREFILL:
        raise ContinueUnsupported(f"{model} does not go on with a partial answer")
    text = prefill_text(prefix, profile)
    if not text or text[-1].isspace():
        raise ContinueUnsupported("an answer that ends in white space cannot be continued here")
    return {"role": "assistant", "content": text}


# --- Parameters ------------------------------------------------------------------------------------------------------


def _parameter_fields(parameters: GenerationParameters, profile: Profile) -> dict[str, object]:
    names = {**_FIELDS, **profile.parameter_fields}
    given = given_parameters(parameters)
    given.pop("parallel_tool_calls", None)  # see `_tool_fields`
    if not parameters.logprobs:
        given.pop("logprobs", None)
    if parameters.response_format is not None:
        given["response_format"] = _map_response_format(parameters.response_format)
    built = {name: given.pop(name) for name in _BUILT if name not in names and name in given}
    fields = place_parameters(given, names)
    fields.update(_thinking_fields(built))
    if output_config := _output_config(built):
        fields["output_config"] = output_config
    return fields


def _output_config(given: Mapping[str, object]) -> dict[str, object]:
    """https://platform.claude.com/docs/en/build-with-claude/effort and …/structured-outputs."""
    fields = {"effort": given.get("reasoning.effort"), "format": given.get("response_format")}
    return {name: value for name, value in fields.items() if value not in (None, "none")}


def _thinking_fields(given: Mapping[str, object]) -> dict[str, object]:
    """A budget, or as much as the effort says; which of the two a model takes depends on its age.

    https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking and …/extended-thinking
    """
    effort, budget, include = (given.get(f"reasoning.{name}") for name in ("effort", "budget_tokens", "include"))
    if effort == "minimal":
        raise InvalidRequest(FieldViolation("parameters.reasoning.effort", "must be none, low, medium or high here"))
    if effort == "none":
        if budget is not None:
            raise InvalidRequest(FieldViolation("parameters.reasoning.budget_tokens", "contradicts the effort, none"))
        return {"thinking": {"type": "disabled"}}
    if budget is not None:
        thinking: dict[str, object] = {"type": "enabled", "budget_tokens": budget}
    elif effort or include:
        thinking = {"type": "adaptive"}
    elif include is None:
        return {}
    else:
        words = "needs an effort or a budget here: without them only the model's default applies"
        raise InvalidRequest(FieldViolation("parameters.reasoning.include", words))
    if include is not None:
        thinking["display"] = "summarized" if include else "omitted"
    return {"thinking": thinking}


def _map_response_format(form: ResponseFormat) -> dict[str, object]:
    """https://platform.claude.com/docs/en/build-with-claude/structured-outputs. There the schema is always kept to."""
    path = "parameters.response_format"
    match form:
        case JsonObjectFormat():
            raise InvalidRequest(FieldViolation(f"{path}.json_object", "this API has only json_schema"))
        case JsonSchemaFormat():
            if form.strict is False:
                raise InvalidRequest(
                    FieldViolation(f"{path}.json_schema.strict", "this API always keeps to the schema")
                )
            return {"type": "json_schema", "schema": described_schema(form)}
        case _:
            assert_never(form)


# --- Tools -----------------------------------------------------------------------------------------------------------


def _tool_fields(tools: tuple[Tool, ...], choice: ToolChoice, parallel: bool | None) -> dict[str, object]:
    """https://platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools."""
    if not tools:
        require_tools(choice)
        return {}
    fields: dict[str, object] = {"tools": [_map_tool(tool, index) for index, tool in enumerate(tools)]}
    wire = _map_choice(choice)
    if parallel is False and choice.mode is not ToolChoiceMode.NONE:
        wire["disable_parallel_tool_use"] = True
    if wire != {"type": "auto"}:
        fields["tool_choice"] = wire
    return fields


def _map_choice(choice: ToolChoice) -> dict[str, object]:
    match choice.mode:
        case ToolChoiceMode.AUTO:
            return {"type": "auto"}
        case ToolChoiceMode.NONE:
            return {"type": "none"}
        case ToolChoiceMode.REQUIRED:
            return {"type": "any"}
        case ToolChoiceMode.TOOL:
            return {"type": "tool", "name": choice.tool_name}
        case _:
            assert_never(choice.mode)


def _map_tool(tool: Tool, index: int) -> dict[str, object]:
    wire: dict[str, object] = {"name": tool.name}
    if tool.description:
        wire["description"] = tool.description
    schema = tool.parameters_schema or '{"type":"object","properties":{}}'
    wire["input_schema"] = raw_object(schema, f"tools[{index}].parameters_schema")
    if tool.strict is not None:
        wire["strict"] = tool.strict
    return wire
