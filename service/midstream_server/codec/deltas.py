"""A log's deltas, read quickly: a run of an hour has hundreds of thousands of them."""

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError

from midstream.v1 import run_pb2 as wire
from midstream_server.codec.events import get_payload
from midstream_server.errors import StoreCorrupt
from midstream_server.model import MessageDelta, TextDelta


def read_deltas(entries: Iterable[bytes]) -> Iterator[MessageDelta]:
    """The deltas among these entries, in order; neighbours that only add text to one part come as one.

    Raises:
        StoreCorrupt: an entry is not a RunEvent, or holds an enum value of a later version.
    """
    pieces: list[str] = []
    part_index = offset = 0
    for data in entries:
        try:
            event = wire.RunEvent.FromString(data)
            delta = event.delta
            is_text = _is_text(delta)
            if pieces and not (is_text and delta.part_index == part_index):
                yield _joined(part_index, offset, pieces)
                pieces = []
            if is_text:
                if not pieces:
                    part_index, offset = delta.part_index, delta.offset
                pieces.append(delta.text)
            elif isinstance(payload := get_payload(event), MessageDelta):
                yield payload
        except (DecodeError, ValueError) as error:
            raise StoreCorrupt("a stored RunEvent cannot be decoded") from error
    if pieces:
        yield _joined(part_index, offset, pieces)


def _is_text(delta: wire.MessageDelta) -> bool:
    """Whether a delta is text and nothing else."""
    return (
        delta.WhichOneof("payload") == "text"
        and not delta.part_end
        and not delta.HasField("provider_state")
        and not delta.annotations
        and not delta.logprobs
    )


def _joined(part_index: int, offset: int, pieces: list[str]) -> MessageDelta:
    return MessageDelta(part_index=part_index, offset=offset, payload=TextDelta("".join(pieces)))
