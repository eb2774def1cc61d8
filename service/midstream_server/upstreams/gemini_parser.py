"""Gemini streams as events: https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent.

`GeminiParser` reads the chunks and decides what ends the answer; `PartReader` (gemini_parts) turns the content of
candidate 0 into parts. With `alt=sse` a chunk is an event, without it an element of one JSON array.

Which `STOP` is the end: some servers put it on every chunk, and even before the first text. So it counts at once only
where text came without it before, or where the server says in words why it stops. Otherwise it counts at the end of the
body, and what comes until then is part of the answer.
"""

from midstream_server.errors import RunFailure, UpstreamMalformed, UpstreamTruncated
from midstream_server.model import FinishReason, JsonValue, UsageSource
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
from midstream_server.upstreams.gemini_citations import CitationList, read_logprobs, search_queries
from midstream_server.upstreams.gemini_errors import failure_of_frame, find_error
from midstream_server.upstreams.gemini_parts import PartReader
from midstream_server.upstreams.gemini_text_chunk import decode_text_chunk
from midstream_server.upstreams.gemini_usage import FACTS, read_facts, read_usage
from midstream_server.upstreams.json_stream import JsonStream
from midstream_server.upstreams.json_text import as_list, as_object, as_text, cut_words, decode_json
from midstream_server.upstreams.sse import SseEvent

_STOP = "STOP"
_FILTERED = FinishReason.CONTENT_FILTER
_FINISH_REASONS = {
    _STOP: FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "SAFETY": _FILTERED,
    "RECITATION": _FILTERED,
    "LANGUAGE": _FILTERED,
    "BLOCKLIST": _FILTERED,
    "PROHIBITED_CONTENT": _FILTERED,
    "SPII": _FILTERED,
    "ESCALATION": _FILTERED,
    "MODEL_ARMOR": _FILTERED,
    "IMAGE_SAFETY": _FILTERED,
    "IMAGE_PROHIBITED_CONTENT": _FILTERED,
    "IMAGE_RECITATION": _FILTERED,
}
"""https://ai.google.dev/api/generate-content#FinishReason; all others are OTHER."""
_NAMES = ("responseId", "modelVersion")
_UNSPECIFIED = ("", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED")
_BEFORE_BODY = b"\xef\xbb\xbf \t\r\n"
_MAX_BLANK_BYTES = 4096
_MAX_FACT_BYTES = 256
_MAX_CHANGES = 16
"""How often a stream may tell a new name or fact: a hostile one tells them without end."""


class GeminiParser:
    """A `StreamParser` for one body."""

    def __init__(self, profile: Profile, dialect: str) -> None:
        self._finish_is_required = profile.finish_reason_required
        self._head = b""
        self._stream: EventStream | JsonStream | None = None
        self._parts = PartReader(dialect)
        self._citations = CitationList()
        self._facts: tuple[object, ...] = ()
        self._known: dict[str, str] = {}
        self._changes = 0
        self._usage: dict[str, JsonValue] = {}
        self._usage_is_final = False
        self._says_stop_once = False
        self._held_finish = ""
        """A `STOP` that counts at the end of the body."""
        self._is_finished = False
        self._has_failed = False

    def feed(self, data: bytes) -> list[UpstreamEvent]:
        """The events that these bytes complete."""
        events: list[UpstreamEvent] = []
        if self._has_failed:
            return events
        if self._stream is None:
            self._head += data
            if (stream := _stream_of(self._head)) is None:
                return events
            self._stream, data, self._head = stream, self._head, b""
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
        for event in self._stream.close() if self._stream is not None else ():
            self._read(event, events)
            if self._has_failed:
                return events
        if not self._is_finished and not self._held_finish:
            if self._finish_is_required or not self._parts.has_output:
                self._fail(UpstreamTruncated(), events)
                return events
            self._is_finished = True
            events.append(ModelFinished(reason=FinishReason.OTHER, raw=""))
        self._settle(events)
        return events

    # --- Frames -----------------------------------------------------------------------------------------------------

    def _read(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        if self._read_text_chunk(event, events):
            return
        if event.error or event.name == b"error":
            value = _json_or_words(event.error or event.data)
            self._fail(failure_of_frame(find_error(value) or value), events)
        elif event.data.strip() == b"[DONE]":
            events.append(EventIgnored(kind="[DONE]"))
        elif event.data.strip():
            self._read_json(event, events)

    def _read_text_chunk(self, event: SseEvent, events: list[UpstreamEvent]) -> bool:
        """The fast path: a chunk that brings a piece of text or of a thought, and nothing new besides its account."""
        if self._is_finished or event.name or event.error or event.bare:
            return False
        chunk = decode_text_chunk(event.data)
        if chunk is None or chunk.facts != self._facts:
            return False
        if chunk.text:
            self._parts.add_text(chunk.text, events, is_thought=chunk.is_thought)
            self._says_stop_once, self._held_finish = True, ""
        if account := chunk.account():
            self._usage, self._usage_is_final = account, False
            self._report_usage(events)
        return True

    def _read_json(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        try:
            value = decode_json(event.data)
        except ValueError:
            self._fail(UpstreamMalformed("an event of the upstream is not JSON"), events)
            return
        error = find_error(value)
        if isinstance(value, dict) and not event.bare:
            self._read_chunk(value, events)
        if error:
            self._fail(failure_of_frame(error), events)
        elif event.bare:
            self._fail(UpstreamMalformed("the upstream sent JSON outside its events"), events)
        elif not isinstance(value, dict):
            events.append(EventIgnored(kind=f"json {type(value).__name__}"))

    def _fail(self, failure: RunFailure, events: list[UpstreamEvent]) -> None:
        if not isinstance(failure, UpstreamTruncated):
            self._settle(events)
        self._has_failed = True
        events.append(UpstreamFailed(failure=failure))

    def _settle(self, events: list[UpstreamEvent]) -> None:
        """Nothing more comes: what was held back is said, and the last account is the closing one."""
        if self._held_finish and not self._is_finished:
            self._finish(self._held_finish, events)
        self._report_usage(events)

    # --- Chunks -----------------------------------------------------------------------------------------------------

    def _read_chunk(self, chunk: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        before = len(events)
        self._read_head(chunk, events)
        candidates, feedback = as_list(chunk.get("candidates")), as_object(chunk.get("promptFeedback"))
        for each in candidates:
            if isinstance(each, dict) and each.get("index") in (None, 0):
                self._read_candidate(each, events)
            else:
                events.append(EventIgnored(kind="candidate"))
        blocked = as_text(feedback.get("blockReason"))
        if blocked not in _UNSPECIFIED and not candidates and not self._is_finished:
            self._tell({"promptFeedback.blockReasonMessage": feedback.get("blockReasonMessage")}, events)
            self._is_finished = True
            events.append(ModelFinished(reason=_FILTERED, raw=cut_words(blocked, _MAX_FACT_BYTES)))
        if usage := as_object(chunk.get("usageMetadata")):
            self._usage, self._usage_is_final = usage, False
            self._report_usage(events)
            self._tell(dict(read_facts(usage)), events)
        self._facts = (*(chunk.get(name) for name in _NAMES), *(usage.get(name) for name in FACTS))
        if len(events) == before and not (candidates or usage or feedback or "error" in chunk):
            events.append(EventIgnored(kind=cut_words(next(iter(chunk), "event"), 64)))

    def _read_head(self, chunk: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """What the upstream says of itself."""
        response_id, model = (self._changed(name, chunk.get(name)) for name in _NAMES)
        self._parts.identify(response_id or chunk)
        if response_id or model:
            events.append(ResponseStarted(upstream_request_id=response_id, upstream_model=model))

    def _read_candidate(self, candidate: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        parts = [each for each in as_list(as_object(candidate.get("content")).get("parts")) if isinstance(each, dict)]
        if self._is_finished:
            if parts:
                events.append(EventIgnored(kind="candidate after its finish reason"))
            return
        before = len(events)
        for part in parts:
            self._parts.read(part, events)
        self._annotate(candidate, events)
        finish = as_text(candidate.get("finishReason"))
        if finish in _UNSPECIFIED:
            if any(not isinstance(event, EventIgnored) for event in events[before:]):
                self._says_stop_once, self._held_finish = True, ""
            return
        words = as_text(candidate.get("finishMessage"))
        self._tell({"finishMessage": words}, events)
        if finish != _STOP or self._says_stop_once or words:
            self._finish(finish, events)
        else:
            self._held_finish = finish

    def _annotate(self, candidate: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        citations = self._citations.new(candidate, offsets_fit=self._parts.is_one_text)
        if not self._parts.annotate(citations, read_logprobs(candidate.get("logprobsResult")), events) and citations:
            events.append(EventIgnored(kind="citation without text"))
        self._tell({"webSearchQueries": search_queries(candidate)}, events)

    def _finish(self, word: str, events: list[UpstreamEvent]) -> None:
        """The finish marker. Gemini has no word of its own for a stop that waits for tools."""
        reason = _FINISH_REASONS.get(word, FinishReason.OTHER)
        if reason is FinishReason.STOP:
            self._parts.finish(events)
            reason = FinishReason.TOOL_CALLS if self._parts.has_calls else reason
        self._is_finished = True
        events.append(ModelFinished(reason=reason, raw=cut_words(word, _MAX_FACT_BYTES)))

    def _report_usage(self, events: list[UpstreamEvent]) -> None:
        """The account so far; the one that comes with the finish, or after it, is the closing one."""
        if not self._usage or self._usage_is_final:
            return
        self._usage_is_final = self._is_finished
        source = UsageSource.UPSTREAM_FINAL if self._is_finished else UsageSource.UPSTREAM_RUNNING
        if (usage := read_usage(self._usage, source)) is not None:
            events.append(UsageReported(usage=usage))

    def _tell(self, facts: dict[str, JsonValue] | dict[str, str], events: list[UpstreamEvent]) -> None:
        fresh = {name: text for name, value in facts.items() if (text := self._changed(name, value))}
        if fresh:
            events.append(MetadataReported(metadata=fresh))

    def _changed(self, field: str, value: object) -> str:
        text = cut_words(as_text(value), _MAX_FACT_BYTES)
        if not text or self._known.get(field) == text or self._changes >= _MAX_CHANGES:
            return ""
        self._changes += field in self._known
        self._known[field] = text
        return text


def _stream_of(head: bytes) -> EventStream | JsonStream | None:
    """How the body is framed, by its first byte; None as long as there is none."""
    start = head.lstrip(_BEFORE_BODY)[:1]
    if start in (b"[", b"{"):
        return JsonStream()
    return EventStream() if start or len(head) > _MAX_BLANK_BYTES else None


def _json_or_words(data: bytes) -> JsonValue:
    try:
        return decode_json(data)
    except ValueError:
        return data.decode("utf-8", "replace")
