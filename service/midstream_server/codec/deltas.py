"""A log's deltas, read quickly: a run of an hour has hundreds of thousands of them.

Protobuf merges messages that follow each other, and joins their repeated fields
(https://protobuf.dev/programming-guides/encoding/#last-one-wins). So many entries are parsed as one `Entries`: a
RunEvent whose fields of interest are repeated. It tells nothing of which entry had which field, so it is taken only
where each entry adds text, and nothing else, to the same part; the others are read one by one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from midstream.v1 import run_pb2 as wire
from midstream_server.codec.events import get_payload
from midstream_server.errors import StoreCorrupt
from midstream_server.model import MessageDelta, ReasoningDelta, TextDelta

_AT_ONCE = 256


def read_deltas(entries: Sequence[bytes]) -> Iterator[MessageDelta]:
    """The deltas among these entries, in order; neighbours that only add text to one part may come as one.

    Raises:
        StoreCorrupt: an entry is not a RunEvent, or holds an enum value of a later version.
    """
    try:
        for begin in range(0, len(entries), _AT_ONCE):
            group = entries[begin : begin + _AT_ONCE]
            joined = _read_joined(group)
            if joined is not None:
                yield joined
                continue
            for entry in group:
                payload = get_payload(wire.RunEvent.FromString(entry))
                if isinstance(payload, MessageDelta):
                    yield payload
    except (DecodeError, ValueError) as error:
        raise StoreCorrupt("a stored RunEvent cannot be decoded") from error


def _read_joined(entries: Sequence[bytes]) -> MessageDelta | None:
    """What these entries add together, if each adds text, and nothing else, to the same part."""
    together = _ENTRIES.FromString(b"".join(entries))
    delta = together.delta
    count = len(entries)
    texts, kind = (delta.text, TextDelta) if delta.text else (delta.reasoning, ReasoningDelta)
    is_alike = (
        len(texts) == len(together.sequence) == count
        and len(delta.text) + len(delta.reasoning) == count
        and (not delta.part_index or (len(delta.part_index) == count and len(set(delta.part_index)) == 1))
        and not len(UnknownFieldSet(together))
        and not len(UnknownFieldSet(delta))
    )
    if not is_alike:
        return None
    first = wire.RunEvent.FromString(entries[0]).delta
    return MessageDelta(part_index=first.part_index, offset=first.offset, payload=kind("".join(texts)))


def _make_entries() -> Any:
    """`Entries`, from the descriptors of the contract: the same numbers and types."""
    file = descriptor_pb2.FileDescriptorProto(name="midstream/stored_entries.proto", package="midstream.stored")
    entries, delta = file.message_type.add(name="Entries"), file.message_type.add(name="Deltas")
    of_event, of_delta = wire.RunEvent.DESCRIPTOR.fields_by_name, wire.MessageDelta.DESCRIPTOR.fields_by_name
    field = descriptor_pb2.FieldDescriptorProto
    entries.field.add(
        name="delta",
        number=of_event["delta"].number,
        type=field.TYPE_MESSAGE,
        type_name=".midstream.stored.Deltas",
        label=field.LABEL_OPTIONAL,
    )
    repeated = [(entries, of_event["sequence"])]
    repeated += [(delta, of_delta[name]) for name in ("part_index", "offset", "text", "reasoning")]
    for target, source in repeated:
        target.field.add(name=source.name, number=source.number, type=source.type, label=field.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("midstream.stored.Entries"))


_ENTRIES = _make_entries()
