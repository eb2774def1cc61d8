"""Gemini `streamGenerateContent`, from the provider's side: events with `alt=sse`.

https://ai.google.dev/api/generate-content#method:-models.streamgeneratecontent
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, assert_never
from urllib.parse import unquote

from midstream_simulator.bodies import to_json
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
_PATH = re.compile(r"/v1beta/models/([^/]+):streamGenerateContent")
_FINISH_REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_ERROR_TYPES = {
    "server_error": (500, "INTERNAL"),
    "rate_limit_error": (429, "RESOURCE_EXHAUSTED"),
    "invalid_request_error": (400, "INVALID_ARGUMENT"),
}
"""What errors of other dialects' names are here."""


def _contents(body: JsonObject) -> list[JsonObject]:
    """Those that are objects; the others have been refused, or will be."""
    contents = body.get("contents")
    return [each for each in contents if isinstance(each, dict)] if isinstance(contents, list) else []


def _text_of(content: JsonObject) -> str:
    parts = [part for part in content.get("parts") or () if isinstance(part, dict)]
    return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))


class GeminiEncoder:
    """Encodes one answer as chunks. Each counts the prompt, the last one what was made of it."""

    def __init__(self, body: JsonObject, number: int) -> None:
        self.output_tokens = 0
        self.pieces: list[str] = []
        self._thoughts = 0
        system = body.get("systemInstruction")
        said = [*_contents(body), *([system] if isinstance(system, dict) else [])]
        self._prompt_tokens = sum(len(_text_of(content).split()) for content in said)
        self._base = {"modelVersion": "simulated", "responseId": f"simulated-{number}"}

    def frames(self, step: ContentStep) -> Frames:
        """The events of a step."""
        match step:
            case Role():
                return Frames(1, lambda _: self._chunk([{"text": ""}]))
            case Text(pieces=pieces, choice=choice):
                return self._pieces(pieces, lambda piece: {"text": piece}, choice)
            case Refusal(pieces=pieces):
                return self._pieces(pieces, lambda piece: {"text": piece})
            case Reasoning(pieces=pieces):
                return Frames(len(pieces), lambda index: self._thought(pieces[index]))
            case Stamps(count=count):
                return self._stamps(count)
            case ToolCall():
                return self._tool_call(step)
            case _:
                return self._last_events(step)

    def _last_events(self, step: Finish | Usage | Done | Error | Comment) -> Frames:
        match step:
            case Finish(reason=reason):
                return Frames(1, lambda _: self._chunk([{"text": ""}], _FINISH_REASONS.get(reason, reason)))
            case Usage(if_asked=if_asked):
                return Frames(int(not if_asked), lambda _: self._event({"usageMetadata": self._usage(step)}))
            case Done():
                return Frames(0, lambda _: b"")
            case Error():
                return Frames(1, lambda _: self._error(step))
            case Comment(text=text, count=count):
                return Frames(count, lambda _: f": {text}\r\n\r\n".encode())
            case _:
                assert_never(step)

    def _event(self, fields: dict[str, Any]) -> bytes:
        return f"data: {to_json(fields | self._base)}\r\n\r\n".encode()

    def _chunk(self, parts: Sequence[JsonObject], finish: str | None = None, candidate: int = 0) -> bytes:
        fields: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
        usage = {"promptTokenCount": self._prompt_tokens, "totalTokenCount": self._prompt_tokens}
        if finish is not None:
            fields["finishReason"] = finish
            usage = self._usage(Usage())
        return self._event({"candidates": [fields | {"index": candidate}], "usageMetadata": usage})

    def _pieces(self, pieces: Sequence[str], part: Callable[[str], JsonObject], candidate: int = 0) -> Frames:
        def render(index: int) -> bytes:
            self.output_tokens += 1
            if candidate == 0:
                self.pieces.append(pieces[index])
            return self._chunk([part(pieces[index])], candidate=candidate)

        return Frames(len(pieces), render)

    def _thought(self, piece: str) -> bytes:
        self.output_tokens += 1
        self._thoughts += 1
        return self._chunk([{"text": piece, "thought": True}])

    def _stamps(self, count: int) -> Frames:
        """Only the stamp changes, so everything around it is encoded once."""
        before, after = self._chunk([{"text": f"T{_STAMP}"}]).split(_STAMP.encode())

        def render(_: int) -> bytes:
            self.output_tokens += 1
            return b"%b%016x%b" % (before, time.monotonic_ns(), after)

        return Frames(count, render)

    def _tool_call(self, step: ToolCall) -> Frames:
        """The arguments leaf by leaf. Fragments that are no whole object become one leaf, which goes on."""
        head = {"name": step.name, "id": step.id, "willContinue": True}
        calls = [{name: value for name, value in head.items() if value}] if step.id or step.name else []
        arguments = _object("".join(step.fragments))
        if arguments is None:
            calls += [_partial("$.text", fragment, willContinue=True) for fragment in step.fragments]
        else:
            calls += [_partial(path, value) for path, value in _leaves("$", arguments)] + [{}]

        def render(index: int) -> bytes:
            self.output_tokens += "partialArgs" in calls[index]
            return self._chunk([{"functionCall": calls[index]}])

        return Frames(len(calls), render)

    def _usage(self, step: Usage) -> dict[str, Any]:
        prompt = self._prompt_tokens if step.prompt_tokens is None else step.prompt_tokens
        output = self.output_tokens if step.completion_tokens is None else step.completion_tokens
        thoughts = self._thoughts if step.reasoning_tokens is None else step.reasoning_tokens
        counts = {
            "promptTokenCount": prompt,
            "cachedContentTokenCount": step.cached_tokens,
            "candidatesTokenCount": output - thoughts,
            "thoughtsTokenCount": thoughts,
            "totalTokenCount": prompt + output,
        }
        return {name: count for name, count in counts.items() if count}

    def _error(self, step: Error) -> bytes:
        code, status = _ERROR_TYPES.get(step.type, (step.code, step.type))
        fields: dict[str, Any] = {"error": {"code": code, "message": step.message, "status": status}}
        if step.form == "chunk":
            fields["candidates"] = [{"content": {"parts": [{"text": ""}], "role": "model"}, "index": 0}]
        name = "event: error\r\n" if step.form == "event" else ""
        return f"{name}data: {to_json(fields)}\r\n\r\n".encode()


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    """The leaves of a value with their paths, in its order; what is empty has none."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(f"{path}[{json.dumps(name)}]", each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _leaves(f"{path}[{index}]", each)
    else:
        yield path, value


def _partial(path: str, value: object, **fields: bool) -> dict[str, Any]:
    """A piece of a call that goes on."""
    kinds = {str: "stringValue", bool: "boolValue", int: "numberValue", float: "numberValue"}
    kind = kinds.get(type(value), "nullValue")
    leaf = {"jsonPath": path, kind: "NULL_VALUE" if value is None else value, **fields}
    return {"partialArgs": [leaf], "willContinue": True}


class GeminiDialect:
    """The path, the errors, and what a request asks for."""

    content_type = "text/event-stream"

    def model(self, path: str, body: JsonObject) -> str | None:
        """The model that a POST to this path asks for: it is in the path."""
        found = _PATH.fullmatch(path)
        return unquote(found[1]) if found else None

    def encoder(self, body: JsonObject, number: int) -> Encoder:
        """For one answer."""
        return GeminiEncoder(body, number)

    def error_body(self, status: int, message: str = "") -> JsonObject:
        """https://ai.google.dev/gemini-api/docs/troubleshooting."""
        name = _STATUS_NAMES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        return {"error": {"code": status, "message": message or f"simulated error {status}", "status": name}}

    def refuse(self, body: JsonObject) -> str | None:
        """Contents must be there, of one of two roles."""
        contents = body.get("contents")
        if not isinstance(contents, list) or not contents or len(_contents(body)) != len(contents):
            return "contents are not specified"
        if any(content.get("role") not in ("user", "model") for content in _contents(body)):
            return "Please use a valid role: user, model."
        return None

    def last_user_text(self, body: JsonObject) -> str:
        """The text of the last content of the user."""
        return next((_text_of(each) for each in reversed(_contents(body)) if each.get("role") == "user"), "")

    def max_tokens(self, body: JsonObject) -> int | None:
        """The request's limit of output tokens."""
        config = body.get("generationConfig")
        limit = config.get("maxOutputTokens") if isinstance(config, dict) else None
        return limit if isinstance(limit, int) else None

    def tool_names(self, body: JsonObject) -> Sequence[str]:
        """The functions that the request offers."""
        return [each["name"] for tool in body.get("tools") or () for each in tool.get("functionDeclarations") or ()]
