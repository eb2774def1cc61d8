"""The same operations, in any order, on a Valkey and on the memory store: both answer alike."""

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from contract.store_cases import NOW, SECOND, valkey_server
from contract.test_store_machine import StoreMachine, entry_list, key, second
from midstream_server.stores.base import RunStore
from midstream_server.stores.valkey import ValkeyRunStore

ALL = 100


class ValkeyMachine(StoreMachine):
    """Memory is the model; Valkey must agree with it in every answer."""

    def __init__(self) -> None:
        valkey_server().client.flushall()
        super().__init__()

    def new_store(self) -> RunStore:
        """See `StoreMachine`."""
        return ValkeyRunStore(valkey_server().url, durability="process", lease_seconds=60.0)

    @rule()
    def open_again(self):
        """A store that is shared forgets nothing when one replica leaves."""
        self._loop.run_until_complete(self.store.close())
        self.store = self.new_store()
        self._loop.run_until_complete(self.store.open())

    @rule(at=second, limit=st.just(ALL))
    def expire(self, at, limit):
        """Time goes by. Of runs that are due at the same time each store may take another first."""
        self.compare(lambda store: store.expire(NOW + at * SECOND, 5.0, limit))

    @rule(run=key, entries=entry_list, offset=st.sampled_from([0, 0, 1, -1]), older=st.booleans())
    def restore(self, run, entries, offset, older):
        """An owner knows more, or less, or is not the owner any more."""
        record = self._loop.run_until_complete(self.memory.get(run))
        if record is None:
            return
        page = self._loop.run_until_complete(self.memory.read_log(run, 0, 1 << 30))
        log = [*page.entries[: len(page.entries) + min(offset, 0)], *entries[:offset]]
        epoch = record.epoch - 1 if older else record.epoch
        known = replace(record, epoch=epoch, last_sequence=len(log))
        self.compare(lambda store: store.restore(known, log))


ValkeyMachine.TestCase.settings = settings(
    max_examples=6, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
test_valkey_answers_like_memory = ValkeyMachine.TestCase
