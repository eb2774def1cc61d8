"""What must hold of every race, whatever happened in it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from midstream_server.accumulator import payload_size
from midstream_server.codec import DecodedEvent, decode_event
from midstream_server.model import (
    CancelOutcome,
    DeltaPayload,
    Message,
    MessageDelta,
    Reasoning,
    Refusal,
    Run,
    RunFinished,
    RunProgress,
    RunSnapshot,
    RunStarted,
    RunState,
    Text,
    ToolCall,
    ToolCallDelta,
)
from race.scene import Answer, View

Payloads = dict[int, str]


def payloads_of(message: Message | None) -> Payloads:
    """What each part of a message says."""
    return {index: _content(part.content) for index, part in enumerate(message.parts if message else ())}


def _content(content: object) -> str:
    match content:
        case Text(text=text) | Reasoning(text=text) | Refusal(text=text):
            return text
        case ToolCall(arguments=arguments):
            return arguments
    raise AssertionError(f"no race has {content!r}")


def is_prefix(some: Mapping[int, str], whole: Mapping[int, str]) -> bool:
    """Whether somebody who has some may be sent the rest."""
    return all(whole.get(index, "").startswith(text) for index, text in some.items())


class Fold:
    """One stream, event by event."""

    def __init__(self) -> None:
        self.cursor = 0
        self.payloads: Payloads = {}
        self.finished: Run | None = None

    def take(self, event: DecodedEvent) -> str:
        """What is wrong with the next event, or nothing."""
        if self.finished is not None:
            return f"{type(event.payload).__name__} after RunFinished"
        match event.payload:
            case RunProgress():
                return "" if event.sequence == self.cursor else f"progress at {event.sequence}, not {self.cursor}"
            case RunSnapshot(run=run):
                self.cursor, self.payloads = event.sequence, payloads_of(run.message)
                return "" if run.last_sequence in (self.cursor, self.cursor + 1) else "a snapshot with another sequence"
        first = event.first_sequence or event.sequence
        if first != self.cursor + 1 or event.sequence < first:
            return f"entries {first} to {event.sequence} after {self.cursor}"
        self.cursor = event.sequence
        return self._entry(event, first)

    def _entry(self, event: DecodedEvent, first: int) -> str:
        match event.payload:
            case RunStarted():
                return "" if first == 1 else f"RunStarted at {first}"
            case RunFinished(run=run):
                self.finished = run
                return "" if run.last_sequence == self.cursor else f"RunFinished says {run.last_sequence}"
            case MessageDelta() as delta:
                return self._delta(delta)
        return f"an unknown event: {event!r}"

    def _delta(self, delta: MessageDelta) -> str:
        before = self.payloads.get(delta.part_index, "")
        if delta.part_index > len(self.payloads):
            return f"part {delta.part_index} before part {len(self.payloads)}"
        if delta.offset != len(before.encode()):
            return f"offset {delta.offset} after {len(before.encode())} bytes"
        if delta.payload is not None:
            assert payload_size(delta.payload) >= 0
            self.payloads[delta.part_index] = before + _said(delta.payload)
        return ""


def _said(payload: DeltaPayload) -> str:
    return payload.arguments if isinstance(payload, ToolCallDelta) else str(getattr(payload, "text", ""))


def check_view(view: View, final: Run) -> Iterable[str]:
    """A stream: dense, one end, a prefix of what is kept; whole if it was told that there is no more."""
    fold = Fold()
    for event in view.events:
        if problem := fold.take(event):
            yield f"a reader got {problem}"
            return
    kept = payloads_of(final.message)
    if not is_prefix(fold.payloads, kept):
        yield f"a reader has {fold.payloads}, kept is {kept}"
    if fold.cursor > final.last_sequence:
        yield f"a reader was at {fold.cursor}, the run ends at {final.last_sequence}"
    if view.has_ended and fold.finished is None:
        yield "a stream ended without RunFinished"
    if fold.finished is not None and fold.finished != final:
        yield f"a reader's ending is another one: {fold.finished}"
    if fold.finished is not None and fold.payloads != kept:
        yield f"a reader ended with {fold.payloads}, kept is {kept}"


def check_answer(answer: Answer, final: Run) -> Iterable[str]:
    """A reply of Cancel, GetRun or ListRuns: the ending, or a part of it."""
    run = replace(answer.run, settlement=None)
    expected = replace(final, message=None) if answer.kind == "list" else final
    if run.state.is_ending and run != expected:
        yield f"{answer.kind} told another ending: {run}"
    if not is_prefix(payloads_of(run.message), payloads_of(final.message)):
        yield f"{answer.kind} had {payloads_of(run.message)}, kept is {payloads_of(final.message)}"
    if run.last_sequence > final.last_sequence:
        yield f"{answer.kind} was at {run.last_sequence}, the run ends at {final.last_sequence}"
    if answer.outcome is not None:
        yield from _check_outcome(answer.outcome, run, final)


def _check_outcome(outcome: CancelOutcome, run: Run, final: Run) -> Iterable[str]:
    fitting = {
        CancelOutcome.STOPPING: {RunState.QUEUED, RunState.RUNNING, RunState.STOPPING},
        CancelOutcome.ALREADY_FINISHED: {RunState.COMPLETED, RunState.FAILED},
        CancelOutcome.CANCELLED: {RunState.CANCELLED},
        CancelOutcome.REMEMBERED: {RunState.CANCELLED},
    }
    if run.state not in fitting[outcome]:
        yield f"Cancel answered {outcome.name} with a run that is {run.state.name}"
    if outcome is CancelOutcome.STOPPING and final.error is not None and final.error.reason == "OWNER_LOST":
        yield "a cancel that was durable was lost"


def check_log(entries: Sequence[bytes], final: Run) -> Iterable[str]:
    """The log itself: dense, one start, one end, and it amounts to the message."""
    fold = Fold()
    for number, entry in enumerate(entries, 1):
        event = decode_event(entry)
        if event.sequence != number:
            yield f"entry {number} says that it is {event.sequence}"
        if problem := fold.take(event):
            yield f"the log has {problem}"
    if fold.finished != final:
        yield "the log ends otherwise"
    if fold.payloads != payloads_of(final.message):
        yield f"the log amounts to {fold.payloads}, the message to {payloads_of(final.message)}"
