"""Content blocks as parts: https://platform.claude.com/docs/en/build-with-claude/streaming#content-block-delta-types.

A block is a part. Text and thinking open theirs with the first thing that they bring (an empty block is no part), a
tool call at once. What the provider's own tools do is no part of the message.
"""

from dataclasses import dataclass

from midstream_server.model import (
    Annotation,
    JsonValue,
    PartState,
    ProviderState,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from midstream_server.upstreams.base import EventIgnored, PartDelta, UpstreamEvent
from midstream_server.upstreams.mapping import made_call_id
from midstream_server.upstreams.wire.json_text import as_count, as_list, as_object, as_text, cut_words, encode_json

TEXT, REASONING, TOOL, FOREIGN = "text", "reasoning", "tool", "foreign"
_KINDS = {"text": TEXT, "thinking": REASONING, "redacted_thinking": REASONING, "tool_use": TOOL}
_DELTAS = {
    "text_delta": TEXT,
    "citations_delta": TEXT,
    "thinking_delta": REASONING,
    "signature_delta": REASONING,
    "input_json_delta": TOOL,
}
"""Which kind of part a kind of delta belongs to."""
_STATE_FIELDS = {"thinking": "signature", "redacted_thinking": "data"}
_MAX_RAW = 4096
_MAX_STATE_CHARACTERS = 1024 * 1024


@dataclass(slots=True)
class _Block:
    """A block that is open."""

    kind: str
    key: str
    is_part: bool = False
    input: str = ""
    """A tool call's arguments where its beginning already has them; they count if no deltas bring any."""


class BlockReader:
    """Reads the content blocks of a message and keeps which are open."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._blocks: dict[int | None, _Block] = {}
        """Open ones by the provider's index."""
        self._count = 0
        self.response_id = ""

    def start(self, index: JsonValue, content: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """A block begins; one that is open at its index ends."""
        self.stop(index, events)
        name = as_text(content.get("type"))
        kind = _KINDS.get(name, FOREIGN)
        block = self._open(index, kind)
        if kind is TEXT:
            self.add_text(block, as_text(content.get("text")), events)
            for citation in as_list(content.get("citations")):
                self._annotate(block, as_object(citation), events)
        elif kind is REASONING:
            self.add_reasoning(block, as_text(content.get("thinking")), events)
            self._set_state(block, name, as_text(content.get(_STATE_FIELDS[name])), events)
        elif kind is TOOL:
            self._start_call(block, content, events)
        else:
            events.append(EventIgnored(kind=f"block {cut_words(name, 64)}"))

    def delta(self, index: JsonValue, delta: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """More of a block; one that was not announced begins with it."""
        name = as_text(delta.get("type"))
        kind = _DELTAS.get(name)
        block = self._blocks.get(as_count(index))
        if block is None and kind is not None:
            block = self._open(index, kind)
            if kind is TOOL:
                self._start_call(block, {}, events)
        if block is None or block.kind is not kind:
            events.append(EventIgnored(kind=f"delta {cut_words(name, 64)}"))
        elif name == "text_delta":
            self.add_text(block, as_text(delta.get("text")), events)
        elif name == "thinking_delta":
            self.add_reasoning(block, as_text(delta.get("thinking")), events)
        elif name == "input_json_delta":
            self.add_arguments(block, as_text(delta.get("partial_json")), events)
        elif name == "signature_delta":
            self._set_state(block, "thinking", as_text(delta.get("signature")), events)
        else:
            self._annotate(block, as_object(delta.get("citation")), events)

    def stop(self, index: JsonValue, events: list[UpstreamEvent]) -> None:
        """A block ends."""
        block = self._blocks.pop(as_count(index), None)
        if block is None or not block.is_part:
            return
        self._add_input(block, events)
        events.append(PartDelta(part=block.key, part_end=PartState.COMPLETE))

    def finish(self, events: list[UpstreamEvent]) -> None:
        """The model has finished; blocks that are still open stay so, for the engine to judge."""
        for block in self._blocks.values():
            self._add_input(block, events)

    def find(self, index: int, kind: str) -> _Block | None:
        """The open block of this kind at an index."""
        block = self._blocks.get(index)
        return block if block is not None and block.kind is kind else None

    # --- Parts -----------------------------------------------------------------------------------------------------

    def add_text(self, block: _Block, text: str, events: list[UpstreamEvent]) -> None:
        """More text."""
        if text:
            block.is_part = True
            events.append(PartDelta(part=block.key, payload=TextDelta(text)))

    def add_reasoning(self, block: _Block, text: str, events: list[UpstreamEvent]) -> None:
        """More thinking."""
        if text:
            block.is_part = True
            events.append(PartDelta(part=block.key, payload=ReasoningDelta(text)))

    def add_arguments(self, block: _Block, arguments: str, events: list[UpstreamEvent]) -> None:
        """More of a tool call's arguments."""
        if arguments:
            block.input = ""
            events.append(PartDelta(part=block.key, payload=ToolCallDelta(arguments=arguments)))

    def _open(self, index: JsonValue, kind: str) -> _Block:
        block = self._blocks[as_count(index)] = _Block(kind, f"block:{self._count}")
        self._count += 1
        return block

    def _start_call(self, block: _Block, content: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """https://platform.claude.com/docs/en/agents-and-tools/tool-use/handle-tool-calls."""
        block.is_part = True
        arguments = content.get("input")
        block.input = encode_json(arguments) if arguments and isinstance(arguments, dict) else ""
        call_id = as_text(content.get("id")) or made_call_id(self.response_id, self._count)
        events.append(PartDelta(part=block.key, payload=ToolCallDelta(id=call_id, name=as_text(content.get("name")))))

    def _add_input(self, block: _Block, events: list[UpstreamEvent]) -> None:
        self.add_arguments(block, block.input, events)

    def _set_state(self, block: _Block, kind: str, secret: str, events: list[UpstreamEvent]) -> None:
        """What must go back with the thinking, as the fields of its block.

        https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks
        """
        if not secret or len(secret) > _MAX_STATE_CHARACTERS:
            return
        state = ProviderState(
            dialect=self._dialect,
            data=encode_json({"type": kind, _STATE_FIELDS[kind]: secret}).encode("utf-8", "replace"),
        )
        payload = None if block.is_part else ReasoningDelta("")
        block.is_part = True
        events.append(PartDelta(part=block.key, payload=payload, provider_state=state))

    def _annotate(self, block: _Block, citation: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """A citation holds for all of its block; the places that it names are in the source.

        https://platform.claude.com/docs/en/build-with-claude/citations#streaming-support
        """
        if not citation:
            return
        raw = encode_json(citation)
        annotation = Annotation(
            type=as_text(citation.get("type")) or "citation",
            url=as_text(citation.get("url")) or as_text(citation.get("source")),
            title=as_text(citation.get("title")) or as_text(citation.get("document_title")),
            cited_text=as_text(citation.get("cited_text")),
            raw_json=raw if len(raw) <= _MAX_RAW else "",
        )
        payload = None if block.is_part else TextDelta("")
        block.is_part = True
        events.append(PartDelta(part=block.key, payload=payload, annotations=(annotation,)))
