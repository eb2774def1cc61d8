"""Deltas in, a message out: byte for byte, however the fragments are cut."""

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream_server.accumulator import MessageAccumulator, is_json_object, payload_size
from midstream_server.codec import decode_event, encode_event, merge_entries
from midstream_server.engine.assembler import MAX_PAYLOAD_BYTES, MessageAssembler, join_adjacent
from midstream_server.model import (
    Annotation,
    Blob,
    BlobDelta,
    DeltaPayload,
    FinishReason,
    Message,
    MessageDelta,
    PartState,
    ProviderState,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
)
from midstream_server.upstreams.base import PartDelta

PLAIN: dict[str, type[TextDelta | ReasoningDelta | RefusalDelta]] = {
    "text": TextDelta,
    "reasoning": ReasoningDelta,
    "refusal": RefusalDelta,
}
KINDS = (*PLAIN, "tool", "blob")
LONG = "😀é" * 20_000
"""More than one payload's worth."""

fragments = st.sampled_from(
    ["", "a", "é", "€😀", "\u2028", '{"a": ', "1}", "{}", "\ud83d", "\ude00", "a\ud83d", "\ude00b", "\ude00\ud83d"] * 3
    + ["a" * (MAX_PAYLOAD_BYTES + 5), LONG]
)
blobs = st.sampled_from([b"", b"a", b"\xff\x00"] * 3 + [b"\0" * (2 * MAX_PAYLOAD_BYTES + 1)])
extras: list[dict[str, Any]] = [
    {},
    {},
    {},
    {"provider_state": ProviderState(dialect="chat", data=b"s")},
    {"annotations": (Annotation(type="url_citation", url="u"),)},
    {"logprobs": (TokenLogprob(token="t", logprob=-1.0),)},
]


class Source(NamedTuple):
    """What a provider said, part by part, and in which order."""

    deltas: list[PartDelta]
    kinds: dict[str, str]
    pieces: dict[str, list[str | bytes]]
    ended: set[str]


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """Interleaved parts of all kinds; each may be closed, once, as its last delta."""
    source = Source([], {}, {}, set())
    for _ in range(draw(st.integers(0, 10))):
        open_parts = [part for part in source.kinds if part not in source.ended]
        if not open_parts or draw(st.integers(0, 3)) == 0:
            part = f"part-{len(source.kinds)}"
            source.kinds[part] = draw(st.sampled_from(KINDS))
            source.pieces[part] = []
        else:
            part = draw(st.sampled_from(open_parts))
        ends = draw(st.integers(0, 4)) == 0
        bare = bool(source.pieces[part]) and draw(st.booleans())
        source.deltas.append(draw(_deltas(part, source, bare=bare, ends=ends)))
        if ends:
            source.ended.add(part)
    return source


@st.composite
def _deltas(draw: st.DrawFn, part: str, source: Source, *, bare: bool, ends: bool) -> PartDelta:
    kind = source.kinds[part]
    piece: str | bytes = draw(blobs) if kind == "blob" else draw(fragments)
    first = not source.pieces[part]
    payload: DeltaPayload | None = None
    if not bare:
        source.pieces[part].append(piece)
        if isinstance(piece, bytes):
            payload = BlobDelta(data=piece, mime_type="image/png" if first else "")
        elif kind == "tool":
            payload = ToolCallDelta(id="call-1" if first else "", name="look_up" if first else "", arguments=piece)
        else:
            payload = PLAIN[kind](piece)
    return PartDelta(
        part=part,
        payload=payload,
        part_end=PartState.COMPLETE if ends else None,
        **draw(st.sampled_from(extras)),
    )


def assemble(source: Source) -> list[MessageDelta]:
    """All deltas of a source, to the end."""
    assembler = MessageAssembler()
    deltas = [delta for each in source.deltas for delta in assembler.add(each)]
    return deltas + assembler.flush()


def fold(deltas: list[MessageDelta]) -> Message | None:
    """The message of these deltas while the run goes on."""
    accumulator = MessageAccumulator()
    for delta in deltas:
        accumulator.add(delta)
    return accumulator.message()


def whole(pieces: list[str | bytes]) -> str | bytes:
    """What the pieces say: surrogates joined across every cut, those without a partner replaced."""
    if any(isinstance(piece, bytes) for piece in pieces):
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
    text = "".join(piece for piece in pieces if isinstance(piece, str))
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def spoken(message: Message) -> list[str | bytes]:
    """What each part says."""
    said: list[str | bytes] = []
    for part in message.parts:
        match part.content:
            case Text(text=text) | Reasoning(text=text) | Refusal(text=text):
                said.append(text)
            case ToolCall(arguments=arguments):
                said.append(arguments)
            case Blob(data=data):
                said.append(data)
    return said


@given(sources())
def test_message_is_what_the_provider_said_part_by_part(source):
    """Every part is there, in order of appearance, of its kind, byte for byte."""
    message = fold(assemble(source))

    if not source.kinds:
        assert message is None
        return
    assert message is not None
    assert spoken(message) == [whole(pieces) for pieces in source.pieces.values()]
    kinds = {"text": Text, "reasoning": Reasoning, "refusal": Refusal, "tool": ToolCall, "blob": Blob}
    assert [type(part.content) for part in message.parts] == [kinds[kind] for kind in source.kinds.values()]


@given(sources())
def test_indices_are_dense_and_offsets_count_utf8_bytes(source):
    """A reader can place every delta, and sees no half character and no payload that is too large."""
    ends: dict[int, int] = {}

    for delta in assemble(source):
        assert delta.part_index <= len(ends), "a part appears before the one in front of it"
        assert delta.offset == ends.get(delta.part_index, 0)
        size = payload_size(delta.payload) if delta.payload else 0
        assert size <= MAX_PAYLOAD_BYTES
        ends[delta.part_index] = delta.offset + size
        assert decode_event(encode_event(2, delta)).payload == delta, "it survives the wire"


@given(sources())
def test_nothing_beside_the_payload_is_lost(source):
    """Annotations, log probabilities and the last provider state arrive."""
    deltas = assemble(source)

    assert sum(len(delta.annotations) for delta in deltas) == sum(len(each.annotations) for each in source.deltas)
    assert sum(len(delta.logprobs) for delta in deltas) == sum(len(each.logprobs) for each in source.deltas)
    message = fold(deltas)
    states: dict[str, ProviderState | None] = dict.fromkeys(source.kinds)
    for each in source.deltas:
        states[each.part] = each.provider_state or states[each.part]
    parts = message.parts if message else ()
    assert [part.provider_state for part in parts] == list(states.values())
    for part, name in zip(parts, source.kinds, strict=True):
        if isinstance(part.content, Text):
            assert len(part.content.annotations) == sum(
                len(each.annotations) for each in source.deltas if each.part == name
            )


@given(sources())
def test_closed_tool_call_is_complete_only_if_it_is_a_json_object(source):
    """Empty counts as `{}`; what does not parse is MALFORMED, and stays so."""
    message = fold(assemble(source))

    for part, (name, kind) in zip(message.parts if message else (), source.kinds.items(), strict=True):
        if name not in source.ended:
            assert part.state is PartState.OPEN
        elif kind == "tool":
            assert isinstance(part.content, ToolCall)
            good = part.content.arguments == "" or is_json_object(part.content.arguments)
            assert part.state is (PartState.COMPLETE if good else PartState.MALFORMED)
        else:
            assert part.state is PartState.COMPLETE


@given(sources(), st.data())
def test_joining_what_waits_never_changes_the_message(source, data):
    """However the deltas are grouped into batches, the fold, the offsets and the bound are the same."""
    deltas = assemble(source)
    joined: list[MessageDelta] = []
    position = 0
    while position < len(deltas):
        count = data.draw(st.integers(1, len(deltas) - position))
        joined += join_adjacent(deltas[position : position + count])
        position += count

    assert fold(joined) == fold(deltas)
    ends: dict[int, int] = {}
    for delta in joined:
        size = payload_size(delta.payload) if delta.payload else 0
        assert size <= MAX_PAYLOAD_BYTES
        assert delta.offset == ends.get(delta.part_index, 0)
        ends[delta.part_index] = delta.offset + size
    assert sum(len(delta.logprobs) for delta in joined) == sum(len(delta.logprobs) for delta in deltas)


@given(sources())
def test_log_of_a_run_folds_to_the_same_message_merged_or_not(source):
    """The live fold, the fold of the stored bytes and that of a lagging reader's merged bytes agree."""
    deltas = join_adjacent(assemble(source))
    entries = [encode_event(number, delta) for number, delta in enumerate(deltas, 2)]

    stored = [decode_event(entry).payload for entry in entries]
    merged = [decode_event(entry).payload for entry in merge_entries(entries, MAX_PAYLOAD_BYTES)]

    assert fold([delta for delta in stored if isinstance(delta, MessageDelta)]) == fold(deltas)
    assert fold([delta for delta in merged if isinstance(delta, MessageDelta)]) == fold(deltas)


# --- Cases that have a name ------------------------------------------------------------------------------------------


def part_text(piece: str, *, end: PartState | None = None, part: str = "t") -> PartDelta:
    """A piece of text."""
    return PartDelta(part=part, payload=TextDelta(piece), part_end=end)


def test_half_a_pair_waits_for_the_other_half():
    """Nobody sees a broken character that the next fragment mends."""
    assembler = MessageAssembler()

    first = assembler.add(part_text("a\ud83d"))
    second = assembler.add(part_text("\ude00b"))

    assert [delta.payload for delta in first + second] == [TextDelta("a"), TextDelta("😀b")]
    assert [delta.offset for delta in first + second] == [0, 1]


def test_half_a_pair_that_stays_alone_becomes_a_replacement_character():
    """At the part's end, at the run's end, and in the middle of a text."""
    at_part_end, at_run_end = MessageAssembler(), MessageAssembler()

    ended = at_part_end.add(part_text("a\ud83d")) + at_part_end.add(part_text("", end=PartState.COMPLETE))
    flushed = at_run_end.add(part_text("\udc00a\ud83d")) + at_run_end.flush() + at_run_end.flush()

    assert [delta.payload for delta in ended] == [TextDelta("a"), TextDelta("\ufffd")]
    assert [delta.payload for delta in flushed] == [TextDelta("\ufffda"), TextDelta("\ufffd")]


def test_half_a_pair_stays_before_the_plain_text_that_follows():
    """A token of plain ASCII does not overtake what was held back."""
    assembler = MessageAssembler()

    deltas = assembler.add(part_text("a\ud83d")) + assembler.add(part_text("b")) + assembler.flush()

    assert [delta.payload for delta in deltas] == [TextDelta("a"), TextDelta("\ufffdb")]
    assert [delta.offset for delta in deltas] == [0, 1]


@pytest.mark.parametrize(
    ("opening", "content"),
    [
        (TextDelta(""), Text(text="")),
        (TextDelta("\ud83d"), Text(text="")),
        (RefusalDelta(""), Refusal(text="")),
        (ReasoningDelta(""), Reasoning(text="")),
        (ToolCallDelta(), ToolCall(id="", name="", arguments="")),
        (BlobDelta(), Blob()),
    ],
)
def test_part_that_opens_with_nothing_has_its_index_and_its_kind_at_once(opening, content):
    """The next part must not appear before it, and nobody may take it for something else."""
    assembler = MessageAssembler()

    deltas = assembler.add(PartDelta(part="a", payload=opening)) + assembler.add(part_text("b", part="b"))

    assert [delta.part_index for delta in deltas] == [0, 1]
    message = fold(deltas)
    assert message is not None
    assert message.parts[0].content == content


def test_fragment_without_anything_new_makes_no_entry():
    """A keep-alive in the shape of an empty delta costs no sequence."""
    assembler = MessageAssembler()
    assembler.add(part_text("a"))

    assert assembler.add(part_text("")) == []


def test_part_with_nothing_but_state_is_reasoning():
    """Some providers give only encrypted reasoning."""
    assembler = MessageAssembler()
    state = ProviderState(dialect="chat", data=b"secret")

    message = fold(assembler.add(PartDelta(part="r", provider_state=state, part_end=PartState.COMPLETE)))

    assert message is not None
    assert (message.parts[0].content, message.parts[0].provider_state) == (Reasoning(text=""), state)


@pytest.mark.parametrize(
    ("arguments", "whole_object"),
    [
        ("", True),
        ("{}", True),
        (' {"a": [1, 2.5, null]} ', True),
        ('{"a": ' + "9" * 5000 + "}", True),
        ("[1]", False),
        ("null", False),
        ('"{}"', False),
        ('{"a": NaN}', False),
        ('{"a": Infinity}', False),
        ('{"a": 1', False),
        ("{} {}", False),
        ("\ufeff{}", False),
        ('{"a":' * 200_000, False),
    ],
)
def test_arguments_are_whole_if_strict_json_says_so(arguments, whole_object):
    """Python's own reading of JSON is wider, and for long numbers narrower."""
    assert is_json_object(arguments) is whole_object


@pytest.mark.parametrize(
    ("arguments", "finish", "state"),
    [
        ("{}", FinishReason.TOOL_CALLS, PartState.COMPLETE),
        ("", FinishReason.TOOL_CALLS, PartState.COMPLETE),
        ('{"a"', FinishReason.TOOL_CALLS, PartState.MALFORMED),
        ('{"a"', FinishReason.LENGTH, PartState.TRUNCATED),
        ("", FinishReason.LENGTH, PartState.TRUNCATED),
        ("{}", FinishReason.LENGTH, PartState.COMPLETE),
        ('{"a"', None, PartState.TRUNCATED),
        ("{}", None, PartState.TRUNCATED),
    ],
)
def test_end_of_the_run_closes_an_open_tool_call(arguments, finish, state):
    """What the run's end cut is TRUNCATED, also if it happens to parse."""
    accumulator = MessageAccumulator()
    accumulator.add(MessageDelta(part_index=0, offset=0, payload=ToolCallDelta(id="1", name="f", arguments=arguments)))

    message = accumulator.final_message(finish)

    assert message is not None
    assert message.parts[0].state is state


@pytest.mark.parametrize(
    ("finish", "state"),
    [
        (FinishReason.STOP, PartState.COMPLETE),
        (FinishReason.REFUSAL, PartState.COMPLETE),
        (FinishReason.LENGTH, PartState.TRUNCATED),
        (FinishReason.CONTENT_FILTER, PartState.TRUNCATED),
        (None, PartState.TRUNCATED),
    ],
)
def test_end_of_the_run_closes_open_text_and_leaves_closed_text(finish, state):
    """A part that the provider closed stays as it was."""
    accumulator = MessageAccumulator()
    accumulator.add(MessageDelta(part_index=0, offset=0, payload=TextDelta("a"), part_end=PartState.COMPLETE))
    accumulator.add(MessageDelta(part_index=1, offset=0, payload=TextDelta("b")))

    message = accumulator.final_message(finish)

    assert message is not None
    assert [part.state for part in message.parts] == [PartState.COMPLETE, state]
