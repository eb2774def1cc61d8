"""What the tests that all dialects share must know of each. A new dialect is a new row."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midstream_server.upstreams.answer import Framing
from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import Dialect, Profile
from midstream_server.upstreams.cohere import CohereDialect
from midstream_server.upstreams.gemini import GeminiDialect
from midstream_server.upstreams.ollama import OllamaDialect
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from midstream_server.upstreams.wire.json_stream import JsonStream
from midstream_server.upstreams.wire.ndjson import NdjsonDecoder
from midstream_server.upstreams.wire.sse import SseDecoder
from stream_folding import Folded, parse

STREAMS = Path(__file__).resolve().parent / "streams"
FRAMINGS: dict[str, Callable[[], Framing]] = {".sse": SseDecoder, ".json": JsonStream, ".ndjson": NdjsonDecoder}
Value = dict[str, Any]


def as_event(value: object) -> bytes:
    """A value as a server-sent event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def as_line(value: object) -> bytes:
    """A value as a line."""
    return json.dumps(value).encode() + b"\n"


@dataclass(frozen=True, kw_only=True)
class DialectRow:
    """One dialect, with frames of its own that say the same in all."""

    dialect: Dialect
    text: Callable[[str], Value]
    """A frame with a piece of text."""
    end: tuple[Value, ...]
    """The finish, with 3 tokens of input and 2 of output."""
    raw_finish: str
    errors: dict[str, Value]
    """Frames that blame the rate, the request, and nobody."""
    frame: Callable[[object], bytes] = as_event
    frames_are_events: bool = True
    words: tuple[str, ...] = field(default=())
    """Names and values that its frames are made of."""

    @property
    def folder(self) -> Path:
        """Of its hand-written streams."""
        return STREAMS / self.dialect.name.replace("-", "_")

    def body(self, *values: object) -> bytes:
        """Frames as a body."""
        return b"".join(map(self.frame, values))

    def parse(self, *pieces: bytes, profile: Profile | None = None) -> Folded:
        """What a body says that comes in these pieces."""
        return parse(self.dialect.parser(profile or Profile()), pieces)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ROWS = {
    row.dialect.name: row
    for row in (
        DialectRow(
            dialect=AnthropicDialect(),
            text=lambda text: {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": text},
            },
            end=(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"input_tokens": 3, "output_tokens": 2},
                },
                {"type": "message_stop"},
            ),
            raw_finish="end_turn",
            errors={
                "rate": {"type": "error", "error": {"type": "rate_limit_error", "message": "Words"}},
                "request": {"type": "error", "error": {"type": "invalid_request_error", "message": "Words"}},
                "nobody": {"type": "error", "error": {"type": "overloaded_error", "message": "Words"}},
            },
            words=_words(
                "type index delta content_block message usage error text thinking signature data id name input "
                "partial_json citation stop_reason stop_details category input_tokens output_tokens model code "
                "output_tokens_details thinking_tokens cache_creation server_tool_use cited_text tool_use "
                "redacted_thinking text_delta end_turn message_start message_delta message_stop content_block_start "
                "content_block_delta content_block_stop thinking_delta signature_delta input_json_delta"
            ),
        ),
        DialectRow(
            dialect=CohereDialect(),
            text=lambda text: {
                "type": "content-delta",
                "index": 0,
                "delta": {"message": {"content": {"text": text}}},
            },
            end=(
                {
                    "type": "message-end",
                    "delta": {
                        "finish_reason": "COMPLETE",
                        "usage": {"tokens": {"input_tokens": 3, "output_tokens": 2}},
                    },
                },
            ),
            raw_finish="COMPLETE",
            errors={
                "rate": {"message": "Words: rate limit exceeded"},
                "request": {"message": "Words: invalid request"},
                "nobody": {"message": "Words"},
            },
            words=_words(
                "type index delta message content text thinking tool_plan tool_calls id function name arguments "
                "citations start end sources document title url content_index TEXT_CONTENT logprobs token_ids "
                "finish_reason usage tokens input_tokens billed_units cached_tokens error ERROR TIMEOUT COMPLETE "
                "message-start content-start content-delta content-end tool-plan-delta tool-call-start tool-call-delta "
                "tool-call-end citation-start citation-end message-end debug"
            ),
        ),
        DialectRow(
            dialect=GeminiDialect(),
            text=lambda text: {"candidates": [{"content": {"parts": [{"text": text}]}}]},
            end=(
                {
                    "candidates": [{"finishReason": "STOP"}],
                    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
                },
            ),
            raw_finish="STOP",
            errors={
                "rate": {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Words"}},
                "request": {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Words"}},
                "nobody": {"error": {"code": 503, "status": "UNAVAILABLE", "message": "Words"}},
            },
            words=_words(
                "candidates content parts text thought thoughtSignature functionCall name args id partialArgs jsonPath "
                "stringValue numberValue willContinue $.a $.a[0] $.b.c inlineData data mimeType finishReason STOP "
                "finishMessage index usageMetadata promptTokenCount error code status message details promptFeedback "
                "blockReason groundingMetadata groundingChunks groundingSupports segment groundingChunkIndices "
                "logprobsResult"
            ),
        ),
        DialectRow(
            dialect=OllamaDialect(),
            text=lambda text: {"model": "m", "message": {"role": "assistant", "content": text}, "done": False},
            end=({"model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2},),
            raw_finish="stop",
            errors={
                "rate": {"error": "Words: too many requests"},
                "request": {"error": "Words: model not found"},
                "nobody": {"error": "Words"},
            },
            frame=as_line,
            frames_are_events=False,
            words=_words(
                "model message content thinking tool_calls function name arguments id done done_reason stop error "
                "status_code logprobs token images eval_count created_at"
            ),
        ),
        DialectRow(
            dialect=OpenAIChatDialect(),
            text=lambda text: {"choices": [{"index": 0, "delta": {"content": text}}]},
            end=(
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
            ),
            raw_finish="stop",
            errors={
                "rate": {"error": {"code": "rate_limit_exceeded", "message": "Words"}},
                "request": {"error": {"code": "invalid_api_key", "message": "Words"}},
                "nobody": {"error": {"code": "server_error", "message": "Words"}},
            },
            words=_words(
                "choices delta content index tool_calls function arguments name id error usage finish_reason message "
                "code logprobs reasoning_details type text annotations bytes timings x_groq prompt_tokens citations "
                "token signature thinking refusal status"
            ),
        ),
        DialectRow(
            dialect=OpenAIResponsesDialect(),
            text=lambda text: {
                "type": "response.output_text.delta",
                "output_index": 0,
                "content_index": 0,
                "delta": text,
            },
            end=(
                {
                    "type": "response.completed",
                    "response": {"status": "completed", "usage": {"input_tokens": 3, "output_tokens": 2}},
                },
            ),
            raw_finish="completed",
            errors={
                "rate": {"type": "error", "code": "rate_limit_exceeded", "message": "Words"},
                "request": {"type": "error", "code": "invalid_prompt", "message": "Words"},
                "nobody": {"type": "error", "code": "server_error", "message": "Words"},
            },
            words=_words(
                "type response item item_id output_index content_index summary_index delta part annotation annotations "
                "logprobs id call_id name arguments status summary content encrypted_content text refusal error code "
                "message usage output incomplete_details reason input_tokens timings url token model service_tier "
                "function_call reasoning output_text response.output_item.added response.output_item.done "
                "response.output_text.delta response.function_call_arguments.delta response.completed response.failed"
            ),
        ),
    )
}
