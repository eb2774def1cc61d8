"""Ollama's chat API, from the server's side: https://docs.ollama.com/api/chat."""

import json
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

_STAMP = "0123456789abcdef"
_DONE_REASONS = {"tool_calls": "stop"}
_ERROR_WORDS = {"rate_limit_error": "too many requests: ", "invalid_request_error": "invalid request: "}
"""An error is words alone, so these say of which kind it is."""


class OllamaEncoder:
    """Encodes one answer as lines of JSON. The account is on the last line, with the finish."""

    def __init__(self, body: JsonObject, number: int) -> None:
        self.output_tokens = 0
        self.pieces: list[str] = []
        self._prompt_tokens = sum(len(text_of(message).split()) for message in messages_of(body))
        self._base = {"model": body.get("model", ""), "created_at": f"2026-01-02T03:04:05.{number:06}Z"}
        self._arguments: dict[int, str] = {}
        """Of calls that are not whole, by the script's index."""
        self._heads: dict[int, dict[str, str]] = {}

    def frames(self, step: ContentStep) -> Frames:
        """The lines of a step."""
        match step:
            case Role():
                return Frames(1, lambda _: self._line({"content": ""}))
            case Text(pieces=pieces, choice=choice):
                return self._pieces([] if choice else pieces, lambda piece: {"content": piece})
            case Refusal(pieces=pieces):
                return self._pieces(pieces, lambda piece: {"content": piece})
            case Reasoning(pieces=pieces):
                return Frames(len(pieces), lambda index: self._thought(pieces[index]))
            case Stamps(count=count):
                return self._stamps(count)
            case ToolCall():
                return self._tool_call(step)
            case _:
                return self._last_lines(step)

    def _last_lines(self, step: Finish | Usage | Done | Error | Comment) -> Frames:
        match step:
            case Finish(reason=reason):
                return Frames(1, lambda _: self._finish(reason))
            case Usage() | Done():
                return Frames(0, lambda _: b"")
            case Error(message=message, type=kind):
                words = _ERROR_WORDS.get(kind, "") + message
                return Frames(1, lambda _: f"{to_json({'error': words})}\n".encode())
            case Comment(count=count):
                return Frames(count, lambda _: b"\n")
            case _:
                assert_never(step)

    def _line(self, message: JsonObject, **fields: Any) -> bytes:
        whole = {**self._base, "message": {"role": "assistant", **message}, "done": False, **fields}
        return f"{to_json(whole)}\n".encode()

    def _pieces(self, pieces: Sequence[str], message: Callable[[str], JsonObject]) -> Frames:
        def render(index: int) -> bytes:
            self.output_tokens += 1
            self.pieces.append(pieces[index])
            return self._line(message(pieces[index]))

        return Frames(len(pieces), render)

    def _thought(self, piece: str) -> bytes:
        self.output_tokens += 1
        return self._line({"content": "", "thinking": piece})

    def _stamps(self, count: int) -> Frames:
        """Only the stamp changes, so everything around it is encoded once."""
        before, after = self._line({"content": f"T{_STAMP}"}).split(_STAMP.encode())

        def render(_: int) -> bytes:
            self.output_tokens += 1
            return b"%b%016x%b" % (before, time.monotonic_ns(), after)

        return Frames(count, render)

    def _tool_call(self, step: ToolCall) -> Frames:
        """One line, when the arguments are whole: Ollama sends no part of a call."""
        text = self._arguments.get(step.index, "") + "".join(step.fragments)
        self._arguments[step.index] = text
        head = self._heads.setdefault(step.index, {"id": step.id, "name": step.name})
        try:
            arguments = json.loads(text or "{}")
        except ValueError:
            return Frames(0, lambda _: b"")

        def render(_: int) -> bytes:
            self.output_tokens += len(step.fragments)
            call: dict[str, Any] = {"function": {"name": head["name"], "arguments": arguments}}
            return self._line({"content": "", "tool_calls": [call | ({"id": head["id"]} if head["id"] else {})]})

        return Frames(1, render)

    def _finish(self, reason: str) -> bytes:
        return self._line(
            {"content": ""},
            done=True,
            done_reason=_DONE_REASONS.get(reason, reason),
            total_duration=90_000_000,
            load_duration=10_000_000,
            prompt_eval_count=self._prompt_tokens,
            prompt_eval_duration=20_000_000,
            eval_count=self.output_tokens,
            eval_duration=60_000_000,
        )


class OllamaDialect(MessageBodies):
    """The path, the errors, and what a request asks for."""

    content_type = "application/x-ndjson"

    def model(self, path: str, body: JsonObject) -> str | None:
        """The model that a POST to this path asks for."""
        return str(body.get("model", "")) if path.endswith("/api/chat") else None

    def encoder(self, body: JsonObject, number: int) -> Encoder:
        """For one answer."""
        return OllamaEncoder(body, number)

    def error_body(self, status: int, message: str = "") -> JsonObject:
        """https://docs.ollama.com/api/errors."""
        return {"error": message or f"simulated error {status}"}

    def refuse(self, body: JsonObject) -> str | None:
        """Messages must be objects, and only streams are spoken."""
        messages = body.get("messages")
        if not isinstance(messages, list) or len(messages_of(body)) != len(messages):
            return "messages must be a list of objects"
        return "the simulator only streams" if body.get("stream") is False else None

    def max_tokens(self, body: JsonObject) -> int | None:
        """The request's limit of output tokens."""
        options = body.get("options")
        limit = options.get("num_predict") if isinstance(options, dict) else None
        return limit if isinstance(limit, int) else None
