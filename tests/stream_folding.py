"""Folds a dialect's events into what a caller would see, for tests of dialects."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from midstream_server.errors import RunFailure
from midstream_server.model import (
    Annotation,
    BlobDelta,
    PartState,
    ProviderState,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from midstream_server.upstreams.base import (
    EventIgnored,
    MetadataReported,
    ModelFinished,
    PartDelta,
    ResponseStarted,
    StreamParser,
    UpstreamEvent,
    UpstreamFailed,
    UsageReported,
)


@dataclass
class FoldedPart:
    """One part, as it stands."""

    kind: str
    text: str = ""
    id: str = ""
    name: str = ""
    end: PartState | None = None
    state: ProviderState | None = None
    annotations: list[Annotation] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass
class Folded:
    """All that a stream said."""

    parts: dict[str, FoldedPart] = field(default_factory=dict)
    finishes: list[ModelFinished] = field(default_factory=list)
    usage: Usage | None = None
    failure: RunFailure | None = None
    request_id: str = ""
    model: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def text(self, kind: str = "text") -> str:
        """All text of one kind."""
        return "".join(part.text for part in self.parts.values() if part.kind == kind)

    def calls(self) -> list[tuple[str, str, str]]:
        """Id, name and arguments of every tool call."""
        return [(part.id, part.name, part.text) for part in self.parts.values() if part.kind == "tool_call"]

    def shape(self) -> list[tuple[str, str, PartState | None]]:
        """Kind, text and end of every part, in order."""
        return [(part.kind, part.text, part.end) for part in self.parts.values()]

    def summary(self) -> object:
        """Everything that may not depend on how the bytes were cut."""
        failure = self.failure and (self.failure.reason, self.failure.message, self.failure.provider_code)
        rest = (self.usage, failure, self.request_id, self.model, self.metadata, self.ignored)
        return (self.parts, self.finishes, *rest)


def fold(events: Iterable[UpstreamEvent]) -> Folded:
    """The events as one value."""
    folded = Folded()
    for event in events:
        assert folded.failure is None, f"{event} after an UpstreamFailed"
        match event:
            case PartDelta():
                _fold_part(folded, event)
            case ModelFinished():
                folded.finishes.append(event)
            case UsageReported():
                folded.usage = event.usage
            case UpstreamFailed():
                folded.failure = event.failure
            case ResponseStarted():
                folded.request_id = event.upstream_request_id or folded.request_id
                folded.model = event.upstream_model or folded.model
            case MetadataReported():
                folded.metadata.update(event.metadata)
            case EventIgnored():
                folded.ignored.append(event.kind)
    return folded


def _fold_part(folded: Folded, delta: PartDelta) -> None:
    assert not folded.finishes, f"{delta} after the finish marker"
    kind = _kind(delta)
    part = folded.parts.get(delta.part)
    if part is None:
        assert kind, f"{delta} opens a part of no kind"
        part = folded.parts[delta.part] = FoldedPart(kind)
    assert kind in ("", part.kind), f"{delta} changes the kind of its part"
    assert part.end is None or delta.payload is None, f"{delta} comes after the end of its part"
    match delta.payload:
        case TextDelta(text) | ReasoningDelta(text) | RefusalDelta(text):
            part.text += text
        case ToolCallDelta() as call:
            part.id, part.name = call.id or part.id, call.name or part.name
            part.text += call.arguments
    part.end = delta.part_end or part.end
    part.state = delta.provider_state or part.state
    part.annotations += delta.annotations
    part.logprobs += delta.logprobs


def _kind(delta: PartDelta) -> str:
    match delta.payload:
        case TextDelta():
            return "text"
        case ReasoningDelta():
            return "reasoning"
        case RefusalDelta():
            return "refusal"
        case ToolCallDelta():
            return "tool_call"
        case BlobDelta():
            return "blob"
        case None:
            return ""


def parse(parser: StreamParser, pieces: Iterable[bytes]) -> Folded:
    """What a body says that comes in these pieces."""

    def events() -> Iterator[UpstreamEvent]:
        for piece in pieces:
            yield from parser.feed(piece)
        yield from parser.close()

    return fold(events())
