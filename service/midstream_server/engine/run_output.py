"""From part deltas to published entries: pending, in flight, published. Append before publish.

pending ── take ──▶ in flight ── acknowledge ──▶ published (the log, and the message that GetRun shows)

What is pending has no number yet, and is joined when it gets one. One append is in flight at a time.
"""

from collections.abc import Sequence

from midstream_server.accumulator import MessageAccumulator, payload_size
from midstream_server.codec import encode_event
from midstream_server.engine.assembler import MessageAssembler, join_adjacent
from midstream_server.engine.run_log import RunLog
from midstream_server.model import MessageDelta, RunKey
from midstream_server.stores.base import Append, frame
from midstream_server.upstreams.base import PartDelta

_DELTA_OVERHEAD_BYTES = 64


class RunOutput:
    """The output of one run on its way through the store. Synchronous: no cancel can land in it."""

    def __init__(self, key: RunKey) -> None:
        self.log = RunLog()
        self.message = MessageAccumulator()
        """Folds what is published, nothing else."""
        self._key = key
        self._assembler = MessageAssembler()
        self._pending: list[MessageDelta] = []
        self._pending_bytes = 0
        self._in_flight: list[MessageDelta] = []
        self._in_flight_entries: list[bytes] = []
        self._in_flight_bytes = 0

    @property
    def unacknowledged_bytes(self) -> int:
        """About how much memory waits for the store."""
        return self._pending_bytes + self._in_flight_bytes

    @property
    def produced_bytes(self) -> int:
        """Bytes of payload so far, published or not."""
        return self._assembler.output_bytes

    @property
    def part_count(self) -> int:
        """How many parts the message has, published or not."""
        return self._assembler.part_count

    @property
    def is_flushed(self) -> bool:
        """Whether nothing waits for the store."""
        return not self._pending and not self._in_flight

    @property
    def has_work(self) -> bool:
        """Whether an append can be taken now."""
        return bool(self._pending) and not self._in_flight

    def add(self, delta: PartDelta) -> int:
        """Takes in what the upstream sent; how many bytes now wait more."""
        return self._enqueue(self._assembler.add(delta))

    def flush_held(self) -> int:
        """Gives out what was held back for a fragment that will not come."""
        return self._enqueue(self._assembler.flush())

    def take(self, epoch: int) -> Append:
        """Numbers and encodes what is pending."""
        deltas, self._pending = join_adjacent(self._pending), []
        self._in_flight_bytes, self._pending_bytes = self._pending_bytes, 0
        last = self.log.last_sequence
        entries = [encode_event(last + number, delta) for number, delta in enumerate(deltas, 1)]
        self._in_flight, self._in_flight_entries = deltas, entries
        return Append(
            key=self._key,
            epoch=epoch,
            expected_last_sequence=last,
            last_sequence=last + len(entries),
            entries=frame(entries),
        )

    def acknowledge(self) -> int:
        """Publishes what was in flight; how many bytes wait less."""
        for delta in self._in_flight:
            self.message.add(delta)
        entries, freed = self._in_flight_entries, self._in_flight_bytes
        self._in_flight, self._in_flight_entries, self._in_flight_bytes = [], [], 0
        self.log.publish(entries)
        return freed

    def abandon(self) -> int:
        """Drops what waits, of a run that is not ours any more; how many bytes that was."""
        freed = self.unacknowledged_bytes
        self._pending, self._in_flight, self._in_flight_entries = [], [], []
        self._pending_bytes = self._in_flight_bytes = 0
        return freed

    def _enqueue(self, deltas: Sequence[MessageDelta]) -> int:
        self._pending.extend(deltas)
        added = sum(map(_waiting_size, deltas))
        self._pending_bytes += added
        return added


def _waiting_size(delta: MessageDelta) -> int:
    size = _DELTA_OVERHEAD_BYTES + (payload_size(delta.payload) if delta.payload else 0)
    if delta.provider_state is not None:
        size += len(delta.provider_state.data)
    for each in delta.annotations:
        size += _DELTA_OVERHEAD_BYTES + len(each.url + each.title + each.cited_text + each.raw_json)
    for token in delta.logprobs:
        size += _DELTA_OVERHEAD_BYTES * (1 + len(token.top))
    return size
