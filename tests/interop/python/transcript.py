"""What a reader got of a run, folded, and held against the run as it ended."""

from dataclasses import dataclass, field

from interop.python.expect import Unexpected, expect
from midstream.v1 import run_pb2 as wire

Payload = tuple[str, bytes]
"""The kind of a part, and its bytes."""


@dataclass
class Transcript:
    """Entries must be dense, from 1 or from after a snapshot; offsets count the bytes before."""

    last_sequence: int = 0
    parts: dict[int, Payload] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        """The reasoning, joined."""
        return self._joined("reasoning")

    @property
    def arguments(self) -> str:
        """The arguments of tool calls, joined."""
        return self._joined("tool_call")

    def entry(self, first: int, last: int) -> None:
        """Takes the sequences of an entry.

        Raises:
            Unexpected: it does not follow.
        """
        if first != self.last_sequence + 1 or last < first:
            raise Unexpected(f"entry {first}..{last} came after {self.last_sequence}")
        self.last_sequence = last

    def append(self, index: int, offset: int, payload: Payload | None) -> None:
        """Takes a delta's payload.

        Raises:
            Unexpected: its offset is not where its part ends.
        """
        kind, data = self.parts.setdefault(index, (payload[0] if payload else "", b""))
        if payload is None:
            return
        expect(offset, len(data), f"offset in part {index}")
        self.parts[index] = (kind or payload[0], data + payload[1])

    def check(self, run: wire.Run) -> None:
        """Compares with the final run.

        Raises:
            Unexpected: it is not what came.
        """
        expect(self.last_sequence, run.last_sequence, "last sequence received")
        received = [self.parts[index] for index in sorted(self.parts)]
        expect(received, [payload_of_part(part) for part in run.message.parts], "parts received")

    def _joined(self, kind: str) -> str:
        return b"".join(data for each, data in self.parts.values() if each == kind).decode()


def payload_of_part(part: wire.Part) -> Payload:
    """The payload of a part of a message."""
    match part.WhichOneof("part"):
        case "text":
            return "text", part.text.text.encode()
        case "reasoning":
            return "reasoning", part.reasoning.text.encode()
        case "refusal":
            return "refusal", part.refusal.text.encode()
        case "tool_call":
            return "tool_call", part.tool_call.arguments.encode()
        case "blob":
            return "blob", part.blob.data
        case _:
            return "", b""


def payload_of(text: str, reasoning: str, refusal: str, tool_call: wire.ToolCallDelta | None) -> Payload | None:
    """The payload of a delta; None if it has none."""
    if tool_call is not None:
        return "tool_call", tool_call.arguments.encode()
    for kind, value in (("text", text), ("reasoning", reasoning), ("refusal", refusal)):
        if value:
            return kind, value.encode()
    return None
