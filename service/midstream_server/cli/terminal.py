"""What the commands write: the answer to standard output, everything about it to standard error.

In a pipe nothing is added to the answer: no colour, no line end. On a terminal, control characters that a model sent
are made visible, so that they cannot command the terminal.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

OK = 0
FAILED = 1
USAGE = 2
CANCELLED = 3
"""The run was stopped, but not by Ctrl-C here."""
INTERRUPTED = 130
READER_GONE = 141

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """The text with control characters (but for line ends and tabs) replaced by pictures of them."""
    return _CONTROL.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)


def is_plain(stream: TextIO) -> bool:
    """Whether the stream takes no colour: a pipe, a file, or somebody who wants none."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


@dataclass(slots=True)
class Channel:
    """One of the two standard streams. Every write is flushed at once."""

    stream: TextIO
    at_line_start: bool = True

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads it."""
        return self.stream.isatty()

    def write(self, text: str, style: str = "") -> None:
        """Writes what a model, or anybody else, said."""
        if not text:
            return
        if self.is_terminal:
            text = harmless(text)
        self.at_line_start = text.endswith("\n")
        self.stream.write(text if not style or is_plain(self.stream) else f"\x1b[{style}m{text}\x1b[0m")
        self.stream.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """Writes a line of its own."""
        if not self.at_line_start:
            self.write("\n")
        self.write(text, style)
        self.stream.write("\n")
        self.stream.flush()
        self.at_line_start = True

    def end_line(self) -> None:
        """Ends the answer's last line, on a terminal only: in a pipe the answer is exact."""
        if self.is_terminal and not self.at_line_start:
            self.write("\n")


DIM = "2"
BOLD = "1"
RED = "31"
GREEN = "32"
YELLOW = "33"


def answers() -> Channel:
    """Standard output, always UTF-8."""
    _use_utf8(sys.stdout)
    return Channel(sys.stdout)


def remarks() -> Channel:
    """Standard error, always UTF-8."""
    _use_utf8(sys.stderr)
    return Channel(sys.stderr)


def complain(message: str) -> None:
    """Says on standard error why a command failed."""
    remarks().line(f"midstream: {message}")


def print_json(value: Mapping[str, object]) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table: drawn for a person, tab-separated without a heading in a pipe."""
    if not sys.stdout.isatty():
        for row in rows:
            sys.stdout.write("\t".join(each.replace("\t", " ").replace("\n", " ") for each in row) + "\n")
        sys.stdout.flush()
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(each)) for each in row))
    Console().print(table)


def abandon_output() -> None:
    """After the reader of our output left: nothing more is written, and Python does not complain at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _use_utf8(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and (stream.encoding or "").lower() != "utf-8":
        reconfigure(encoding="utf-8")
