"""OpenAI Responses, from the provider's side.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

import time
from collections.abc import Sequence
from typing import Any, assert_never

from midstream_simulator.bodies import text_of, to_json
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
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_CONTENT = {"text": ("output_text", "text"), "refusal": ("refusal", "refusal")}
_DELTAS = {"text": "output_text", "refusal": "refusal", "reasoning": "reasoning_summary_text"}


def _items(body: JsonObject) -> list[JsonObject]:
    """The input, of which a text alone is a message of the user."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []


class ResponsesEncoder:
    """Encodes one answer as the named events of a response. An item ends when another begins."""

    def __init__(self, body: JsonObject, number: int) -> None:
        self.output_tokens = 0
        self.pieces: list[str] = []
        self._reasoning_tokens = 0
        said = [text_of(each) for each in (*_items(body), {"content": body.get("instructions")})]
        self._prompt_tokens = sum(len(text.split()) for text in said)
        self._number = number
        self._response = {
            "id": f"resp_simulated_{number}",
            "object": "response",
            "created_at": _CREATED,
            "model": body.get("model", ""),
            "service_tier": "default",
            "error": None,
            "incomplete_details": None,
        }
        self._sequence = -1
        self._output: list[JsonObject] = []
        """Items that are done, or have their place."""
        self._open = ""
        """The kind of the open item, if it is text, refusal or reasoning; it is the last one."""
        self._said: list[str] = []
        self._calls: dict[int, tuple[int, ToolCall, list[str]]] = {}
        """Place, beginning and arguments of each open call, by the script's index."""
        self._account = Usage()

    def frames(self, step: ContentStep) -> Frames:
        """The events of a step."""
        match step:
            case Role():
                return Frames(1, lambda _: self._begin_response())
            case Text(pieces=pieces, choice=choice):
                return self._pieces("text", [] if choice else pieces)
            case Refusal(pieces=pieces):
                return self._pieces("refusal", pieces)
            case Reasoning(pieces=pieces):
                return self._pieces("reasoning", pieces)
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
                self._account = self._account if if_asked else step  # told in the last event, so it must come before it
                return Frames(0, lambda _: b"")
            case Done():
                return Frames(0, lambda _: b"")
            case Error():
                return Frames(1, lambda _: self._error(step))
            case Comment(text=text, count=count):
                return Frames(count, lambda _: f": {text}\n\n".encode())
            case _:
                assert_never(step)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        data = to_json({"type": kind, "sequence_number": self._sequence, **fields})
        return f"event: {kind}\ndata: {data}\n\n".encode()

    def _begin_response(self) -> bytes:
        response = self._response | {"status": "in_progress", "output": [], "usage": None}
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    # --- Items -------------------------------------------------------------------------------------------------------

    def _id(self, place: int, event: str) -> str:
        """Ids that change from event to event: no reader may rely on them."""
        return f"item_{self._number}_{place}_{event}"

    def _begin(self, kind: str) -> bytes:
        """Ends what is open and begins an item of this kind, if none is open."""
        if self._open == kind:
            return b""
        ended, self._open = self._end(), kind
        place = len(self._output)
        self._output.append({})
        if kind == "reasoning":
            item: dict[str, Any] = {"id": self._id(place, "added"), "type": "reasoning", "summary": []}
            begun = self._event("response.output_item.added", output_index=place, item=item)
            part = {"type": "summary_text", "text": ""}
            return ended + begun + self._at("response.reasoning_summary_part.added", "summary_index", part=part)
        item = {"id": self._id(place, "added"), "type": "message", "role": "assistant", "status": "in_progress"}
        begun = self._event("response.output_item.added", output_index=place, item=item | {"content": []})
        return ended + begun + self._at("response.content_part.added", "content_index", part=self._content(kind, ""))

    def _at(self, event: str, index: str, **fields: Any) -> bytes:
        """An event about the open item, or the call, at the last place."""
        place = len(self._output) - 1
        place_fields = {"item_id": self._id(place, event[-5:]), "output_index": place, index: 0}
        return self._event(event, **place_fields, **fields)

    @staticmethod
    def _content(kind: str, text: str) -> dict[str, Any]:
        name, field = _CONTENT[kind]
        return {"type": name, field: text} | ({"annotations": [], "logprobs": []} if kind == "text" else {})

    def _end(self, status: str = "completed") -> bytes:
        kind, self._open = self._open, ""
        text, self._said = "".join(self._said), []
        if not kind:
            return b""
        place = len(self._output) - 1
        item: dict[str, Any] = {"id": self._id(place, "done")}
        if kind == "reasoning":
            summary = {"type": "summary_text", "text": text}
            item |= {"type": "reasoning", "summary": [summary], "encrypted_content": f"ZW5jcnlwdGVk{place}"}
            done = self._at("response.reasoning_summary_text.done", "summary_index", text=text)
            done += self._at("response.reasoning_summary_part.done", "summary_index", part=summary)
        else:
            content = self._content(kind, text)
            item |= {"type": "message", "role": "assistant", "status": status, "content": [content]}
            done = self._at(f"response.{_DELTAS[kind]}.done", "content_index", **{_CONTENT[kind][1]: text})
            done += self._at("response.content_part.done", "content_index", part=content)
        return done + self._item_done(place, item)

    def _item_done(self, place: int, item: dict[str, Any]) -> bytes:
        self._output[place] = item
        return self._event("response.output_item.done", output_index=place, item=item)

    def _piece(self, kind: str, text: str) -> bytes:
        """More of an item, and its beginning."""
        begun = self._begin(kind)
        self._said.append(text)
        index = "summary_index" if kind == "reasoning" else "content_index"
        logprobs: dict[str, Any] = {"logprobs": []} if kind == "text" else {}
        return begun + self._at(f"response.{_DELTAS[kind]}.delta", index, delta=text, **logprobs)

    def _pieces(self, kind: str, pieces: Sequence[str]) -> Frames:
        def render(index: int) -> bytes:
            self.output_tokens += 1
            if kind == "reasoning":
                self._reasoning_tokens += 1
            else:
                self.pieces.append(pieces[index])
            return self._piece(kind, pieces[index])

        return Frames(len(pieces), render)

    def _stamps(self, count: int) -> Frames:
        """Only the stamp changes, so everything around it is encoded once, when the item has begun."""
        surroundings: list[bytes] = []

        def render(_: int) -> bytes:
            self.output_tokens += 1
            begun = self._begin("text")
            if not surroundings:
                surroundings.extend(self._piece("text", f"T{_STAMP}").split(_STAMP.encode()))
                self._said.clear()
            stamp = b"%016x" % time.monotonic_ns()
            self._said.append(f"T{stamp.decode()}")
            return b"%b%b%b%b" % (begun, surroundings[0], stamp, surroundings[1])

        return Frames(count, render)

    # --- Tool calls --------------------------------------------------------------------------------------------------

    def _tool_call(self, step: ToolCall) -> Frames:
        skipped = 0 if step.id or step.name else 1

        def render(index: int) -> bytes:
            if index + skipped == 0:
                return self._begin_call(step)
            self.output_tokens += 1
            fragment = step.fragments[index + skipped - 1]
            place, _, arguments = self._calls[step.index]
            arguments.append(fragment)
            kind = "response.function_call_arguments.delta"
            return self._event(kind, item_id=self._id(place, "delta"), output_index=place, delta=fragment)

        return Frames(len(step.fragments) + 1 - skipped, render)

    def _begin_call(self, step: ToolCall) -> bytes:
        ended = self._end()
        place = len(self._output)
        self._output.append({})
        self._calls[step.index] = (place, step, [])
        item = {"id": self._id(place, "added"), "type": "function_call", "status": "in_progress", "arguments": ""}
        named = item | {"call_id": step.id, "name": step.name}
        return ended + self._event("response.output_item.added", output_index=place, item=named)

    def _end_calls(self, status: str) -> bytes:
        done = []
        for place, step, fragments in self._calls.values():
            arguments = "".join(fragments)
            kind = "response.function_call_arguments.done"
            done.append(self._event(kind, item_id=self._id(place, "done"), output_index=place, arguments=arguments))
            item = {"id": self._id(place, "done"), "type": "function_call", "status": status, "arguments": arguments}
            done.append(self._item_done(place, item | {"call_id": step.id, "name": step.name}))
        self._calls.clear()
        return b"".join(done)

    # --- Endings -----------------------------------------------------------------------------------------------------

    def _finish(self, reason: str) -> bytes:
        why = _INCOMPLETE.get(reason)
        status = "incomplete" if why else "completed"
        ended = self._end(status) + self._end_calls(status)
        details = {"incomplete_details": {"reason": why}} if why else {}
        response = self._response | details | {"status": status, "output": self._output, "usage": self._usage()}
        return ended + self._event(f"response.{status}", response=response)

    def _usage(self) -> dict[str, Any]:
        step = self._account
        prompt = self._prompt_tokens if step.prompt_tokens is None else step.prompt_tokens
        output = self.output_tokens if step.completion_tokens is None else step.completion_tokens
        reasoning = self._reasoning_tokens if step.reasoning_tokens is None else step.reasoning_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": step.cached_tokens},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": prompt + output,
        }

    def _error(self, step: Error) -> bytes:
        """As an error event, by name or not; or as the response's own failure (`chunk`)."""
        error = {"code": str(step.code or step.type), "message": step.message}
        if step.form == "chunk":
            response = self._response | {"status": "failed", "error": error, "output": [], "usage": None}
            return self._event("response.failed", response=response)
        event = self._event("error", **error, param=None)
        return event if step.form == "event" else event.removeprefix(b"event: error\n")


class ResponsesDialect:
    """The path, the errors, and what a request asks for."""

    content_type = "text/event-stream; charset=utf-8"

    def model(self, path: str, body: JsonObject) -> str | None:
        """The model that a POST to this path asks for."""
        return str(body.get("model", "")) if path.endswith("/responses") else None

    def encoder(self, body: JsonObject, number: int) -> Encoder:
        """For one answer."""
        return ResponsesEncoder(body, number)

    def error_body(self, status: int, message: str = "") -> JsonObject:
        """https://platform.openai.com/docs/guides/error-codes."""
        kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": message or f"simulated error {status}", "type": kind, "param": None, "code": None}}

    def refuse(self, body: JsonObject) -> str | None:
        """Input must be there, and only streams are spoken."""
        given = body.get("input")
        if not isinstance(given, str) and (not isinstance(given, list) or len(_items(body)) != len(given)):
            return "input must be a string or a list of objects"
        return None if body.get("stream") is True else "the simulator only streams: set stream to true"

    def last_user_text(self, body: JsonObject) -> str:
        """The text of the last message whose role is user."""
        return next((text_of(each) for each in reversed(_items(body)) if each.get("role") == "user"), "")

    def max_tokens(self, body: JsonObject) -> int | None:
        """The request's limit of output tokens."""
        limit = body.get("max_output_tokens")
        return limit if isinstance(limit, int) else None

    def tool_names(self, body: JsonObject) -> Sequence[str]:
        """The functions that the request offers."""
        return [tool["name"] for tool in body.get("tools") or () if tool.get("type") == "function"]
