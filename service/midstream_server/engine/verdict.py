"""How a run ends: decided once, by the first thing that its owner sees. Pure.

| seen first | then | ending |
| --- | --- | --- |
| finish marker | usage, end of stream, a reset, a stop, 1 s | COMPLETED |
| finish marker | an error frame | FAILED, with the finish reason |
| an intent, or a limit of the caller's | anything | CANCELLED |
| an error, a clock, the operator's cap, shutdown | anything | FAILED |
| end of stream | | FAILED (UPSTREAM_TRUNCATED) |
"""

from midstream_server.errors import RunFailure, UpstreamTruncated
from midstream_server.model import CancelIntent, RunState
from midstream_server.upstreams.base import ModelFinished


class Verdict:
    """The decision about one run. Each method says whether it was the one that decided."""

    def __init__(self) -> None:
        self.state: RunState | None = None
        """The ending, once decided; it never changes."""
        self.marker: ModelFinished | None = None
        self.failure: RunFailure | None = None
        self.intent: CancelIntent | None = None

    @property
    def is_decided(self) -> bool:
        """Whether the run has its ending."""
        return self.state is not None

    @property
    def awaits_usage(self) -> bool:
        """Whether the model has finished, and only its account is missing."""
        return self.state is None and self.marker is not None

    def finish(self, marker: ModelFinished) -> None:
        """The finish marker was seen. The first one counts."""
        if self.state is None and self.marker is None:
            self.marker = marker

    def end(self) -> bool:
        """The stream ended, or the wait for usage is over."""
        return self._decide(RunState.COMPLETED if self.marker else RunState.FAILED, UpstreamTruncated())

    def fail(self, failure: RunFailure) -> bool:
        """Something broke, or took too long. After the marker the message is whole all the same."""
        return self._decide(RunState.COMPLETED if self.marker else RunState.FAILED, failure)

    def fail_by_frame(self, failure: RunFailure) -> bool:
        """The upstream itself said that it failed; that counts after the marker too."""
        return self._decide(RunState.FAILED, failure)

    def cancel(self, intent: CancelIntent) -> bool:
        """The caller, or a rule of the caller's, wants it to stop."""
        if self._decide(RunState.COMPLETED if self.marker else RunState.CANCELLED, None):
            if self.state is RunState.CANCELLED:
                self.intent = intent
            return True
        return False

    def _decide(self, state: RunState, failure: RunFailure | None) -> bool:
        if self.state is not None:
            return False
        self.state = state
        if state is RunState.FAILED:
            self.failure = failure
        return True
