"""SQLite on a disk that fails when told to, and that counts what is forced onto it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw


class Disk:
    """What the file system under SQLite shall do, and what it did."""

    def __init__(self) -> None:
        self.syncs = 0
        self.writes = 0
        self.failing_write: int | None = None
        """The number of the write from which on the disk is full."""
        self.failing_sync = False

    def write(self) -> None:
        """Counts a write, or refuses it."""
        if self.failing_write is not None and self.writes + 1 >= self.failing_write:
            raise apsw.FullError("the test's disk is full")
        self.writes += 1

    def sync(self) -> None:
        """Counts a sync, or refuses it."""
        if self.failing_sync:
            raise apsw.IOError("the test's disk is broken")
        self.syncs += 1


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, system: str, filename: Any, flags: Any) -> None:
        self._disk = disk
        super().__init__(system, filename, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.write()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.sync()
        super().xSync(flags)


class _FileSystem(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._system = apsw.vfs_names()[0]
        super().__init__("midstream-test", self._system, makedefault=True)

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:
        return _File(self._disk, self._system, name, flags)


@contextmanager
def faulty_disk() -> Iterator[Disk]:
    """Every SQLite file that is opened inside is on this disk."""
    disk = Disk()
    file_system = _FileSystem(disk)
    try:
        yield disk
    finally:
        file_system.unregister()
