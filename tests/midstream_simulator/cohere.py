"""Cohere's chat API, version 2, from the server's side: https://docs.cohere.com/docs/streaming."""

import time
from collections.abc import Sequence
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
_FINISH_REASONS = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL"}
_ERROR_WORDS = {"rate_limit_error": "rate limit: ", "invalid_request_error": "invalid request: "}
"""An error is words alone, so these say of which kind it is."""


def _event(kind: str, *, message: JsonObject | None = None, **fields: Any) -> bytes:
    delta = {} if message is None else {"delta": {"message": message}}
    return f"event: {kind}\ndata: {to_json({'type': kind, **fields, **delta})}\n\n".encode()


class CohereEncoder:
    """Encodes one answer as named events. Text and thinking end when another block begins; calls with the answer."""

    def __init__(self, body: JsonObject, number: int) -> None:
        self.output_tokens = 0
        self.pieces: list[str] = []
        self._prompt_tokens = sum(len(text_of(message).split()) for message in messages_of(body))
        self._id = f"00000000-0000-4000-8000-{number:012}"
        self._blocks = 0
        self._open = ""
        """The kind of the open block, if one is; its index is the last."""
        self._calls: dict[int, None] = {}
        """The script's indexes of the calls that have begun."""

    def frames(self, step: ContentStep) -> Frames:
        """The events of a step."""
        match step:
            case Role():
                return Frames(1, lambda _: self._start())
            case Text(pieces=pieces, choice=choice):
                return self._pieces("text", [] if choice else pieces)
            case Refusal(pieces=pieces):
                return self._pieces("text", pieces)
            case Reasoning(pieces=pieces):
                return self._pieces("thinking", pieces)
            case Stamps(count=count):
                return self._stamps(count)
            case ToolCall():
                return self._tool_call(step)
            case _:
                return self._last_events(step)

    def _last_events(self, step: Finish | Usage | Done | Error | Comment) -> Frames:
        match step:
            case Finish(reason=reason):
                return Frames(1, lambda _: self._finish(reason))
            case Usage():
                return Frames(0, lambda _: b"")
            case Done():
                return Frames(1, lambda _: b"data: [DONE]\n\n")
            case Error(message=message, type=kind):
                words = _ERROR_WORDS.get(kind, "") + message
                return Frames(1, lambda _: f"data: {to_json({'message': words})}\n\n".encode())
            case Comment(count=count):
                return Frames(count, lambda _: b": ping\n\n")
            case _:
                assert_never(step)

    def _start(self) -> bytes:
        empty = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        return _event("message-start", id=self._id, message=empty)

    # --- Blocks ------------------------------------------------------------------------------------------------------

    def _begin(self, kind: str) -> bytes:
        """Ends what is open and begins a block of this kind, if none is open."""
        if self._open == kind:
            return b""
        ended, self._open = self._end(), kind
        self._blocks += 1
        return ended + _event("content-start", index=self._blocks - 1, message={"content": {"type": kind, kind: ""}})

    def _end(self) -> bytes:
        is_open, self._open = bool(self._open), ""
        return _event("content-end", index=self._blocks - 1) if is_open else b""

    def _said(self, kind: str, text: str) -> bytes:
        """More of a block, and its beginning."""
        begun = self._begin(kind)
        return begun + _event("content-delta", index=self._blocks - 1, message={"content": {kind: text}})

    def _pieces(self, kind: str, pieces: Sequence[str]) -> Frames:
        def render(index: int) -> bytes:
            self.output_tokens += 1
            if kind == "text":
                self.pieces.append(pieces[index])
            return self._said(kind, pieces[index])

        return Frames(len(pieces), render)

    def _stamps(self, count: int) -> Frames:
        """Only the stamp changes, so everything around it is encoded once, when the block has begun."""
        surroundings: list[bytes] = []

        def render(_: int) -> bytes:
            self.output_tokens += 1
            begun = self._begin("text")
            if not surroundings:
                surroundings.extend(self._said("text", f"T{_STAMP}").split(_STAMP.encode()))
            return b"%b%b%016x%b" % (begun, surroundings[0], time.monotonic_ns(), surroundings[1])

        return Frames(count, render)

    def _tool_call(self, step: ToolCall) -> Frames:
        skipped = 0 if step.id or step.name else 1

        def render(index: int) -> bytes:
            if index + skipped == 0:
                self._calls[step.index] = None
                call = {"id": step.id, "type": "function", "function": {"name": step.name, "arguments": ""}}
                return self._end() + _event("tool-call-start", index=step.index, message={"tool_calls": call})
            self.output_tokens += 1
            arguments = {"arguments": step.fragments[index + skipped - 1]}
            return _event("tool-call-delta", index=step.index, message={"tool_calls": {"function": arguments}})

        return Frames(len(step.fragments) + 1 - skipped, render)

    # --- Endings -----------------------------------------------------------------------------------------------------

    def _finish(self, reason: str) -> bytes:
        ended = self._end() + b"".join(_event("tool-call-end", index=index) for index in self._calls)
        usage = {
            "billed_units": {"input_tokens": self._prompt_tokens, "output_tokens": self.output_tokens},
            "tokens": {"input_tokens": self._prompt_tokens + 100, "output_tokens": self.output_tokens},
        }
        delta = {"finish_reason": _FINISH_REASONS.get(reason, reason), "usage": usage}
        return ended + _event("message-end", delta=delta)


class CohereDialect(MessageBodies):
    """The path, the errors, and what a request asks for."""

    content_type = "text/event-stream"

    def model(self, path: str, body: JsonObject) -> str | None:
        """The model that a POST to this path asks for."""
        return str(body.get("model", "")) if path.endswith("/v2/chat") else None

    def encoder(self, body: JsonObject, number: int) -> Encoder:
        """For one answer."""
        return CohereEncoder(body, number)

    def error_body(self, status: int, message: str = "") -> JsonObject:
        """https://docs.cohere.com/reference/errors."""
        return {"message": message or f"simulated error {status}"}

    def refuse(self, body: JsonObject) -> str | None:
        """Messages must be objects, and only streams are spoken."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or len(messages_of(body)) != len(messages):
            return "invalid request: messages must be a list of objects"
        return None if body.get("stream") is True else "the simulator only streams: set stream to true"

    def max_tokens(self, body: JsonObject) -> int | None:
        """The request's limit of output tokens."""
        limit = body.get("max_tokens")
        return limit if isinstance(limit, int) else None
