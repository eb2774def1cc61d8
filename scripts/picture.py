"""Draws docs/demo.svg: a real run of `midstream demo` on a terminal, as it looked when it had ended."""

import os
import pty
import re
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 112


def record(*command: str) -> str:
    """What the command shows on a terminal."""
    shown = bytearray()

    def read(terminal: int) -> bytes:
        data = os.read(terminal, 65536)
        shown.extend(data)
        return data

    os.environ.update(COLUMNS=str(WIDTH), LINES="60", TERM="xterm-256color")
    if code := os.waitstatus_to_exitcode(pty.spawn(command, read)):
        sys.exit(code)
    return shown.decode(errors="replace").replace("\r\n", "\n")


def draw(output: str, command: str) -> str:
    """The output as an SVG that needs nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), command))
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title="make demo")
    svg = re.sub(r"@font-face\s*{[^}]*}|<!--.*?-->", "", svg)
    return svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


if __name__ == "__main__":
    picture = draw(record(str(ROOT / ".venv/bin/midstream"), "demo"), "make demo")
    (ROOT / "docs/demo.svg").write_text(picture)
