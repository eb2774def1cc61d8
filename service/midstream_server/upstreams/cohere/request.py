"""Prompts as requests to Cohere's `/v2/chat`: https://docs.cohere.com/reference/chat-stream.

What Cohere cannot be told is refused with the path of its field; nothing that was asked for is left out in silence.
"""

import base64
from collections.abc import Sequence
from typing import assert_never

from midstream_server import model as values
from midstream_server.errors import ContinueUnsupported
from midstream_server.model import ReasoningEffort, ToolChoiceMode
from midstream_server.upstreams import mapping
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.turns import Instructions, ModelTurn, ResultTurn, UserTurn, WireObject, read_turns

_SHAPE = frozenset({"messages", "model", "n", "stream", "strict_tools", "tool_choice", "tools"})
"""Fields that decide what is asked or what the answer looks like: they have places in GenerateRequest, or none."""
_OPTIONS = frozenset({"citation_options", "documents", "priority", "safety_mode", "thinking"})
"""What `provider_options` may set."""
_FIELDS = {
    "max_output_tokens": "max_tokens",
    "top_p": "p",
    "top_k": "k",
    "stop": "stop_sequences",
    **{name: name for name in ("temperature", "seed", "presence_penalty", "frequency_penalty", "logprobs")},
}
_BUILT = ("response_format", "parallel_tool_calls", "reasoning.effort", "reasoning.budget_tokens", "reasoning.include")
"""Parameters that are no field of their own."""
_NO_PARAMETERS = '{"type":"object","properties":{}}'
_TEXT, _THINKING = "text", "thinking"


def build_body(model: str, prompt: values.Prompt, profile: Profile) -> WireObject:
    """The body of the request, streamed.

    Raises:
        InvalidRequest: the dialect cannot express a field; names it by its path in GenerateRequest.
        ContinueUnsupported: the prompt has a prefix; nothing says that Cohere goes on with one.
    """
    if prompt.prefix is not None:
        raise ContinueUnsupported
    messages = _map_messages(prompt.messages)
    body: WireObject = {"model": model, "messages": messages, "stream": True, **_tool_fields(prompt)}
    body |= _parameter_fields(prompt.parameters, profile) | dict(profile.extra_body)
    mapping.merge_options(body, prompt.provider_options, _SHAPE, _OPTIONS)
    return body


def _tool_fields(prompt: values.Prompt) -> WireObject:
    """https://docs.cohere.com/docs/tool-use-usage-patterns#forcing-tool-usage; all tools are strict, or none."""
    choice, strict = prompt.tool_choice.mode, [tool.strict is True for tool in prompt.tools]
    if not prompt.tools:
        mapping.require_tools(prompt.tool_choice)
        return {}
    if choice is ToolChoiceMode.TOOL:
        mapping.refuse("tool_choice.mode", "Cohere can only be made to call some tool, not this one")
    if prompt.parameters.parallel_tool_calls is False:
        mapping.refuse("parameters.parallel_tool_calls", "Cohere cannot keep a model from calling several tools")
    if any(strict) and not all(strict):
        mapping.refuse(f"tools[{strict.index(True)}].strict", "Cohere holds all tools to their schemas, or none")
    fields: WireObject = {"tools": [_map_tool(tool, index) for index, tool in enumerate(prompt.tools)]}
    if choice is not ToolChoiceMode.AUTO:
        fields["tool_choice"] = choice.name
    return fields | {"strict_tools": True} if all(strict) else fields


def _map_tool(tool: values.Tool, index: int) -> WireObject:
    parameters = mapping.raw_object(tool.parameters_schema or _NO_PARAMETERS, f"tools[{index}].parameters_schema")
    described = {"description": tool.description} if tool.description else {}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": parameters}}


def _parameter_fields(parameters: values.GenerationParameters, profile: Profile) -> WireObject:
    given = mapping.given_parameters(parameters)
    sampling = {name: value for name, value in given.items() if name not in _BUILT}
    fields = mapping.place_parameters(sampling, {**_FIELDS, **profile.parameter_fields})
    fields["response_format"] = _format(parameters.response_format)
    fields["thinking"] = _thinking(parameters.reasoning or values.ReasoningParameters())
    return {name: value for name, value in fields.items() if value is not None}


def _format(form: values.ResponseFormat | None) -> WireObject | None:
    """https://docs.cohere.com/docs/structured-outputs; a schema is always kept to, and has no name."""
    if isinstance(form, values.JsonSchemaFormat):
        return {"type": "json_object", "json_schema": mapping.described_schema(form)}
    return None if form is None else {"type": "json_object"}


def _thinking(reasoning: values.ReasoningParameters) -> WireObject | None:
    """https://docs.cohere.com/docs/reasoning; of efforts there are two, none and high: …/compatibility-api."""
    effort, budget = reasoning.effort, reasoning.budget_tokens
    if effort not in (None, ReasoningEffort.NONE, ReasoningEffort.HIGH):
        mapping.refuse("parameters.reasoning.effort", "must be none or high here: Cohere turns thinking off or on")
    if effort is ReasoningEffort.NONE:
        if budget is not None:
            mapping.refuse("parameters.reasoning.budget_tokens", "contradicts the effort, none")
        return {"type": "disabled"}
    if reasoning.include is False:
        mapping.refuse("parameters.reasoning.include", "Cohere does not hide thoughts; turn them off with the effort")
    if effort is None and budget is None:
        return None
    return {"type": "enabled"} if budget is None else {"type": "enabled", "token_budget": budget}


def _map_messages(messages: Sequence[values.Message]) -> list[WireObject]:
    """https://docs.cohere.com/docs/chat-api; a developer is a system."""
    mapped: list[WireObject] = []
    for turn in read_turns(messages):
        match turn:
            case Instructions():
                mapped.append({"role": "system", "content": _content(_texts(turn.texts))})
            case UserTurn():
                said = [
                    _block(_TEXT, each.text) if isinstance(each, values.Text) else _map_image(each, path)
                    for each, path in turn.contents
                ]
                mapped.append({"role": "user", "content": _content(said)})
            case ResultTurn():
                texts = [mapping.failed_result("\n".join(turn.texts))] if turn.is_error else turn.texts
                mapped.append({"role": "tool", "tool_call_id": turn.tool_call_id, "content": _content(_texts(texts))})
            case ModelTurn():
                if said_before := _map_model(turn):
                    mapped.append({"role": "assistant", **said_before})
            case _:
                assert_never(turn)
    return mapped


def _map_model(turn: ModelTurn) -> WireObject:
    """Thoughts that carry another provider's state are not Cohere's to read."""
    own = [part.content for part in turn.thoughts if part.provider_state is None]
    thoughts = "".join(thought.text for thought in own if isinstance(thought, values.Reasoning))
    text = "".join(said.text for said in turn.said)
    calls = []
    for call, path in turn.calls:
        mapping.raw_object(call.arguments or "{}", f"{path}.arguments")
        function = {"name": call.name, "arguments": call.arguments or "{}"}
        calls.append({"id": call.id, "type": "function", "function": function})
    blocks = [_block(kind, said) for kind, said in ((_THINKING, thoughts), (_TEXT, text)) if said]
    return ({"content": _content(blocks)} if blocks else {}) | ({"tool_calls": calls} if calls else {})


def _block(kind: str, text: str) -> WireObject:
    return {"type": kind, kind: text}


def _texts(texts: Sequence[str]) -> list[WireObject]:
    return [_block(_TEXT, text) for text in texts]


def _content(blocks: list[WireObject]) -> object:
    """One text is a string, as in all of Cohere's examples."""
    if not blocks:
        return ""
    return blocks[0][_TEXT] if len(blocks) == 1 and _TEXT in blocks[0] else blocks


def _map_image(blob: values.Blob, path: str) -> WireObject:
    """https://docs.cohere.com/docs/image-inputs: by bytes or by address; documents have a field of their own."""
    if blob.file_id:
        mapping.refuse(f"{path}.file_id", "Cohere takes only data and url")
    if not blob.mime_type.lower().startswith("image/") and (blob.data or blob.mime_type):
        mapping.refuse(f"{path}.mime_type", "Cohere takes only images; documents go into provider_options")
    data = base64.b64encode(blob.data).decode("ascii")
    return {"type": "image_url", "image_url": {"url": blob.url or f"data:{blob.mime_type.lower()};base64,{data}"}}
