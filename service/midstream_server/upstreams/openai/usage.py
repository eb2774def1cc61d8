"""The account of a Chat Completions or a Responses stream; they name input and output differently.

https://platform.openai.com/docs/api-reference/chat-streaming, …/responses-streaming
"""

from collections.abc import Mapping
from dataclasses import replace

from midstream_server.model import JsonValue, TokenCount, Usage, UsageSource
from midstream_server.upstreams.answer import account
from midstream_server.upstreams.wire.json_text import as_count, as_object

_MAX_OTHER = 16
_KNOWN_DETAILS = {"cached_tokens", "cache_write_tokens", "cache_creation_tokens", "reasoning_tokens", "text_tokens"}
_WRITTEN = ("cache_write_tokens", "cache_creation_tokens")
"""OpenRouter's name and LiteLLM's."""


def find_usage(chunk: Mapping[str, JsonValue], choice: Mapping[str, JsonValue]) -> Usage | None:
    """The account in a chunk, as a running one: at its top, in its choice (Moonshot), under x_groq, or as timings."""
    for holder in (chunk, choice, as_object(chunk.get("x_groq"))):
        if usage := as_object(holder.get("usage")):
            return _read_usage(usage)
    if timings := as_object(chunk.get("timings")):
        return _read_timings(timings)
    return None


def as_final(usage: Usage) -> Usage:
    """The same account as the closing one."""

    def final(count: TokenCount | None) -> TokenCount | None:
        return None if count is None else replace(count, source=UsageSource.UPSTREAM_FINAL)

    return Usage(
        input=final(usage.input),
        cached_input=final(usage.cached_input),
        cache_write_input=final(usage.cache_write_input),
        output=final(usage.output),
        reasoning=final(usage.reasoning),
        other={name: replace(count, source=UsageSource.UPSTREAM_FINAL) for name, count in usage.other.items()},
    )


def _read_usage(usage: dict[str, JsonValue]) -> Usage:
    """Input includes cached and output includes reasoning, also where a provider adds them up apart.

    xAI counts reasoning beside `completion_tokens`: `total_tokens` shows it, so the sum decides and not the name.
    """
    prompt_details = as_object(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    output_details = as_object(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    prompt = _first_count(usage.get("prompt_tokens"), usage.get("input_tokens"))
    output = _first_count(usage.get("completion_tokens"), usage.get("output_tokens"))
    total = as_count(usage.get("total_tokens"))
    cached = _first_count(
        prompt_details.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("cached_tokens")
    )
    written = _first_count(*(prompt_details.get(name) for name in _WRITTEN), usage.get("cache_creation_input_tokens"))
    reasoning = _first_count(output_details.get("reasoning_tokens"), usage.get("reasoning_tokens"))
    if prompt is not None and output is not None:
        if reasoning and total == prompt + output + reasoning:
            output += reasoning
        elif cached and total == prompt + output + cached:
            prompt += cached
    return account(
        UsageSource.UPSTREAM_RUNNING,
        _others(prompt_details, "prompt") | _others(output_details, "completion"),
        input=prompt,
        cached_input=cached,
        cache_write_input=written,
        output=output,
        reasoning=reasoning,
    )


def _read_timings(timings: dict[str, JsonValue]) -> Usage:
    """llama.cpp: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md."""
    fresh, cached = as_count(timings.get("prompt_n")), as_count(timings.get("cache_n"))
    return account(
        UsageSource.UPSTREAM_RUNNING,
        input=None if fresh is None else fresh + (cached or 0),
        cached_input=cached,
        output=as_count(timings.get("predicted_n")),
    )


def _first_count(*values: JsonValue) -> int | None:
    return next((count for value in values if (count := as_count(value)) is not None), None)


def _others(details: dict[str, JsonValue], prefix: str) -> dict[str, int]:
    """Counts that only some providers have, by their own names; zeros say nothing."""
    others: dict[str, int] = {}
    for name, value in details.items():
        if name not in _KNOWN_DETAILS and len(name) <= 64 and len(others) < _MAX_OTHER and (count := as_count(value)):
            others[f"{prefix}.{name}"] = count
    return others
