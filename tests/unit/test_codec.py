"""Events and resources as bytes, and back; and the merging of a log for a reader that lags."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from google.protobuf.message import Message as WireMessage
from google.rpc.error_details_pb2 import ErrorInfo
from hypothesis import given
from hypothesis import strategies as st

from examples import full_deltas, full_run, full_started
from midstream.v1 import run_pb2 as wire
from midstream_server.accumulator import MessageAccumulator
from midstream_server.codec import (
    DecodedEvent,
    decode_event,
    decode_run,
    decode_usage,
    encode_event,
    encode_run,
    encode_usage,
    merge_entries,
)
from midstream_server.errors import RUN_FAILURES, StoreCorrupt
from midstream_server.model import (
    Annotation,
    BlobDelta,
    CancelReason,
    DeltaPayload,
    EventPayload,
    Message,
    MessageDelta,
    Part,
    PartState,
    ProviderState,
    ReasoningDelta,
    Role,
    Run,
    RunError,
    RunFinished,
    RunProgress,
    RunSnapshot,
    RunStarted,
    RunState,
    Text,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from strategies import event_payloads, message_logs, numbers, runs, usages

KIB_64 = 64 * 1024


# --- Round trips -----------------------------------------------------------------------------------------------------


@given(sequence=numbers, first_sequence=numbers, payload=event_payloads)
def test_an_event_decodes_to_what_was_encoded(sequence: int, first_sequence: int, payload: EventPayload):
    """Every kind of event, with every field set or absent, is the same after a journey through bytes."""
    data = encode_event(sequence, payload, first_sequence)

    assert decode_event(data) == DecodedEvent(sequence=sequence, first_sequence=first_sequence, payload=payload)


@given(run=runs)
def test_a_run_decodes_to_what_was_encoded(run: Run):
    """Nothing of a run is lost or made up."""
    assert decode_run(encode_run(run)) == run


@given(usage=usages)
def test_usage_decodes_to_what_was_encoded(usage: Usage):
    """Unknown counts stay unknown, and 0 stays 0."""
    assert decode_usage(encode_usage(usage)) == usage


def test_every_field_of_the_contract_is_written_and_read():
    """A field that the codec forgets would be lost silently: together these values set every field that there is."""
    payloads: list[EventPayload] = [
        full_started(),
        *full_deltas(),
        RunFinished(run=full_run()),
        RunSnapshot(run=full_run()),
        RunProgress(state=RunState.STOPPING, cancel_reason=CancelReason.BUDGET, usage=full_run().usage),
    ]

    events = [encode_event(3, payload, 2) for payload in payloads]

    assert {field for event in events for field in _fields_set(wire.RunEvent.FromString(event))} == _fields_of_events()
    assert [decode_event(event).payload for event in events] == payloads


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", sorted(RUN_FAILURES))
def test_a_failed_run_carries_exactly_one_error_info(reason: str):
    """The status of a failed run has the failure's code and one ErrorInfo with the fixed metadata keys."""
    error = RunError(
        reason=reason, message="no", retryable=True, upstream="openai", http_status=503, provider_code="overloaded"
    )

    status = wire.Run.FromString(encode_run(_run(error=error))).error

    info = ErrorInfo()
    assert [detail.Unpack(info) for detail in status.details] == [True]
    assert status.code == RUN_FAILURES[reason].code
    assert status.message == "no"
    assert (info.reason, info.domain) == (reason, "midstream.v1")
    assert info.metadata == {
        "upstream": "openai",
        "http_status": "503",
        "provider_code": "overloaded",
        "retryable": "true",
    }


def test_unknown_facts_of_a_failure_are_absent():
    """Metadata names only what is known; `retryable` always is."""
    error = RunError(reason="OWNER_LOST", message="gone", retryable=False)

    status = wire.Run.FromString(encode_run(_run(error=error))).error

    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.metadata == {"retryable": "false"}


# --- What should not be there ----------------------------------------------------------------------------------------


def test_half_a_surrogate_pair_becomes_the_replacement_character():
    """A provider's lone surrogate, in any field, does not keep a run from being sealed; a split pair is joined."""
    text = "a\ud83db\ude00c\ud83d\ude00"
    message = Message(role=Role.ASSISTANT, parts=(Part(content=Text(text=text)),))
    run = _run(message=message, raw_finish_reason=text, provider_metadata={text: text})

    finished = decode_event(encode_event(9, RunFinished(run=run))).payload
    delta = decode_event(encode_event(2, MessageDelta(part_index=0, offset=0, payload=TextDelta(text)))).payload

    mended = "a\ufffdb\ufffdc\U0001f600"
    assert isinstance(finished, RunFinished)
    assert finished.run.message == Message(role=Role.ASSISTANT, parts=(Part(content=Text(text=mended)),))
    assert finished.run.raw_finish_reason == mended
    assert finished.run.provider_metadata == {mended: mended}
    assert decode_run(encode_run(run)) == finished.run
    assert delta == MessageDelta(part_index=0, offset=0, payload=TextDelta(mended))


@pytest.mark.parametrize("decode", [decode_event, decode_run, decode_usage])
def test_bytes_that_are_no_message_are_a_corrupt_store(decode: object):
    """Damage is told as the store's, not as an error of the decoder."""
    assert callable(decode)

    with pytest.raises(StoreCorrupt):
        decode(b"\x0a\xff\xff")


def test_an_enum_value_of_a_later_version_is_a_corrupt_store():
    """What this version cannot name it does not guess."""
    with pytest.raises(StoreCorrupt):
        decode_run(wire.Run(run_id="a", state=wire.RunState.ValueType(99)).SerializeToString())


def test_an_event_of_an_unknown_kind_keeps_its_sequence():
    """A later version's event decodes to a sequence without a payload."""
    known = wire.RunEvent(sequence=7).SerializeToString()
    unknown_kind = b"\x7a\x02\x08\x01"

    assert decode_event(known + unknown_kind) == DecodedEvent(sequence=7, first_sequence=0, payload=None)


def test_a_part_of_an_unknown_kind_keeps_its_index_and_state():
    """Parts behind it do not move."""
    source = wire.Run(run_id="a", state=wire.RUN_STATE_RUNNING)
    source.message.role = wire.ROLE_ASSISTANT
    source.message.parts.add(state=wire.PART_STATE_TRUNCATED).MergeFromString(b"\x7a\x00")
    source.message.parts.add().text.text = "b"

    message = decode_run(source.SerializeToString()).message

    assert message is not None
    assert [part.state for part in message.parts] == [PartState.TRUNCATED, PartState.COMPLETE]
    assert message.parts[1].content == Text(text="b")


# --- Merging ---------------------------------------------------------------------------------------------------------


@given(log=message_logs, max_payload_bytes=st.integers(0, 200))
def test_merged_entries_fold_to_the_same_message(log: list[MessageDelta], max_payload_bytes: int):
    """A reader that got merged events has the message and the log probabilities of one that did not."""
    merged = _deltas(merge_entries(_entries(log), max_payload_bytes))

    assert _fold(merged) == _fold(log)
    assert _logprobs(merged) == _logprobs(log)


@given(log=message_logs, max_payload_bytes=st.integers(0, 200))
def test_merged_entries_tile_the_sequences(log: list[MessageDelta], max_payload_bytes: int):
    """Spans follow each other without a gap; an entry that stays alone stays as it is, byte for byte."""
    entries = _entries(log)

    merged = merge_entries(entries, max_payload_bytes)

    expected_first = 2
    for entry in merged:
        event = decode_event(entry)
        assert (event.first_sequence or event.sequence) == expected_first
        assert event.first_sequence or entry == entries[event.sequence - 2]
        expected_first = event.sequence + 1
    assert expected_first == 2 + len(log)


@given(log=message_logs)
def test_merged_offsets_follow_each_other(log: list[MessageDelta]):
    """A merged delta begins where the bytes of its part so far end."""
    sizes: dict[int, int] = {}

    for delta in _deltas(merge_entries(_entries(log), KIB_64)):
        assert delta.offset == sizes.get(delta.part_index, 0)
        sizes[delta.part_index] = delta.offset + _payload_bytes(delta.payload)


def test_a_run_of_tokens_becomes_one_event():
    """Hundreds of tokens that a reader missed reach it as one message."""
    log = [MessageDelta(part_index=0, offset=4 * index, payload=TextDelta("wör")) for index in range(500)]

    merged = merge_entries(_entries(log), KIB_64)

    assert len(merged) == 1
    event = decode_event(merged[0])
    assert (event.first_sequence, event.sequence) == (2, 501)
    assert event.payload == MessageDelta(part_index=0, offset=0, payload=TextDelta("wör" * 500))


def test_a_merged_payload_stays_within_its_limit():
    """The limit counts UTF-8 bytes; an entry that is larger by itself passes through."""
    log = [_text(0, 0, "ö" * 3), _text(0, 6, "ö" * 2), _text(0, 10, "x"), _text(0, 11, "y" * 20)]

    merged = merge_entries(_entries(log), 10)

    assert [delta.payload for delta in _deltas(merged)] == [TextDelta("ööööö"), TextDelta("x"), TextDelta("y" * 20)]


def test_log_probabilities_count_towards_the_limit():
    """Twenty alternatives to each token would otherwise make an event that no client accepts."""
    logprob = TokenLogprob(
        token="a", logprob=-1.0, top=tuple(TokenLogprob(token="b" * 50, logprob=-2.0) for _ in range(20))
    )
    log = [MessageDelta(part_index=0, offset=index, payload=TextDelta("a"), logprobs=(logprob,)) for index in range(10)]

    merged = merge_entries(_entries(log), 4000)

    assert 1 < len(merged) < 10
    assert all(len(entry) < 4200 for entry in merged)


_TEXT = MessageDelta(part_index=0, offset=0, payload=TextDelta("a"))
_STATE = ProviderState(dialect="anthropic", data=b"signature")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_TEXT, MessageDelta(part_index=1, offset=0, payload=TextDelta("b"))),
        (_TEXT, MessageDelta(part_index=0, offset=1, payload=ReasoningDelta("b"))),
        (
            MessageDelta(part_index=0, offset=0, payload=TextDelta("a"), part_end=PartState.COMPLETE),
            MessageDelta(part_index=0, offset=1, annotations=(Annotation(type="url_citation"),)),
        ),
        (
            MessageDelta(part_index=0, offset=0, payload=ReasoningDelta("a"), provider_state=_STATE),
            MessageDelta(part_index=0, offset=1, payload=ReasoningDelta("b")),
        ),
        (RunStarted(run_id="a", create_time=0), _TEXT),
        (_TEXT, RunFinished(run=Run(run_id="a", state=RunState.COMPLETED, create_time=0))),
    ],
    ids=["another part", "another kind", "after the part's end", "after provider state", "after the start", "the end"],
)
def test_what_does_not_belong_together_passes_through(first: EventPayload, second: EventPayload):
    """Both entries come out byte for byte."""
    entries = [encode_event(1, first), encode_event(2, second)]

    assert merge_entries(entries, KIB_64) == entries


def test_entries_with_a_gap_between_them_are_not_merged():
    """A merged span would claim the sequences that are missing."""
    entries = [encode_event(2, _TEXT), encode_event(4, MessageDelta(part_index=0, offset=1, payload=TextDelta("b")))]

    assert merge_entries(entries, KIB_64) == entries


def test_a_payload_of_an_unknown_kind_is_not_merged():
    """A later version's delta reaches the reader as it was written."""
    unknown = wire.RunEvent(sequence=3)
    unknown.delta.part_index = 0
    unknown.delta.MergeFromString(b"\x7a\x02hi")
    entries = [encode_event(2, _TEXT), unknown.SerializeToString(), encode_event(4, _TEXT)]

    assert merge_entries(entries, KIB_64) == entries


def test_a_merged_tool_call_keeps_the_last_name_and_all_arguments():
    """Names and ids replace, arguments append, and the end of the part is kept."""
    log = [
        MessageDelta(part_index=0, offset=0, payload=ToolCallDelta(id="call-1", name="wea")),
        MessageDelta(part_index=0, offset=0, payload=ToolCallDelta(name="weather", arguments='{"city":')),
        MessageDelta(part_index=0, offset=8, payload=ToolCallDelta(arguments='"Köln"}')),
        MessageDelta(part_index=0, offset=16, part_end=PartState.COMPLETE, provider_state=_STATE),
    ]

    merged = _deltas(merge_entries(_entries(log), KIB_64))

    assert merged == [
        MessageDelta(
            part_index=0,
            offset=0,
            payload=ToolCallDelta(id="call-1", name="weather", arguments='{"city":"Köln"}'),
            part_end=PartState.COMPLETE,
            provider_state=_STATE,
        )
    ]


def test_merged_entries_can_be_merged_again():
    """A span may grow: its first sequence is the first one's."""
    first = encode_event(4, _TEXT, first_sequence=2)
    second = encode_event(7, MessageDelta(part_index=0, offset=1, payload=TextDelta("b")), first_sequence=5)

    [merged] = merge_entries([first, second], KIB_64)

    event = decode_event(merged)
    assert (event.first_sequence, event.sequence) == (2, 7)


def test_an_entry_that_is_no_event_is_a_corrupt_store():
    """A reader is told so, and not of a decoder."""
    with pytest.raises(StoreCorrupt):
        merge_entries([b"\x0a\xff\xff"], KIB_64)


def test_nothing_merges_to_nothing():
    """No entries, no events."""
    assert merge_entries([], KIB_64) == []


# --- Helpers ---------------------------------------------------------------------------------------------------------


def _entries(log: Sequence[MessageDelta]) -> list[bytes]:
    return [encode_event(sequence, delta) for sequence, delta in enumerate(log, start=2)]


def _deltas(entries: Sequence[bytes]) -> list[MessageDelta]:
    payloads = [decode_event(entry).payload for entry in entries]
    deltas = [payload for payload in payloads if isinstance(payload, MessageDelta)]
    assert len(deltas) == len(payloads)
    return deltas


def _fold(log: Sequence[MessageDelta]) -> Message | None:
    accumulator = MessageAccumulator()
    for delta in log:
        accumulator.add(delta)
    return accumulator.message()


def _logprobs(log: Sequence[MessageDelta]) -> dict[int, list[TokenLogprob]]:
    logprobs: dict[int, list[TokenLogprob]] = {}
    for delta in log:
        logprobs.setdefault(delta.part_index, []).extend(delta.logprobs)
    return logprobs


def _payload_bytes(payload: DeltaPayload | None) -> int:
    match payload:
        case None:
            return 0
        case ToolCallDelta():
            return len(payload.arguments.encode())
        case BlobDelta():
            return len(payload.data)
        case _:
            return len(payload.text.encode())


def _text(part_index: int, offset: int, text: str) -> MessageDelta:
    return MessageDelta(part_index=part_index, offset=offset, payload=TextDelta(text))


def _run(**fields: Any) -> Run:
    return Run(run_id="a", state=RunState.FAILED, create_time=1, **fields)


def _fields_set(message: WireMessage) -> Iterator[str]:
    """The names of all fields that are set in a message and in the messages in it."""
    for field, value in message.ListFields():
        if not field.full_name.startswith("midstream.v1."):
            return
        yield field.full_name
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for each in value if field.is_repeated else [value]:
            yield from _fields_set(each)


def _fields_of_events() -> set[str]:
    """The names of all fields of ours that an event can hold. A Timestamp, a Duration and a Status are values."""
    seen: set[str] = set()
    pending = [wire.RunEvent.DESCRIPTOR]
    while pending:
        for field in pending.pop().fields:
            kind = field.message_type
            if field.full_name not in seen and kind is not None and kind.file.package == "midstream.v1":
                pending.append(kind)
            seen.add(field.full_name)
    return {name for name in seen if name.startswith("midstream.v1.") and "Entry." not in name}
