"""Responses streams as events: https://platform.openai.com/docs/api-reference/responses-streaming.

`ResponseRules` say what an event means; `ItemReader` (`items`) turns output items into parts. Most events are a piece
of text and nothing else: those are decoded into `_Delta`, and whatever does not fit takes the general path.
"""

from typing import Annotated, Literal

import msgspec

from midstream_server.errors import RunFailure, UpstreamUnavailable
from midstream_server.model import FinishReason, JsonValue, Usage
from midstream_server.upstreams.answer import Answer
from midstream_server.upstreams.openai.errors import failure_of_frame, find_error
from midstream_server.upstreams.openai.usage import as_final, find_usage
from midstream_server.upstreams.openai_responses.items import ARGUMENTS, REFUSAL, SUMMARY, TEXT, THOUGHT, ItemReader
from midstream_server.upstreams.wire.frame import Frame
from midstream_server.upstreams.wire.json_text import as_list, as_object, as_text, plain_decoder

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
        "keepalive",
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
"""Events that say again what deltas and items say, or nothing."""
_CUTS = {"max_output_tokens": FinishReason.LENGTH, "content_filter": FinishReason.CONTENT_FILTER}
_ERROR_FIELDS = ("code", "message")


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


_decode_delta = plain_decoder(_Delta)


class ResponseRules:
    """The `AnswerRules` of the Responses API."""

    def __init__(self, dialect: str) -> None:
        self._items = ItemReader(dialect)
        self._usage: Usage | None = None

    def read_plain(self, frame: Frame, answer: Answer) -> bool:
        """An event that brings a piece of something, and nothing else."""
        event = _decode_delta(frame.data)
        if event is None:
            return False
        if event.delta:
            kind = _DELTAS[event.type]
            index = 0 if kind is ARGUMENTS else event.summary_index if kind is SUMMARY else event.content_index
            self._items.add(kind, event.output_index, index, event.delta, answer.events)
        return True

    def read(self, kind: str, value: dict[str, JsonValue], answer: Answer) -> bool:
        """An event: https://platform.openai.com/docs/api-reference/responses-streaming."""
        if answer.is_finished:
            return False
        if kind in _ENDING_EVENTS:
            self._read_ending(kind, value, answer)
            return True
        self._read_usage({"timings": value.get("timings")}, answer)
        if delta := _DELTAS.get(kind):
            self._items.add_delta(delta, value, answer.events)
        elif kind in _NEWS:
            self._read_head(as_object(value.get("response")), answer)
        elif kind == "response.output_item.added":
            self._items.open_item(value, answer.events)
        elif kind == "response.output_item.done":
            self._items.close_item(value, answer.events)
        elif kind == "response.output_text.annotation.added":
            self._items.annotate(value, answer.events)
        elif value.get("type") == "error":
            # It makes the response `failed`; the `response.failed` that may follow only says it again.
            answer.finish(None, "failed")
        else:
            return kind in _REPEATED
        return True

    def find_error(self, value: JsonValue) -> JsonValue:
        """The error in an event, or None: its words are in an object of their own, or beside the type."""
        error, frame = find_error(value), as_object(value)
        if not error and frame.get("type") == "error":
            error = {name: frame[name] for name in _ERROR_FIELDS if frame.get(name) is not None} or frame
        return error

    def failure_of(self, error: JsonValue, answer: Answer) -> RunFailure:
        """The failure that an error means."""
        return failure_of_frame(error)

    def settle(self, answer: Answer) -> None:
        """The last account is the closing one."""
        if answer.is_finished and self._usage is not None:
            answer.report(as_final(self._usage))

    def _read_head(self, response: dict[str, JsonValue], answer: Answer) -> None:
        self._items.identify(as_text(response.get("id")))
        answer.identify(response.get("id"), response.get("model"))
        answer.tell({"service_tier": response.get("service_tier")})

    def _read_usage(self, holder: dict[str, JsonValue], answer: Answer, *, is_final: bool = False) -> None:
        if (usage := find_usage(holder, {})) is not None:
            self._usage = as_final(usage) if is_final else usage
            answer.report(self._usage)

    # --- Endings ----------------------------------------------------------------------------------------------------

    def _read_ending(self, kind: str, event: dict[str, JsonValue], answer: Answer) -> None:
        response = as_object(event.get("response"))
        self._read_head(response, answer)
        self._items.complete(as_list(response.get("output")), answer.events, is_all=not answer.has_output)
        self._read_usage({"timings": event.get("timings")} | response, answer, is_final=True)
        status = as_text(response.get("status"))
        self._end(status if status in _ENDINGS else kind.removeprefix("response."), response, answer)

    def _end(self, status: str, response: dict[str, JsonValue], answer: Answer) -> None:
        """https://platform.openai.com/docs/api-reference/responses/object#responses/object-status."""
        match status:
            case "failed":
                answer.finish(None, status)
                answer.fail(failure_of_frame(find_error(response)))
            case "cancelled":
                # Not by us: after a cancel of ours nobody reads any more.
                answer.finish(None, status)
                answer.fail(UpstreamUnavailable("the response was cancelled at the upstream"))
            case "incomplete":
                reason = as_text(as_object(response.get("incomplete_details")).get("reason"))
                raw = f"{status}:{reason}" if reason else status
                answer.finish(_CUTS.get(reason, FinishReason.OTHER), raw)
            case _:
                answer.finish(self._reason_to_stop(), status)

    def _reason_to_stop(self) -> FinishReason:
        """A response does not say why it is complete: its items do."""
        if self._items.has_calls:
            return FinishReason.TOOL_CALLS
        return FinishReason.REFUSAL if self._items.has_refusal else FinishReason.STOP
