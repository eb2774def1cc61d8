"""The account of a Gemini stream: https://ai.google.dev/api/generate-content#UsageMetadata."""

from collections.abc import Mapping

from midstream_server.model import JsonValue, Usage, UsageSource
from midstream_server.upstreams.answer import account
from midstream_server.upstreams.wire.json_text import as_count

_TOOL_USE = "toolUsePromptTokenCount"
FACTS = ("serviceTier", "trafficType")


def read_usage(metadata: Mapping[str, JsonValue], source: UsageSource) -> Usage:
    """Input includes what was cached and what server-side tools put in; output includes the thoughts.

    Gemini counts thoughts beside candidates, and leaves out what is 0.
    """
    prompt, tool_use = as_count(metadata.get("promptTokenCount")), as_count(metadata.get(_TOOL_USE))
    candidates = as_count(metadata.get("candidatesTokenCount"))
    thoughts = as_count(metadata.get("thoughtsTokenCount"))
    return account(
        source,
        {_TOOL_USE: tool_use} if tool_use else None,
        input=None if prompt is None else prompt + (tool_use or 0),
        cached_input=as_count(metadata.get("cachedContentTokenCount")),
        output=None if candidates is None and thoughts is None else (candidates or 0) + (thoughts or 0),
        reasoning=thoughts,
    )
