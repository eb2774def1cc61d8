"""Folds deltas into a message, and checks that each begins where the one before it ended."""

from dataclasses import dataclass, field

from google.protobuf.unknown_fields import UnknownFieldSet

from midstream.v1 import run_pb2
from midstream_client.errors import StreamGapError

_TEXTS = ("text", "reasoning", "refusal")


class MessageAccumulator:
    """The message so far.

    Other threads may read it while one folds. `begins_midway` is for a reader that asked for the end of a log only: the
    payload of a part then begins at the first offset seen.
    """

    def __init__(self, *, begins_midway: bool = False) -> None:
        self._begins_midway = begins_midway
        self._parts: list[_Part] = []

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join("".join(part.chunks) for part in self._parts if part.kind == "text")

    def message(self) -> run_pb2.Message:
        """A copy of the message so far; parts that were not closed are OPEN."""
        return run_pb2.Message(role=run_pb2.ROLE_ASSISTANT, parts=[part.build() for part in self._parts])

    def fold(self, delta: run_pb2.MessageDelta, *, overlaps: bool = False) -> run_pb2.MessageDelta:
        """Adds a delta and returns what of it is new.

        Args:
            delta: Is not changed, and may be returned.
            overlaps: It may begin before the end of its part; only what follows is taken.

        Raises:
            StreamGapError: It does not continue its part. Nothing was added.
        """
        part = self._part(delta.part_index)
        kind = delta.WhichOneof("payload")
        if kind is None:
            part.is_opaque = part.is_opaque or len(UnknownFieldSet(delta)) > 0
        else:
            delta = part.rest_of(delta, kind, overlaps=overlaps)
            part.append(delta, kind)
        part.add_state(delta, overlaps=overlaps)
        return delta

    def fold_snapshot(self, message: run_pb2.Message) -> list[run_pb2.MessageDelta]:
        """Adds what a snapshot has beyond the message so far, and returns it as deltas.

        Raises:
            StreamGapError: The snapshot does not hold what was received.
        """
        return [self.fold(_whole(index, part), overlaps=True) for index, part in enumerate(message.parts)]

    def check_final(self, message: run_pb2.Message) -> None:
        """Compares with the message of a run that has ended.

        Raises:
            StreamGapError: The deltas do not add up to it.
        """
        if len(self._parts) != len(message.parts) and not (
            self._begins_midway and len(self._parts) < len(message.parts)
        ):
            raise StreamGapError(f"the final message has {len(message.parts)} parts, {len(self._parts)} were received")
        for index, (mine, final) in enumerate(zip(self._parts, message.parts, strict=False)):
            if not mine.is_end_of(final):
                raise StreamGapError(f"part {index} of the final message is not what was received")

    def _part(self, index: int) -> "_Part":
        if index > len(self._parts) and not self._begins_midway:
            raise StreamGapError(f"part {index} begins before part {len(self._parts)}")
        while index >= len(self._parts):
            self._parts.append(_Part(end=None if self._begins_midway else 0))
        return self._parts[index]


@dataclass(slots=True)
class _Part:
    """A part so far. `end` counts its payload's bytes, None if unknown yet. An opaque one holds what we cannot read."""

    end: int | None
    kind: str = ""
    chunks: list[str] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, str] = field(default_factory=dict)
    annotations: list[run_pb2.Annotation] = field(default_factory=list)
    provider_state: run_pb2.ProviderState | None = None
    state: run_pb2.PartState.ValueType = run_pb2.PART_STATE_OPEN
    is_opaque: bool = False

    def rest_of(self, delta: run_pb2.MessageDelta, kind: str, *, overlaps: bool) -> run_pb2.MessageDelta:
        if self.kind not in ("", kind):
            raise StreamGapError(f"part {delta.part_index} was {self.kind} and goes on as {kind}")
        if self.is_opaque or self.end is None or delta.offset == self.end:
            return delta
        size = _size(delta, kind)
        if not overlaps or not delta.offset < self.end <= delta.offset + size:
            raise StreamGapError(f"part {delta.part_index} ends at byte {self.end} and goes on at {delta.offset}")
        return _cut(delta, kind, self.end - delta.offset)

    def append(self, delta: run_pb2.MessageDelta, kind: str) -> None:
        self.kind = kind
        if kind in _TEXTS:
            self.chunks.append(getattr(delta, kind))
        elif kind == "tool_call":
            self.chunks.append(delta.tool_call.arguments)
            self._rename(id=delta.tool_call.id, name=delta.tool_call.name)
        else:
            blob = delta.blob
            self.data += blob.data
            self._rename(mime_type=blob.mime_type, url=blob.url, file_id=blob.file_id)
        self.end = delta.offset + _size(delta, kind)

    def add_state(self, delta: run_pb2.MessageDelta, *, overlaps: bool) -> None:
        for annotation in delta.annotations:
            if not (overlaps and annotation in self.annotations):
                self.annotations.append(annotation)
        if delta.HasField("provider_state"):
            self.provider_state = delta.provider_state
        if delta.part_end:
            self.state = delta.part_end

    def build(self) -> run_pb2.Part:
        part = run_pb2.Part(state=self.state, provider_state=self.provider_state)
        text = "".join(self.chunks)
        match self.kind:
            case "text":
                part.text.MergeFrom(run_pb2.Text(text=text, annotations=self.annotations))
                part.text.SetInParent()
            case "reasoning":
                part.reasoning.text = text
                part.reasoning.SetInParent()
            case "refusal":
                part.refusal.text = text
                part.refusal.SetInParent()
            case "tool_call":
                part.tool_call.MergeFrom(run_pb2.ToolCall(arguments=text, **self.names))
                part.tool_call.SetInParent()
            case "blob":
                part.blob.MergeFrom(run_pb2.Blob(mime_type=self.names.get("mime_type", "")))
                _set_source(part.blob, self.names, bytes(self.data))
                part.blob.SetInParent()
        return part

    def is_end_of(self, final: run_pb2.Part) -> bool:
        """Whether the final part ends with this payload, and is as long."""
        kind = final.WhichOneof("part")
        if self.is_opaque or self.end is None or kind is None:
            return True
        payload = _payload(_whole(0, final), kind)
        received = bytes(self.data) if kind == "blob" else "".join(self.chunks).encode()
        return self.kind in ("", kind) and self.end == len(payload) and payload.endswith(received)

    def _rename(self, **names: str) -> None:
        self.names.update({key: value for key, value in names.items() if value})


def _set_source(blob: run_pb2.Blob, names: dict[str, str], data: bytes) -> None:
    if "url" in names:
        blob.url = names["url"]
    elif "file_id" in names:
        blob.file_id = names["file_id"]
    elif data:
        blob.data = data


def _payload(delta: run_pb2.MessageDelta, kind: str) -> bytes:
    if kind == "blob":
        return delta.blob.data
    text: str = delta.tool_call.arguments if kind == "tool_call" else getattr(delta, kind)
    return text.encode()


def _size(delta: run_pb2.MessageDelta, kind: str) -> int:
    return len(_payload(delta, kind))


def _cut(delta: run_pb2.MessageDelta, kind: str, count: int) -> run_pb2.MessageDelta:
    """A copy without the first `count` bytes of its payload."""
    rest = run_pb2.MessageDelta()
    rest.CopyFrom(delta)
    rest.offset += count
    data = _payload(delta, kind)[count:]
    try:
        if kind == "blob":
            rest.blob.data = data
        elif kind == "tool_call":
            rest.tool_call.arguments = data.decode()
        else:
            setattr(rest, kind, data.decode())
    except UnicodeDecodeError as error:
        raise StreamGapError(f"part {delta.part_index} goes on inside a character") from error
    return rest


def _whole(index: int, part: run_pb2.Part) -> run_pb2.MessageDelta:
    """A delta that makes the whole part."""
    delta = run_pb2.MessageDelta(part_index=index)
    match part.WhichOneof("part"):
        case "text":
            delta.text = part.text.text
            delta.annotations.extend(part.text.annotations)
        case "reasoning":
            delta.reasoning = part.reasoning.text
        case "refusal":
            delta.refusal = part.refusal.text
        case "tool_call":
            call = part.tool_call
            delta.tool_call.CopyFrom(run_pb2.ToolCallDelta(id=call.id, name=call.name, arguments=call.arguments))
        case "blob":
            blob = part.blob
            delta.blob.CopyFrom(
                run_pb2.BlobDelta(mime_type=blob.mime_type, data=blob.data, url=blob.url, file_id=blob.file_id)
            )
    if part.state != run_pb2.PART_STATE_OPEN:
        delta.part_end = part.state
    if part.HasField("provider_state"):
        delta.provider_state.CopyFrom(part.provider_state)
    return delta
