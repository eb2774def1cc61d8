"""OpenAI Chat Completions, from the provider's side.

https://platform.openai.com/docs/api-reference/chat-streaming
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, assert_never

from midstream_simulator.bodies import MessageBodies, messages_of, text_of, to_json
from midstream_simulator.dialect import Encoder, Frames, JsonObject
from midstream_simulator.steps import (
    Comment,
    ContentStep,
    Done,
    Error,
    Finish,
    Reasoning,
    Refusal,
    Role,
    Stamps,
    Text,
    ToolCall,
    Usage,
)

_CREATED = 1763800000
_STAMP = "0123456789abcdef"
_ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ChatEncoder:
    """Encodes one answer as `chat.completion.chunk` events."""

    def __init__(self, body: JsonObject, number: int) -> None:
        self.output_tokens = 0
        self.pieces: list[str] = []
        self._reasoning_tokens = 0
        self._prompt_tokens = sum(len(text_of(message).split()) for message in messages_of(body))
        options = body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        self._usage_asked = bool(options.get("include_usage"))
        self._usage_always = bool(options.get("continuous_usage_stats"))
        self._base = {
            "id": f"chatcmpl-simulated-{number}",
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": body.get("model", ""),
            "system_fingerprint": "fp_simulator",
        }
        self._prefix = "data: " + to_json(self._base)[:-1]

    def frames(self, step: ContentStep) -> Frames:
        """The events of a step."""
        match step:
            case Role(content=content):
                return self._one({"role": "assistant", "content": content, "refusal": None})
            case Text(pieces=pieces, choice=choice):
                return self._pieces(pieces, lambda piece: {"content": piece}, choice)
            case Refusal(pieces=pieces):
                return self._pieces(pieces, lambda piece: {"refusal": piece})
            case Reasoning(pieces=pieces, field=field):
                return Frames(len(pieces), lambda index: self._reasoning(pieces[index], field))
            case Stamps(count=count):
                return self._stamps(count)
            case ToolCall():
                return self._tool_call(step)
            case _:
                return self._last_events(step)

    def _last_events(self, step: Finish | Usage | Done | Error | Comment) -> Frames:
        match step:
            case Finish(reason=reason):
                return self._one({}, reason)
            case Usage():
                wanted = self._usage_asked or not step.if_asked
                return Frames(int(wanted), lambda _: self._event({"choices": [], "usage": self._usage(step)}))
            case Done():
                return Frames(1, lambda _: b"data: [DONE]\n\n")
            case Error():
                return Frames(1, lambda _: self._error(step))
            case Comment(text=text, count=count):
                return Frames(count, lambda _: f": {text}\n\n".encode())
            case _:
                assert_never(step)

    def _event(self, fields: dict[str, Any]) -> bytes:
        return f"{self._prefix},{to_json(fields)[1:]}\n\n".encode()

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, choice: int = 0) -> bytes:
        fields: dict[str, Any] = {
            "choices": [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}]
        }
        if self._usage_always:
            fields["usage"] = self._usage(Usage())
        return self._event(fields)

    def _one(self, delta: dict[str, Any], finish: str | None = None) -> Frames:
        return Frames(1, lambda _: self._chunk(delta, finish))

    def _pieces(self, pieces: Sequence[str], delta: Callable[[str], dict[str, Any]], choice: int = 0) -> Frames:
        def render(index: int) -> bytes:
            self.output_tokens += 1
            if choice == 0:
                self.pieces.append(pieces[index])
            return self._chunk(delta(pieces[index]), choice=choice)

        return Frames(len(pieces), render)

    def _reasoning(self, piece: str, field: str) -> bytes:
        self.output_tokens += 1
        self._reasoning_tokens += 1
        return self._chunk({field: piece})

    def _stamps(self, count: int) -> Frames:
        """Only the stamp changes, so everything around it is encoded once."""
        before, after = self._chunk({"content": f"T{_STAMP}"}).split(_STAMP.encode())

        def render(_: int) -> bytes:
            self.output_tokens += 1
            return b"%b%016x%b" % (before, time.monotonic_ns(), after)

        return Frames(count, render)

    def _tool_call(self, step: ToolCall) -> Frames:
        opening: dict[str, Any] = {"index": step.index, "id": step.id, "type": "function"}
        opening["function"] = {"name": step.name, "arguments": ""}
        skipped = 0 if step.id or step.name else 1

        def render(index: int) -> bytes:
            if index + skipped == 0:
                return self._chunk({"tool_calls": [opening]})
            self.output_tokens += 1
            fragment = {"arguments": step.fragments[index + skipped - 1]}
            return self._chunk({"tool_calls": [{"index": step.index, "function": fragment}]})

        return Frames(len(step.fragments) + 1 - skipped, render)

    def _usage(self, step: Usage) -> dict[str, Any]:
        prompt = self._prompt_tokens if step.prompt_tokens is None else step.prompt_tokens
        output = self.output_tokens if step.completion_tokens is None else step.completion_tokens
        reasoning = self._reasoning_tokens if step.reasoning_tokens is None else step.reasoning_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": step.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }

    def _error(self, step: Error) -> bytes:
        error = {"error": {"message": step.message, "type": step.type, "param": None, "code": step.code}}
        if step.form == "chunk":
            return self._event({**error, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]})
        name = "event: error\n" if step.form == "event" else ""
        return f"{name}data: {to_json(error)}\n\n".encode()


class ChatDialect(MessageBodies):
    """The path, the errors, and what a request asks for."""

    content_type = "text/event-stream; charset=utf-8"

    def model(self, path: str, body: JsonObject) -> str | None:
        """The model that a POST to this path asks for."""
        return str(body.get("model", "")) if path.endswith("/chat/completions") else None

    def encoder(self, body: JsonObject, number: int) -> Encoder:
        """For one answer."""
        return ChatEncoder(body, number)

    def error_body(self, status: int, message: str = "") -> JsonObject:
        """https://platform.openai.com/docs/guides/error-codes."""
        kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": message or f"simulated error {status}", "type": kind, "param": None, "code": None}}

    def refuse(self, body: JsonObject) -> str | None:
        """Messages must be there, and only streams are spoken."""
        messages = body.get("messages")
        if not isinstance(messages, list) or len(messages_of(body)) != len(messages):
            return "messages must be a list of objects"
        return None if body.get("stream") is True else "the simulator only streams: set stream to true"

    def max_tokens(self, body: JsonObject) -> int | None:
        """By its new name, or by its old one."""
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        return limit if isinstance(limit, int) else None
