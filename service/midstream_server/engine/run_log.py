"""The published entries of a live run.

One buffer with the ends of its entries, not an object per entry: a run of an hour stays cheap. Readers hold a cursor,
so a reader that does not read costs nothing here and delays nobody.
"""

from array import array
from collections.abc import Sequence

from midstream_server.engine.broadcast import Broadcast


class RunLog:
    """What readers may see: entries that the store has acknowledged, dense from sequence 1."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("Q")
        self._newest: Sequence[bytes] = ()
        self.changed = Broadcast()
        """Fires at every publish, and when the run changes its state."""
        self.is_complete = False
        """Whether the last entry is RunFinished."""

    @property
    def last_sequence(self) -> int:
        """The number of the last entry; 0 while there is none."""
        return len(self._ends)

    @property
    def size(self) -> int:
        """How many bytes its entries have."""
        return len(self._data)

    def read_all(self) -> Sequence[bytes]:
        """Every entry."""
        return self.read(0, len(self._data))

    def publish(self, entries: Sequence[bytes], *, complete: bool = False) -> None:
        """Adds entries and wakes the readers."""
        for entry in entries:
            self._data += entry
            self._ends.append(len(self._data))
        self._newest = entries
        self.is_complete = complete
        self.changed.fire()

    def read(self, after_sequence: int, max_bytes: int) -> Sequence[bytes]:
        """Entries after a sequence: as many as fit, at least one if there is one."""
        last = len(self._ends)
        if after_sequence >= last:
            return ()
        start = self._ends[after_sequence - 1] if after_sequence else 0
        limit = start + max_bytes
        if after_sequence == last - len(self._newest) and self._ends[-1] <= limit:
            return self._newest
        entries: list[bytes] = []
        for index in range(after_sequence, last):
            end = self._ends[index]
            if entries and end > limit:
                break
            entries.append(bytes(memoryview(self._data)[start:end]))
            start = end
        return entries
