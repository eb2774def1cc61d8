"""Ollama's own chat API: https://docs.ollama.com/api/chat.

What Ollama cannot be told is refused with the path of its field; nothing that was asked for is left out in silence.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Literal, assert_never

import msgspec

from midstream_server import model as values
from midstream_server.errors import RunFailure
from midstream_server.model import FinishReason, JsonValue, ReasoningEffort, ToolChoiceMode, UsageSource
from midstream_server.upstreams import mapping
from midstream_server.upstreams.answer import Answer, AnswerParser, PartSequence, account
from midstream_server.upstreams.base import HttpRequest, ModelListing, PartDelta, Profile, StreamParser
from midstream_server.upstreams.failures import failure_of_status, failure_of_words, json_of_body, status_in
from midstream_server.upstreams.logprobs import read_logprobs
from midstream_server.upstreams.turns import Instructions, ModelTurn, ResultTurn, UserTurn, WireObject, read_turns
from midstream_server.upstreams.wire.frame import Frame
from midstream_server.upstreams.wire.json_text import as_count, as_list, as_object, as_text, encode_json, plain_decoder
from midstream_server.upstreams.wire.ndjson import NdjsonDecoder

_HEADERS = {"content-type": "application/json", "accept": "application/x-ndjson"}
_SHAPE = frozenset({"messages", "model", "n", "stream", "tools"})
"""Fields that decide what is asked or what the answer looks like: they have places in GenerateRequest, or none."""
_OPTIONS = frozenset({"keep_alive", "options", "shift", "think", "truncate"})
"""What `provider_options` may set. `options` takes the fields that the request does not set, such as `num_ctx`:
https://docs.ollama.com/modelfile#valid-parameters-and-values."""
_SAME = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty", "stop")
_FIELDS = {"max_output_tokens": "num_predict", **{name: name for name in _SAME}}
"""Where parameters go in `options`."""
_BUILT = ("response_format", "parallel_tool_calls", "reasoning.effort", "reasoning.include")
"""Parameters that are no field of their own."""
_NO_PARAMETERS = '{"type":"object","properties":{}}'
_TEXT, _REASONING, _TOOL = "text", "reasoning", "tool"
_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
"""https://docs.ollama.com/api/chat; `load` and `unload`, which answer an empty prompt, are OTHER."""
_TIMINGS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
"""In nanoseconds."""
_STATUS_FIELDS = ("status", "status_code", "StatusCode", "code")
_RATE_LIMIT_WORDS = ("rate limit", "too many requests", "usage limit")
_BLAMING_WORDS = ("not found", "does not support", "invalid", "unauthorized", "unsupported", "exceeds the context")


class OllamaDialect:
    """The grammar `ollama`."""

    name = "ollama"
    model_listing = ModelListing(
        request=HttpRequest(path="/api/tags", body=b""), list_field="models", name_field="name"
    )
    """https://docs.ollama.com/api/tags."""

    def build_request(self, model: str, prompt: values.Prompt, profile: Profile) -> HttpRequest:
        """The request, streamed.

        Raises:
            InvalidRequest: the dialect cannot express a field; names it by its path in GenerateRequest.
            ContinueUnsupported: the prompt has a prefix that this endpoint cannot go on with.
        """
        messages = _map_messages(prompt.messages)
        if prompt.prefix is not None:
            messages.append({"role": "assistant", "content": mapping.prefill_text(prompt.prefix, profile)})
        body: WireObject = {"model": model, "messages": messages, "stream": True, **_tool_fields(prompt)}
        body |= _parameter_fields(prompt.parameters, profile) | dict(profile.extra_body)
        mapping.merge_options(body, prompt.provider_options, _SHAPE, _OPTIONS, shared="options")
        return HttpRequest(path="/api/chat", body=msgspec.json.encode(body), headers=_HEADERS)

    def authorization(self, api_key: str) -> Mapping[str, str]:
        """https://docs.ollama.com/api/authentication."""
        return {"authorization": f"Bearer {api_key}"}

    def parser(self, profile: Profile) -> StreamParser:
        """A fresh parser for one response body with status 200."""
        return AnswerParser(NdjsonDecoder(), OllamaRules(), profile)

    def content_types(self) -> frozenset[str]:
        """The media types of a stream."""
        return frozenset({"application/x-ndjson", "application/ndjson", "application/json"})

    def map_error(self, status: int, body: bytes) -> RunFailure:
        """The failure that an HTTP error status and its body mean."""
        return failure_of_status(status, "", _words(json_of_body(body)))


def _tool_fields(prompt: values.Prompt) -> WireObject:
    """https://docs.ollama.com/capabilities/tool-calling: the model decides; without tools it cannot call any."""
    if prompt.tool_choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL):
        mapping.refuse("tool_choice.mode", "Ollama cannot make a model call a tool")
    if not prompt.tools or prompt.tool_choice.mode is ToolChoiceMode.NONE:
        return {}
    if prompt.parameters.parallel_tool_calls is False:
        mapping.refuse("parameters.parallel_tool_calls", "Ollama cannot keep a model from calling several tools")
    tools = []
    for index, tool in enumerate(prompt.tools):
        if tool.strict:
            mapping.refuse(f"tools[{index}].strict", "Ollama does not hold calls to their schemas")
        schema = tool.parameters_schema or _NO_PARAMETERS
        parameters = mapping.raw_object(schema, f"tools[{index}].parameters_schema")
        function = {"name": tool.name, "description": tool.description, "parameters": parameters}
        tools.append({"type": "function", "function": function})
    return {"tools": tools}


def _parameter_fields(parameters: values.GenerationParameters, profile: Profile) -> WireObject:
    """The sampler's in `options`, which is where a profile adds to them or takes away, and those beside it."""
    given = mapping.given_parameters(parameters)
    fields: WireObject = {name: given.pop(name, None) for name in ("logprobs", "top_logprobs")}
    fields["format"] = _format(parameters.response_format)
    fields["think"] = _think(parameters.reasoning or values.ReasoningParameters())
    sampling = {name: value for name, value in given.items() if name not in _BUILT}
    fields["options"] = mapping.place_parameters(sampling, {**_FIELDS, **profile.parameter_fields}) or None
    return {name: value for name, value in fields.items() if value is not None}


def _format(form: values.ResponseFormat | None) -> object:
    """https://docs.ollama.com/capabilities/structured-outputs; a schema is always kept to, and has no name."""
    if isinstance(form, values.JsonSchemaFormat):
        return mapping.described_schema(form)
    return None if form is None else "json"


def _think(reasoning: values.ReasoningParameters) -> bool | str | None:
    """https://docs.ollama.com/capabilities/thinking: who thinks shows it."""
    effort = reasoning.effort
    if effort is ReasoningEffort.MINIMAL:
        mapping.refuse("parameters.reasoning.effort", "Ollama has no such level")
    if effort is ReasoningEffort.NONE:
        return False
    if reasoning.include is False:
        mapping.refuse("parameters.reasoning.include", "Ollama does not hide thoughts; turn them off with the effort")
    return reasoning.include if effort is None else effort.name.lower()


def _map_messages(messages: Sequence[values.Message]) -> list[WireObject]:
    """A message has one text: texts that stand side by side become its lines."""
    mapped: list[WireObject] = []
    names: dict[str, str] = {}
    for turn in read_turns(messages):
        match turn:
            case Instructions():
                mapped.append({"role": "system", "content": "\n".join(turn.texts)})
            case UserTurn():
                mapped.append(_map_user(turn))
            case ResultTurn():
                mapped.append(_map_result(turn, names))
            case ModelTurn():
                names.update({call.id: call.name for call, _ in turn.calls})
                if said := _map_model(turn):
                    mapped.append({"role": "assistant", "content": "", **said})
            case _:
                assert_never(turn)
    return mapped


def _map_user(turn: UserTurn) -> WireObject:
    texts = [content.text for content, _ in turn.contents if isinstance(content, values.Text)]
    images = [_map_image(content, path) for content, path in turn.contents if isinstance(content, values.Blob)]
    said: WireObject = {"role": "user", "content": "\n".join(texts)}
    return said | {"images": images} if images else said


def _map_result(turn: ResultTurn, names: Mapping[str, str]) -> WireObject:
    name, words = names.get(turn.tool_call_id), "\n".join(turn.texts)
    if name is None:
        mapping.refuse(f"{turn.path}.tool_call_id", "is not the id of a tool call before it")
    content = mapping.failed_result(words) if turn.is_error else words
    return {"role": "tool", "content": content, "tool_name": name, "tool_call_id": turn.tool_call_id}


def _map_model(turn: ModelTurn) -> WireObject:
    """Thoughts that carry another provider's state are not Ollama's to read."""
    thoughts = [part.content for part in turn.thoughts if part.provider_state is None]
    calls = []
    for call, path in turn.calls:
        arguments = mapping.raw_object(call.arguments or "{}", f"{path}.arguments")
        calls.append({"id": call.id, "function": {"name": call.name, "arguments": arguments}})
    fields: WireObject = {
        "content": "".join(said.text for said in turn.said),
        "thinking": "".join(thought.text for thought in thoughts if isinstance(thought, values.Reasoning)),
        "tool_calls": calls,
    }
    return {name: value for name, value in fields.items() if value}


def _map_image(blob: values.Blob, path: str) -> str:
    """https://docs.ollama.com/capabilities/vision: images, and only by their bytes."""
    if not blob.data:
        mapping.refuse(f"{path}.{'url' if blob.url else 'file_id'}", "Ollama takes only data")
    if not blob.mime_type.lower().startswith("image/"):
        mapping.refuse(f"{path}.mime_type", "Ollama takes only images")
    return base64.b64encode(blob.data).decode("ascii")


class _TextMessage(msgspec.Struct):
    content: str = ""
    thinking: str | None = None
    tool_calls: None = None
    images: None = None


class _TextLine(msgspec.Struct):
    message: _TextMessage
    model: str
    done: Literal[False] = False
    error: None = None
    logprobs: None = None


_decode_text_line = plain_decoder(_TextLine)


class OllamaRules:
    """The `AnswerRules` of Ollama: https://docs.ollama.com/api/streaming."""

    def __init__(self) -> None:
        self._parts = PartSequence()
        self._model = ""
        self._identity = ""
        self._calls = 0

    def read_plain(self, frame: Frame, answer: Answer) -> bool:
        """A line that brings text or thinking, and nothing new besides."""
        line = _decode_text_line(frame.data)
        if line is None or line.model != self._model:
            return False
        self._add_texts(line.message.thinking or "", line.message.content, answer)
        return True

    def read(self, kind: str, value: dict[str, JsonValue], answer: Answer) -> bool:
        """A line."""
        if answer.is_finished:
            answer.ignore("line after the last")
            return True
        message, is_done = as_object(value.get("message")), value.get("done") is True
        self._identity = self._identity or as_text(value.get("created_at"))
        self._model = self._model or as_text(value.get("model"))
        answer.identify("", self._model)
        self._add_texts(as_text(message.get("thinking")), as_text(message.get("content")), answer)
        if (logprobs := read_logprobs(value.get("logprobs"))) and self._parts.kind is _TEXT:
            answer.events.append(PartDelta(part=self._parts.key, logprobs=logprobs))
        for each in as_list(message.get("tool_calls")):
            self._read_call(as_object(each), answer)
        if message.get("images"):
            answer.ignore("message images")
        if is_done:
            self._finish(value, answer)
        return is_done or "message" in value

    def find_error(self, value: JsonValue) -> JsonValue:
        """The whole line of an error, as its status may stand beside its words; or None."""
        return value if as_object(value).get("error") else None

    def failure_of(self, error: JsonValue, answer: Answer) -> RunFailure:
        """https://docs.ollama.com/api/errors. An error is mostly words alone, so those that Ollama uses decide."""
        status = status_in(as_object(error), *_STATUS_FIELDS)
        return failure_of_words(_words(error), status, rate_limits=_RATE_LIMIT_WORDS, blame=_BLAMING_WORDS)

    def settle(self, answer: Answer) -> None:
        """Nothing is held back: the account comes with the last line."""

    def _add_texts(self, thinking: str, text: str, answer: Answer) -> None:
        if thinking:
            self._parts.add(_REASONING, values.ReasoningDelta(thinking), answer.events)
        if text:
            self._parts.add(_TEXT, values.TextDelta(text), answer.events)

    def _read_call(self, call: dict[str, JsonValue], answer: Answer) -> None:
        """A whole call, its arguments an object: https://docs.ollama.com/capabilities/tool-calling#streaming."""
        function = as_object(call.get("function"))
        arguments, name = function.get("arguments"), as_text(function.get("name"))
        if not name:
            answer.ignore("tool call without a name")
            return
        self._calls += 1
        payload = values.ToolCallDelta(
            id=as_text(call.get("id")) or mapping.made_call_id(self._identity, self._calls),
            name=name,
            arguments=arguments if isinstance(arguments, str) else encode_json(arguments or {}),
        )
        self._parts.add_whole(_TOOL, payload, answer.events)

    def _finish(self, line: dict[str, JsonValue], answer: Answer) -> None:
        """The last line, with its account. A model that waits for tools stops like any other."""
        word = as_text(line.get("done_reason"))
        reason = _FINISH_REASONS.get(word, FinishReason.OTHER)
        if reason is FinishReason.STOP and self._calls:
            reason = FinishReason.TOOL_CALLS
        answer.tell({name: str(count) for name in _TIMINGS if (count := as_count(line.get(name))) is not None})
        answer.finish(reason, word)
        prompt, output = as_count(line.get("prompt_eval_count")), as_count(line.get("eval_count"))
        answer.report(account(UsageSource.UPSTREAM_FINAL, input=prompt, output=output))


def _words(value: JsonValue) -> str:
    error = as_object(value).get("error")
    return as_text(error) or as_text(as_object(error).get("message")) or as_text(value)
