"""Who wins: the first thing that the owner sees decides, once."""

import itertools
from collections.abc import Callable

import pytest

from midstream_server.engine.verdict import Verdict
from midstream_server.errors import (
    IdleTimeout,
    OutputTooLarge,
    RunFailure,
    RunTimeExceeded,
    ServerShutdown,
    UpstreamRejected,
    UpstreamTruncated,
    UpstreamUnavailable,
)
from midstream_server.model import CancelIntent, CancelReason, FinishReason, RunState
from midstream_server.upstreams.base import ModelFinished

MARKER = ModelFinished(reason=FinishReason.STOP, raw="stop")
REQUESTED = CancelIntent(reason=CancelReason.REQUESTED, requested_by="alice", request_time=1)
BUDGET = CancelIntent(reason=CancelReason.BUDGET, requested_by="limits.output_tokens", request_time=2)
COMPLETED, CANCELLED, FAILED = RunState.COMPLETED, RunState.CANCELLED, RunState.FAILED

EVENTS: dict[str, Callable[[Verdict], object]] = {
    "marker": lambda verdict: verdict.finish(MARKER),
    "frame": lambda verdict: verdict.fail_by_frame(UpstreamRejected()),
    "reset": lambda verdict: verdict.fail(UpstreamUnavailable()),
    "idle": lambda verdict: verdict.fail(IdleTimeout()),
    "cap": lambda verdict: verdict.fail(RunTimeExceeded()),
    "size": lambda verdict: verdict.fail(OutputTooLarge()),
    "shutdown": lambda verdict: verdict.fail(ServerShutdown()),
    "end": lambda verdict: verdict.end(),
    "cancel": lambda verdict: verdict.cancel(REQUESTED),
    "budget": lambda verdict: verdict.cancel(BUDGET),
}
FAILURES: dict[str, type[RunFailure]] = {
    "frame": UpstreamRejected,
    "reset": UpstreamUnavailable,
    "idle": IdleTimeout,
    "cap": RunTimeExceeded,
    "size": OutputTooLarge,
    "shutdown": ServerShutdown,
    "end": UpstreamTruncated,
}
INTENTS = {"cancel": REQUESTED, "budget": BUDGET}


def ending(order: tuple[str, ...]) -> tuple[RunState, type[RunFailure] | None, CancelIntent | None]:
    """What DESIGN says of this order of events: the first that is no marker decides."""
    decisive = next(name for name in order if name != "marker")
    if decisive == "frame":
        return FAILED, UpstreamRejected, None
    if order[0] == "marker":
        return COMPLETED, None, None
    if decisive in INTENTS:
        return CANCELLED, None, INTENTS[decisive]
    return FAILED, FAILURES[decisive], None


@pytest.mark.parametrize("first", EVENTS)
def test_first_decisive_event_ends_the_run_and_nothing_changes_it(first):
    """Every order of three events gives the one ending that DESIGN tells."""
    for order in itertools.permutations(EVENTS, 3):
        if order[0] != first:
            continue
        verdict = Verdict()

        for name in order:
            EVENTS[name](verdict)

        state, failure, intent = ending(order)
        assert verdict.state is state, order
        assert type(verdict.failure) is (failure or type(None)), order
        assert verdict.intent is intent, order


def test_only_the_event_that_decides_says_so():
    """Callers close the upstream once, when the decision is theirs."""
    verdict = Verdict()

    assert verdict.cancel(REQUESTED)
    assert not verdict.cancel(BUDGET)
    assert not verdict.fail(IdleTimeout())
    assert not verdict.fail_by_frame(UpstreamRejected())
    assert not verdict.end()


def test_error_frame_after_the_marker_keeps_the_finish_reason():
    """State and finish reason are two facts."""
    verdict = Verdict()

    verdict.finish(MARKER)
    verdict.fail_by_frame(UpstreamRejected())

    assert (verdict.state, verdict.marker) == (FAILED, MARKER)


def test_marker_after_the_decision_is_not_kept():
    """A finish that we had stopped reading for is none of ours."""
    verdict = Verdict()

    verdict.cancel(REQUESTED)
    verdict.finish(MARKER)

    assert (verdict.state, verdict.marker) == (CANCELLED, None)


def test_second_marker_does_not_replace_the_first():
    """The first one counts."""
    verdict = Verdict()

    verdict.finish(MARKER)
    verdict.finish(ModelFinished(reason=FinishReason.LENGTH, raw="length"))

    assert verdict.marker is MARKER


def test_run_awaits_usage_only_between_marker_and_decision():
    """That is when the second of waiting runs."""
    verdict = Verdict()
    before = verdict.awaits_usage

    verdict.finish(MARKER)
    between = verdict.awaits_usage
    verdict.end()

    assert (before, between, verdict.awaits_usage) == (False, True, False)
