"""The client folds deltas into the message that the server keeps, and tells when they do not fit together."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from midstream.v1 import run_pb2
from midstream_client._accumulator import MessageAccumulator
from midstream_client.errors import StreamGapError
from midstream_server import codec, model
from midstream_server.accumulator import MessageAccumulator as ServerAccumulator
from midstream_server.accumulator import payload_size


def text_delta(offset: int, text: str, part_index: int = 0) -> run_pb2.MessageDelta:
    return run_pb2.MessageDelta(part_index=part_index, offset=offset, text=text)


_texts = st.text(st.characters(codec="utf-8"), max_size=8)
_payloads: st.SearchStrategy[model.DeltaPayload] = st.one_of(
    _texts.map(model.TextDelta),
    _texts.map(model.ReasoningDelta),
    _texts.map(model.RefusalDelta),
    st.builds(model.ToolCallDelta, id=_texts, name=_texts, arguments=_texts),
    st.builds(model.BlobDelta, mime_type=_texts, data=st.binary(max_size=8)),
)
_annotations = st.lists(st.builds(model.Annotation, type=_texts, url=_texts), max_size=2).map(tuple)
_provider_states = st.none() | st.builds(model.ProviderState, dialect=_texts, data=st.binary(max_size=4))


@st.composite
def _logs(draw: st.DrawFn) -> list[model.MessageDelta]:
    """Deltas as a server sends them: dense parts, of one kind each, any of them open, with true offsets."""
    kinds: list[type[model.DeltaPayload]] = []
    sizes: list[int] = []
    deltas = []
    for payload in draw(st.lists(_payloads, max_size=20)):
        open_ones = [index for index, kind in enumerate(kinds) if kind is type(payload)]
        index = draw(st.sampled_from([*open_ones, len(kinds)]))
        if index == len(kinds):
            kinds.append(type(payload))
            sizes.append(0)
        is_text = isinstance(payload, model.TextDelta)
        deltas.append(
            model.MessageDelta(
                part_index=index,
                offset=sizes[index],
                payload=payload,
                part_end=draw(st.none() | st.sampled_from([model.PartState.COMPLETE, model.PartState.MALFORMED])),
                provider_state=draw(_provider_states),
                annotations=draw(_annotations) if is_text else (),
            )
        )
        sizes[index] += payload_size(payload)
    return deltas


def _wire(delta: model.MessageDelta) -> run_pb2.MessageDelta:
    return run_pb2.RunEvent.FromString(codec.encode_event(2, delta)).delta


def _servers_message(deltas: list[model.MessageDelta]) -> run_pb2.Message:
    server = ServerAccumulator()
    for delta in deltas:
        server.add(delta)
    run = model.Run(run_id="r", state=model.RunState.RUNNING, message=server.message(), create_time=1, model="m/m")
    message = run_pb2.Run.FromString(codec.encode_run(run)).message
    message.role = run_pb2.ROLE_ASSISTANT
    return message


@given(_logs())
def test_folds_to_the_message_that_the_server_keeps(deltas: list[model.MessageDelta]):
    """Every field of every kind of part, after any deltas."""
    client = MessageAccumulator()

    for delta in deltas:
        client.fold(_wire(delta))

    assert client.message() == _servers_message(deltas)
    client.check_final(_servers_message(deltas))


@given(_logs(), st.data())
def test_overlapping_merged_deltas_add_only_what_is_new(deltas: list[model.MessageDelta], data: st.DataObject):
    """A reader whose cursor lies inside a merged event folds it to the same message."""
    cursor = data.draw(st.integers(0, len(deltas)))
    first = data.draw(st.integers(0, cursor))
    client = MessageAccumulator()
    for delta in deltas[:cursor]:
        client.fold(_wire(delta))
    entries = [codec.encode_event(number, delta) for number, delta in enumerate(deltas[first:], first + 1)]
    merged = [run_pb2.RunEvent.FromString(each) for each in codec.merge_entries(entries, 65536)]

    for event in merged:
        if event.sequence > cursor:
            begin = event.first_sequence or event.sequence
            client.fold(event.delta, overlaps=begin <= cursor)

    assert _payloads_of(client.message()) == _payloads_of(_servers_message(deltas))


def _payloads_of(message: run_pb2.Message) -> list[object]:
    return [
        (part.text.text, part.reasoning, part.refusal, part.tool_call, part.blob, part.state) for part in message.parts
    ]


def test_an_overlap_is_cut_at_the_byte():
    """Offsets are UTF-8 bytes, and what is returned is what is new."""
    client = MessageAccumulator()
    client.fold(text_delta(0, "grün"))

    new = client.fold(text_delta(4, "n und weiß"), overlaps=True)

    assert (new.text, new.offset) == (" und weiß", 5)
    assert client.text == "grün und weiß"


@pytest.mark.parametrize(
    ("delta", "overlaps"),
    [
        pytest.param(text_delta(6, "x"), False, id="after a hole"),
        pytest.param(text_delta(6, "x"), True, id="after a hole, merged"),
        pytest.param(text_delta(0, "grün"), False, id="a repeat"),
        pytest.param(text_delta(4, "n und"), False, id="an overlap that is not declared"),
        pytest.param(text_delta(2, "¡¢"), True, id="inside a character"),
        pytest.param(text_delta(0, "x", part_index=2), False, id="a part too far"),
        pytest.param(run_pb2.MessageDelta(offset=5, reasoning="x"), False, id="of another kind"),
    ],
)
def test_what_does_not_continue_its_part_is_told(delta: run_pb2.MessageDelta, overlaps: bool):
    """Nothing is folded, and nothing is silent."""
    client = MessageAccumulator()
    client.fold(text_delta(0, "grün"))

    with pytest.raises(StreamGapError):
        client.fold(delta, overlaps=overlaps)

    assert client.text == "grün"


def test_a_part_of_an_unknown_kind_keeps_its_index_and_state():
    """The forward rule: what is unknown is skipped, and still counts."""
    client = MessageAccumulator()
    unknown = run_pb2.MessageDelta.FromString(
        run_pb2.MessageDelta(offset=3, part_end=run_pb2.PART_STATE_COMPLETE).SerializeToString() + b"\xa2\x06\x01x"
    )

    client.fold(unknown)
    client.fold(text_delta(0, "hi", part_index=1))

    message = client.message()
    assert [part.WhichOneof("part") for part in message.parts] == [None, "text"]
    assert message.parts[0].state == run_pb2.PART_STATE_COMPLETE


def test_an_unknown_delta_of_a_known_part_ends_the_checks_of_that_part_only():
    """A later server may append in ways that this client cannot measure."""
    client = MessageAccumulator()
    client.fold(text_delta(0, "ab"))
    client.fold(run_pb2.MessageDelta.FromString(b"\xa2\x06\x01x"))

    client.fold(text_delta(9, "cd"))
    client.fold(text_delta(0, "e", part_index=1))

    assert client.text == "abcde"
    with pytest.raises(StreamGapError):
        client.fold(text_delta(2, "f", part_index=1))


def test_a_snapshot_adds_what_is_missing():
    """Of a part that has begun, only the rest; of others, all."""
    client = MessageAccumulator()
    client.fold(text_delta(0, "Hel"))
    whole = run_pb2.Message(
        parts=[
            run_pb2.Part(text=run_pb2.Text(text="Hello"), state=run_pb2.PART_STATE_COMPLETE),
            run_pb2.Part(refusal=run_pb2.Refusal(text="no"), state=run_pb2.PART_STATE_OPEN),
        ]
    )

    deltas = client.fold_snapshot(whole)

    assert [(each.text, each.refusal, each.offset) for each in deltas] == [("lo", "", 3), ("", "no", 0)]
    assert client.message().parts == whole.parts


@pytest.mark.parametrize("final", ["Hell", "Hello!", "Hallo", None], ids=["shorter", "longer", "another", "absent"])
def test_a_final_message_that_is_not_the_sum_of_its_deltas_is_told(final: str | None):
    """What was streamed and what is kept are compared at the end."""
    client = MessageAccumulator()
    client.fold(text_delta(0, "Hello"))
    parts = [run_pb2.Part(text=run_pb2.Text(text=final))] if final is not None else []

    with pytest.raises(StreamGapError):
        client.check_final(run_pb2.Message(parts=parts))


def test_a_reader_from_the_middle_takes_the_first_offset_that_comes():
    """Then it is strict, up to the end of the whole message."""
    client = MessageAccumulator(begins_midway=True)
    client.fold(text_delta(3, "lo", part_index=1))

    with pytest.raises(StreamGapError):
        client.fold(text_delta(6, "!", part_index=1))
    hello = run_pb2.Part(text=run_pb2.Text(text="Hello"))
    client.check_final(run_pb2.Message(parts=[hello, hello]))
    with pytest.raises(StreamGapError):
        client.check_final(run_pb2.Message(parts=[hello, run_pb2.Part(text=run_pb2.Text(text="Help"))]))
