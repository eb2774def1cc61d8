"""What the demo shows, and what it checks."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from midstream.v1 import run_pb2
from midstream_client import CancelOutcome, CancelResult
from midstream_server.cli import terminal
from midstream_server.cli.present import text_of

_LABEL_WIDTH = 14
_MOST_OVERSHOOT = 8
"""Tokens that the engine may make after the stop: it looks for a hang-up once per token; a busy machine adds some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What came of the stop, from all sides."""

    streamed: str
    deltas: int
    reply: CancelResult
    reply_seconds: float
    ended: run_pb2.Run
    stored: run_pb2.Run
    tokens_made: int

    @property
    def tokens_kept(self) -> int:
        """As the engine counted them while it streamed; if it did not, one per delta."""
        output = self.ended.usage.output
        is_counted = output.source != run_pb2.USAGE_SOURCE_ESTIMATED and self.ended.usage.HasField("output")
        return output.value if is_counted else self.deltas

    @property
    def close_milliseconds(self) -> float | None:
        """From the Cancel's arrival to the closed upstream connection."""
        report = self.ended.cancel
        if not report.HasField("upstream_close_time"):
            return None
        return (report.upstream_close_time.ToNanoseconds() - report.request_time.ToNanoseconds()) / 1e6


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that should hold."""

    held: bool
    words: str


def examine(stop: Stop) -> Sequence[Promise]:
    """What should hold of a stop, and whether it did."""
    streamed = stop.streamed.encode()
    reply, stored = (text_of(run.message).encode() for run in (stop.reply.run, stop.stored))
    overshoot = stop.tokens_made - stop.tokens_kept
    closed = stop.close_milliseconds
    return [
        Promise(
            stop.reply.outcome == CancelOutcome.CANCELLED and stop.stored.state == run_pb2.RUN_STATE_CANCELLED,
            "the run ended once, as CANCELLED"
            if closed is not None
            else "the model finished before it could be stopped",
        ),
        Promise(
            closed is not None,
            f"the model's connection was closed {closed:.1f} ms after the Cancel arrived; "
            f"the answer took {stop.reply_seconds * 1000:.0f} ms"
            if closed is not None
            else "there was no connection left to close",
        ),
        Promise(
            bool(streamed) and reply == streamed,
            f"Cancel answered with the partial: byte for byte what had streamed ({len(streamed)} bytes)",
        ),
        Promise(stored == streamed, f"GetRun returns the same {len(stored)} bytes"),
        Promise(
            0 <= overshoot <= _MOST_OVERSHOOT,
            f"the engine's own counter: {stop.tokens_made} tokens made, {stop.tokens_kept} kept, "
            f"so {overshoot} after the stop",
        ),
    ]


def _command_name() -> str:
    """What can be typed here: `make demo` runs a command that is on nobody's path."""
    typed = sys.argv[0] if os.access(sys.argv[0], os.X_OK) else "midstream"
    return "midstream" if shutil.which("midstream") else typed


class Screen:
    """The terminal of the demo; in a pipe the same without colour."""

    def __init__(self) -> None:
        self._out = terminal.answers()
        self._width = min(100, shutil.get_terminal_size().columns) - 4
        self._column = 0
        self._out.write("\n  Midstream", terminal.BOLD)
        self._out.write("  a real model, stopped midstream from another connection; its text is kept\n\n", terminal.DIM)

    def fact(self, label: str, value: str) -> None:
        """A labelled line."""
        self._out.write(f"  {label:{_LABEL_WIDTH}}", terminal.DIM)
        self._out.write(f"{value}\n")

    def question(self, run_id: str, prompt: str) -> None:
        """The run begins."""
        self.fact("connection A", f"Generate: “{prompt}”")
        self.fact("", f"run {run_id}")
        self._out.write("\n")
        self._begin_line()

    def text(self, piece: str) -> None:
        """More of the answer, wrapped for reading; what is compared later is not what is shown."""
        for number, line in enumerate(piece.split("\n")):
            if number:
                self._next_line()
            if self._column + len(line) > self._width and self._column:
                self._next_line()
                line = line.lstrip(" ")
            self._out.write(line)
            self._column += len(line)

    def scissors(self, deltas: int) -> None:
        """The second connection stops the run."""
        self._out.write(" ✂\n\n", terminal.YELLOW)
        self.fact("connection B", f"Cancel, after {deltas} deltas")

    def verdict(self, promises: Sequence[Promise], seconds: float) -> None:
        """What held."""
        self._out.write("\n")
        for promise in promises:
            mark, style = ("✓", terminal.GREEN) if promise.held else ("✗", terminal.RED)
            self._out.write(f"  {mark} ", style)
            self._out.write(f"{promise.words}\n")
        self._out.write("\n")
        if all(promise.held for promise in promises):
            self._out.write(f"  It all held, in {seconds:.1f} s.", terminal.BOLD)
            name = _command_name()
            self._out.write(f"  Next: {name} serve, and {name} run local/smollm2 'Hello' beside it.\n\n", terminal.DIM)

    def _next_line(self) -> None:
        self._out.write("\n")
        self._begin_line()

    def _begin_line(self) -> None:
        self._out.write("  │ ", terminal.DIM)
        self._column = 0
