"""The output items of a response as parts: https://platform.openai.com/docs/api-reference/responses-streaming.

An item is found by its `output_index`, a piece of it by its content or summary index: ids may change from event to
event (DESIGN §5, rule 11), and are used only where a server sends no index (llama.cpp). A part stays open until its
item is done, because only then it is known whether the item is whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from midstream_server.model import (
    DeltaPayload,
    PartState,
    ProviderState,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from midstream_server.model import JsonValue as Json
from midstream_server.upstreams.base import EventIgnored, PartDelta, UpstreamEvent
from midstream_server.upstreams.logprobs import read_logprobs
from midstream_server.upstreams.mapping import made_call_id
from midstream_server.upstreams.openai.annotations import read_annotations
from midstream_server.upstreams.wire.json_text import as_count, as_list, as_object, as_text, encode_json

TEXT, REFUSAL, SUMMARY, THOUGHT, ARGUMENTS = "text", "refusal", "summary", "thought", "arguments"
"""What a delta may add to. A summary and a thought are both reasoning."""
_PAYLOADS: dict[str, Callable[[str], DeltaPayload]] = {
    TEXT: TextDelta,
    REFUSAL: RefusalDelta,
    SUMMARY: ReasoningDelta,
    THOUGHT: ReasoningDelta,
}
_REASONING = (SUMMARY, THOUGHT)
_KINDS = {"message": (TEXT, REFUSAL), "function_call": (ARGUMENTS,), "reasoning": _REASONING}
"""What an item may bring, by its type."""
_UNFINISHED = ("incomplete", "in_progress")
_MAX_STATE_CHARACTERS = 1024 * 1024
_STATE_FIELDS = ("id", "summary", "content", "encrypted_content")


@dataclass(slots=True)
class _Part:
    key: str
    kind: str
    is_ascii: bool = True
    is_empty: bool = True
    call_id: str = ""
    name: str = ""


@dataclass(slots=True)
class _Item:
    """An item that is not done: its open parts, by kind and index."""

    parts: dict[tuple[str, int], _Part] = field(default_factory=dict)
    told: set[tuple[str, int]] = field(default_factory=set)
    """What it brought, also in parts that are closed."""
    reasoning: str = ""
    """Which of the two kinds of reasoning it brings: the same thoughts may come as both."""


class ItemReader:
    """Reads output items and their deltas, and keeps which parts are open."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._items: dict[object, _Item] = {}
        self._streamed: set[str] = set()
        """The kinds that came as deltas; others are read from the items when these are done."""
        self._count = 0
        self._response_id = ""
        self.has_calls = False
        self.has_refusal = False

    def identify(self, response_id: str) -> None:
        """The response's id, from which ids are made for tool calls that come without."""
        self._response_id = self._response_id or response_id

    def add(
        self,
        kind: str,
        slot: object,
        index: int,
        text: str,
        events: list[UpstreamEvent],
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> None:
        """A delta."""
        item = self._items.get(slot)
        part = item.parts.get((kind, index)) if item is not None else None
        if part is None:
            self._streamed.add(kind)
            if (part := self._begin(kind, slot, index, events)) is None:
                events.append(EventIgnored(kind="reasoning told twice"))
                return
        self._add_to(part, text, events, logprobs)

    def add_delta(self, kind: str, event: Mapping[str, Json], events: list[UpstreamEvent]) -> None:
        """A delta with whatever it may bring."""
        text, logprobs = as_text(event.get("delta")), read_logprobs(event.get("logprobs"))
        if text or logprobs:
            self.add(kind, slot_of(event), index_of(kind, event), text, events, logprobs)

    def annotate(self, event: Mapping[str, Json], events: list[UpstreamEvent]) -> None:
        """A citation of a text: https://platform.openai.com/docs/guides/tools-web-search."""
        self._streamed.add("annotations")
        self._annotate(slot_of(event), index_of(TEXT, event), [event.get("annotation")], events)

    def open_item(self, event: Mapping[str, Json], events: list[UpstreamEvent]) -> None:
        """`response.output_item.added`: only a function call says more than its deltas will."""
        value = as_object(event.get("item"))
        if value.get("type") != "function_call":
            return
        slot = slot_of(event, value)
        item = self._items.get(slot)
        if item is not None and _is_another_call(item, value):
            _close(item, events)
        self._name_call(slot, value, events)

    def complete(self, output: list[Json], events: list[UpstreamEvent], *, is_all: bool) -> None:
        """The items of an ending: those that were not done yet; with `is_all` all, since nothing came before."""
        for index, item in enumerate(output):
            if is_all or self._is_open(index, as_text(as_object(item).get("type"))):
                self.close_item({"output_index": index, "item": item}, events)

    def close_item(self, event: Mapping[str, Json], events: list[UpstreamEvent]) -> None:
        """`response.output_item.done`: what did not come as deltas, the state of reasoning, the end of its parts."""
        item = as_object(event.get("item"))
        slot = slot_of(event, item)
        match item.get("type"):
            case "message":
                self._complete_message(slot, item, events)
            case "function_call":
                self._complete_call(slot, item, events)
            case "reasoning":
                self._complete_reasoning(slot, item, events)
            case kind:
                events.append(EventIgnored(kind=f"item {as_text(kind)[:64]}"))
                return
        closed = self._items.pop(slot, None)
        if closed is not None and item.get("status") not in _UNFINISHED:
            _close(closed, events, self._state(item))

    # --- Items ------------------------------------------------------------------------------------------------------

    def _complete_message(self, slot: object, item: dict[str, Json], events: list[UpstreamEvent]) -> None:
        for index, content in enumerate(map(as_object, as_list(item.get("content")))):
            kind, text = _content(content)
            if text and not self._has_come(kind, slot, index):
                self._add_late(kind, slot, index, text, events)
            if kind is TEXT and "annotations" not in self._streamed:
                self._annotate(slot, index, as_list(content.get("annotations")), events)

    def _complete_call(self, slot: object, item: dict[str, Json], events: list[UpstreamEvent]) -> None:
        part = self._name_call(slot, item, events)
        if part.is_empty and (arguments := as_text(item.get("arguments"))):
            self._add_to(part, arguments, events)

    def _complete_reasoning(self, slot: object, item: dict[str, Json], events: list[UpstreamEvent]) -> None:
        """Reasoning that is only encrypted is a part without text."""
        for kind, pieces in ((SUMMARY, item.get("summary")), (THOUGHT, item.get("content"))):
            for index, piece in enumerate(map(as_object, as_list(pieces))):
                if (text := as_text(piece.get("text"))) and not self._has_come(kind, slot, index):
                    self._add_late(kind, slot, index, text, events)
        if slot not in self._items and as_text(item.get("encrypted_content")):
            self._add_late(SUMMARY, slot, 0, "", events)

    def _is_open(self, slot: object, kind: str) -> bool:
        item = self._items.get(slot)
        return item is not None and any(part[0] in _KINDS.get(kind, ()) for part in item.parts)

    def _has_come(self, kind: str, slot: object, index: int) -> bool:
        """Whether deltas brought this already. Ids, of a server without indices, may not show where they belong."""
        if not isinstance(slot, int):
            return kind in self._streamed
        item = self._items.get(slot)
        return item is not None and (kind, index) in item.told

    def _add_late(self, kind: str, slot: object, index: int, text: str, events: list[UpstreamEvent]) -> None:
        """What an item says that did not come as deltas."""
        if (part := self._begin(kind, slot, index, events)) is not None:
            self._add_to(part, text, events)

    def _state(self, item: dict[str, Json]) -> ProviderState | None:
        """https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items: goes back as it came."""
        if item.get("type") != "reasoning" or not as_text(item.get("encrypted_content")):
            return None
        state = {"type": "reasoning"} | {name: item[name] for name in _STATE_FIELDS if item.get(name) is not None}
        text = encode_json({"summary": []} | state)
        if len(text) > _MAX_STATE_CHARACTERS:
            return None
        return ProviderState(dialect=self._dialect, data=text.encode("utf-8", "replace"))

    # --- Parts ------------------------------------------------------------------------------------------------------

    def _begin(self, kind: str, slot: object, index: int, events: list[UpstreamEvent]) -> _Part | None:
        """Makes a part, which its first delta opens. None: it would repeat what another kind says."""
        item = self._items.get(slot)
        if item is None:
            item = self._items[slot] = _Item()
        if kind in _REASONING:
            if item.reasoning not in ("", kind):
                return None
            item.reasoning = kind
            _close(item, events)
        item.told.add((kind, index))
        part = item.parts[kind, index] = _Part(f"{kind}:{self._count}", kind)
        self._count += 1
        self.has_calls = self.has_calls or kind is ARGUMENTS
        self.has_refusal = self.has_refusal or kind is REFUSAL
        return part

    def _add_to(
        self, part: _Part, text: str, events: list[UpstreamEvent], logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        if part.kind is ARGUMENTS:
            new_id = "" if part.call_id else made_call_id(self._response_id, self._count)
            part.call_id = part.call_id or new_id
            events.append(PartDelta(part=part.key, payload=ToolCallDelta(id=new_id, arguments=text)))
        else:
            part.is_ascii = part.is_ascii and text.isascii()
            events.append(PartDelta(part=part.key, payload=_PAYLOADS[part.kind](text), logprobs=logprobs))
        part.is_empty = part.is_empty and not text

    def _name_call(self, slot: object, value: dict[str, Json], events: list[UpstreamEvent]) -> _Part:
        """The call at this place, with its id and its name where they are new."""
        item = self._items.get(slot)
        part = item.parts.get((ARGUMENTS, 0)) if item is not None else None
        is_new = part is None
        if part is None:
            part = self._begin(ARGUMENTS, slot, 0, events)
            assert part is not None, "only reasoning is told twice"
        call_id = as_text(value.get("call_id"))
        if not (call_id or part.call_id):
            call_id = as_text(value.get("id")) or made_call_id(self._response_id, self._count)
        new_id = call_id if call_id != part.call_id else ""
        name = as_text(value.get("name"))
        new_name = name if name != part.name else ""
        part.call_id, part.name = call_id or part.call_id, name or part.name
        if is_new or new_id or new_name:
            events.append(PartDelta(part=part.key, payload=ToolCallDelta(id=new_id, name=new_name)))
        return part

    def _annotate(self, slot: object, index: int, annotations: list[Json], events: list[UpstreamEvent]) -> None:
        if not any(annotations):
            return
        item = self._items.get(slot)
        part = item.parts.get((TEXT, index)) if item is not None else None
        if part is None:
            self._add_late(TEXT, slot, index, "", events)
            part = self._items[slot].parts[TEXT, index]
        if read := read_annotations(annotations, part.is_ascii):
            events.append(PartDelta(part=part.key, annotations=read))


def slot_of(event: Mapping[str, Json], item: Mapping[str, Json] | None = None) -> object:
    """Where an item is kept: its index; without one its id."""
    index = as_count(event.get("output_index"))
    return as_text(event.get("item_id")) or as_text((item or {}).get("id")) if index is None else index


def index_of(kind: str, event: Mapping[str, Json]) -> int:
    """Which piece of its item a delta belongs to."""
    if kind is ARGUMENTS:
        return 0
    return as_count(event.get("summary_index" if kind is SUMMARY else "content_index")) or 0


def _is_another_call(item: _Item, value: Mapping[str, Json]) -> bool:
    """A new id and a name at a place in use are another call (DESIGN §5, rule 4)."""
    part = item.parts.get((ARGUMENTS, 0))
    call_id, name = as_text(value.get("call_id")), as_text(value.get("name"))
    return part is not None and bool(part.name and name and call_id) and call_id != part.call_id


def _content(content: Mapping[str, Json]) -> tuple[str, str]:
    if content.get("type") == "refusal":
        return REFUSAL, as_text(content.get("refusal"))
    return (TEXT, as_text(content.get("text"))) if content.get("type") == "output_text" else ("", "")


def _close(item: _Item, events: list[UpstreamEvent], state: ProviderState | None = None) -> None:
    """Closes the open parts of an item; the last of them carries the item's state."""
    parts = list(item.parts.values())
    item.parts.clear()
    for part in parts:
        last = part is parts[-1]
        events.append(PartDelta(part=part.key, part_end=PartState.COMPLETE, provider_state=state if last else None))
