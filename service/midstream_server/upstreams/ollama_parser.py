"""Ollama chat streams as events: https://docs.ollama.com/api/chat, https://docs.ollama.com/api/streaming."""

from typing import Literal

import msgspec

from midstream_server.errors import RunFailure, UpstreamMalformed, UpstreamTruncated
from midstream_server.model import (
    FinishReason,
    JsonValue,
    PartState,
    ReasoningDelta,
    TextDelta,
    TokenCount,
    ToolCallDelta,
    Usage,
    UsageSource,
)
from midstream_server.upstreams.base import (
    EventIgnored,
    MetadataReported,
    ModelFinished,
    PartDelta,
    Profile,
    ResponseStarted,
    UpstreamEvent,
    UpstreamFailed,
    UsageReported,
)
from midstream_server.upstreams.json_text import (
    as_count,
    as_list,
    as_object,
    as_text,
    cut_words,
    decode_json,
    encode_json,
)
from midstream_server.upstreams.mapping import made_call_id
from midstream_server.upstreams.ndjson import NdjsonDecoder
from midstream_server.upstreams.ollama_errors import failure_of_frame
from midstream_server.upstreams.openai_annotations import read_logprobs

_TEXT, _REASONING = "text", "reasoning"
_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
"""https://docs.ollama.com/api/chat; `load` and `unload`, which answer an empty prompt, are OTHER."""
_TIMINGS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
"""In nanoseconds."""
_MAX_FACT_BYTES = 256


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


_decode_text_line = msgspec.json.Decoder(_TextLine).decode


class OllamaParser:
    """A `StreamParser` for one body."""

    def __init__(self, profile: Profile) -> None:
        self._finish_is_required = profile.finish_reason_required
        self._decoder = NdjsonDecoder()
        self._model = ""
        self._identity = ""
        self._kind = ""
        """The kind that is open; a call is never open, as it comes whole."""
        self._part = ""
        self._parts = 0
        self._calls = 0
        self._is_finished = False
        self._has_failed = False

    def feed(self, data: bytes) -> list[UpstreamEvent]:
        """The events that these bytes complete."""
        events: list[UpstreamEvent] = []
        if self._has_failed:
            return events
        for line in self._decoder.feed(data):
            self._read(line, events)
            if self._has_failed:
                return events
        if self._decoder.overflowed:
            self._fail(UpstreamMalformed("a line of the upstream is larger than 4 MiB"), events)
        return events

    def close(self) -> list[UpstreamEvent]:
        """The end of the body: a last line without its end counts if it is whole JSON."""
        events: list[UpstreamEvent] = []
        if self._has_failed:
            return events
        for line in filter(_is_whole, self._decoder.close()):
            self._read(line, events)
        if self._is_finished or self._has_failed:
            return events
        if self._finish_is_required or not self._parts:
            self._fail(UpstreamTruncated(), events)
        else:
            self._is_finished = True
            events.append(ModelFinished(reason=FinishReason.OTHER, raw=""))
        return events

    # --- Lines ------------------------------------------------------------------------------------------------------

    def _read(self, line: bytes, events: list[UpstreamEvent]) -> None:
        if not self._is_finished and self._read_text_line(line, events):
            return
        try:
            value = decode_json(line)
        except ValueError:
            self._fail(UpstreamMalformed("a line of the upstream is not JSON"), events)
            return
        if not isinstance(value, dict):
            events.append(EventIgnored(kind=f"json {type(value).__name__}"))
        elif self._is_finished and not value.get("error"):
            events.append(EventIgnored(kind="line after the last"))
        else:
            self._read_line(value, events)

    def _read_text_line(self, line: bytes, events: list[UpstreamEvent]) -> bool:
        """The fast path: a line that brings text or thinking, and nothing new besides."""
        try:
            value = _decode_text_line(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if value.model != self._model:
            return False
        if value.message.thinking:
            self._add_text(_REASONING, value.message.thinking, events)
        if value.message.content:
            self._add_text(_TEXT, value.message.content, events)
        return True

    def _read_line(self, line: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        error, is_done = line.get("error"), line.get("done") is True
        if not (error or is_done or "message" in line):
            events.append(EventIgnored(kind=cut_words(next(iter(line), "line"), 64)))
            return
        if not self._is_finished:
            self._read_head(line, events)
            self._read_message(line, events)
            if is_done:
                self._finish(line, events)
        if error:
            self._fail(failure_of_frame(line), events)

    def _read_head(self, line: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """The model, and the time of the first line, which tells this answer from others."""
        self._identity = self._identity or as_text(line.get("created_at"))
        model = cut_words(as_text(line.get("model")), _MAX_FACT_BYTES)
        if model and not self._model:
            self._model = model
            events.append(ResponseStarted(upstream_model=model))

    def _read_message(self, line: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        message = as_object(line.get("message"))
        if thinking := as_text(message.get("thinking")):
            self._add_text(_REASONING, thinking, events)
        if text := as_text(message.get("content")):
            self._add_text(_TEXT, text, events)
        if (logprobs := read_logprobs(line.get("logprobs"))) and self._kind is _TEXT:
            events.append(PartDelta(part=self._part, logprobs=logprobs))
        for each in as_list(message.get("tool_calls")):
            self._read_call(as_object(each), events)
        if message.get("images"):
            events.append(EventIgnored(kind="message images"))

    def _add_text(self, kind: str, text: str, events: list[UpstreamEvent]) -> None:
        if self._kind is not kind:
            self._begin(kind, events)
        events.append(PartDelta(part=self._part, payload=TextDelta(text) if kind is _TEXT else ReasoningDelta(text)))

    def _begin(self, kind: str, events: list[UpstreamEvent]) -> None:
        """Another kind speaks: what spoke before is closed."""
        if self._kind:
            events.append(PartDelta(part=self._part, part_end=PartState.COMPLETE))
        self._kind = kind
        self._part = f"{kind or 'tool'}:{self._parts}"
        self._parts += 1

    def _read_call(self, call: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """A whole call, its arguments an object: https://docs.ollama.com/capabilities/tool-calling#streaming."""
        function = as_object(call.get("function"))
        arguments = function.get("arguments")
        if not (name := as_text(function.get("name"))):
            events.append(EventIgnored(kind="tool call without a name"))
            return
        self._calls += 1
        payload = ToolCallDelta(
            id=as_text(call.get("id")) or made_call_id(self._identity, self._calls),
            name=name,
            arguments=arguments if isinstance(arguments, str) else encode_json(arguments or {}),
        )
        self._begin("", events)
        events.append(PartDelta(part=self._part, payload=payload, part_end=PartState.COMPLETE))

    def _finish(self, line: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """The last line. A model that waits for tools stops like any other."""
        word = as_text(line.get("done_reason"))
        reason = _FINISH_REASONS.get(word, FinishReason.OTHER)
        if reason is FinishReason.STOP and self._calls:
            reason = FinishReason.TOOL_CALLS
        self._is_finished = True
        timings = {name: str(count) for name in _TIMINGS if (count := as_count(line.get(name))) is not None}
        if timings:
            events.append(MetadataReported(metadata=timings))
        events.append(ModelFinished(reason=reason, raw=cut_words(word, _MAX_FACT_BYTES)))
        usage = Usage(input=_final(line.get("prompt_eval_count")), output=_final(line.get("eval_count")))
        if usage != Usage():
            events.append(UsageReported(usage=usage))

    def _fail(self, failure: RunFailure, events: list[UpstreamEvent]) -> None:
        self._has_failed = True
        events.append(UpstreamFailed(failure=failure))


def _final(value: JsonValue) -> TokenCount | None:
    count = as_count(value)
    return None if count is None else TokenCount(value=count, source=UsageSource.UPSTREAM_FINAL)


def _is_whole(line: bytes) -> bool:
    try:
        decode_json(line)
    except ValueError:
        return False
    return True
