"""Events and resources as bytes of `midstream.v1`, and back.

An entry is encoded once: the same bytes are stored, replayed and streamed. What was encoded decodes to an equal value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as WireMessage

from midstream.v1 import run_pb2 as wire
from midstream_server.codec.deltas import read_deltas
from midstream_server.codec.events import get_payload, put_payload
from midstream_server.codec.merge import merge_entries
from midstream_server.codec.runs import get_run, get_usage, put_run, put_usage
from midstream_server.errors import StoreCorrupt
from midstream_server.model import EventPayload, Run, Usage

__all__ = [
    "DecodedEvent",
    "decode_event",
    "decode_run",
    "decode_usage",
    "encode_event",
    "encode_run",
    "encode_usage",
    "merge_entries",
    "read_deltas",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedEvent:
    """A RunEvent. `payload` None: a kind that this version does not know; its sequence counts."""

    sequence: int
    first_sequence: int
    payload: EventPayload | None


def encode_event(sequence: int, payload: EventPayload, first_sequence: int = 0) -> bytes:
    """The bytes of a RunEvent. `first_sequence` only for merged entries."""
    event = wire.RunEvent()
    event.sequence = sequence
    if first_sequence:
        event.first_sequence = first_sequence
    try:
        put_payload(event, payload)
    except UnicodeEncodeError:
        return encode_event(sequence, _without_surrogates(payload), first_sequence)
    return event.SerializeToString()


def decode_event(data: bytes) -> DecodedEvent:
    """The RunEvent of these bytes.

    Raises:
        StoreCorrupt: they are not one, or they hold an enum value of a later version.
    """
    return _decode(wire.RunEvent, _get_event, data)


def encode_run(run: Run) -> bytes:
    """The bytes of a Run."""
    target = wire.Run()
    try:
        put_run(target, run)
    except UnicodeEncodeError:
        return encode_run(_without_surrogates(run))
    return target.SerializeToString()


def decode_run(data: bytes) -> Run:
    """The Run of these bytes.

    Raises:
        StoreCorrupt: as `decode_event`.
    """
    return _decode(wire.Run, get_run, data)


def encode_usage(usage: Usage) -> bytes:
    """The bytes of a Usage."""
    target = wire.Usage()
    try:
        put_usage(target, usage)
    except UnicodeEncodeError:
        return encode_usage(_without_surrogates(usage))
    return target.SerializeToString()


def decode_usage(data: bytes) -> Usage:
    """The Usage of these bytes.

    Raises:
        StoreCorrupt: as `decode_event`.
    """
    return _decode(wire.Usage, get_usage, data)


def _get_event(source: wire.RunEvent) -> DecodedEvent:
    return DecodedEvent(sequence=source.sequence, first_sequence=source.first_sequence, payload=get_payload(source))


_WireKind = TypeVar("_WireKind", bound=WireMessage)
_Value = TypeVar("_Value")


def _decode(kind: type[_WireKind], get: Callable[[_WireKind], _Value], data: bytes) -> _Value:
    try:
        return get(kind.FromString(data))
    except (DecodeError, ValueError) as error:
        raise StoreCorrupt(f"a stored {kind.DESCRIPTOR.name} cannot be decoded") from error


def _without_surrogates(value: Any) -> Any:
    # Protobuf refuses half a surrogate pair. The engine lets none through; a provider's stray word, in whichever field,
    # must still not keep a run from being sealed.
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, tuple):
        return tuple(_without_surrogates(each) for each in value)
    if isinstance(value, Mapping):
        return {_without_surrogates(key): _without_surrogates(each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _without_surrogates(getattr(value, each.name)) for each in fields(value)})
    return value
