"""Chat Completions streams as events: https://platform.openai.com/docs/api-reference/chat-streaming.

`ChatParser` reads the frames and decides what ends the answer; `ChoiceReader` (openai_chat_choice) turns the deltas of
choice 0 into parts. Most chunks are a piece of text or reasoning and nothing else: those are decoded into `_TextChunk`,
and whatever does not fit takes the general path.
"""

from typing import Literal

import msgspec

from midstream_server.errors import RunFailure, UpstreamMalformed, UpstreamTruncated
from midstream_server.model import FinishReason, JsonValue, Usage
from midstream_server.upstreams.base import (
    EventIgnored,
    MetadataReported,
    ModelFinished,
    Profile,
    ResponseStarted,
    UpstreamEvent,
    UpstreamFailed,
    UsageReported,
)
from midstream_server.upstreams.event_stream import EventStream
from midstream_server.upstreams.json_text import as_list, as_object, as_text, cut_words, decode_json, encode_json
from midstream_server.upstreams.openai_annotations import CitationList
from midstream_server.upstreams.openai_chat_choice import ChoiceReader
from midstream_server.upstreams.openai_errors import failure_of_frame, find_error
from midstream_server.upstreams.openai_usage import as_final, find_usage
from midstream_server.upstreams.sse import SseEvent

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "refusal": FinishReason.REFUSAL,
}
_METADATA = ("system_fingerprint", "service_tier", "provider")
_FIELDS = ("usage", "timings", "x_groq", "citations", "search_results")
"""What a chunk without choices may bring."""
_MAX_METADATA_BYTES = 256
_MAX_LATE_CITATIONS = 16
_MAX_CHANGES = 16
"""How often a stream may tell a new name or fingerprint: a hostile one tells them without end."""


class _TextDelta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    annotations: None = None
    images: None = None
    audio: None = None


class _TextChoice(msgspec.Struct):
    delta: _TextDelta
    index: Literal[0] = 0
    finish_reason: None = None
    logprobs: None = None
    usage: None = None
    error: None = None


class _TextChunk(msgspec.Struct):
    choices: tuple[_TextChoice]
    id: str | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    provider: str | None = None
    object: str | None = None
    usage: None = None
    error: None = None
    timings: None = None
    x_groq: None = None
    citations: None = None
    search_results: None = None


_decode_text_chunk = msgspec.json.Decoder(_TextChunk).decode


class ChatParser:
    """A `StreamParser` for one body."""

    def __init__(self, profile: Profile, dialect: str) -> None:
        self._finish_is_required = profile.finish_reason_required
        self._stream = EventStream()
        self._choice = ChoiceReader(dialect)
        self._citations = CitationList()
        self._head: tuple[object, ...] = ()
        self._known: dict[str, str] = {}
        self._changes = 0
        self._usage: Usage | None = None
        self._is_finished = False
        self._is_done = False
        self._has_failed = False

    def feed(self, data: bytes) -> list[UpstreamEvent]:
        """The events that these bytes complete."""
        events: list[UpstreamEvent] = []
        if self._has_failed:
            return events
        for event in self._stream.feed(data):
            self._read(event, events)
            if self._has_failed:
                return events
        if self._stream.failure is not None:
            self._fail(self._stream.failure, events)
        return events

    def close(self) -> list[UpstreamEvent]:
        """The end of the body: what an unterminated last event held, and what only the end tells."""
        events: list[UpstreamEvent] = []
        if self._has_failed:
            return events
        for event in self._stream.close():
            self._read(event, events)
        if not self._is_done and not self._has_failed:
            self._finish_stream(events)
        return events

    # --- Frames -----------------------------------------------------------------------------------------------------

    def _read(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        if not self._is_finished and self._read_text_chunk(event, events):
            return
        if event.error:
            self._fail(failure_of_frame(_json_or_words(event.error)), events)
        elif event.name == b"error":
            value = _json_or_words(event.data)
            self._fail(failure_of_frame(find_error(value) or value), events)
        elif event.data.strip() == b"[DONE]":
            self._read_done(events)
        elif event.data.strip():
            self._read_json(event, events)

    def _read_text_chunk(self, event: SseEvent, events: list[UpstreamEvent]) -> bool:
        """The fast path: a chunk that brings text or reasoning, and nothing new besides."""
        if event.name or event.error or event.bare:
            return False
        try:
            chunk = _decode_text_chunk(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        head = (chunk.id, chunk.model, chunk.system_fingerprint, chunk.service_tier, chunk.provider)
        if head != self._head or chunk.object == "error" or self._is_done:
            return False
        delta = chunk.choices[0].delta
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning:
            self._choice.add_reasoning(reasoning, events)
        if delta.content:
            self._choice.add_text(delta.content, events)
        return True

    def _read_json(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        try:
            value = decode_json(event.data)
        except ValueError:
            self._fail(UpstreamMalformed("an event of the upstream is not JSON"), events)
            return
        error = find_error(value)
        if event.bare and not error:
            detail = as_object(value).get("detail") or as_object(value).get("message")
            failure = (
                failure_of_frame(value) if detail else UpstreamMalformed("the upstream sent JSON outside its events")
            )
            self._fail(failure, events)
        elif isinstance(value, dict):
            self._read_chunk(value, error, event, events)
        elif error:
            self._fail(failure_of_frame(error), events)
        else:
            events.append(EventIgnored(kind=f"json {type(value).__name__}"))

    def _read_done(self, events: list[UpstreamEvent]) -> None:
        if not self._is_done:
            self._is_done = True
            self._finish_stream(events)

    def _finish_stream(self, events: list[UpstreamEvent]) -> None:
        """The end, by `[DONE]` or by the end of the body; no finish without a finish reason (DESIGN §5, rule 10)."""
        if not self._is_finished:
            if self._finish_is_required or not self._choice.has_output:
                self._fail(UpstreamTruncated(), events)
                return
            self._is_finished = True
            events.append(ModelFinished(reason=FinishReason.OTHER, raw=""))
        if self._usage is not None and (usage := as_final(self._usage)) != self._usage:
            self._usage = usage
            events.append(UsageReported(usage=usage))

    def _fail(self, failure: RunFailure, events: list[UpstreamEvent]) -> None:
        self._has_failed = True
        events.append(UpstreamFailed(failure=failure))

    # --- Chunks -----------------------------------------------------------------------------------------------------

    def _read_chunk(
        self, chunk: dict[str, JsonValue], error: JsonValue, event: SseEvent, events: list[UpstreamEvent]
    ) -> None:
        choices = as_list(chunk.get("choices"))
        self._read_head(chunk, events)
        if self._is_done or not (choices or error or any(chunk.get(field) for field in _FIELDS)):
            kind = event.name.decode("utf-8", "replace") or as_text(chunk.get("object")) or as_text(chunk.get("type"))
            events.append(EventIgnored(kind=cut_words(kind, 64) or "event"))
            return
        first: dict[str, JsonValue] = {}
        for each in choices:
            if isinstance(each, dict) and each.get("index") in (None, 0, "", "0"):
                first = each
                self._read_choice(each, events)
            else:
                events.append(EventIgnored(kind="choice"))
        self._read_citations(chunk, events)
        finish = as_text(first.get("finish_reason"))
        is_finishing = finish not in ("", "null")
        self._read_usage(chunk, first, is_finishing or not choices or bool(error), events)
        if is_finishing and not self._is_finished:
            self._is_finished = True
            events.append(
                ModelFinished(reason=_FINISH_REASONS.get(finish, FinishReason.OTHER), raw=cut_words(finish, 256))
            )
        if error:
            self._fail(failure_of_frame(error), events)

    def _read_choice(self, choice: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        if self._is_finished:
            events.append(EventIgnored(kind="choice after its finish reason"))
        else:
            self._choice.read(choice, events)

    def _read_head(self, chunk: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """What the upstream says of itself: the first id, the model whenever it changes, facts beside the message."""
        head = tuple(chunk.get(field) for field in ("id", "model", *_METADATA))
        groq_id = as_text(as_object(chunk.get("x_groq")).get("id"))
        if (head == self._head and not groq_id) or self._changes >= _MAX_CHANGES:
            return
        self._head = head
        identity = self._changed("id", head[0]), self._changed("model", head[1])
        if any(identity):
            self._choice.identify(identity[0])
            events.append(ResponseStarted(upstream_request_id=identity[0], upstream_model=identity[1]))
        metadata = {
            field: text
            for field, value in zip(_METADATA, head[2:], strict=True)
            if (text := self._changed(field, value))
        }
        if text := self._changed("x_groq.id", groq_id):
            metadata["x_groq.id"] = text
        if metadata:
            events.append(MetadataReported(metadata=metadata))

    def _changed(self, field: str, value: object) -> str:
        text = cut_words(as_text(value), _MAX_METADATA_BYTES)
        if not text or self._known.get(field) == text or (field == "id" and field in self._known):
            return ""
        self._changes += field in self._known
        self._known[field] = text
        return text

    def _read_citations(self, chunk: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """To the text, or beside the message where they come after its end (xAI)."""
        pages = self._citations.new(chunk)
        if not self._is_finished:
            self._choice.annotate(pages, events)
        elif pages:
            urls = encode_json(
                [page.url for page in pages[:_MAX_LATE_CITATIONS] if len(page.url) <= _MAX_METADATA_BYTES]
            )
            events.append(MetadataReported(metadata={"citations": urls}))

    def _read_usage(
        self, chunk: dict[str, JsonValue], choice: dict[str, JsonValue], is_last: bool, events: list[UpstreamEvent]
    ) -> None:
        usage = find_usage(chunk, choice)
        if usage is None:
            return
        self._usage = as_final(usage) if is_last or self._is_finished else usage
        events.append(UsageReported(usage=self._usage))
        cost = as_object(chunk.get("usage")).get("cost")
        if isinstance(cost, int | float) and not isinstance(cost, bool) and self._usage is not usage:
            events.append(MetadataReported(metadata={"usage.cost": format(cost, ".12g")}))


def _json_or_words(data: bytes) -> JsonValue:
    try:
        return decode_json(data)
    except ValueError:
        return data.decode("utf-8", "replace")
