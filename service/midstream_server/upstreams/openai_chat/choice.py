"""The deltas of choice 0 as parts: https://platform.openai.com/docs/api-reference/chat-streaming.

Text, reasoning and refusals are keyed by their order, since text after anything else is a new part; tool calls by an
order of their own, since several may be open and go on by their index.
"""

from dataclasses import dataclass, field

from midstream_server.model import (
    Annotation,
    JsonValue,
    PartState,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from midstream_server.upstreams.answer import PartSequence
from midstream_server.upstreams.base import EventIgnored, PartDelta, UpstreamEvent
from midstream_server.upstreams.logprobs import read_logprobs
from midstream_server.upstreams.mapping import made_call_id
from midstream_server.upstreams.openai.annotations import read_annotations
from midstream_server.upstreams.openai_chat.images import read_image
from midstream_server.upstreams.openai_chat.reasoning import ReasoningState, reasoning_text, thinking_text
from midstream_server.upstreams.wire.json_text import as_count, as_list, as_object, as_text, decode_json, encode_json

_TEXT, _REASONING, _REFUSAL, _IMAGE = "text", "reasoning", "refusal", "image"
_LEGACY_CALL = "function_call"


@dataclass(slots=True)
class _Call:
    """A tool call that may go on."""

    key: str
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    """Of its arguments."""

    def is_whole(self) -> bool:
        """Whether its arguments are a JSON object: then nothing can follow that belongs to them."""
        try:
            return isinstance(decode_json("".join(self.pieces).encode("utf-8", "replace")), dict)
        except ValueError:
            return False


class ChoiceReader:
    """Reads the deltas of one choice and keeps which parts are open."""

    def __init__(self, reasoning_state: ReasoningState) -> None:
        self._parts = PartSequence()
        """Tool calls are none of them: they may go on."""
        self._text_parts = 0
        self._text_is_ascii = True
        self._reasoning_part = ""
        self._reasoning_state = reasoning_state
        self._calls: dict[object, _Call] = {}
        """By the provider's index."""
        self._last_call: object = None
        self._call_count = 0
        self._has_refused = False
        self._response_id = ""
        self._pending_annotations: tuple[Annotation, ...] = ()

    @property
    def has_calls(self) -> bool:
        """Whether the model called a tool."""
        return self._call_count > 0

    @property
    def has_refusal(self) -> bool:
        """Whether the model declined in words."""
        return self._has_refused

    def identify(self, response_id: str) -> None:
        """The provider's id of the answer, from which ids are made for tool calls that come without."""
        self._response_id = self._response_id or response_id

    def add_text(self, text: str, events: list[UpstreamEvent]) -> None:
        """More text and nothing else: the fast path."""
        if self._parts.kind is not _TEXT:
            self._text_parts += 1
        if self._text_is_ascii:
            self._text_is_ascii = text.isascii()
        self._parts.add(_TEXT, TextDelta(text), events)
        if self._pending_annotations:
            self.annotate((), events)

    def add_reasoning(self, text: str, events: list[UpstreamEvent]) -> None:
        """More reasoning and nothing else: the fast path."""
        begins = self._parts.kind is not _REASONING
        self._parts.add(_REASONING, ReasoningDelta(text), events)
        self._reasoning_part = self._parts.key
        if begins and (mark := self._reasoning_state.mark):
            events.append(PartDelta(part=self._reasoning_part, provider_state=mark))

    def read(self, choice: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """Everything that a choice's delta brings, in the order in which it was thought and said."""
        delta = as_object(choice.get("delta"))
        if not (delta or self._parts.count or self.has_calls):
            delta = as_object(choice.get("message"))  # a gateway that only looks as if it streamed
        reasoning = reasoning_text(delta)
        before = len(events)
        if reasoning:
            self.add_reasoning(reasoning, events)
        self._read_state(delta.get("reasoning_details"), events)
        self._read_content(delta.get("content"), bool(reasoning), events)
        if refusal := as_text(delta.get("refusal")):
            self._add_refusal(refusal, events)
        self._attach_logprobs(choice.get("logprobs"), before, events)
        if annotations := read_annotations(delta.get("annotations"), self._text_is_ascii and self._text_parts <= 1):
            self.annotate(annotations, events)
        calls = delta.get("tool_calls")
        for each in [calls] if isinstance(calls, dict) else as_list(calls):  # older TGI sends one, outside a list
            if isinstance(each, dict):
                self._read_call(each, each.get("index"), events)
        if isinstance(legacy := delta.get("function_call"), dict):
            self._read_call({"function": legacy}, _LEGACY_CALL, events)
        for each in as_list(delta.get("images")):
            if (image := read_image(each)) is not None:
                self._parts.add_whole(_IMAGE, image, events)
            else:
                events.append(EventIgnored(kind="delta images"))
        if delta.get("audio"):
            events.append(EventIgnored(kind="delta audio"))

    def annotate(self, annotations: tuple[Annotation, ...], events: list[UpstreamEvent]) -> None:
        """Adds citations to the open text; where there is none yet, they wait for it."""
        waiting = self._pending_annotations + annotations
        if waiting and self._parts.kind is _TEXT:
            events.append(PartDelta(part=self._parts.key, annotations=waiting))
            waiting = ()
        self._pending_annotations = waiting

    # --- Text, reasoning, refusal ---------------------------------------------------------------------------------

    def _add_refusal(self, text: str, events: list[UpstreamEvent]) -> None:
        self._has_refused = True
        self._parts.add(_REFUSAL, RefusalDelta(text), events)

    def _read_content(self, content: JsonValue, has_reasoning: bool, events: list[UpstreamEvent]) -> None:
        """A string, or a list of typed items (Mistral): https://docs.mistral.ai/capabilities/reasoning/."""
        if isinstance(content, str):
            if content:
                self.add_text(content, events)
            return
        for item in [content] if isinstance(content, dict) else as_list(content):
            if isinstance(item, str):
                item = {"type": "text", "text": item}
            if isinstance(item, dict):
                self._read_item(item, has_reasoning, events)

    def _read_item(self, item: dict[str, JsonValue], has_reasoning: bool, events: list[UpstreamEvent]) -> None:
        match item.get("type") or "text":
            case "text" | "output_text":
                if text := as_text(item.get("text")):
                    self.add_text(text, events)
            case "thinking" | "reasoning":
                if (text := thinking_text(item)) and not has_reasoning:
                    self.add_reasoning(text, events)
            case "refusal":
                if text := as_text(item.get("refusal")):
                    self._add_refusal(text, events)
            case "reference":
                self.annotate(read_annotations([item], False), events)
            case kind:
                events.append(EventIgnored(kind=f"content {as_text(kind)[:64]}"))

    def _read_state(self, details: JsonValue, events: list[UpstreamEvent]) -> None:
        if not details or (state := self._reasoning_state.add(details)) is None:
            return
        if not self._reasoning_part:
            self.add_reasoning("", events)
        events.append(PartDelta(part=self._reasoning_part, provider_state=state))

    def _attach_logprobs(self, logprobs: JsonValue, start: int, events: list[UpstreamEvent]) -> None:
        """Log probabilities go with the text, or the refusal, that the same chunk brought."""
        for kind, payload in (("content", TextDelta), ("refusal", RefusalDelta)):
            tokens = read_logprobs(as_object(logprobs).get(kind))
            if not tokens:
                continue
            for position in range(start, len(events)):
                event = events[position]
                if isinstance(event, PartDelta) and isinstance(event.payload, payload | ReasoningDelta):
                    events[position] = PartDelta(part=event.part, payload=event.payload, logprobs=tokens)
                    break
            else:
                self._add_bare_logprobs(kind, tokens, events)

    def _add_bare_logprobs(self, kind: str, tokens: tuple[TokenLogprob, ...], events: list[UpstreamEvent]) -> None:
        """A token that is only a piece of a character has a probability and no text yet."""
        is_text = kind == "content"
        wanted, payload = (_TEXT, TextDelta("")) if is_text else (_REFUSAL, RefusalDelta(""))
        if self._parts.kind is not wanted:
            self._text_parts += is_text
            self._parts.open(wanted, events)
        events.append(PartDelta(part=self._parts.key, payload=payload, logprobs=tokens))

    # --- Tool calls ------------------------------------------------------------------------------------------------

    def _read_call(self, value: dict[str, JsonValue], index: JsonValue, events: list[UpstreamEvent]) -> None:
        """A piece of a tool call: https://platform.openai.com/docs/guides/function-calling#streaming."""
        function = as_object(value.get("function"))
        name, arguments = as_text(function.get("name")), _arguments(function.get("arguments"))
        number = as_count(value.get("id"))
        call_id = as_text(value.get("id")) or ("" if number is None else str(number))
        if not (call_id or name or arguments):
            return
        slot = self._slot(index, call_id, name)
        call = self._calls.get(slot)
        if call is not None and _is_another(call, call_id, name, arguments):
            events.append(PartDelta(part=call.key, part_end=PartState.COMPLETE))
            call = None
        self._parts.close(events)
        self._last_call = slot
        if call is None:
            call = self._calls[slot] = _Call(key=f"tool:{self._call_count}")
            self._call_count += 1
            given_id = call_id or made_call_id(self._response_id, self._call_count)
        else:
            given_id = call_id if call_id != call.id else ""
        payload = ToolCallDelta(id=given_id, name=name if name != call.name else "", arguments=arguments)
        call.id, call.name = call_id or call.id, name or call.name
        call.pieces.append(arguments)
        if payload.id or payload.name or payload.arguments:
            events.append(PartDelta(part=call.key, payload=payload))

    def _slot(self, index: JsonValue, call_id: str, name: str) -> object:
        """Where the call is kept: its index; without one its id; a piece with neither belongs to the last call."""
        if index == _LEGACY_CALL:
            return index
        number = as_count(index)
        if number is not None:
            return number
        if call_id:
            return f"id {call_id}"
        last = self._calls.get(self._last_call)
        goes_on = last is not None and (not name or (name == last.name and not last.is_whole()))
        return self._last_call if goes_on else f"call {self._call_count}"


def _is_another(call: _Call, call_id: str, name: str, arguments: str) -> bool:
    """Whether a piece at an index in use begins another call (DESIGN §5, rule 4).

    With a new id and a name it does; without an id, if the arguments that it brings have no place in the call's.
    """
    if call_id:
        return bool(name and call.id) and call_id != call.id
    return bool(name and arguments) and call.is_whole()


def _arguments(value: JsonValue) -> str:
    """Argument text as it came; an object, which some relatives send, as compact JSON."""
    if isinstance(value, dict):
        return encode_json(value)
    return as_text(value)
