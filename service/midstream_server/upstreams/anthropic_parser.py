"""Messages streams as events: https://platform.claude.com/docs/en/build-with-claude/streaming.

`AnthropicParser` reads the events and decides what ends the answer; `BlockReader` (anthropic_blocks) turns content
blocks into parts. Most events are a piece of a block: those are decoded into `_Piece`, and whatever does not fit takes
the general path.
"""

from typing import Literal

import msgspec

from midstream_server.errors import RunFailure, UpstreamMalformed, UpstreamTruncated
from midstream_server.model import FinishReason, JsonValue, UsageSource
from midstream_server.upstreams.anthropic_blocks import REASONING, TEXT, TOOL, BlockReader
from midstream_server.upstreams.anthropic_errors import failure_of_frame, find_error
from midstream_server.upstreams.anthropic_usage import MessageUsage
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
from midstream_server.upstreams.json_text import as_object, as_text, cut_words, decode_json
from midstream_server.upstreams.sse import SseEvent

_FINISH_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.REFUSAL,
    "pause_turn": FinishReason.OTHER,
}
"""https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons."""
_MAX_FACT_BYTES = 256


class _PieceDelta(msgspec.Struct):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    signature: None = None
    citation: None = None
    type: Literal["text_delta", "thinking_delta", "input_json_delta"] | None = None


class _Piece(msgspec.Struct):
    type: Literal["content_block_delta"]
    index: int
    delta: _PieceDelta
    error: None = None


_decode_piece = msgspec.json.Decoder(_Piece).decode


class AnthropicParser:
    """A `StreamParser` for one body."""

    def __init__(self, profile: Profile, dialect: str) -> None:
        self._finish_is_required = profile.finish_reason_required
        self._stream = EventStream()
        self._blocks = BlockReader(dialect)
        self._usage = MessageUsage()
        self._told_facts: dict[str, str] = {}
        self._has_started = False
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

    # --- Events -----------------------------------------------------------------------------------------------------

    def _read(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        if self._has_failed or (not self._is_finished and self._read_piece(event, events)):
            return
        if event.error or event.name == b"error":
            value = _json_or_words(event.error or event.data)
            self._fail_by_frame(find_error(value) or value, events)
        elif event.data.strip() == b"[DONE]":
            self._read_done(events)
        elif event.data.strip():
            self._read_json(event, events)

    def _read_piece(self, event: SseEvent, events: list[UpstreamEvent]) -> bool:
        """The fast path: more of a block that is open."""
        if event.error or event.bare or event.name not in (b"content_block_delta", b""):
            return False
        try:
            piece = _decode_piece(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        blocks, delta = self._blocks, piece.delta
        if delta.type == "text_delta" and (block := blocks.find(piece.index, TEXT)):
            blocks.add_text(block, delta.text, events)
        elif delta.type == "thinking_delta" and (block := blocks.find(piece.index, REASONING)):
            blocks.add_reasoning(block, delta.thinking, events)
        elif delta.type == "input_json_delta" and (block := blocks.find(piece.index, TOOL)):
            blocks.add_arguments(block, delta.partial_json, events)
        else:
            return False
        return True

    def _read_json(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        try:
            value = decode_json(event.data)
        except ValueError:
            self._fail(UpstreamMalformed("an event of the upstream is not JSON"), events)
            return
        if error := find_error(value):
            self._fail_by_frame(error, events)
        elif event.bare:
            self._fail(UpstreamMalformed("the upstream sent JSON outside its events"), events)
        elif isinstance(value, dict):
            kind = as_text(value.get("type")) or event.name.decode("utf-8", "replace")
            self._read_event(kind, value, events)
        else:
            events.append(EventIgnored(kind=f"json {type(value).__name__}"))

    def _read_event(self, kind: str, value: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        match kind:
            case "ping":
                pass
            case "message_start":
                self._read_start(as_object(value.get("message")), events)
            case "content_block_start" | "content_block_delta" | "content_block_stop" if self._is_finished:
                events.append(EventIgnored(kind=f"{kind} after the stop reason"))
            case "content_block_start":
                self._blocks.start(value.get("index"), as_object(value.get("content_block")), events)
            case "content_block_delta":
                self._blocks.delta(value.get("index"), as_object(value.get("delta")), events)
            case "content_block_stop":
                self._blocks.stop(value.get("index"), events)
            case "message_delta":
                self._read_message_delta(as_object(value.get("delta")), value.get("usage"), events)
            case "message_stop":
                self._read_done(events)
            case _:
                events.append(EventIgnored(kind=cut_words(kind, 64) or "event"))

    def _read_start(self, message: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        if self._has_started:
            events.append(EventIgnored(kind="message_start again"))
            return
        self._has_started = True
        identity = [cut_words(as_text(message.get(field)), _MAX_FACT_BYTES) for field in ("id", "model")]
        self._blocks.response_id = identity[0]
        if any(identity):
            events.append(ResponseStarted(upstream_request_id=identity[0], upstream_model=identity[1]))
        self._usage.start(message.get("usage"))
        self._report_usage(events)

    def _read_message_delta(self, delta: dict[str, JsonValue], usage: JsonValue, events: list[UpstreamEvent]) -> None:
        """The marker goes before the account that comes with it: whoever waits for the account then has it."""
        reason = as_text(delta.get("stop_reason"))
        if reason and not self._is_finished:
            self._finish(_FINISH_REASONS.get(reason, FinishReason.OTHER), reason, events)
        self._usage.add(usage)
        self._report_usage(events)
        self._tell(_stop_facts(delta), events)

    # --- Endings ----------------------------------------------------------------------------------------------------

    def _finish(self, reason: FinishReason, raw: str, events: list[UpstreamEvent]) -> None:
        self._is_finished = True
        self._blocks.finish(events)
        events.append(ModelFinished(reason=reason, raw=cut_words(raw, _MAX_FACT_BYTES)))

    def _read_done(self, events: list[UpstreamEvent]) -> None:
        if not self._is_done:
            self._is_done = True
            self._finish_stream(events)

    def _finish_stream(self, events: list[UpstreamEvent]) -> None:
        """The end, by `message_stop` or by the end of the body; no finish without a stop reason (DESIGN §5 (10))."""
        if self._is_finished:
            return
        if self._finish_is_required or not self._blocks.has_output:
            self._fail(UpstreamTruncated(), events)
            return
        self._finish(FinishReason.OTHER, "", events)
        self._report_usage(events)

    def _report_usage(self, events: list[UpstreamEvent]) -> None:
        source = UsageSource.UPSTREAM_FINAL if self._is_finished else UsageSource.UPSTREAM_RUNNING
        if (usage := self._usage.report(source)) is not None:
            events.append(UsageReported(usage=usage))
        self._tell(self._usage.facts, events)

    def _tell(self, facts: dict[str, str], events: list[UpstreamEvent]) -> None:
        """Facts beside the message, when they are new."""
        fresh = {name: fact for name, fact in facts.items() if self._told_facts.get(name) != fact}
        if fresh:
            self._told_facts.update(fresh)
            events.append(MetadataReported(metadata=fresh))

    def _fail_by_frame(self, error: JsonValue, events: list[UpstreamEvent]) -> None:
        if self._usage.use_early_output():
            self._report_usage(events)
        self._fail(failure_of_frame(error), events)

    def _fail(self, failure: RunFailure, events: list[UpstreamEvent]) -> None:
        self._has_failed = True
        events.append(UpstreamFailed(failure=failure))


def _stop_facts(delta: dict[str, JsonValue]) -> dict[str, str]:
    """Which sequence stopped it, and what is said of a refusal."""
    details = as_object(delta.get("stop_details"))
    facts = {
        "stop_sequence": delta.get("stop_sequence"),
        "stop_details.category": details.get("category"),
        "stop_details.explanation": details.get("explanation"),
    }
    return {name: cut_words(text, _MAX_FACT_BYTES) for name, fact in facts.items() if (text := as_text(fact))}


def _json_or_words(data: bytes) -> JsonValue:
    try:
        return decode_json(data)
    except ValueError:
        return data.decode("utf-8", "replace")
