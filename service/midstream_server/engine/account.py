"""What a run used, where the upstream does not say. Pure."""

from dataclasses import replace

from midstream_server.model import TokenCount, Usage, UsageSource

_BYTES_PER_TOKEN = 4


def with_estimate(usage: Usage | None, output_bytes: int) -> Usage:
    """The upstream's numbers, and an estimate of the output where it has none: ⌈UTF-8 bytes / 4⌉ of what it sent."""
    usage = usage or Usage()
    if usage.output is not None or not output_bytes:
        return usage
    return replace(usage, output=TokenCount(value=-(-output_bytes // _BYTES_PER_TOKEN), source=UsageSource.ESTIMATED))
