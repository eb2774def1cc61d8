"""An error frame before any output: the HTTP status that it stands for would have been tried again. Pure."""

from midstream_server.errors import RunFailure, UpstreamRateLimited, UpstreamUnavailable
from midstream_server.upstreams.base import ModelFinished, PartDelta, UpstreamBatch, UpstreamFailed

PASSING_FAILURES = (UpstreamRateLimited, UpstreamUnavailable)
"""What another upstream may mend, and mostly another attempt."""
_USED_UP = frozenset({"insufficient_quota"})
"""Codes of a quota that another attempt finds as used up: https://platform.openai.com/docs/guides/error-codes."""


def has_output(batch: UpstreamBatch) -> bool:
    """Whether a read gave any of the message, or the model's finish: then the attempt is the last one."""
    for event in batch.events:
        if type(event) is PartDelta or (type(event) is ModelFinished and event.reason is not None):
            return True
    return False


def early_failure(batch: UpstreamBatch) -> RunFailure | None:
    """The error frame that ends an attempt which had no output, if another upstream may mend it."""
    if not batch.events or not isinstance(last := batch.events[-1], UpstreamFailed) or has_output(batch):
        return None
    return last.failure if isinstance(last.failure, PASSING_FAILURES) else None


def is_worth_repeating(failure: RunFailure) -> bool:
    """Whether the same upstream may answer better when it is asked again."""
    return isinstance(failure, PASSING_FAILURES) and failure.provider_code not in _USED_UP


def split_ending(batch: UpstreamBatch) -> tuple[UpstreamBatch, UpstreamBatch]:
    """What the last read of a failed attempt told beside its ending, and the ending, by which a run would be judged."""
    ending = [event for event in batch.events if isinstance(event, ModelFinished | UpstreamFailed)]
    facts = [event for event in batch.events if event not in ending]
    return UpstreamBatch(events=facts, wire_bytes=batch.wire_bytes), UpstreamBatch(events=ending, wire_bytes=0)
