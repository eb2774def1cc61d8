"""Responses streams as events: https://platform.openai.com/docs/api-reference/responses-streaming.

`ResponsesParser` reads the frames and decides what ends the answer; `ItemReader` (openai_responses_items) turns output
items into parts. Most events are a piece of text and nothing else: those are decoded into `_Delta`, and whatever does
not fit takes the general path.
"""

from typing import Annotated, Literal

import msgspec

from midstream_server.errors import RunFailure, UpstreamMalformed, UpstreamTruncated, UpstreamUnavailable
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
from midstream_server.upstreams.json_text import as_list, as_object, as_text, cut_words, decode_json
from midstream_server.upstreams.openai_errors import failure_of_frame, find_error
from midstream_server.upstreams.openai_responses_items import ARGUMENTS, REFUSAL, SUMMARY, TEXT, THOUGHT, ItemReader
from midstream_server.upstreams.openai_usage import as_final, find_usage
from midstream_server.upstreams.sse import SseDecoder, SseEvent

_DELTAS = {
    "response.output_text.delta": TEXT,
    "response.refusal.delta": REFUSAL,
    "response.reasoning_summary_text.delta": SUMMARY,
    "response.reasoning_text.delta": THOUGHT,
    "response.function_call_arguments.delta": ARGUMENTS,
}
_NEWS = frozenset({"response.created", "response.in_progress", "response.queued"})
_ENDINGS = ("completed", "incomplete", "failed", "cancelled")
_ENDING_EVENTS = frozenset({"response.done", *(f"response.{ending}" for ending in _ENDINGS)})
_REPEATED = frozenset(
    {
        "response.content_part.added",
        "response.content_part.done",
        "response.function_call_arguments.done",
        "response.output_text.done",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done",
        "response.reasoning_summary_text.done",
        "response.reasoning_text.done",
        "response.refusal.done",
    }
)
"""Events that say again what deltas and items say."""
_CUTS = {"max_output_tokens": FinishReason.LENGTH, "content_filter": FinishReason.CONTENT_FILTER}
_ERROR_FIELDS = ("code", "message")
_MAX_METADATA_BYTES = 256


class _Delta(msgspec.Struct):
    type: Literal[
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_text.delta",
        "response.function_call_arguments.delta",
    ]
    delta: str
    output_index: Annotated[int, msgspec.Meta(ge=0)]
    content_index: Annotated[int, msgspec.Meta(ge=0)] = 0
    summary_index: Annotated[int, msgspec.Meta(ge=0)] = 0
    logprobs: list[None] | None = None
    error: None = None
    timings: None = None


_decode_delta = msgspec.json.Decoder(_Delta).decode


class ResponsesParser:
    """A `StreamParser` for one body."""

    def __init__(self, profile: Profile, dialect: str) -> None:
        self._finish_is_required = profile.finish_reason_required
        self._decoder = SseDecoder()
        self._items = ItemReader(dialect)
        self._identity = ("", "")
        self._service_tier = ""
        self._usage: Usage | None = None
        self._has_started = False
        self._is_finished = False
        self._has_failed = False

    def feed(self, data: bytes) -> list[UpstreamEvent]:
        """The events that these bytes complete."""
        events: list[UpstreamEvent] = []
        if self._has_failed or not (self._has_started or self._looks_like_events(data, events)):
            return events
        for event in self._decoder.feed(data):
            self._read(event, events)
            if self._has_failed:
                return events
        if self._decoder.overflowed:
            self._fail(UpstreamMalformed("an event of the upstream is larger than 4 MiB"), events)
        return events

    def close(self) -> list[UpstreamEvent]:
        """The end of the body: what an unterminated last event held, and what only the end tells."""
        events: list[UpstreamEvent] = []
        if self._has_failed:
            return events
        for event in self._decoder.close():
            self._read_unterminated(event, events)
        if not self._has_failed:
            self._end_stream(events)
        return events

    def _looks_like_events(self, data: bytes, events: list[UpstreamEvent]) -> bool:
        start = data.lstrip()[:1]
        self._has_started = bool(start)
        if start == b"<":
            self._fail(UpstreamMalformed("the upstream answered with markup where an event stream should be"), events)
            return False
        return True

    # --- Frames -----------------------------------------------------------------------------------------------------

    def _read(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        if not self._is_finished and not event.error and not event.bare and self._read_delta(event.data, events):
            return
        if event.error:
            self._fail_by_frame(_json_or_words(event.error), events)
        elif event.name == b"error":
            self._fail_by_frame(_json_or_words(event.data), events)
        elif event.data.strip() == b"[DONE]":
            self._end_stream(events)
        elif event.data.strip():
            self._read_json(event, events)

    def _read_unterminated(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        """An event that the end of the body cut counts only if its data is whole."""
        if not event.error and event.data.strip() != b"[DONE]":
            try:
                decode_json(event.data)
            except ValueError:
                return
        self._read(event, events)

    def _read_delta(self, data: bytes, events: list[UpstreamEvent]) -> bool:
        """The fast path: an event that brings a piece of something, and nothing else."""
        try:
            event = _decode_delta(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if event.delta:
            kind = _DELTAS[event.type]
            index = 0 if kind is ARGUMENTS else event.summary_index if kind is SUMMARY else event.content_index
            self._items.add(kind, event.output_index, index, event.delta, events)
        return True

    def _read_json(self, event: SseEvent, events: list[UpstreamEvent]) -> None:
        try:
            value = decode_json(event.data)
        except ValueError:
            self._fail(UpstreamMalformed("an event of the upstream is not JSON"), events)
            return
        frame = as_object(value)
        kind = as_text(frame.get("type")) or event.name.decode("utf-8", "replace")
        if find_error(value) or kind == "error" or (event.bare and (frame.get("detail") or frame.get("message"))):
            self._fail_by_frame(value, events)
        elif event.bare:
            self._fail(UpstreamMalformed("the upstream sent JSON outside its events"), events)
        elif self._is_finished:
            events.append(EventIgnored(kind=cut_words(kind, 64) or "event"))
        else:
            self._read_event(kind, frame, events)

    def _read_event(self, kind: str, event: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        if kind in _ENDING_EVENTS:
            self._read_ending(kind, event, events)
            return
        self._read_usage({"timings": event.get("timings")}, events)
        if delta := _DELTAS.get(kind):
            self._items.add_delta(delta, event, events)
        elif kind in _NEWS:
            self._read_head(as_object(event.get("response")), events)
        elif kind == "response.output_item.added":
            self._items.open_item(event, events)
        elif kind == "response.output_item.done":
            self._items.close_item(event, events)
        elif kind == "response.output_text.annotation.added":
            self._items.annotate(event, events)
        elif kind not in _REPEATED:
            events.append(EventIgnored(kind=cut_words(kind, 64) or "event"))

    def _read_head(self, response: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """What the response says of itself: the first id, the model whenever it changes."""
        response_id, model, tier = (
            cut_words(as_text(response.get(name)), _MAX_METADATA_BYTES) for name in ("id", "model", "service_tier")
        )
        identity = (self._identity[0] or response_id, model or self._identity[1])
        if identity != self._identity:
            self._identity = identity
            self._items.identify(response_id)
            events.append(ResponseStarted(upstream_request_id=identity[0], upstream_model=identity[1]))
        if tier not in ("", self._service_tier):
            self._service_tier = tier
            events.append(MetadataReported(metadata={"service_tier": tier}))

    def _read_usage(self, holder: dict[str, JsonValue], events: list[UpstreamEvent], *, is_final: bool = False) -> None:
        if (usage := find_usage(holder, {})) is not None:
            self._usage = as_final(usage) if is_final else usage
            events.append(UsageReported(usage=self._usage))

    # --- Endings ----------------------------------------------------------------------------------------------------

    def _read_ending(self, kind: str, event: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        response = as_object(event.get("response"))
        self._read_head(response, events)
        if not self._items.has_output:
            for index, item in enumerate(as_list(response.get("output"))):
                self._items.close_item({"output_index": index, "item": item}, events)
        self._read_usage({"timings": event.get("timings")} | response, events, is_final=True)
        status = as_text(response.get("status"))
        self._end(status if status in _ENDINGS else kind.removeprefix("response."), response, events)

    def _end(self, status: str, response: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """https://platform.openai.com/docs/api-reference/responses/object#responses/object-status."""
        match status:
            case "failed":
                self._finish(None, status, events)
                self._fail(failure_of_frame(find_error(response)), events)
            case "cancelled":
                # Not by us: after a cancel of ours nobody reads any more.
                self._finish(None, status, events)
                self._fail(UpstreamUnavailable("the response was cancelled at the upstream"), events)
            case "incomplete":
                reason = cut_words(as_text(as_object(response.get("incomplete_details")).get("reason")), 128)
                raw = f"{status}:{reason}" if reason else status
                self._finish(_CUTS.get(reason, FinishReason.OTHER), raw, events)
            case _:
                self._finish(self._reason_to_stop(), status, events)

    def _reason_to_stop(self) -> FinishReason:
        """A response does not say why it is complete: its items do."""
        if self._items.has_calls:
            return FinishReason.TOOL_CALLS
        return FinishReason.REFUSAL if self._items.has_refusal else FinishReason.STOP

    def _end_stream(self, events: list[UpstreamEvent]) -> None:
        """The end, by `[DONE]` or by the end of the body; no finish without an ending event (DESIGN §5, rule 10)."""
        if self._is_finished:
            return
        if self._finish_is_required or not self._items.has_output:
            self._fail(UpstreamTruncated(), events)
            return
        if self._usage is not None:
            self._usage = as_final(self._usage)
            events.append(UsageReported(usage=self._usage))
        self._finish(FinishReason.OTHER, "", events)

    def _finish(self, reason: FinishReason | None, raw: str, events: list[UpstreamEvent]) -> None:
        self._is_finished = True
        events.append(ModelFinished(reason=reason, raw=raw))

    def _fail_by_frame(self, value: JsonValue, events: list[UpstreamEvent]) -> None:
        """An error, its words in an object of their own or beside the type.

        The API's own error event makes the response `failed`; the `response.failed` that may follow only says it again.
        """
        frame = as_object(value)
        error = find_error(value)
        if frame.get("type") == "error":
            error = error or {name: frame[name] for name in _ERROR_FIELDS if frame.get(name) is not None}
            if not self._is_finished:
                self._finish(None, "failed", events)
        self._fail(failure_of_frame(error or value), events)

    def _fail(self, failure: RunFailure, events: list[UpstreamEvent]) -> None:
        self._has_failed = True
        events.append(UpstreamFailed(failure=failure))


def _json_or_words(data: bytes) -> JsonValue:
    try:
        return decode_json(data)
    except ValueError:
        return data.decode("utf-8", "replace")
