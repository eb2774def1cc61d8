"""The client's place in a run: what it asks next, what it takes, and when it gives up."""

import grpc
import pytest

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client._resume import Backoff, Follower
from midstream_client.errors import (
    ConnectionLost,
    CursorAhead,
    DeadlineExceeded,
    Draining,
    Internal,
    InvalidRequest,
    MidstreamClientError,
    RunIdConflict,
    SlowReader,
    StoreUnavailable,
    StreamGapError,
)
from rpc.scripted_server import text_log

GENERATE = generation_service_pb2.GenerateRequest(run_id="run", model="a/b")
CODES = grpc.StatusCode


class HandClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def follower_of(
    opening: generation_service_pb2.GenerateRequest | generation_service_pb2.WatchRunRequest = GENERATE,
    clock: HandClock | None = None,
    *,
    timeout: float | None = None,
) -> Follower:
    return Follower(
        opening,
        resume_seconds=10.0,
        timeout=timeout,
        clock=clock or HandClock(),
        backoff=Backoff(jitter=lambda: 1.0),
    )


def lost() -> ConnectionLost:
    return ConnectionLost(code=CODES.UNAVAILABLE)


def wait_out(follower: Follower, clock: HandClock, error: MidstreamClientError, delays: list[float]) -> None:
    for _ in range(100):
        delays.append(follower.lost(error))
        clock.now += delays[-1]


def test_before_the_first_event_the_same_request_is_repeated():
    """It is idempotent by its run id."""
    follower = follower_of()

    follower.lost(lost())

    assert follower.next_call() == (GENERATE, None)


def test_after_an_event_the_run_is_watched_with_a_claim():
    """From the last sequence that came."""
    follower = follower_of()
    for event in text_log("a", "b")[:2]:
        follower.accept(event)

    follower.lost(lost())

    assert follower.next_call()[0] == generation_service_pb2.WatchRunRequest(run_id="run", after_sequence=2, claim=True)


def test_a_watch_without_claim_resumes_without_claim():
    """An observer stays one."""
    follower = follower_of(generation_service_pb2.WatchRunRequest(run_id="run", after_sequence=1))
    follower.accept(text_log("a", "b")[1])

    request, _ = follower.next_call()

    assert request == generation_service_pb2.WatchRunRequest(run_id="run", after_sequence=2)
    assert not follower.must_stop(in_flight=True)


def test_a_snapshot_is_asked_for_until_it_came():
    """Afterwards its sequence is the cursor, and its parts came as deltas."""
    opening = generation_service_pb2.WatchRunRequest(run_id="run", from_snapshot=True)
    follower = follower_of(opening)
    follower.accept(run_pb2.RunEvent(sequence=0, progress=run_pb2.RunProgress()))
    assert follower.next_call()[0] == opening
    run = run_pb2.Run(message=run_pb2.Message(parts=[run_pb2.Part(text=run_pb2.Text(text="ab"))]))

    deltas = follower.accept(run_pb2.RunEvent(sequence=3, snapshot=run_pb2.RunSnapshot(run=run)))

    assert [(each.text, each.first_sequence, each.sequence) for each in deltas] == [("ab", 1, 3)]
    assert follower.next_call()[0] == generation_service_pb2.WatchRunRequest(run_id="run", after_sequence=3)


def test_events_that_are_covered_already_are_dropped():
    """A repeat, and the covered half of a merged one."""
    follower = follower_of()
    log = text_log("ab", "cd", "ef")
    for event in log[:3]:
        follower.accept(event)
    merged = run_pb2.RunEvent(sequence=4, first_sequence=2, delta=run_pb2.MessageDelta(offset=0, text="abcdef"))

    assert follower.accept(log[2]) == ()
    (delta,) = follower.accept(merged)

    assert (delta.text, delta.offset, delta.first_sequence, delta.sequence) == ("ef", 4, 4, 4)
    assert follower.text == "abcdef"


def test_a_missing_event_is_told_with_the_partial():
    """Never silent; and the place before it is kept."""
    follower = follower_of()
    log = text_log("ab", "cd")
    follower.accept(log[0])
    follower.accept(log[1])

    with pytest.raises(StreamGapError) as caught:
        follower.accept(log[3])

    assert (caught.value.run_id, caught.value.last_sequence) == ("run", 2)
    assert caught.value.partial is not None
    assert caught.value.partial.parts[0].text.text == "ab"
    assert follower.last_sequence == 2


def test_an_unknown_event_counts_its_sequence():
    """The forward rule."""
    follower = follower_of()
    follower.accept(run_pb2.RunEvent(sequence=1))

    assert follower.accept(run_pb2.RunEvent(sequence=2)) == ()
    assert follower.last_sequence == 2


def test_progress_consumes_no_sequence():
    """It is news, not an entry."""
    follower = follower_of()
    follower.accept(text_log("a")[0])

    assert (
        follower.accept(run_pb2.RunEvent(sequence=1, progress=run_pb2.RunProgress(state=run_pb2.RUN_STATE_RUNNING)))
        == ()
    )

    assert follower.last_sequence == 1
    assert follower.progress == run_pb2.RunProgress(state=run_pb2.RUN_STATE_RUNNING)


@pytest.mark.parametrize(
    "error",
    [
        lost(),
        Draining(code=CODES.UNAVAILABLE),
        StoreUnavailable(code=CODES.UNAVAILABLE),
        SlowReader(code=CODES.ABORTED),
        MidstreamClientError(code=CODES.INTERNAL),
        MidstreamClientError(code=CODES.UNKNOWN),
        MidstreamClientError(code=CODES.CANCELLED),
    ],
    ids=repr,
)
def test_a_lost_place_is_resumed_at_once_and_then_ever_later(error: MidstreamClientError):
    """Doubling up to a second, for as long as the grace lasts."""
    clock = HandClock()
    follower = follower_of(clock=clock)
    delays: list[float] = []

    with pytest.raises(type(error)) as caught:
        wait_out(follower, clock, error, delays)

    assert caught.value is error
    assert delays[:6] == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.0])
    assert 9.0 < sum(delays) < 10.0


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest(code=CODES.INVALID_ARGUMENT),
        CursorAhead(code=CODES.OUT_OF_RANGE),
        Internal(code=CODES.INTERNAL),
        DeadlineExceeded(code=CODES.DEADLINE_EXCEEDED),
        MidstreamClientError(code=CODES.UNAUTHENTICATED),
        MidstreamClientError(code=CODES.RESOURCE_EXHAUSTED),
    ],
    ids=repr,
)
def test_an_answer_is_not_retried(error: MidstreamClientError):
    """The same call would get it again."""
    with pytest.raises(type(error)) as caught:
        follower_of().lost(error)

    assert caught.value is error


def test_an_event_gives_a_new_grace():
    """Each loss has its own; the delays begin anew once there is progress."""
    clock = HandClock()
    follower = follower_of(clock=clock)
    follower.lost(lost())
    clock.now += 9.9

    follower.accept(text_log("a")[0])

    assert follower.lost(lost()) == 0.0


def test_the_server_says_when_to_come_back():
    """RetryInfo is honoured, and ends the matter if the grace does not reach so far."""
    follower = follower_of()

    assert follower.lost(Draining(code=CODES.UNAVAILABLE, retry_after=2.5)) == 2.5
    with pytest.raises(Draining):
        follower.lost(Draining(code=CODES.UNAVAILABLE, retry_after=11))


def test_the_timeout_is_shared_by_all_calls():
    """It starts with the first one."""
    clock = HandClock()
    follower = follower_of(clock=clock, timeout=5)
    clock.now += 3
    assert follower.next_call()[1] == 5

    clock.now += 2
    assert follower.next_call()[1] == 3
    clock.now += 3
    with pytest.raises(DeadlineExceeded):
        follower.next_call()


def test_no_wait_is_longer_than_the_timeout():
    """The next call then says that it has passed."""
    clock = HandClock()
    follower = follower_of(clock=clock, timeout=5)
    follower.next_call()
    clock.now += 4.5

    clock.now += follower.lost(Draining(code=CODES.UNAVAILABLE, retry_after=3))

    assert clock.now == 105
    with pytest.raises(DeadlineExceeded):
        follower.next_call()


def test_an_ending_from_elsewhere_is_held_against_what_was_received():
    """It takes the place of the last event, so it must be the sum of the others; another sequence is no ending."""
    ending = run_pb2.Run(state=run_pb2.RUN_STATE_FAILED, last_sequence=2)
    ending.message.parts.add().text.text = "ab"
    same, other, later = follower_of(), follower_of(), follower_of()
    for follower in (same, other, later):
        for event in text_log("ab", "cd")[:2]:
            follower.accept(event)

    assert same.end_at(ending)
    assert same.final == ending
    ending.message.parts[0].text.text = "AB"
    with pytest.raises(StreamGapError) as caught:
        other.end_at(ending)
    assert (caught.value.run_id, caught.value.last_sequence) == ("run", 2)
    ending.last_sequence = 3
    assert not later.end_at(ending)
    assert later.final is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RunIdConflict(code=CODES.ALREADY_EXISTS), False),
        (InvalidRequest(code=CODES.INVALID_ARGUMENT), False),
        (Draining(code=CODES.UNAVAILABLE), False),
        (lost(), True),
        (DeadlineExceeded(code=CODES.DEADLINE_EXCEEDED), True),
    ],
    ids=repr,
)
def test_a_run_that_was_refused_is_not_stopped(error: MidstreamClientError, expected: bool):
    """A cancel would be remembered for an id that never ran, or hit somebody else's run."""
    follower = follower_of()

    follower.note_ended(error)

    assert follower.must_stop(in_flight=False) is expected


def test_a_run_that_ended_is_not_stopped():
    """Leaving after RunFinished does nothing."""
    follower = follower_of()
    for event in text_log("a"):
        follower.accept(event)

    assert not follower.must_stop(in_flight=True)
    assert follower.final is not None
    assert follower.message == follower.final.message
