"""Gemini streams as events: https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent.

`GeminiRules` say what a chunk means; `PartReader` (`parts`) turns the content of candidate 0 into parts. With `alt=sse`
a chunk is an event, without it an element of one JSON array: `ChunkFraming` sees which.

Which `STOP` is the end: some servers put it on every chunk, and even before the first text. So it counts at once only
where text came without it before, or where the server says in words why it stops. Otherwise it counts at the end of the
body, and what comes until then is part of the answer.
"""

from midstream_server.errors import RunFailure
from midstream_server.model import FinishReason, JsonValue, UsageSource
from midstream_server.upstreams.answer import Answer
from midstream_server.upstreams.base import EventIgnored
from midstream_server.upstreams.gemini.citations import CitationList, read_logprobs, search_queries
from midstream_server.upstreams.gemini.errors import failure_of_frame, find_error
from midstream_server.upstreams.gemini.parts import PartReader
from midstream_server.upstreams.gemini.text_chunk import decode_text_chunk
from midstream_server.upstreams.gemini.usage import FACTS, read_usage
from midstream_server.upstreams.wire.frame import Frame
from midstream_server.upstreams.wire.json_stream import JsonStream
from midstream_server.upstreams.wire.json_text import as_list, as_object, as_text
from midstream_server.upstreams.wire.sse import SseDecoder

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


class ChunkFraming:
    """The framing that the first byte of the body shows."""

    def __init__(self) -> None:
        self._head = b""
        self._frames: SseDecoder | JsonStream | None = None

    @property
    def failure(self) -> RunFailure | None:
        """Why the body cannot be read any further."""
        return self._frames.failure if self._frames is not None else None

    def feed(self, data: bytes) -> list[Frame]:
        """The chunks that these bytes complete."""
        if self._frames is None:
            self._head += data
            start = self._head.lstrip(_BEFORE_BODY)[:1]
            if not start and len(self._head) <= _MAX_BLANK_BYTES:
                return []
            self._frames = JsonStream() if start in (b"[", b"{") else SseDecoder()
            data, self._head = self._head, b""
        return self._frames.feed(data)

    def close(self) -> list[Frame]:
        """A chunk that the end of the body cut."""
        return self._frames.close() if self._frames is not None else []


class GeminiRules:
    """The `AnswerRules` of `streamGenerateContent`."""

    def __init__(self, dialect: str) -> None:
        self._parts = PartReader(dialect)
        self._citations = CitationList()
        self._facts: tuple[object, ...] = ()
        self._usage: dict[str, JsonValue] = {}
        self._says_stop_once = False
        self._held_finish = ""
        """A `STOP` that counts at the end of the body."""

    def read_plain(self, frame: Frame, answer: Answer) -> bool:
        """A chunk that brings a piece of text or of a thought, and nothing new besides its account."""
        if frame.name or answer.is_done:
            return False
        chunk = decode_text_chunk(frame.data)
        if chunk is None or chunk.facts != self._facts:
            return False
        if chunk.text:
            self._parts.add_text(chunk.text, answer.events, is_thought=chunk.is_thought)
            self._says_stop_once, self._held_finish = True, ""
        if account := chunk.account():
            self._usage = account
            self._report_usage(answer)
        return True

    def read(self, kind: str, value: dict[str, JsonValue], answer: Answer) -> bool:
        """A chunk: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse."""
        self._parts.identify(as_text(value.get("responseId")) or value)
        answer.identify(value.get("responseId"), value.get("modelVersion"))
        candidates, feedback = as_list(value.get("candidates")), as_object(value.get("promptFeedback"))
        for each in candidates:
            if isinstance(each, dict) and each.get("index") in (None, 0):
                self._read_candidate(each, answer)
            else:
                answer.ignore("candidate")
        blocked = as_text(feedback.get("blockReason"))
        if blocked not in _UNSPECIFIED and not candidates and not answer.is_finished:
            answer.tell({"promptFeedback.blockReasonMessage": feedback.get("blockReasonMessage")})
            answer.finish(_FILTERED, blocked)
        if usage := as_object(value.get("usageMetadata")):
            self._usage = usage
            self._report_usage(answer)
            answer.tell({name: usage.get(name) for name in FACTS})
        self._facts = (*(value.get(name) for name in _NAMES), *(usage.get(name) for name in FACTS))
        return bool(candidates or usage or feedback or any(value.get(name) for name in _NAMES))

    def find_error(self, value: JsonValue) -> JsonValue:
        """The error in a chunk, or None."""
        return find_error(value)

    def failure_of(self, error: JsonValue, answer: Answer) -> RunFailure:
        """The failure that an error means."""
        return failure_of_frame(error)

    def settle(self, answer: Answer) -> None:
        """A `STOP` that was held back is the end, and the last account is the closing one."""
        if self._held_finish and not answer.is_finished:
            self._finish(self._held_finish, answer)
        if answer.is_finished:
            self._report_usage(answer)

    def _read_candidate(self, candidate: dict[str, JsonValue], answer: Answer) -> None:
        parts = [each for each in as_list(as_object(candidate.get("content")).get("parts")) if isinstance(each, dict)]
        if answer.is_finished:
            if parts:
                answer.ignore("candidate after its finish reason")
            return
        before = len(answer.events)
        for part in parts:
            self._parts.read(part, answer.events)
        self._annotate(candidate, answer)
        finish = as_text(candidate.get("finishReason"))
        if finish in _UNSPECIFIED:
            if any(not isinstance(event, EventIgnored) for event in answer.events[before:]):
                self._says_stop_once, self._held_finish = True, ""
            return
        words = as_text(candidate.get("finishMessage"))
        answer.tell({"finishMessage": words})
        if finish != _STOP or self._says_stop_once or words:
            self._finish(finish, answer)
        else:
            self._held_finish = finish

    def _annotate(self, candidate: dict[str, JsonValue], answer: Answer) -> None:
        citations = self._citations.new(candidate, offsets_fit=self._parts.is_one_text)
        logprobs = read_logprobs(candidate.get("logprobsResult"))
        if not self._parts.annotate(citations, logprobs, answer.events) and citations:
            answer.ignore("citation without text")
        answer.tell({"webSearchQueries": search_queries(candidate)})

    def _finish(self, word: str, answer: Answer) -> None:
        """The finish marker. Gemini has no word of its own for a stop that waits for tools."""
        reason = _FINISH_REASONS.get(word, FinishReason.OTHER)
        if reason is FinishReason.STOP:
            self._parts.finish(answer.events)
            reason = FinishReason.TOOL_CALLS if self._parts.has_calls else reason
        answer.finish(reason, word)

    def _report_usage(self, answer: Answer) -> None:
        """The account so far; the one that comes with the finish, or after it, is the closing one."""
        source = UsageSource.UPSTREAM_FINAL if answer.is_finished else UsageSource.UPSTREAM_RUNNING
        answer.report(read_usage(self._usage, source))
