"""What a process holds, as the kernel counts it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SLACK = 8
"""A runtime may start a thread, or open a pipe, of its own accord."""


@dataclass(frozen=True, slots=True)
class Handles:
    """Open files, the sockets among them, and threads."""

    files: int
    sockets: int
    threads: int

    @classmethod
    def of(cls, process_id: int) -> Self:
        """Those of a process now.

        Raises:
            OSError: it is gone.
        """
        folder = Path("/proc") / str(process_id)
        names = [_target(each) for each in (folder / "fd").iterdir()]
        sockets = sum(name.startswith("socket:") for name in names)
        return cls(len(names), sockets, len(list((folder / "task").iterdir())))

    def beyond(self, earlier: "Handles", owner: str) -> list[str]:
        """What is more than it was, in words."""
        return [
            f"{owner}: {now} {name}, {before} before"
            for name, now, before in (
                ("open files", self.files, earlier.files),
                ("sockets", self.sockets, earlier.sockets),
                ("threads", self.threads, earlier.threads),
            )
            if now > before + _SLACK
        ]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""  # closed since it was listed
