"""Merges a log's entries while they are sent to a reader that lags. Entries at rest are never merged."""

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from midstream.v1 import run_pb2 as wire
from midstream_server.errors import StoreCorrupt


def merge_entries(entries: Sequence[bytes], max_payload_bytes: int) -> list[bytes]:
    """Joins adjacent deltas of one part into events that span `first_sequence..sequence`; their fold is the same.

    What cannot be joined passes through as it is. A joined payload, its annotations and log probabilities included, has
    at most `max_payload_bytes`.

    Raises:
        StoreCorrupt: an entry is not a RunEvent.
    """
    merged: list[bytes] = []
    span: list[_Entry] = []
    kind: str | None = None
    size = 0
    for data in entries:
        entry = _read(data)
        if span and size + entry.size <= max_payload_bytes and _follows(entry, span[-1], kind):
            span.append(entry)
            kind = kind or entry.kind
            size += entry.size
            continue
        if span:
            merged.append(_join(span, kind))
        span, kind, size = [entry], entry.kind, entry.size
    if span:
        merged.append(_join(span, kind))
    return merged


class _Entry(NamedTuple):
    data: bytes
    event: wire.RunEvent
    delta: wire.MessageDelta
    kind: str | None
    """Of its payload."""
    size: int
    """Of its payload, annotations and log probabilities, in bytes."""
    joins: bool
    """Whether it is a delta of a kind that this version knows."""


def _read(data: bytes) -> _Entry:
    try:
        event = wire.RunEvent.FromString(data)
    except DecodeError as error:
        raise StoreCorrupt("a stored RunEvent cannot be decoded") from error
    delta = event.delta
    kind = delta.WhichOneof("payload")
    # Without a payload that we know, it may have one that we do not, which joining would lose.
    joins = kind is not None or (event.WhichOneof("event") == "delta" and not len(UnknownFieldSet(delta)))
    return _Entry(data, event, delta, kind, _size(delta, kind), joins)


def _size(delta: wire.MessageDelta, kind: str | None) -> int:
    if delta.logprobs or delta.annotations:
        return delta.ByteSize()
    match kind:
        case "text":
            return len(delta.text.encode())
        case "reasoning":
            return len(delta.reasoning.encode())
        case "refusal":
            return len(delta.refusal.encode())
        case "tool_call":
            return len(delta.tool_call.arguments.encode())
        case "blob":
            return len(delta.blob.data)
        case _:
            return 0


def _follows(entry: _Entry, last: _Entry, kind: str | None) -> bool:
    """Whether an entry can be joined to a span of this kind that ends with `last`."""
    return (
        entry.joins
        and last.joins
        and (entry.kind == kind or entry.kind is None or kind is None)
        and entry.delta.part_index == last.delta.part_index
        and not last.delta.part_end
        and not last.delta.HasField("provider_state")
        and (entry.event.first_sequence or entry.event.sequence) == last.event.sequence + 1
    )


def _join(span: Sequence[_Entry], kind: str | None) -> bytes:
    first, last = span[0], span[-1]
    if first is last:
        return first.data
    event = wire.RunEvent()
    event.sequence = last.event.sequence
    event.first_sequence = first.event.first_sequence or first.event.sequence
    delta = event.delta
    delta.part_index = first.delta.part_index
    delta.offset = first.delta.offset
    _put_joined_payload(delta, [entry.delta for entry in span if entry.kind is not None], kind)
    for entry in span:
        delta.annotations.extend(entry.delta.annotations)
        delta.logprobs.extend(entry.delta.logprobs)
    delta.part_end = last.delta.part_end
    if last.delta.HasField("provider_state"):
        delta.provider_state.CopyFrom(last.delta.provider_state)
    return event.SerializeToString()


def _put_joined_payload(target: wire.MessageDelta, deltas: Sequence[wire.MessageDelta], kind: str | None) -> None:
    match kind:
        case "text":
            target.text = "".join([delta.text for delta in deltas])
        case "reasoning":
            target.reasoning = "".join([delta.reasoning for delta in deltas])
        case "refusal":
            target.refusal = "".join([delta.refusal for delta in deltas])
        case "tool_call":
            for delta in deltas:
                target.tool_call.id = delta.tool_call.id or target.tool_call.id
                target.tool_call.name = delta.tool_call.name or target.tool_call.name
            target.tool_call.arguments = "".join([delta.tool_call.arguments for delta in deltas])
        case "blob":
            for delta in deltas:
                target.blob.mime_type = delta.blob.mime_type or target.blob.mime_type
                target.blob.url = delta.blob.url or target.blob.url
                target.blob.file_id = delta.blob.file_id or target.blob.file_id
            target.blob.data = b"".join([delta.blob.data for delta in deltas])
