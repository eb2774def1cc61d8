"""Follows a stream in the terminal: shows what comes, and stops the run when Ctrl-C says so.

One task reads, one waits for signals; both belong to one group. The first signal asks for a cancel, and the reader goes
on to the run's end, so that everything that was kept is shown. The second ends the process at once.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from midstream.v1 import run_pb2
from midstream_client import AsyncRunStream, Delta
from midstream_client.errors import MidstreamClientError
from midstream_server.cli import terminal
from midstream_server.cli.present import as_json, exit_code, show_ending

STOP_REASON = "stopped at the terminal"
STOP_SECONDS = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Printer(Protocol):
    """Shows a stream."""

    def show(self, delta: Delta, started: run_pb2.RunStarted | None) -> None:
        """Shows a delta at once."""
        ...

    def finish(self, run: run_pb2.Run, started: run_pb2.RunStarted | None, last_sequence: int) -> None:
        """Shows how the run ended."""
        ...


class TextPrinter:
    """The answer to standard output; reasoning, tool calls and the end to standard error."""

    def __init__(self) -> None:
        self._answers = terminal.answers()
        self._remarks = terminal.remarks()
        self._share_a_line = self._answers.is_terminal and self._remarks.is_terminal

    def show(self, delta: Delta, started: run_pb2.RunStarted | None) -> None:
        """Shows a delta at once."""
        if delta.reasoning:
            if self._share_a_line and not self._answers.at_line_start:
                self._answers.end_line()
            self._remarks.write(delta.reasoning, terminal.DIM)
        elif delta.text or delta.refusal:
            if self._share_a_line and not self._remarks.at_line_start:
                self._remarks.end_line()
            self._answers.write(delta.text or delta.refusal)

    def finish(self, run: run_pb2.Run, started: run_pb2.RunStarted | None, last_sequence: int) -> None:
        """Shows how the run ended."""
        self._answers.end_line()
        show_ending(run, self._remarks)


class JsonPrinter:
    """Every event as the contract's JSON, one on a line. A snapshot comes as the deltas that it stands for."""

    def __init__(self) -> None:
        self._has_started = False

    def show(self, delta: Delta, started: run_pb2.RunStarted | None) -> None:
        """Shows a delta at once."""
        self._start(started)
        terminal.print_json(as_json(event_of(delta)))

    def finish(self, run: run_pb2.Run, started: run_pb2.RunStarted | None, last_sequence: int) -> None:
        """Shows how the run ended."""
        self._start(started)
        terminal.print_json(as_json(run_pb2.RunEvent(sequence=last_sequence, finished=run_pb2.RunFinished(run=run))))

    def _start(self, started: run_pb2.RunStarted | None) -> None:
        if started is not None and not self._has_started:
            self._has_started = True
            terminal.print_json(as_json(run_pb2.RunEvent(sequence=1, started=started)))


def event_of(delta: Delta) -> run_pb2.RunEvent:
    """The event that a delta came in."""
    event = run_pb2.RunEvent(sequence=delta.sequence)
    if delta.first_sequence != delta.sequence:
        event.first_sequence = delta.first_sequence
    made = event.delta
    made.part_index, made.offset = delta.part_index, delta.offset
    for kind in ("text", "reasoning", "refusal"):
        if value := getattr(delta, kind):
            setattr(made, kind, value)
    if delta.tool_call is not None:
        made.tool_call.CopyFrom(delta.tool_call)
    if delta.blob is not None:
        made.blob.CopyFrom(delta.blob)
    if delta.part_end is not None:
        made.part_end = run_pb2.PartState.ValueType(delta.part_end)
    if delta.provider_state is not None:
        made.provider_state.CopyFrom(delta.provider_state)
    made.annotations.extend(delta.annotations)
    made.logprobs.extend(delta.logprobs)
    return event


class Interrupts:
    """The signals that ask to stop. The first sets `asked`; a second one ends the process."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.number = 0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listens inside the block."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._hear, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _hear(self, number: int) -> None:
        if self.asked.is_set():
            # Nothing is waited for: the server stops the run by itself when the connection is gone.
            os._exit(128 + number)
        self.number = number
        self.asked.set()


class Session:
    """One stream in one terminal."""

    def __init__(self, stream: AsyncRunStream, printer: Printer, *, stops_run: bool) -> None:
        self._stream = stream
        self._printer = printer
        self._stops_run = stops_run
        self._interrupts = Interrupts()
        self._error: Exception | None = None

    async def follow(self) -> int:
        """Shows the stream, which was entered, to its end, and returns the exit code.

        Raises:
            MidstreamClientError: The run was refused, or cannot be followed any more.
            BrokenPipeError: Nobody reads our output any more.
        """
        with self._interrupts.heard():
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read(), name="read")
                stopping = group.create_task(self._stop_when_asked(reading), name="stop")
                reading.add_done_callback(lambda _: stopping.cancel())
        if self._error is not None:
            raise self._error
        return self._exit_code()

    def _exit_code(self) -> int:
        run = self._stream.final
        interrupted = self._interrupts.number
        if interrupted and (run is None or run.state == run_pb2.RUN_STATE_CANCELLED):
            return 128 + interrupted
        return exit_code(run) if run is not None else terminal.FAILED

    async def _read(self) -> None:
        """Never raises, so that the group ends in one way only."""
        try:
            async for delta in self._stream:
                self._printer.show(delta, self._stream.started)
            run = await self._stream.result()
            self._printer.finish(run, self._stream.started, self._stream.last_sequence)
        except (MidstreamClientError, BrokenPipeError) as error:
            self._error = error

    async def _stop_when_asked(self, reading: asyncio.Task[None]) -> None:
        await self._interrupts.asked.wait()
        if not self._stops_run:
            reading.cancel()
            return
        try:
            await self._stream.cancel(STOP_REASON, STOP_SECONDS)
        except MidstreamClientError as error:
            self._error = error
            reading.cancel()
