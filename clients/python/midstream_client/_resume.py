"""Where a reader stands in a run, and what it does next. No I/O and no waiting: both kinds of stream drive it.

A stream asks for the next call's request, hands over each event, and reports each way in which a call ended before the
run did. The answer is how long to wait before the next call, or an error that says why there is none.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client._accumulator import MessageAccumulator
from midstream_client.deltas import Delta, delta_of
from midstream_client.enums import RunState
from midstream_client.errors import (
    ConnectionLost,
    DeadlineExceeded,
    MidstreamClientError,
    SlowReader,
    StreamGapError,
)

Request = generation_service_pb2.GenerateRequest | generation_service_pb2.WatchRunRequest

_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_TRANSPORT_CODES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})
"""What a broken connection looks like besides UNAVAILABLE, if no reason of Midstream comes with it."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before each attempt to resume, in seconds: at once, then doubling, with jitter."""

    initial: float = 0.1
    maximum: float = 1.0
    jitter: Callable[[], float] = random.random

    def delay(self, attempt: int) -> float:
        """Before attempt 0, 1, 2…"""
        if attempt == 0:
            return 0.0
        ceiling: float = min(self.maximum, self.initial * 2.0 ** min(attempt - 1, 30))
        return ceiling * (0.5 + 0.5 * self.jitter())


class Follower:
    """A reader's place in a run.

    Attributes:
        run_id: The run.
        claims: Whether this reader holds a claim: leaving stops the run.
        last_sequence: The last sequence that was received.
        started: The run's first event, once it came.
        progress: The latest news.
        final: The run as it ended, once it has.
    """

    def __init__(
        self,
        opening: Request,
        *,
        resume_seconds: float,
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
    ) -> None:
        self._opening = opening
        self._resume_seconds = resume_seconds
        self._timeout = timeout
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._deadline: float | None = None
        self._lost_time: float | None = None
        self._attempt = 0
        self._may_exist = False
        self._heard = False
        watched = opening if isinstance(opening, generation_service_pb2.WatchRunRequest) else None
        self._message = MessageAccumulator(begins_midway=bool(watched and watched.after_sequence))
        self.run_id = opening.run_id
        self.claims = watched is None or watched.claim
        self.last_sequence = watched.after_sequence if watched else 0
        self.started: run_pb2.RunStarted | None = None
        self.progress: run_pb2.RunProgress | None = None
        self.final: run_pb2.Run | None = None

    @property
    def text(self) -> str:
        """The text received so far, or of the final message."""
        if self.final is None:
            return self._message.text
        return "".join(part.text.text for part in self.final.message.parts)

    @property
    def message(self) -> run_pb2.Message:
        """A copy of the message so far, or of the final one."""
        if self.final is None or not self.final.HasField("message"):
            return self._message.message()
        copy = run_pb2.Message()
        copy.CopyFrom(self.final.message)
        return copy

    def next_call(self) -> tuple[Request, float | None]:
        """The request of the next call, and the seconds it may take.

        Raises:
            DeadlineExceeded: The caller's timeout has passed.
        """
        return self._next_request(), self.remaining_seconds()

    def remaining_seconds(self) -> float | None:
        """What is left of the caller's timeout, which begins with the first call; None if there is none.

        Raises:
            DeadlineExceeded: Nothing is left.
        """
        if self._timeout is None:
            return None
        if self._deadline is None:
            self._deadline = self._clock() + self._timeout
        remaining = self._deadline - self._clock()
        if remaining <= 0:
            raise self.with_place(DeadlineExceeded())
        return remaining

    def accept(self, event: run_pb2.RunEvent) -> tuple[Delta, ...]:
        """Takes an event and returns what is new and known in it.

        Raises:
            StreamGapError: It does not follow what was received.
        """
        self._heard = True
        self._lost_time = None
        match event.WhichOneof("event"):
            case "progress":
                self.progress = event.progress
                return ()
            case "snapshot":
                return self._accept_snapshot(event)
            case _:
                return self._accept_entry(event)

    def end_at(self, run: run_pb2.Run) -> bool:
        """Takes the run in place of its last event, where that had been received before: `after_sequence` was its end.

        Returns:
            Whether it is so. Otherwise the stream that ended was cut off.

        Raises:
            StreamGapError: That run says another thing than what was received: a store that fails over may lose what it
                had told.
        """
        if not RunState(run.state).is_ending or run.last_sequence != self.last_sequence:
            return False
        try:
            self._end(run)
        except StreamGapError as error:
            raise self.with_place(error) from None
        return True

    def lost(self, error: MidstreamClientError) -> float:
        """How many seconds to wait before the next call.

        Args:
            error: Why the call ended before the run did.

        Raises:
            MidstreamClientError: `error`, with the partial, where another call cannot help or the time to resume is
                over.
        """
        self.note_ended(error)
        if not _is_resumable(error):
            raise self.with_place(error)
        now = self._clock()
        if self._lost_time is None:
            self._lost_time = now
        delay = max(self._backoff.delay(self._attempt), error.retry_after or 0.0)
        if now + delay >= self._lost_time + self._resume_seconds:
            raise self.with_place(error)
        self._attempt += 1
        if self._deadline is None:
            return delay
        return max(0.0, min(delay, self._deadline - now))  # the next call then tells of the deadline

    def note_ended(self, error: MidstreamClientError) -> None:
        """Takes note of a call that ended. One that was not refused may have started the run, though no event came."""
        has_said_why = error.code is grpc.StatusCode.UNAVAILABLE and not isinstance(error, ConnectionLost)
        self._may_exist = self._may_exist or not (has_said_why or error.code in _REFUSALS)

    def must_stop(self, *, in_flight: bool) -> bool:
        """Whether leaving now has to stop the run.

        Not if the server had refused it: a cancel would then be remembered for an id that never ran, or hit the run of
        somebody else that has this id.
        """
        return self.claims and self.final is None and (in_flight or self._heard or self._may_exist)

    def with_place(self, error: MidstreamClientError) -> MidstreamClientError:
        """The error, with what was received."""
        error.run_id = self.run_id
        error.last_sequence = self.last_sequence
        partial = self.message
        error.partial = partial if partial.parts else None
        return error

    def _next_request(self) -> Request:
        if not self._heard or (self.last_sequence == 0 and self._starts_from_snapshot()):
            return self._opening
        return generation_service_pb2.WatchRunRequest(
            run_id=self.run_id, after_sequence=self.last_sequence, claim=self.claims
        )

    def _starts_from_snapshot(self) -> bool:
        return isinstance(self._opening, generation_service_pb2.WatchRunRequest) and self._opening.from_snapshot

    def _accept_snapshot(self, event: run_pb2.RunEvent) -> tuple[Delta, ...]:
        if event.sequence <= self.last_sequence:
            return ()
        first = self.last_sequence + 1
        try:
            folded = self._message.fold_snapshot(event.snapshot.run.message)
        except StreamGapError as error:
            raise self.with_place(error) from None
        self._advance(event.sequence)
        deltas = (delta_of(each, first_sequence=first, sequence=event.sequence) for each in folded)
        return tuple(each for each in deltas if each is not None)

    def _accept_entry(self, event: run_pb2.RunEvent) -> tuple[Delta, ...]:
        if event.sequence <= self.last_sequence:
            return ()
        first = event.first_sequence or event.sequence
        try:
            delta = self._fold_entry(event, first)
        except StreamGapError as error:
            raise self.with_place(error) from None
        self._advance(event.sequence)
        return (delta,) if delta else ()

    def _fold_entry(self, event: run_pb2.RunEvent, first: int) -> Delta | None:
        if first > self.last_sequence + 1:
            raise StreamGapError(f"event {first} came after event {self.last_sequence}")
        if event.HasField("started"):
            self.started = event.started
        elif event.HasField("finished"):
            self._end(event.finished.run)
        elif event.HasField("delta"):
            folded = self._message.fold(event.delta, overlaps=first <= self.last_sequence)
            return delta_of(folded, first_sequence=max(first, self.last_sequence + 1), sequence=event.sequence)
        return None

    def _end(self, run: run_pb2.Run) -> None:
        """Takes the run as it ended; raises StreamGapError if what was received is not what it says."""
        self.final = run
        self._message.check_final(run.message)

    def _advance(self, sequence: int) -> None:
        self.last_sequence = sequence
        self._attempt = 0


def _is_resumable(error: MidstreamClientError) -> bool:
    if isinstance(error, SlowReader) or error.code is grpc.StatusCode.UNAVAILABLE:
        return True
    return error.code in _TRANSPORT_CODES and not error.reason
