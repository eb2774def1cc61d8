"""Messages streams as events: https://platform.claude.com/docs/en/build-with-claude/streaming.

`MessageRules` say what an event means; `BlockReader` (`blocks`) turns content blocks into parts. Most events are a
piece of a block: those are decoded into `_Piece`, and whatever does not fit takes the general path.
"""

from typing import Literal

import msgspec

from midstream_server.errors import RunFailure
from midstream_server.model import FinishReason, JsonValue, UsageSource
from midstream_server.upstreams.answer import Answer
from midstream_server.upstreams.anthropic.blocks import REASONING, TEXT, TOOL, BlockReader
from midstream_server.upstreams.anthropic.errors import failure_of_frame, find_error
from midstream_server.upstreams.anthropic.usage import MessageUsage
from midstream_server.upstreams.wire.frame import Frame
from midstream_server.upstreams.wire.json_text import as_list, as_object, as_text, plain_decoder

END_KIND = "message_stop"
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


_decode_piece = plain_decoder(_Piece)


class MessageRules:
    """The `AnswerRules` of the Messages API."""

    def __init__(self, dialect: str) -> None:
        self._blocks = BlockReader(dialect)
        self._usage = MessageUsage()
        self._has_started = False

    def read_plain(self, frame: Frame, answer: Answer) -> bool:
        """More of a block that is open."""
        if frame.name not in (b"content_block_delta", b""):
            return False
        piece = _decode_piece(frame.data)
        if piece is None:
            return False
        blocks, delta, events = self._blocks, piece.delta, answer.events
        if delta.type == "text_delta" and (block := blocks.find(piece.index, TEXT)):
            blocks.add_text(block, delta.text, events)
        elif delta.type == "thinking_delta" and (block := blocks.find(piece.index, REASONING)):
            blocks.add_reasoning(block, delta.thinking, events)
        elif delta.type == "input_json_delta" and (block := blocks.find(piece.index, TOOL)):
            blocks.add_arguments(block, delta.partial_json, events)
        else:
            return False
        return True

    def read(self, kind: str, value: dict[str, JsonValue], answer: Answer) -> bool:
        """An event: https://platform.claude.com/docs/en/build-with-claude/streaming#event-types."""
        match kind:
            case "ping" | "message_stop":
                pass
            case "message_start":
                self._read_start(as_object(value.get("message")), answer)
            case "message":
                self._read_start(value, answer)  # a gateway that only looks as if it streamed
            case "content_block_start" | "content_block_delta" | "content_block_stop" if answer.is_finished:
                answer.ignore(f"{kind} after the stop reason")
            case "content_block_start":
                self._blocks.start(value.get("index"), as_object(value.get("content_block")), answer.events)
            case "content_block_delta":
                self._blocks.delta(value.get("index"), as_object(value.get("delta")), answer.events)
            case "content_block_stop":
                self._blocks.stop(value.get("index"), answer.events)
            case "message_delta":
                self._read_message_delta(as_object(value.get("delta")), value.get("usage"), answer)
            case _:
                return False
        return True

    def find_error(self, value: JsonValue) -> JsonValue:
        """The error in an event, or None."""
        return find_error(value)

    def failure_of(self, error: JsonValue, answer: Answer) -> RunFailure:
        """The failure that an error means; what the stream said of its output at its start was its last word."""
        if self._usage.use_early_output():
            self._report_usage(answer)
        return failure_of_frame(error)

    def settle(self, answer: Answer) -> None:
        """Arguments that were held back are told, and the last account is the closing one."""
        if answer.is_finished:
            self._report_usage(answer)
        else:
            self._blocks.finish(answer.events)

    def _read_start(self, message: dict[str, JsonValue], answer: Answer) -> None:
        """It may bring blocks, and be all of the answer: what code that the provider ran has called comes so.

        https://platform.claude.com/docs/en/agents-and-tools/tool-use/programmatic-tool-calling
        """
        if self._has_started:
            answer.ignore("message_start again")
            return
        self._has_started = True
        self._blocks.response_id = as_text(message.get("id"))
        answer.identify(message.get("id"), message.get("model"))
        self._usage.start(message.get("usage"))
        self._report_usage(answer)
        contents = as_list(message.get("content"))
        for index, content in enumerate(contents):
            self._blocks.start(index, as_object(content), answer.events)
            self._blocks.stop(index, answer.events)
        if contents:
            self._read_message_delta(message, message.get("usage"), answer)

    def _read_message_delta(self, delta: dict[str, JsonValue], usage: JsonValue, answer: Answer) -> None:
        """The marker goes before the account that comes with it: whoever waits for the account then has it."""
        reason = as_text(delta.get("stop_reason"))
        if reason and not answer.is_finished:
            self._blocks.finish(answer.events)
            answer.finish(_FINISH_REASONS.get(reason, FinishReason.OTHER), reason)
        self._usage.add(usage)
        self._report_usage(answer)
        details = as_object(delta.get("stop_details"))
        answer.tell(
            {
                "stop_sequence": delta.get("stop_sequence"),
                "stop_details.category": details.get("category"),
                "stop_details.explanation": details.get("explanation"),
            }
        )

    def _report_usage(self, answer: Answer) -> None:
        source = UsageSource.UPSTREAM_FINAL if answer.is_finished else UsageSource.UPSTREAM_RUNNING
        answer.report(self._usage.report(source))
        answer.tell(self._usage.facts)
