"""Anthropic Messages, from the provider's side.

https://platform.claude.com/docs/en/build-with-claude/streaming
"""

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
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_BLOCKS: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
"""What a block of this kind is when it begins."""


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {to_json({'type': kind, **fields})}\n\n".encode()


class MessagesEncoder:
    """Encodes one answer as the named events of a message. Text and thinking end when another block begins."""

    def __init__(self, body: JsonObject, number: int) -> None:
        self.output_tokens = 0
        self.pieces: list[str] = []
        system = body.get("system")
        said = [text_of(each) for each in (*messages_of(body), {"content": system})]
        self._prompt_tokens = sum(len(text.split()) for text in said)
        self._message = {
            "id": f"msg_simulated_{number}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model", ""),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._blocks = 0
        self._open = ""
        """The kind of the open block, if it is text or thinking; its index is the last."""
        self._calls: dict[int, int] = {}
        """The block of each tool call, by the script's index."""
        self._has_refused = False

    def frames(self, step: ContentStep) -> Frames:
        """The events of a step."""
        match step:
            case Role():
                usage = {"input_tokens": self._prompt_tokens, "output_tokens": 1}
                return Frames(1, lambda _: _event("message_start", message=self._message | {"usage": usage}))
            case Text(pieces=pieces, choice=choice):
                return self._pieces("text", [] if choice else pieces)
            case Refusal(pieces=pieces):
                self._has_refused = True
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
            case Usage(if_asked=if_asked):
                return Frames(int(not if_asked), lambda _: self._delta({}, self._usage(step)))
            case Done():
                return Frames(1, lambda _: _event("message_stop"))
            case Error():
                return Frames(1, lambda _: self._error(step))
            case Comment(count=count):
                return Frames(count, lambda _: _event("ping"))
            case _:
                assert_never(step)

    # --- Blocks ------------------------------------------------------------------------------------------------------

    def _begin(self, kind: str) -> bytes:
        """Ends what is open and begins a block of this kind, if none is open."""
        if self._open == kind:
            return b""
        ended, self._open = self._end(), kind
        self._blocks += 1
        return ended + _event("content_block_start", index=self._blocks - 1, content_block=_BLOCKS[kind])

    def _end(self) -> bytes:
        kind, self._open = self._open, ""
        if not kind:
            return b""
        index = self._blocks - 1
        signature = {"type": "signature_delta", "signature": f"c2lnbmF0dXJl{index}"}
        signed = _event("content_block_delta", index=index, delta=signature) if kind == "thinking" else b""
        return signed + _event("content_block_stop", index=index)

    def _said(self, kind: str, text: str) -> bytes:
        """More of a block, and its beginning."""
        begun = self._begin(kind)
        return begun + _event(
            "content_block_delta", index=self._blocks - 1, delta={"type": f"{kind}_delta", kind: text}
        )

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
                ended = self._end()
                self._calls[step.index] = self._blocks
                self._blocks += 1
                call = {"type": "tool_use", "id": step.id, "name": step.name, "input": {}}
                return ended + _event("content_block_start", index=self._blocks - 1, content_block=call)
            self.output_tokens += 1
            fragment = {"type": "input_json_delta", "partial_json": step.fragments[index + skipped - 1]}
            return _event("content_block_delta", index=self._calls[step.index], delta=fragment)

        return Frames(len(step.fragments) + 1 - skipped, render)

    # --- Endings -----------------------------------------------------------------------------------------------------

    def _finish(self, reason: str) -> bytes:
        ended = self._end() + b"".join(_event("content_block_stop", index=index) for index in self._calls.values())
        word = "refusal" if self._has_refused and reason == "stop" else _STOP_REASONS.get(reason, reason)
        return ended + self._delta({"stop_reason": word, "stop_sequence": None}, {"output_tokens": self.output_tokens})

    @staticmethod
    def _delta(delta: dict[str, Any], usage: dict[str, Any]) -> bytes:
        return _event("message_delta", delta=delta, usage=usage)

    def _usage(self, step: Usage) -> dict[str, Any]:
        output = self.output_tokens if step.completion_tokens is None else step.completion_tokens
        prompt = self._prompt_tokens if step.prompt_tokens is None else step.prompt_tokens
        return {
            "input_tokens": prompt - step.cached_tokens,
            "cache_read_input_tokens": step.cached_tokens,
            "output_tokens": output,
        }

    @staticmethod
    def _error(step: Error) -> bytes:
        kind = "api_error" if step.type == "server_error" else step.type
        return _event("error", error={"type": kind, "message": step.message})


class MessagesDialect(MessageBodies):
    """The path, the errors, and what a request asks for."""

    content_type = "text/event-stream; charset=utf-8"

    def model(self, path: str, body: JsonObject) -> str | None:
        """The model that a POST to this path asks for."""
        return str(body.get("model", "")) if path.endswith("/messages") else None

    def encoder(self, body: JsonObject, number: int) -> Encoder:
        """For one answer."""
        return MessagesEncoder(body, number)

    def error_body(self, status: int, message: str = "") -> JsonObject:
        """https://platform.claude.com/docs/en/api/errors."""
        kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message or f"simulated error {status}"}}

    def refuse(self, body: JsonObject) -> str | None:
        """Messages and a limit must be there, and only streams are spoken."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or len(messages_of(body)) != len(messages):
            return "messages must be a list of objects"
        if not isinstance(body.get("max_tokens"), int):
            return "max_tokens: field required"
        return None if body.get("stream") is True else "the simulator only streams: set stream to true"

    def max_tokens(self, body: JsonObject) -> int | None:
        """It is always there."""
        limit = body.get("max_tokens")
        return limit if isinstance(limit, int) else None
