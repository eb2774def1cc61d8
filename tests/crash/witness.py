"""What callers saw of runs, and whether the server still stands by it."""

from dataclasses import dataclass, field

from midstream.v1 import run_pb2 as wire

ENDINGS = (wire.RUN_STATE_COMPLETED, wire.RUN_STATE_CANCELLED, wire.RUN_STATE_FAILED)


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclass
class Reader:
    """One stream's view of a run."""

    parts: dict[int, bytes] = field(default_factory=dict)
    sequence: int = 0
    finished: wire.Run | None = None

    def take(self, event: wire.RunEvent) -> None:
        """One event: dense sequences, offsets that fit, nothing after the end."""
        if event.HasField("progress"):
            return
        first = event.first_sequence or event.sequence
        if self.finished is not None:
            raise Broken(f"an event after RunFinished: {event}")
        if first != self.sequence + 1:
            raise Broken(f"sequence {first} after {self.sequence}")
        self.sequence = event.sequence
        if event.HasField("delta"):
            delta = event.delta
            before = self.parts.get(delta.part_index, b"")
            if delta.offset != len(before):
                raise Broken(f"offset {delta.offset} after {len(before)} bytes of part {delta.part_index}")
            payload = delta.text or delta.reasoning or delta.refusal or delta.tool_call.arguments
            self.parts[delta.part_index] = before + payload.encode()
        elif event.HasField("finished"):
            self.finished = event.finished.run


@dataclass
class Witness:
    """All that was seen of one run."""

    run_id: str
    readers: list[Reader] = field(default_factory=list)
    answers: list[wire.Run] = field(default_factory=list)
    """Replies of Cancel, and of GetRun."""
    ending: wire.Run | None = None
    """What GetRun said after the restart."""

    @property
    def was_seen(self) -> bool:
        """Whether anybody knows that the run exists."""
        return any(reader.sequence for reader in self.readers) or bool(self.answers)

    def check(self, run: wire.Run) -> None:
        """Holds what GetRun says now against everything that was seen before.

        Raises:
            Broken: they disagree.
        """
        if run.state not in ENDINGS:
            raise Broken(f"{self.run_id} is left {wire.RunState.Name(run.state)}")
        kept = parts_of(run)
        for reader in self.readers:
            self._is_prefix(reader.parts, kept)
            if reader.sequence > run.last_sequence:
                raise Broken(f"{self.run_id}: a reader was at {reader.sequence}, the run ends at {run.last_sequence}")
            if reader.finished is not None:
                self._same_ending(reader.finished, run)
        for answer in self.answers:
            self._is_prefix(parts_of(answer), kept)
            if answer.state in ENDINGS:
                self._same_ending(answer, run)
        if self.ending is not None:
            self._same_ending(self.ending, run)
        self.ending = run

    def _is_prefix(self, seen: dict[int, bytes], kept: dict[int, bytes]) -> None:
        for index, payload in seen.items():
            if not kept.get(index, b"").startswith(payload):
                raise Broken(f"{self.run_id}: somebody had {payload[-40:]!r}, left is {kept.get(index, b'')[-40:]!r}")

    def _same_ending(self, before: wire.Run, after: wire.Run) -> None:
        if before != after:
            raise Broken(f"{self.run_id} changed its ending:\n{before}\n{after}")


def parts_of(run: wire.Run) -> dict[int, bytes]:
    """The payloads of a run's message by part."""
    return {index: _payload(part).encode() for index, part in enumerate(run.message.parts)}


def _payload(part: wire.Part) -> str:
    return part.text.text or part.reasoning.text or part.refusal.text or part.tool_call.arguments
