"""A prompt as a Responses request: https://platform.openai.com/docs/api-reference/responses/create.

Nothing is stored at the provider unless `provider_options` says so. What cannot be said in Responses, or not to this
endpoint, is refused with the path of its field; nothing that was asked for is left out in silence.
"""

import re
from collections.abc import Mapping
from typing import assert_never

import msgspec

from midstream_server.errors import FieldViolation, InvalidRequest
from midstream_server.model import (
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    Prompt,
    ReasoningEffort,
    ReasoningParameters,
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
from midstream_server.upstreams.openai_responses.input import InputItem, map_input, map_instructions, map_prefix

_PATH = "/responses"
_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}
_SHAPE = frozenset(
    {
        "background",
        "conversation",
        "functions",
        "input",
        "instructions",
        "messages",
        "modalities",
        "model",
        "n",
        "previous_response_id",
        "prompt",
        "stream",
        "tool_choice",
        "tools",
    }
)
"""Fields that decide what is asked or what the answer looks like: they have places in GenerateRequest, or none."""
_OPTIONS = frozenset(
    {
        "cache_prompt",
        "chat_template_kwargs",
        "context_management",
        "include",
        "max_tool_calls",
        "metadata",
        "min_p",
        "moderation",
        "plugins",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "provider",
        "reasoning",
        "repetition_penalty",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "text",
        "top_k",
        "truncation",
        "user",
    }
)
"""What `provider_options` may set: OpenAI's own fields, and those of vLLM, llama.cpp and OpenRouter beside them."""
_FIELDS = {
    "max_output_tokens": "max_output_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_logprobs": "top_logprobs",
    "parallel_tool_calls": "parallel_tool_calls",
    "response_format": "text.format",
    "reasoning.effort": "reasoning.effort",
}
"""The parameters that Responses has, where they go. A profile adds to them, or takes away."""
_OPEN_OBJECTS = {"text": frozenset({"format"}), "reasoning": frozenset[str]()}
"""Objects that the request and `provider_options` may share, and what of them is the request's alone."""
_ENCRYPTED_REASONING = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_REASONING_MODELS = re.compile(r"(?:.*/)?(?:o[1-9]|gpt-oss|gpt-5(?!.*chat)|gpt-[6-9]|codex|computer-use)")


def build_responses_request(model: str, prompt: Prompt, profile: Profile, dialect: str) -> HttpRequest:
    """The request, streamed and stateless.

    Raises:
        InvalidRequest: a field cannot be expressed.
        ContinueUnsupported: the prompt has a prefix that this endpoint cannot go on with.
    """
    instructions = map_instructions(prompt.messages)
    items = map_input(prompt.messages, dialect, first=0 if instructions is None else 1)
    include = _included(model, prompt.parameters, items, profile)
    items += map_prefix(prompt.prefix, profile)
    body: dict[str, object] = {"model": model, "input": items, "stream": True}
    if instructions is not None:
        body["instructions"] = instructions
    if profile.running_usage == "timings":
        body["timings_per_token"] = True
    body.update(_tool_fields(prompt.tools, prompt.tool_choice))
    _put_parameters(body, prompt.parameters, profile, has_tools=bool(prompt.tools))
    body.update(profile.extra_body)
    _add_options(body, prompt.provider_options, include)
    body.setdefault("store", False)
    return HttpRequest(path=_PATH, body=msgspec.json.encode(body), headers=_HEADERS)


# --- Tools -----------------------------------------------------------------------------------------------------------


def _tool_fields(tools: tuple[Tool, ...], choice: ToolChoice) -> dict[str, object]:
    """https://platform.openai.com/docs/guides/function-calling?api-mode=responses."""
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
            fields["tool_choice"] = {"type": "function", "name": choice.tool_name}
        case _:
            assert_never(choice.mode)
    return fields


def _map_tool(tool: Tool, index: int) -> dict[str, object]:
    """`parameters` and `strict` are required, and null where the provider is to decide."""
    schema = tool.parameters_schema
    mapped: dict[str, object] = {
        "type": "function",
        "name": tool.name,
        "parameters": raw_object(schema, f"tools[{index}].parameters_schema") if schema else None,
        "strict": tool.strict,
    }
    if tool.description:
        mapped["description"] = tool.description
    return mapped


# --- Parameters ------------------------------------------------------------------------------------------------------


def _put_parameters(
    body: dict[str, object], parameters: GenerationParameters, profile: Profile, *, has_tools: bool
) -> None:
    names = {**_FIELDS, **profile.parameter_fields}
    given = given_parameters(parameters)
    if not has_tools:
        given.pop("parallel_tool_calls", None)  # there is nothing to call at a time
    if "logprobs" not in names:
        given.pop("logprobs", None)  # see `_included`
    if "reasoning.include" not in names and given.pop("reasoning.include", False):
        _put(body, "reasoning.summary", "auto")
    if parameters.response_format is not None:
        given["response_format"] = _map_response_format(parameters.response_format)
    for field, value in place_parameters(given, names).items():
        _put(body, field, value)


def _put(body: dict[str, object], field: str, value: object) -> None:
    """Sets a field of the body, or of an object in it."""
    outer, _, inner = field.partition(".")
    if not inner:
        body[outer] = value
        return
    holder = body.setdefault(outer, {})
    assert isinstance(holder, dict), "what has fields is an object"
    holder[inner] = value


def _map_response_format(form: ResponseFormat) -> dict[str, object]:
    """https://platform.openai.com/docs/guides/structured-outputs?api-mode=responses."""
    match form:
        case JsonObjectFormat():
            return {"type": "json_object"}
        case JsonSchemaFormat():
            mapped: dict[str, object] = {"type": "json_schema", "name": form.name}
            if form.description:
                mapped["description"] = form.description
            mapped["schema"] = raw_object(form.schema, "parameters.response_format.json_schema.schema")
            if form.strict is not None:
                mapped["strict"] = form.strict
            return mapped
        case _:
            assert_never(form)


def _included(model: str, parameters: GenerationParameters, items: list[InputItem], profile: Profile) -> list[str]:
    """What the answer is to hold besides: encrypted reasoning, since nothing is stored, and log probabilities.

    A model that does not reason refuses the whole request if it is asked for reasoning, so only those that are known
    to are asked, or where the caller or the history shows it:
    https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items.
    """
    reasoning = parameters.reasoning or ReasoningParameters()
    wants_reasoning = reasoning.include or reasoning.effort not in (None, ReasoningEffort.NONE)
    has_state = any(item["type"] == "reasoning" for item in items)
    include = [_ENCRYPTED_REASONING] if wants_reasoning or has_state or _REASONING_MODELS.match(model) else []
    if (parameters.logprobs or parameters.top_logprobs) and "logprobs" not in profile.parameter_fields:
        include.append(_LOGPROBS)
    return include


# --- The caller's own fields -----------------------------------------------------------------------------------------


def _add_options(body: dict[str, object], options: Mapping[str, object], include: list[str]) -> None:
    """Adds `provider_options`, those of the list, none of which may contradict the request.

    `text` and `reasoning` may add to the request's own (`verbosity`, `summary`), `include` to what it includes;
    `store` may be set.
    """
    rest = dict(options)
    violations = []
    for name, reserved in _OPEN_OBJECTS.items():
        added, own = rest.get(name), body.get(name, {})
        if not isinstance(added, dict) or not isinstance(own, dict):
            continue
        if clashes := sorted(reserved.union(own).intersection(added)):
            words = f"{', '.join(clashes)} may not be set here, or is set already by the request"
            violations.append(FieldViolation(f'provider_options["{name}"]', words))
        body[name] = own | added
        del rest[name]
    if violations:
        raise InvalidRequest(*violations)
    added = rest.get("include")
    if isinstance(added, list) and "include" not in body:
        include = list(dict.fromkeys([*include, *(each for each in added if isinstance(each, str))]))
        del rest["include"]
    merge_options(body, rest, _SHAPE, _OPTIONS)
    if include:
        body.setdefault("include", include)
