"""A run that is followed, for threads."""

import logging
import threading
from collections import deque
from types import TracebackType
from typing import Protocol, Self

import grpc

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client._channel import SyncTransport
from midstream_client._requests import cancel_request, get_request
from midstream_client._resume import Follower
from midstream_client._status import error_of_call, error_of_run
from midstream_client.deltas import Delta
from midstream_client.enums import MessageView, RunState
from midstream_client.errors import ConnectionLost, MidstreamClientError, StreamClosed
from midstream_client.results import CancelResult

LEAVE_SECONDS = 1.0
"""How long leaving a stream waits for the server to take the stop."""

LEAVE_REASON = "the client left the stream"
ENDED_EARLY = "the stream ended before the run did"
AFTERWARDS_SECONDS = 60.0
"""How long `result` waits for the ending of a run whose stream was left."""

logger = logging.getLogger("midstream_client")


class _Call(Protocol):
    """What the call of a stream can do."""

    def __next__(self) -> run_pb2.RunEvent: ...
    def cancel(self) -> object: ...
    def is_active(self) -> bool: ...


class _Question(Protocol):
    """What a call of GetRun can do that another thread may cancel."""

    def result(self) -> run_pb2.Run: ...
    def cancel(self) -> object: ...


class RunControl(Protocol):
    """What a stream asks of its client."""

    def cancel(self, run_id: str, reason: str = "", wait: float | None = None) -> CancelResult:
        """Stops a run."""
        ...

    def get(
        self, run_id: str, *, view: MessageView = MessageView.AS_STREAMED, wait: float | None = None
    ) -> run_pb2.Run:
        """Returns a run."""
        ...


class RunStream:
    """A run that is followed, delta by delta, across lost connections.

    A context manager: the call starts when the block is entered. Leaving the block before the run ended stops the run
    (unless it only watches). One thread iterates; any thread may call `cancel`, `close`, and read what has come.
    """

    def __init__(
        self, transport: SyncTransport, control: RunControl, follower: Follower, request_seconds: float
    ) -> None:
        self._transport = transport
        self._control = control
        self._follower = follower
        self._request_seconds = request_seconds
        self._lock = threading.Lock()
        self._call: _Call | None = None
        self._question: _Question | None = None
        self._pending: deque[Delta] = deque()
        self._closing = threading.Event()
        self._is_entered = False
        self._is_stopped = False

    @property
    def run_id(self) -> str:
        """The run's id, known before the first answer."""
        return self._follower.run_id

    @property
    def text(self) -> str:
        """The answer's text so far: the text parts, joined."""
        return self._follower.text

    @property
    def message(self) -> run_pb2.Message:
        """A copy of the message so far."""
        return self._follower.message

    @property
    def last_sequence(self) -> int:
        """The last sequence that was received: what `watch(after_sequence=…)` takes."""
        return self._follower.last_sequence

    @property
    def started(self) -> run_pb2.RunStarted | None:
        """The run's first event, once it came."""
        return self._follower.started

    @property
    def progress(self) -> run_pb2.RunProgress | None:
        """The latest news of the run that is not part of its log."""
        return self._follower.progress

    @property
    def final(self) -> run_pb2.Run | None:
        """The run as it ended; None before."""
        return self._follower.final

    def __enter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("a stream can be entered once")
        self._is_entered = True
        with self._lock:
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        """The next delta.

        Raises:
            StopIteration: The run ended; `final` says how.
            MidstreamClientError: The run was refused, or cannot be followed any more.
        """
        if not self._is_entered:
            raise RuntimeError("enter the stream first: with client.generate(…) as run")
        while not self._pending:
            if self._follower.final is not None:
                raise StopIteration
            self._receive()
        return self._pending.popleft()

    def cancel(self, reason: str = "", wait: float | None = None) -> run_pb2.Run:
        """Stops the run and returns it with its partial message. The stream goes on to the ending.

        Args:
            reason: For people who look later.
            wait: Seconds to wait for the ending; None is 5, and 0 does not wait.
        """
        run = self._control.cancel(self.run_id, reason, wait).run
        self._is_stopped = True
        return run

    def result(self, *, raise_for_failure: bool = False) -> run_pb2.Run:
        """Follows the run to its end and returns it. A stream that was not entered is entered.

        Args:
            raise_for_failure: Raise the RunFailed of a run that ended FAILED. One that was CANCELLED is returned.
        """
        if not self._is_entered:
            with self:
                return self.result(raise_for_failure=raise_for_failure)
        if self._follower.final is None and self._closing.is_set():
            self._follower.final = self._ending_afterwards()
        for _ in self:
            pass
        assert self._follower.final is not None
        if raise_for_failure and self._follower.final.state == RunState.FAILED:
            raise error_of_run(self._follower.final)
        return self._follower.final

    def close(self) -> None:
        """Leaves the stream, as the end of its block does. Safe to call twice, and from another thread."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            call, question = self._call, self._question
        if question is not None:
            question.cancel()
        try:
            if not self._is_stopped and self._follower.must_stop(in_flight=self._is_in_flight(call)):
                self._stop()
        finally:
            if call is not None and self._follower.final is None:
                call.cancel()

    def _open(self) -> None:
        """Starts the next call. Under the lock, so that none starts after `close`."""
        if self._closing.is_set() or self._transport.is_closed:
            raise self._follower.with_place(StreamClosed())
        request, timeout = self._follower.next_call()
        stub, metadata = self._transport.streams, self._transport.metadata
        if isinstance(request, generation_service_pb2.GenerateRequest):
            self._call = stub.Generate(request, timeout=timeout, metadata=metadata)
        else:
            self._call = stub.WatchRun(request, timeout=timeout, metadata=metadata)

    def _receive(self) -> None:
        """Takes one event, or what came in its place."""
        call = self._call
        if call is None:
            self._reopen()
            return
        try:
            event = next(call)
        except StopIteration:
            if not self._has_seen_the_end():
                self._lose(ConnectionLost(ENDED_EARLY, code=grpc.StatusCode.UNAVAILABLE))
        except grpc.RpcError as error:
            self._lose(error_of_call(error))
        else:
            self._pending.extend(self._follower.accept(event))

    def _has_seen_the_end(self) -> bool:
        """Whether a call that ended, with status OK, before a last event did so because the run was over."""
        if self.last_sequence == 0:
            return False
        try:
            run = self._ask().result()
        except (MidstreamClientError, grpc.RpcError, grpc.FutureCancelledError) as error:
            logger.debug("run %s: whether it has ended is not known: %r", self.run_id, error)
            return False  # the next call finds out
        return self._follower.end_at(run)

    def _ask(self) -> _Question:
        """Asks for the run, in a way that `close` can end."""
        request = get_request(self.run_id, MessageView.AS_STREAMED, None)
        with self._lock:
            if self._closing.is_set() or self._transport.is_closed:
                raise StreamClosed()
            remaining = self._follower.remaining_seconds()
            seconds = self._request_seconds if remaining is None else min(self._request_seconds, remaining)
            get_run, metadata = self._transport.control.GetRun, self._transport.metadata
            self._question = get_run.future(request, timeout=seconds, metadata=metadata)
            return self._question

    def _lose(self, error: MidstreamClientError) -> None:
        self._call = None
        if self._closing.is_set() or self._transport.is_closed:
            raise self._follower.with_place(StreamClosed())
        delay = self._follower.lost(error)
        logger.debug("run %s: resuming after %s in %.2f s", self.run_id, error, delay)
        self._closing.wait(delay)

    def _reopen(self) -> None:
        with self._lock:
            self._open()

    def _is_in_flight(self, call: _Call | None) -> bool:
        if call is None or call.is_active():
            return call is not None
        if isinstance(call, grpc.RpcError) and isinstance(call, grpc.Call):
            self._follower.note_ended(error_of_call(call))
        return False

    def _stop(self) -> None:
        request = cancel_request(self.run_id, LEAVE_REASON, 0.0)
        cancel, metadata = self._transport.control.Cancel, self._transport.metadata
        try:
            cancel(request, timeout=LEAVE_SECONDS, wait_for_ready=True, metadata=metadata)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the client was closed before the stream
            logger.warning("run %s: the stop did not reach the server: %r", self.run_id, error)

    def _ending_afterwards(self) -> run_pb2.Run:
        run = self._control.get(self.run_id, wait=AFTERWARDS_SECONDS)
        if not RunState(run.state).is_ending:
            raise self._follower.with_place(StreamClosed("the stream was left, and the run has not ended since"))
        return run
