"""Reading a log quickly is reading it: what its deltas amount to is the same."""

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given

from midstream.v1 import run_pb2 as wire
from midstream_server.accumulator import MessageAccumulator
from midstream_server.codec import decode_event, encode_event, read_deltas
from midstream_server.errors import StoreCorrupt
from midstream_server.model import (
    DeltaPayload,
    MessageDelta,
    PartState,
    ProviderState,
    ReasoningDelta,
    Run,
    RunFinished,
    RunStarted,
    RunState,
    TextDelta,
)
from strategies import message_logs

_STATE = ProviderState(dialect="anthropic", data=b"s")


def folded(deltas) -> MessageAccumulator:
    """What deltas amount to."""
    accumulator = MessageAccumulator()
    for delta in deltas:
        accumulator.add(delta)
    return accumulator


@given(message_logs)
def test_deltas_that_are_read_together_amount_to_the_same(deltas: list[MessageDelta]):
    """Whatever parts, ends, states, annotations and probabilities are among them."""
    started = encode_event(1, RunStarted(run_id="run", create_time=1))
    entries = [started, *(encode_event(number, delta) for number, delta in enumerate(deltas, 2))]
    singly = folded(event.payload for event in map(decode_event, entries) if isinstance(event.payload, MessageDelta))

    together = folded(read_deltas(entries))

    assert together.message() == singly.message()
    assert together.final_message(None) == singly.final_message(None)
    assert together.output_bytes == singly.output_bytes


def delta_entries(said: Sequence[tuple[int, int, DeltaPayload]]) -> list[bytes]:
    """A log's entries from part, offset and payload."""
    return [
        encode_event(number, MessageDelta(part_index=part, offset=offset, payload=payload))
        for number, (part, offset, payload) in enumerate(said, 2)
    ]


@pytest.mark.parametrize("kind", [TextDelta, ReasoningDelta])
@pytest.mark.parametrize("part", [0, 3])
def test_pieces_of_one_part_come_as_one(kind: type[TextDelta | ReasoningDelta], part: int):
    """That is what makes it quick."""
    pieces = [f"{number} \N{SNOWMAN}" for number in range(100)]
    offsets = accumulate((len(piece.encode()) for piece in pieces), initial=7)
    said = [(part, offset, kind(piece)) for offset, piece in zip(offsets, pieces, strict=False)]

    assert list(read_deltas(delta_entries(said))) == [
        MessageDelta(part_index=part, offset=7, payload=kind("".join(pieces)))
    ]


@pytest.mark.parametrize(
    "stranger",
    [
        MessageDelta(part_index=2, offset=0, payload=TextDelta("of another part")),
        MessageDelta(part_index=0, offset=5, payload=ReasoningDelta("of another kind")),
        MessageDelta(part_index=0, offset=5, payload=TextDelta("the last"), part_end=PartState.COMPLETE),
        MessageDelta(part_index=0, offset=5, payload=TextDelta("stated"), provider_state=_STATE),
        MessageDelta(part_index=0, offset=5, part_end=PartState.COMPLETE),
    ],
    ids=["part", "kind", "end", "state", "bare end"],
)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("part", [0, 1])
def test_what_is_more_than_text_is_not_lost_among_text(stranger: MessageDelta, place: int, part: int):
    """A run's log, wherever its deltas differ; the number of the first part is not on the wire, that of others is."""
    alike = [MessageDelta(part_index=part, offset=0, payload=TextDelta(text)) for text in ("Once ", "upon")]
    deltas = [*alike[:place], stranger, *alike[place:]]

    assert list(read_deltas([encode_event(number, delta) for number, delta in enumerate(deltas, 2)])) == deltas


def test_events_that_are_no_deltas_are_left_out():
    """The start and the end of a log, and what a later version may add to it."""
    finished = encode_event(4, RunFinished(run=Run(run_id="run", state=RunState.FAILED, create_time=1)))
    later = wire.RunEvent(sequence=3).SerializeToString() + b"\xf2\x7d\x02hi"

    assert list(read_deltas([*delta_entries([(0, 0, TextDelta("Once"))]), later, finished])) == [
        MessageDelta(part_index=0, offset=0, payload=TextDelta("Once"))
    ]


def test_entry_that_is_none_is_damage():
    """Never silently less than there was."""
    with pytest.raises(StoreCorrupt):
        list(read_deltas([b"\xff\xff"]))
