"""The account of a Messages stream: https://platform.claude.com/docs/en/build-with-claude/streaming#event-types."""

from midstream_server.model import JsonValue, Usage, UsageSource
from midstream_server.upstreams.answer import account
from midstream_server.upstreams.wire.json_text import as_count, as_object, as_text, cut_words

_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_THINKING = "thinking_tokens"
_FACTS = ("service_tier", "inference_geo", "speed")
_MAX_OTHER = 16


class MessageUsage:
    """Usage objects merged field by field, where a number wins over null. Counts are cumulative.

    `message_start` counts output too, but before there is any. That number is kept back until the stream brings one of
    its own, or fails: it would stand in for an estimate of what has come since.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._early_output: int | None = None
        self._output: int | None = None
        self.facts: dict[str, JsonValue] = {}
        """What it says besides counts, by the provider's names."""

    def start(self, usage: JsonValue) -> None:
        """Takes in the account of `message_start`."""
        self._merge(as_object(usage))
        self._early_output = as_count(as_object(usage).get("output_tokens"))

    def add(self, usage: JsonValue) -> None:
        """Takes in the account of a `message_delta`."""
        self._merge(as_object(usage))
        output = as_count(as_object(usage).get("output_tokens"))
        self._output = self._output if output is None else output

    def use_early_output(self) -> bool:
        """The stream failed: what it said at its start was its last word. Whether that changes anything."""
        if self._output is None:
            self._output = self._early_output
            return self._output is not None
        return False

    def report(self, source: UsageSource) -> Usage:
        """The account; input includes what was read from the cache and written to it."""
        fresh, written, cached = (self._counts.get(name) for name in _COUNTS)
        total = None if fresh is None else fresh + (written or 0) + (cached or 0)
        return account(
            source,
            self._others,
            input=total,
            cached_input=cached,
            cache_write_input=written,
            output=self._output,
            reasoning=self._counts.get(_THINKING),
        )

    def _merge(self, usage: dict[str, JsonValue]) -> None:
        details = as_object(usage.get("output_tokens_details"))
        found = {name: usage.get(name) for name in _COUNTS} | {_THINKING: details.get(_THINKING)}
        self._counts.update({name: count for name, value in found.items() if (count := as_count(value)) is not None})
        self._others.update(_counted(usage, "cache_creation"))
        self.facts.update({name: str(count) for name, count in _counted(usage, "server_tool_use").items()})
        self.facts.update({name: fact for name in _FACTS if (fact := as_text(usage.get(name)))})


def _counted(usage: dict[str, JsonValue], field: str) -> dict[str, int]:
    """The counts of a part of the account, by the provider's names; zeros say nothing."""
    counts = list(as_object(usage.get(field)).items())[:_MAX_OTHER]
    return {f"{field}.{cut_words(name, 64)}": count for name, value in counts if (count := as_count(value))}
