"""Which process holds a port or a file, as far as /proc tells. For messages only."""

import os
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"


def listener_on(port: int) -> str:
    """The process that listens on a TCP port, as words; empty if nobody can tell."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    return _first_holder(inodes)


def holder_of(path: Path) -> str:
    """Another process that has the file open, as words; empty if nobody can tell."""
    return _first_holder({str(path.resolve())})


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]


def _first_holder(targets: set[str]) -> str:
    if not targets:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            if any(os.readlink(each) in targets for each in (process / "fd").iterdir()):
                return f"process {process.name} ({_command(process)})"
        except OSError:
            continue
    return ""


def _command(process: Path) -> str:
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return " ".join(words).strip()[:80] or (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
