"""The account of a Gemini stream: https://ai.google.dev/api/generate-content#UsageMetadata."""

from collections.abc import Mapping

from midstream_server.model import JsonValue, TokenCount, Usage, UsageSource
from midstream_server.upstreams.json_text import as_count, as_text, cut_words

_TOOL_USE = "toolUsePromptTokenCount"
FACTS = ("serviceTier", "trafficType")
_MAX_FACT_BYTES = 256


def read_usage(metadata: Mapping[str, JsonValue], source: UsageSource) -> Usage | None:
    """Input includes what was cached and what server-side tools put in; output includes the thoughts.

    Gemini counts thoughts beside candidates, and leaves out what is 0. None: nothing is known.
    """

    def count(value: int | None) -> TokenCount | None:
        return None if value is None else TokenCount(value=value, source=source)

    prompt, tool_use = as_count(metadata.get("promptTokenCount")), as_count(metadata.get(_TOOL_USE))
    candidates = as_count(metadata.get("candidatesTokenCount"))
    thoughts = as_count(metadata.get("thoughtsTokenCount"))
    usage = Usage(
        input=count(None if prompt is None else prompt + (tool_use or 0)),
        cached_input=count(as_count(metadata.get("cachedContentTokenCount"))),
        output=count(None if candidates is None and thoughts is None else (candidates or 0) + (thoughts or 0)),
        reasoning=count(thoughts),
        other={_TOOL_USE: TokenCount(value=tool_use, source=source)} if tool_use else {},
    )
    return None if usage == Usage() else usage


def read_facts(metadata: Mapping[str, JsonValue]) -> dict[str, str]:
    """What the account says besides counts."""
    return {name: cut_words(text, _MAX_FACT_BYTES) for name in FACTS if (text := as_text(metadata.get(name)))}
