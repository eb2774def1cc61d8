"""Our own Gemini streams, and what they say."""

import json
from pathlib import Path

from midstream_server.model import FinishReason, TokenCount, Usage, UsageSource
from midstream_server.upstreams.base import Profile, UpstreamEvent
from midstream_server.upstreams.gemini import GeminiDialect
from stream_folding import Folded, FoldedPart, parse

STREAMS = Path(__file__).resolve().parent / "streams" / "gemini"
NAMES = sorted(path.name for path in STREAMS.iterdir())


def parsed(*pieces: bytes, profile: Profile | None = None) -> Folded:
    """What a body says that comes in these pieces."""
    return parse(GeminiDialect().parser(profile or Profile()), pieces)


def body_of(name: str) -> bytes:
    """The bytes of a stream; one without an ending is made of events."""
    return (STREAMS / (name if "." in name else f"{name}.sse")).read_bytes()


def read(name: str, profile: Profile | None = None) -> Folded:
    """What a stream says."""
    return parsed(body_of(name), profile=profile)


def early_events(name: str) -> list[UpstreamEvent]:
    """Those that come before the end of the body."""
    return GeminiDialect().parser(Profile()).feed(body_of(name))


def finishes(result: Folded) -> list[tuple[FinishReason | None, str]]:
    """Why the model stopped, unified and raw."""
    return [(finish.reason, finish.raw) for finish in result.finishes]


def usage(source: UsageSource, **counts: int) -> Usage:
    """An account; `tool_use` is a count of Gemini's own."""
    tool_use = counts.pop("tool_use", None)
    other = {"toolUsePromptTokenCount": TokenCount(value=tool_use, source=source)} if tool_use else {}
    return Usage(**{name: TokenCount(value=value, source=source) for name, value in counts.items()}, other=other)


def signature(part: FoldedPart) -> str:
    """The thought signature that a part carries."""
    assert part.state is not None
    assert part.state.dialect == "gemini"
    value = json.loads(part.state.data)
    assert list(value) == ["thoughtSignature"]
    return str(value["thoughtSignature"])
