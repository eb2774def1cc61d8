"""A run that is followed, for an event loop."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Protocol, Self

import grpc

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client._channel import AsyncTransport
from midstream_client._requests import cancel_request
from midstream_client._resume import Follower
from midstream_client._status import error_of_call, error_of_run
from midstream_client.deltas import Delta
from midstream_client.enums import MessageView, RunState
from midstream_client.errors import ConnectionLost, MidstreamClientError, StreamClosed
from midstream_client.results import CancelResult
from midstream_client.stream import AFTERWARDS_SECONDS, ENDED_EARLY, LEAVE_REASON, LEAVE_SECONDS, logger


class _Call(Protocol):
    """What the call of a stream can do."""

    async def read(self) -> object: ...
    def cancel(self) -> bool: ...
    def done(self) -> bool: ...


class AsyncRunControl(Protocol):
    """What a stream asks of its client."""

    def transport(self) -> AsyncTransport:
        """The client's channels; only on its event loop."""
        ...

    async def cancel(self, run_id: str, reason: str = "", wait: float | None = None) -> CancelResult:
        """Stops a run."""
        ...

    async def get(
        self, run_id: str, *, view: MessageView = MessageView.AS_STREAMED, wait: float | None = None
    ) -> run_pb2.Run:
        """Returns a run."""
        ...


class AsyncRunStream:
    """A run that is followed, delta by delta, across lost connections.

    An asynchronous context manager: the call starts when the block is entered. Leaving the block before the run ended,
    also by a cancel of the task, stops the run (unless it only watches). One task iterates; a cancel of it while it
    waits loses nothing, the next turn goes on where it was. Any task may call `cancel` and read what has come.
    """

    def __init__(self, control: AsyncRunControl, follower: Follower) -> None:
        self._control = control
        self._follower = follower
        self._call: _Call | None = None
        self._reading: asyncio.Task[object] | None = None
        self._pending: deque[Delta] = deque()
        self._closing = asyncio.Event()
        self._question: asyncio.Timeout | None = None
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

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("a stream can be entered once")
        self._is_entered = True
        self._open()
        self._control.transport().warm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        """The next delta.

        Raises:
            StopAsyncIteration: The run ended; `final` says how.
            MidstreamClientError: The run was refused, or cannot be followed any more.
        """
        if not self._is_entered:
            raise RuntimeError("enter the stream first: async with client.generate(…) as run")
        while not self._pending:
            if self._follower.final is not None:
                raise StopAsyncIteration
            await self._receive()
        return self._pending.popleft()

    async def cancel(self, reason: str = "", wait: float | None = None) -> run_pb2.Run:
        """Stops the run and returns it with its partial message. The stream goes on to the ending.

        Args:
            reason: For people who look later.
            wait: Seconds to wait for the ending; None is 5, and 0 does not wait.
        """
        run = (await self._control.cancel(self.run_id, reason, wait)).run
        self._is_stopped = True
        return run

    async def result(self, *, raise_for_failure: bool = False) -> run_pb2.Run:
        """Follows the run to its end and returns it. A stream that was not entered is entered.

        Args:
            raise_for_failure: Raise the RunFailed of a run that ended FAILED. One that was CANCELLED is returned.
        """
        if not self._is_entered:
            async with self:
                return await self.result(raise_for_failure=raise_for_failure)
        if self._follower.final is None and self._closing.is_set():
            self._follower.final = await self._ending_afterwards()
        async for _ in self:
            pass
        assert self._follower.final is not None
        if raise_for_failure and self._follower.final.state == RunState.FAILED:
            raise error_of_run(self._follower.final)
        return self._follower.final

    async def aclose(self) -> None:
        """Leaves the stream, as the end of its block does. Safe to call twice, and from another task.

        A cancel that comes meanwhile is obeyed once the stop is sent: at most 1 s later.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        if self._question is not None and not self._question.expired():
            self._question.reschedule(asyncio.get_running_loop().time())
        if self._call is not None or self._follower.must_stop(in_flight=False):
            await _uninterrupted(self._leave(), f"midstream-leave:{self.run_id}")

    def _open(self) -> None:
        transport = self._control.transport()
        if self._closing.is_set() or transport.is_closed:
            raise self._follower.with_place(StreamClosed())
        request, timeout = self._follower.next_call()
        if isinstance(request, generation_service_pb2.GenerateRequest):
            self._call = transport.streams.Generate(request, timeout=timeout, metadata=transport.metadata)
        else:
            self._call = transport.streams.WatchRun(request, timeout=timeout, metadata=transport.metadata)

    async def _receive(self) -> None:
        """Takes one event, or what came in its place."""
        if self._call is None:
            self._open()
            return
        reading = self._reading or asyncio.create_task(self._call.read(), name=f"midstream-read:{self.run_id}")
        self._reading = reading
        await asyncio.wait({reading})  # a cancel of ours must not cancel the call: the read stays for the next turn
        self._reading = None
        if reading.cancelled():
            await self._lose(StreamClosed(code=grpc.StatusCode.CANCELLED))
        elif (error := reading.exception()) is not None:
            if not isinstance(error, grpc.RpcError):
                raise error
            await self._lose(error_of_call(error))
        elif isinstance(event := reading.result(), run_pb2.RunEvent):
            self._pending.extend(self._follower.accept(event))
        elif not await self._has_seen_the_end():
            await self._lose(ConnectionLost(ENDED_EARLY, code=grpc.StatusCode.UNAVAILABLE))

    async def _has_seen_the_end(self) -> bool:
        """Whether a call that ended, with status OK, before a last event did so because the run was over."""
        if self.last_sequence == 0:
            return False
        try:
            async with asyncio.timeout(self._follower.remaining_seconds()) as self._question:
                run = await self._control.get(self.run_id)
        except (MidstreamClientError, TimeoutError) as error:
            logger.debug("run %s: whether it has ended is not known: %r", self.run_id, error)
            return False  # the next call finds out
        finally:
            self._question = None
        return self._follower.end_at(run)

    async def _lose(self, error: MidstreamClientError) -> None:
        self._call = None
        if self._closing.is_set() or self._control.transport().is_closed:
            raise self._follower.with_place(StreamClosed())
        delay = self._follower.lost(error)
        logger.debug("run %s: resuming after %s in %.2f s", self.run_id, error, delay)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._closing.wait()

    async def _leave(self) -> None:
        call = self._call
        try:
            if not self._is_stopped and self._follower.must_stop(in_flight=await self._is_in_flight()):
                await self._stop()
        finally:
            if call is not None and self._follower.final is None:
                call.cancel()
            await self._drop_read()

    async def _drop_read(self) -> None:
        """Waits for the read that a cancelled turn left, which ends with the call."""
        if (reading := self._reading) is not None:
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()

    async def _is_in_flight(self) -> bool:
        if self._call is None or not self._call.done():
            return self._call is not None
        try:
            await self._call.read()
        except grpc.RpcError as error:
            self._follower.note_ended(error_of_call(error))
        return False

    async def _stop(self) -> None:
        transport = self._control.transport()
        request = cancel_request(self.run_id, LEAVE_REASON, 0.0)
        try:
            await transport.control.Cancel(
                request, timeout=LEAVE_SECONDS, wait_for_ready=True, metadata=transport.metadata
            )
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError) as error:
            # CancelledError: the channel was closed meanwhile; nobody else can cancel the task that runs this.
            logger.warning("run %s: the stop did not reach the server: %r", self.run_id, error)

    async def _ending_afterwards(self) -> run_pb2.Run:
        run = await self._control.get(self.run_id, wait=AFTERWARDS_SECONDS)
        if not RunState(run.state).is_ending:
            raise self._follower.with_place(StreamClosed("the stream was left, and the run has not ended since"))
        return run


async def _uninterrupted(work: Coroutine[None, None, None], name: str) -> None:
    """Does bounded work to its end, and lets a cancel that came meanwhile go on only then."""
    task = asyncio.create_task(work, name=name)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
