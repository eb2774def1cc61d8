"""The events of Cohere's chat: https://docs.cohere.com/docs/streaming."""

from typing import Literal

import msgspec

from midstream_server.errors import RunFailure
from midstream_server.model import FinishReason, JsonValue, PartState, ReasoningDelta, TextDelta, ToolCallDelta
from midstream_server.model import UsageSource as Source
from midstream_server.upstreams.answer import Answer, PartSequence, account
from midstream_server.upstreams.base import MetadataReported, PartDelta
from midstream_server.upstreams.cohere.errors import FAILED_ENDINGS, failure_of_frame, find_error
from midstream_server.upstreams.cohere.texts import SaidTexts, read_logprobs
from midstream_server.upstreams.mapping import made_call_id
from midstream_server.upstreams.wire.frame import Frame
from midstream_server.upstreams.wire.json_text import as_count, as_object, as_text, plain_decoder

END_KIND = "message-end"
_TEXT, _REASONING = "text", "reasoning"
_FINISH_REASONS = {
    "COMPLETE": FinishReason.STOP,
    "STOP_SEQUENCE": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "TOOL_CALL": FinishReason.TOOL_CALLS,
    "ERROR_LIMIT": FinishReason.LENGTH,
    "ERROR_TOXIC": FinishReason.CONTENT_FILTER,
}
"""https://docs.cohere.com/reference/chat-stream; the last two are those of older models."""
_BILLED = ("input_tokens", "output_tokens", "search_units", "classifications")
_MAX_PLAN_CHARACTERS = 2048


class _Content(msgspec.Struct):
    text: str = ""
    thinking: str = ""


class _Message(msgspec.Struct):
    content: _Content


class _Delta(msgspec.Struct):
    message: _Message


class _Piece(msgspec.Struct):
    type: Literal["content-delta"]
    delta: _Delta
    index: int = 0
    logprobs: None = None
    error: None = None


_decode_piece = plain_decoder(_Piece)


class ChatRules:
    """The `AnswerRules` of Cohere's chat."""

    def __init__(self) -> None:
        self._parts = PartSequence()
        self._block = 0
        """The index of the block that the open part is."""
        self._texts = SaidTexts()
        self._calls: dict[int | None, str] = {}
        """The key of the open call at each index."""
        self._call_count = 0
        self._identity = ""
        self._plan = ""

    def read_plain(self, frame: Frame, answer: Answer) -> bool:
        """A piece of text or thinking."""
        if frame.name not in (b"content-delta", b"") or (piece := _decode_piece(frame.data)) is None:
            return False
        content = piece.delta.message.content
        self._say(piece.index, content.thinking, content.text, answer)
        return True

    def read(self, kind: str, value: dict[str, JsonValue], answer: Answer) -> bool:
        """An event; its name is in its data too."""
        delta = as_object(value.get("delta"))
        message, index = as_object(delta.get("message")), as_count(value.get("index"))
        match kind:
            case "message-start":
                self._identity = self._identity or as_text(value.get("id"))
                answer.identify(self._identity, "")
            case "content-start" | "content-delta":
                self._read_content(kind, value, message.get("content"), answer)
            case "content-end":
                self._parts.close(answer.events)
            case "tool-plan-delta":
                self._add_plan(as_text(message.get("tool_plan")) or as_text(delta.get("tool_plan")), answer)
            case "tool-call-start" | "tool-call-delta":
                self._read_call(kind, index, _only(message.get("tool_calls")), answer)
            case "tool-call-end":
                self._end_call(index, answer)
            case "citation-start":
                self._cite(_only(message.get("citations")), answer)
            case "message-end":
                self._finish(delta, answer)
            case "citation-end" | "debug":
                pass
            case _:
                return False
        return True

    def find_error(self, value: JsonValue) -> JsonValue:
        """The error in a frame, or None."""
        return find_error(value)

    def failure_of(self, error: JsonValue, answer: Answer) -> RunFailure:
        """The failure that an error means."""
        return failure_of_frame(error)

    def settle(self, answer: Answer) -> None:
        """Nothing is held back: the account comes with the finish."""

    # --- Text and thinking -------------------------------------------------------------------------------------------

    def _read_content(self, kind: str, value: dict[str, JsonValue], content: JsonValue, answer: Answer) -> None:
        """A block begins, mostly empty, or goes on: https://docs.cohere.com/docs/streaming#basic-chat-stream-events."""
        if kind == "content-start":
            self._parts.close(answer.events)
        for each in content if isinstance(content, list) else [content]:
            block = as_object(each)
            text = as_text(each) or as_text(block.get("text"))
            self._say(as_count(value.get("index")) or 0, as_text(block.get("thinking")), text, answer)
        if (logprobs := read_logprobs(value.get("logprobs"))) and self._parts.kind is _TEXT:
            answer.events.append(PartDelta(part=self._parts.key, logprobs=logprobs))

    def _say(self, index: int, thinking: str, text: str, answer: Answer) -> None:
        """https://docs.cohere.com/docs/reasoning: what was thought is a block of its own; a block is a part."""
        if index != self._block:
            self._parts.close(answer.events)
            self._block = index
        if thinking:
            self._parts.add(_REASONING, ReasoningDelta(thinking), answer.events)
        if text:
            self._parts.add(_TEXT, TextDelta(text), answer.events)
            self._texts.add(index, self._parts.key, text)

    def _cite(self, citation: dict[str, JsonValue], answer: Answer) -> None:
        """It may come behind the end of its text, which it does not open again."""
        cited = self._texts.cite(citation)
        if cited is None:
            answer.ignore("citation")
        else:
            answer.events.append(cited)

    # --- Tools -------------------------------------------------------------------------------------------------------

    def _add_plan(self, words: str, answer: Answer) -> None:
        """What the model means to do with its tools. Told as it grows: a run that is stopped in it keeps it so far."""
        plan = (self._plan + words)[:_MAX_PLAN_CHARACTERS]
        if plan != self._plan:
            self._plan = plan
            answer.events.append(MetadataReported(metadata={"tool_plan": plan}))

    def _read_call(self, kind: str, index: int | None, call: dict[str, JsonValue], answer: Answer) -> None:
        """https://docs.cohere.com/docs/tool-use-streaming; an id or a name that is said again replaces."""
        function = as_object(call.get("function"))
        call_id, name, key = as_text(call.get("id")), as_text(function.get("name")), self._calls.get(index)
        if key is None and (kind == "tool-call-delta" or not (call_id or name)):
            answer.ignore("tool call that has not begun")
            return
        if key is None or (call_id and name):
            self._parts.close(answer.events)
            self._call_count += 1
            key = self._calls[index] = f"call:{self._call_count}"
            call_id = call_id or made_call_id(self._identity, self._call_count)
        payload = ToolCallDelta(id=call_id, name=name, arguments=as_text(function.get("arguments")))
        answer.events.append(PartDelta(part=key, payload=payload))

    def _end_call(self, index: int | None, answer: Answer) -> None:
        key = self._calls.pop(index, None)
        if key is None:
            answer.ignore("tool call that has not begun")
        else:
            answer.events.append(PartDelta(part=key, part_end=PartState.COMPLETE))

    # --- Endings -----------------------------------------------------------------------------------------------------

    def _finish(self, delta: dict[str, JsonValue], answer: Answer) -> None:
        """The last event. `tokens` is what the model read and wrote, `billed_units` what is paid for.

        https://docs.cohere.com/docs/how-does-cohere-pricing-work
        """
        if word := as_text(delta.get("finish_reason")):
            answer.finish(None if word in FAILED_ENDINGS else _FINISH_REASONS.get(word, FinishReason.OTHER), word)
        usage = as_object(delta.get("usage"))
        tokens, billed = as_object(usage.get("tokens")), as_object(usage.get("billed_units"))
        units = {f"billed_{name}": count for name in _BILLED if (count := as_count(billed.get(name))) is not None}
        read, written = as_count(tokens.get("input_tokens")), as_count(tokens.get("output_tokens"))
        cached = as_count(usage.get("cached_tokens"))
        answer.report(account(Source.UPSTREAM_FINAL, units, input=read, cached_input=cached, output=written))


def _only(value: JsonValue) -> dict[str, JsonValue]:
    """The one object that is sent at a time; some servers put it in a list, as its name says."""
    return as_object(value[0] if isinstance(value, list) and value else value)
