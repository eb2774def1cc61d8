"""What iterating over a stream gives."""

from dataclasses import dataclass

from midstream.v1 import run_pb2
from midstream_client.enums import PartState


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """More of a message.

    At most one of `text`, `reasoning`, `refusal`, `tool_call` and `blob` is set; `text` is the answer's own text and
    may always be printed.

    Attributes:
        sequence: The last of the run's sequences that it covers.
        first_sequence: The first one; less than `sequence` if the server merged entries for a reader that lagged.
        part_index: The index in `message.parts` of the part that it appends to, or opens.
        offset: UTF-8 bytes of that part's payload that came before.
        part_end: The state in which it leaves the part, if it closes it.
        provider_state: Replaces the part's.
        annotations: Added to the part's.
        logprobs: Of the tokens in it.
    """

    sequence: int
    first_sequence: int
    part_index: int
    offset: int
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_call: run_pb2.ToolCallDelta | None = None
    blob: run_pb2.BlobDelta | None = None
    part_end: PartState | None = None
    provider_state: run_pb2.ProviderState | None = None
    annotations: tuple[run_pb2.Annotation, ...] = ()
    logprobs: tuple[run_pb2.TokenLogprob, ...] = ()


def delta_of(delta: run_pb2.MessageDelta, *, first_sequence: int, sequence: int) -> Delta | None:
    """The delta as a value; None if there is nothing in it that this version knows."""
    if not (delta.WhichOneof("payload") or delta.part_end or delta.HasField("provider_state") or delta.annotations):
        return None
    return Delta(
        sequence=sequence,
        first_sequence=first_sequence,
        part_index=delta.part_index,
        offset=delta.offset,
        text=delta.text,
        reasoning=delta.reasoning,
        refusal=delta.refusal,
        tool_call=delta.tool_call if delta.HasField("tool_call") else None,
        blob=delta.blob if delta.HasField("blob") else None,
        part_end=PartState(delta.part_end) if delta.part_end else None,
        provider_state=delta.provider_state if delta.HasField("provider_state") else None,
        annotations=tuple(delta.annotations),
        logprobs=tuple(delta.logprobs),
    )
