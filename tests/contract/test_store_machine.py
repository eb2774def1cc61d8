"""The same operations, in any order, on every kind of store: all answer alike, also after SQLite was opened again."""

import asyncio
import dataclasses
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contract.store_cases import GRACE, NOW, SECOND, append, cancel, early_cancel, seal, start_run
from midstream_server.model import CancelReason, DetachAction, DetachPolicy, RunKey, RunState
from midstream_server.stores.base import ListQuery, RunStore
from midstream_server.stores.memory import MemoryRunStore
from midstream_server.stores.sqlite import SqliteRunStore

KEYS = [RunKey(tenant, run_id) for tenant in ("default", "other") for run_id in ("a", "b", "c")]
key = st.sampled_from(KEYS)
claim_id = st.sampled_from(["c1", "c2"])
second = st.integers(0, 20)
sequence = st.integers(0, 12)
epoch = st.integers(1, 3)
conversation = st.sampled_from(["", "talk"])
# Small ones, and such that a few make a chunk.
entry_list = st.lists(st.one_of(st.binary(max_size=5), st.just(b"long" * 1_000)), min_size=1, max_size=4)


class StoreMachine(RuleBasedStateMachine):
    """Memory is the model; SQLite must agree with it in every answer."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory()
        self.memory = MemoryRunStore()
        self.store = self.new_store()
        self._loop.run_until_complete(self.memory.open())
        self._loop.run_until_complete(self.store.open())

    def new_store(self) -> RunStore:
        """The store to try, with what is in it; the first one is empty."""
        return SqliteRunStore(Path(self._folder.name) / "runs.db", durability="process")

    def teardown(self) -> None:
        """Closes everything."""
        self._loop.run_until_complete(self.store.close())
        self._loop.close()
        self._folder.cleanup()

    def compare(self, operation: Callable[[RunStore], Awaitable[Any]]) -> Any:
        """Both answer the same."""
        answers = [self._loop.run_until_complete(_answer(operation, store)) for store in (self.memory, self.store)]
        assert answers[0] == answers[1]
        return answers[0]

    def position(self, run: RunKey, offset: int) -> tuple[int, int]:
        """The epoch and about the last sequence of a run: so that most writes fit, and some do not."""
        record = self._loop.run_until_complete(self.memory.get(run))
        if record is None:
            return 1, max(0, offset)
        return record.epoch, max(0, record.last_sequence + offset)

    @rule(
        run=key,
        fingerprint=st.sampled_from(["1:x", "1:y"]),
        claim=claim_id,
        state=st.sampled_from([RunState.QUEUED, RunState.RUNNING]),
        policy=st.sampled_from([DetachPolicy(), GRACE, DetachPolicy(action=DetachAction.CONTINUE)]),
        talk=conversation,
        at=second,
    )
    def start(self, run, fingerprint, claim, state, policy, talk, at):
        """Starts, attaches, conflicts."""
        command = start_run(
            run,
            fingerprint=fingerprint,
            claim_id=claim,
            state=state,
            on_detach=policy,
            conversation_id=talk,
            labels={"talk": talk},
            now=NOW + at,
        )
        self.compare(lambda store: store.start(command))

    @rule(run=key, epoch=epoch, at=second)
    def set_running(self, run, epoch, at):
        """From the queue."""
        self.compare(lambda store: store.set_running(run, epoch, NOW + at))

    @rule(run=key, claim=claim_id)
    def claim(self, run, claim):
        """A reader comes."""
        self.compare(lambda store: store.claim(run, claim, "replica-1"))

    @rule(run=key, claim=claim_id, at=second)
    def release(self, run, claim, at):
        """A reader goes."""
        self.compare(lambda store: store.release(run, claim, CancelReason.CLIENT_GONE, NOW + at))

    @rule(data=st.lists(st.tuples(key, st.sampled_from([0, 0, 0, -1, 1]), entry_list), max_size=4))
    def append(self, data):
        """Entries for several runs."""
        batch = []
        for run, offset, entries in data:
            owner_epoch, last_sequence = self.position(run, offset)
            batch.append(append(last_sequence, *entries, key=run, epoch=owner_epoch))
        self.compare(lambda store: store.append(batch))

    @rule(run=key, early=st.booleans(), since=st.one_of(st.none(), second), at=second)
    def intend(self, run, early, since, at):
        """A caller or a clock wants it to stop."""
        unclaimed_since = None if since is None else NOW + since * SECOND
        command = early_cancel(run, max_remembered=2, now=NOW + at) if early else cancel(run, text=str(at))
        command = dataclasses.replace(command, unclaimed_since=unclaimed_since)
        self.compare(lambda store: store.record_intent(command))

    @rule(run=key, entries=entry_list, offset=st.sampled_from([0, 0, 0, -1]), at=second)
    def seal(self, run, entries, offset, at):
        """The end."""
        owner_epoch, last_sequence = self.position(run, offset)
        command = seal(last_sequence, *entries, key=run, epoch=owner_epoch, expire_time=NOW + at * SECOND)
        self.compare(lambda store: store.seal(command))

    @rule(run=key, epoch=epoch)
    def take_over(self, run, epoch):
        """Another owner."""
        self.compare(lambda store: store.take_over(run, "replica-2", epoch))

    @rule(run=key, at=second)
    def delete(self, run, at):
        """A caller wants it gone."""
        self.compare(lambda store: store.delete(run, NOW, NOW + at * SECOND))

    @rule(at=second, limit=st.integers(1, 5))
    def expire(self, at, limit):
        """Time goes by."""
        self.compare(lambda store: store.expire(NOW + at * SECOND, 5.0, limit))

    @rule(run=key)
    def settle(self, run):
        """The bill comes."""
        self.compare(lambda store: store.settle(run, b"usage"))

    @rule(run=key)
    def join(self, run):
        """A run joins the conversation."""
        self.compare(lambda store: store.join_conversation(run.tenant, "talk", run.run_id, NOW))

    @rule(run=key)
    def leave(self, run):
        """A run leaves it."""
        self.compare(lambda store: store.leave_conversation(run.tenant, "talk", run.run_id))

    @rule(run=key, after=sequence, max_bytes=st.sampled_from([1, 100, 10_000, 1_000_000]))
    def read(self, run, after, max_bytes):
        """A page of a log."""
        self.compare(lambda store: store.read_log(run, after, max_bytes))

    @rule(
        state=st.one_of(st.none(), st.sampled_from(RunState)),
        talk=conversation,
        limit=st.integers(1, 5),
        before=st.one_of(st.none(), st.tuples(second, st.sampled_from(["a", "b", "c"]))),
    )
    def list_records(self, state, talk, limit, before):
        """A page of a list."""
        place = None if before is None else (NOW + before[0], before[1])
        labels = {"talk": talk} if talk else {}
        query = ListQuery(tenant="default", limit=limit, before=place, state=state, conversation_id=talk, labels=labels)
        self.compare(lambda store: store.list_records(query))

    @rule()
    def open_again(self):
        """SQLite is closed and opened; members that are not live are gone from conversations, so memory forgets too."""
        self._loop.run_until_complete(self.store.close())
        self.store = self.new_store()
        self._loop.run_until_complete(self.store.open())
        for run in KEYS:
            record = self._loop.run_until_complete(self.memory.get(run))
            if record is None or record.state.is_ending:
                self._loop.run_until_complete(self.memory.leave_conversation(run.tenant, "talk", run.run_id))

    @invariant()
    def agree(self):
        """Every record, every log and every ending is the same in both."""
        for run in KEYS:
            self.compare(lambda store, run=run: store.get(run))  # type: ignore[misc]
            self.compare(lambda store, run=run: store.read_log(run, 0, 1 << 30))  # type: ignore[misc]
            self.compare(lambda store, run=run: store.read_finished(run))  # type: ignore[misc]


async def _answer(operation: Callable[[RunStore], Awaitable[Any]], store: RunStore) -> Any:
    try:
        answer = await operation(store)
    except Exception as error:
        return type(error)
    if isinstance(answer, tuple | list):
        return list(answer)
    return answer


StoreMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
test_all_stores_answer_alike = StoreMachine.TestCase
