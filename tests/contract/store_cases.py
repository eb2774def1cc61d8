"""What the tests of stores share: commands with everything filled in, and the stores that the contract is tried on."""

import atexit
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from midstream_server.model import CancelIntent, CancelReason, DetachAction, DetachPolicy, Instant, RunKey, RunState
from midstream_server.stores.base import (
    Append,
    EarlyCancel,
    RecordIntent,
    RunRecord,
    RunStore,
    Seal,
    StartRun,
    frame,
)
from midstream_server.stores.memory import MemoryRunStore
from midstream_server.stores.sqlite import SqliteRunStore
from midstream_server.stores.valkey import ValkeyRunStore
from valkey_server import ValkeyServer, cluster_servers, single_server

Started = TypeVar("Started")

SECOND = 1_000_000_000
NOW: Instant = 1_800_000_000 * SECOND
KEY = RunKey("default", "run-1")
OWNER = "replica-1"
CANCEL = DetachPolicy()
GRACE = DetachPolicy(action=DetachAction.GRACE, grace_seconds=10)
CONTINUE = DetachPolicy(action=DetachAction.CONTINUE)


# --- The stores. A store of another kind is one more entry -----------------------------------------------------------


@asynccontextmanager
async def memory_store(folder: Path) -> AsyncIterator[RunStore]:
    """A memory store, open."""
    store = MemoryRunStore()
    await store.open()
    yield store
    await store.close()


@asynccontextmanager
async def sqlite_store(folder: Path) -> AsyncIterator[RunStore]:
    """A SQLite store at the level `process`, open."""
    async with _sqlite(folder, "process") as store:
        yield store


@asynccontextmanager
async def sqlite_disk_store(folder: Path) -> AsyncIterator[RunStore]:
    """A SQLite store at the level `disk`, open."""
    async with _sqlite(folder, "disk") as store:
        yield store


@asynccontextmanager
async def _sqlite(folder: Path, durability: str) -> AsyncIterator[RunStore]:
    store = SqliteRunStore(folder / "runs.db", durability=durability)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@functools.cache
def valkey_server() -> ValkeyServer:
    """The single server of this process's tests."""
    return _until_exit(single_server())


@functools.cache
def valkey_cluster() -> list[ValkeyServer]:
    """The cluster of this process's tests."""
    return _until_exit(cluster_servers())


def _until_exit(context: AbstractContextManager[Started]) -> Started:
    """One for all tests of this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(context)


@asynccontextmanager
async def valkey_store(folder: Path) -> AsyncIterator[RunStore]:
    """A Valkey store on a single server, empty and open."""
    async with _valkey([valkey_server()]) as store:
        yield store


@asynccontextmanager
async def valkey_cluster_store(folder: Path) -> AsyncIterator[RunStore]:
    """A Valkey store on a cluster of three primaries, empty and open."""
    async with _valkey(valkey_cluster()) as store:
        yield store


@asynccontextmanager
async def _valkey(servers: Sequence[ValkeyServer]) -> AsyncIterator[RunStore]:
    for server in servers:
        server.client.flushall()
    store = ValkeyRunStore(servers[0].url, durability="process", lease_seconds=6.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[RunStore]]] = {
    "memory": memory_store,
    "sqlite-process": sqlite_store,
    "sqlite-disk": sqlite_disk_store,
    "valkey": valkey_store,
    "valkey-cluster": valkey_cluster_store,
}
SHARED = ("valkey", "valkey-cluster")
"""The stores that several replicas may use."""


# --- Commands --------------------------------------------------------------------------------------------------------


def start_run(
    key: RunKey = KEY,
    *,
    fingerprint: str = "1:aa",
    state: RunState = RunState.RUNNING,
    owner: str = OWNER,
    claim_id: str = "claim-1",
    on_detach: DetachPolicy = CANCEL,
    conversation_id: str = "",
    parent_run_id: str = "",
    labels: dict[str, str] | None = None,
    now: Instant = NOW,
    entry: bytes = b"started",
) -> StartRun:
    """A start."""
    return StartRun(
        key=key,
        fingerprint=fingerprint,
        state=state,
        owner=owner,
        claim_id=claim_id,
        on_detach=on_detach,
        conversation_id=conversation_id,
        parent_run_id=parent_run_id,
        labels=labels or {},
        retention_seconds=60.0,
        now=now,
        summary=b"summary at the start",
        entry=entry,
    )


def append(expected: int, *entries: bytes, key: RunKey = KEY, epoch: int = 1) -> Append:
    """An append of these entries after `expected`."""
    return Append(
        key=key,
        epoch=epoch,
        expected_last_sequence=expected,
        last_sequence=expected + len(entries),
        entries=frame(entries),
    )


def seal(
    expected: int,
    *entries: bytes,
    key: RunKey = KEY,
    epoch: int = 1,
    state: RunState = RunState.COMPLETED,
    intent: CancelIntent | None = None,
    end_time: Instant = NOW + SECOND,
    expire_time: Instant = NOW + 61 * SECOND,
) -> Seal:
    """A seal with these entries after `expected`; by default with one, `finished`."""
    entries = entries or (b"finished",)
    return Seal(
        key=key,
        epoch=epoch,
        expected_last_sequence=expected,
        last_sequence=expected + len(entries),
        entries=frame(entries),
        state=state,
        intent=intent,
        end_time=end_time,
        start_time=NOW,
        expire_time=expire_time,
        summary=b"summary at the end",
    )


def intent(text: str = "stop", reason: CancelReason = CancelReason.REQUESTED, now: Instant = NOW) -> CancelIntent:
    """An intent of a caller's."""
    return CancelIntent(reason=reason, requested_by="caller", text=text, request_time=now, superseded_by_run_id="run-9")


def cancel(key: RunKey = KEY, *, text: str = "stop", unclaimed_since: Instant | None = None) -> RecordIntent:
    """An intent for a run that must exist."""
    return RecordIntent(key=key, intent=intent(text), unclaimed_since=unclaimed_since)


def early_cancel(key: RunKey = KEY, *, max_remembered: int = 10, now: Instant = NOW) -> RecordIntent:
    """An intent that is remembered if the run is unknown."""
    early = EarlyCancel(
        entries=frame([b"early start", b"early finish"]),
        summary=b"summary of an early cancel",
        expire_time=now + 600 * SECOND,
        max_remembered=max_remembered,
    )
    return RecordIntent(key=key, intent=intent(now=now), early=early)


async def whole_log(store: RunStore, key: RunKey = KEY) -> list[bytes]:
    """All entries, read in one page."""
    page = await store.read_log(key, 0, 1 << 30)
    return list(page.entries)


async def record_of(store: RunStore, key: RunKey = KEY) -> RunRecord:
    """The record, which must exist."""
    record = await store.get(key)
    assert record is not None
    return record
