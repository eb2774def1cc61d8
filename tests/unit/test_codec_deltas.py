"""Reading a log quickly is reading it: what its deltas amount to is the same."""

import pytest
from hypothesis import given

from midstream_server.accumulator import MessageAccumulator
from midstream_server.codec import decode_event, encode_event, read_deltas
from midstream_server.errors import StoreCorrupt
from midstream_server.model import MessageDelta, Run, RunFinished, RunStarted, RunState, TextDelta
from strategies import message_logs


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


def test_neighbours_of_one_part_come_as_one():
    """That is what makes it quick."""
    said = [(0, 0, "Once "), (0, 5, "upon"), (1, 0, "a"), (0, 9, " time")]
    entries = [
        encode_event(number, MessageDelta(part_index=part, offset=offset, payload=TextDelta(text)))
        for number, (part, offset, text) in enumerate(said, 2)
    ]
    ending = encode_event(6, RunFinished(run=Run(run_id="run", state=RunState.FAILED, create_time=1)))

    deltas = list(read_deltas([*entries, ending]))

    assert [(delta.part_index, delta.offset, delta.payload) for delta in deltas] == [
        (0, 0, TextDelta("Once upon")),
        (1, 0, TextDelta("a")),
        (0, 9, TextDelta(" time")),
    ]


def test_entry_that_is_none_is_damage():
    """Never silently less than there was."""
    with pytest.raises(StoreCorrupt):
        list(read_deltas([b"\xff\xff"]))
