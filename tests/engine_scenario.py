"""A supervisor over a scripted upstream and a flaky store, and readers that keep what they saw."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from flaky_store import FlakyStore
from midstream_server.accumulator import MessageAccumulator
from midstream_server.codec import DecodedEvent, decode_event
from midstream_server.engine.supervisor import Claim, Reader, Supervisor, SupervisorOptions
from midstream_server.model import (
    DEFAULT_TENANT,
    CancelOutcome,
    CancelReason,
    DetachAction,
    DetachPolicy,
    Instant,
    Message,
    MessageDelta,
    Prompt,
    Run,
    RunFinished,
    RunKey,
    RunProgress,
    RunSnapshot,
    RunSpec,
    Text,
)
from midstream_server.stores.base import RunRecord, RunStore
from midstream_server.stores.memory import MemoryRunStore
from scripted_upstream import MODEL, ScriptedCall, ScriptedRegistry, ScriptedUpstream

EPOCH: Instant = 1_800_000_000_000_000_000
CONTINUE = DetachPolicy(action=DetachAction.CONTINUE)
GRACE = DetachPolicy(action=DetachAction.GRACE, grace_seconds=10.0)


def run_key(run_id: str = "run") -> RunKey:
    """The key of a run of the default tenant."""
    return RunKey(DEFAULT_TENANT, run_id)


async def settle() -> None:
    """Lets everything happen that needs no time and no event from outside."""
    for _ in range(100):
        await asyncio.sleep(0)


async def advance(seconds: float) -> None:
    """Moves the virtual clock. Only in tests with the marker `looptime`."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


class LoopClock:
    """A wall clock that goes with the loop's, so that a virtual clock moves both; it can also jump."""

    def __init__(self) -> None:
        self.jumped_seconds = 0.0

    def now(self) -> Instant:
        return EPOCH + round((asyncio.get_running_loop().time() + self.jumped_seconds) * 1e9)


class SharedStore(FlakyStore):
    """What several processes would share: nobody in it is dead."""

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        return []


def failure_of(run: Run) -> str:
    """The reason of a run that failed; empty if it did not."""
    return run.error.reason if run.error else ""


def text_of(message: Message | None) -> str:
    """All the text of a message."""
    parts = message.parts if message else ()
    return "".join(part.content.text for part in parts if isinstance(part.content, Text))


@dataclass(eq=False)
class Follower:
    """A stream: a reader and its claim."""

    supervisor: Supervisor
    reader: Reader
    claim: Claim | None = None
    events: list[DecodedEvent] = field(default_factory=list)

    async def next(self) -> list[DecodedEvent]:
        """The next events; none after the end."""
        events = [decode_event(event) for event in await self.reader.next()]
        self.events.extend(events)
        return events

    async def until(self, wanted: Callable[[DecodedEvent], bool]) -> DecodedEvent:
        """Reads to the first event that is wanted."""
        for event in self.events:
            if wanted(event):
                return event
        while events := await self.next():
            for event in events:
                if wanted(event):
                    return event
        raise AssertionError("the stream ended without it")

    async def until_text(self, wanted: str) -> None:
        """Reads until exactly this text has come."""
        while self.text != wanted:
            assert await self.next(), f"the stream ended with {self.text!r}"

    async def until_progress(self, wanted: Callable[[RunProgress], bool] = lambda progress: True) -> RunProgress:
        """Reads to a progress event."""
        event = await self.until(lambda event: isinstance(event.payload, RunProgress) and wanted(event.payload))
        assert isinstance(event.payload, RunProgress)
        return event.payload

    async def rest(self) -> Run:
        """Reads to the end; the final run. Checks that the end comes once, as the last event."""
        while await self.next():
            pass
        endings = [index for index, event in enumerate(self.events) if isinstance(event.payload, RunFinished)]
        assert endings == [len(self.events) - 1], "RunFinished comes once, as the last event"
        last = self.events[-1].payload
        assert isinstance(last, RunFinished)
        return last.run

    @property
    def message(self) -> Message | None:
        """What the deltas, after a snapshot if there was one, amount to."""
        accumulator = MessageAccumulator()
        for event in self.events:
            if isinstance(event.payload, MessageDelta):
                accumulator.add(event.payload)
        return accumulator.message()

    @property
    def text(self) -> str:
        """The text of a snapshot, if there was one, and of the deltas."""
        snapshots = [event.payload.run for event in self.events if isinstance(event.payload, RunSnapshot)]
        return "".join(text_of(run.message) for run in snapshots) + text_of(self.message)

    @property
    def sequences(self) -> list[int]:
        """The numbers of the log entries that came, merged ones spelled out."""
        return [
            number
            for event in self.events
            if not isinstance(event.payload, RunProgress | RunSnapshot)
            for number in range(event.first_sequence or event.sequence, event.sequence + 1)
        ]

    def leave(self, reason: CancelReason = CancelReason.CLIENT_GONE, *, by_server: bool = False) -> None:
        """The stream is gone."""
        self.supervisor.detach(self.claim, self.reader, reason, by_server=by_server)


@dataclass(eq=False)
class Engine:
    """A process, as far as the engine goes."""

    supervisor: Supervisor
    upstream: ScriptedUpstream
    store: FlakyStore
    clock: LoopClock

    async def start(self, run_id: str = "run", *, fingerprint: str = "1:same", **spec: Any) -> Follower:
        """A stream of Generate."""
        claim = self.supervisor.new_claim(DEFAULT_TENANT, run_id)
        try:
            reader = await self.supervisor.start(run_spec(run_id, **spec), fingerprint, claim)
        except BaseException:
            self.supervisor.detach(claim, None, CancelReason.CLIENT_GONE, by_server=False)
            raise
        return Follower(self.supervisor, reader, claim)

    async def watch(
        self, run_id: str = "run", after_sequence: int = 0, *, snapshot: bool = False, claim: bool = False
    ) -> Follower:
        """A stream of WatchRun."""
        held = self.supervisor.new_claim(DEFAULT_TENANT, run_id) if claim else None
        try:
            reader = await self.supervisor.watch(
                DEFAULT_TENANT, run_id, after_sequence, from_snapshot=snapshot, claim=held
            )
        except BaseException:
            self.supervisor.detach(held, None, CancelReason.CLIENT_GONE, by_server=False)
            raise
        return Follower(self.supervisor, reader, held)

    async def cancel(self, run_id: str = "run", text: str = "stop", wait: float = 5.0) -> tuple[CancelOutcome, Run]:
        """The Cancel of a caller named `alice`."""
        return await self.supervisor.cancel(DEFAULT_TENANT, run_id, text, "alice", wait)

    async def get(self, run_id: str = "run", wait: float | None = None) -> Run:
        """GetRun."""
        return await self.supervisor.get(DEFAULT_TENANT, run_id, wait)

    async def record(self, run_id: str = "run") -> RunRecord:
        """What the real store has."""
        record = await self.store.inner.get(run_key(run_id))
        assert record is not None
        return record

    async def call(self, index: int = 0) -> ScriptedCall:
        """A call, once it has reached the upstream."""
        await self.upstream.calls[index].started.wait()
        return self.upstream.calls[index]


def run_spec(run_id: str = "run", **spec: Any) -> RunSpec:
    """A request with everything filled in."""
    values: dict[str, Any] = {"model": MODEL, "prompt": Prompt(messages=()), "retention_seconds": 3600.0}
    return RunSpec(run_id=run_id, **{**values, **spec})


_ids = itertools.count(1)


@asynccontextmanager
async def running_engine(
    inner: RunStore | None = None, replica: str = "replica-1", *, is_alone: bool = True, **options: Any
) -> AsyncIterator[Engine]:
    """An engine; afterwards nothing of it is left, if it is the only one that begins anything meanwhile."""
    store, upstream, clock = FlakyStore(inner or MemoryRunStore()), ScriptedUpstream(), LoopClock()
    before = asyncio.all_tasks()
    supervisor = Supervisor(
        store,
        ScriptedRegistry(upstream),
        clock,
        lambda: f"id-{next(_ids)}",
        SupervisorOptions(replica=replica, **options),
    )
    async with supervisor:
        yield Engine(supervisor, upstream, store, clock)
    left = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not (left and is_alone), f"tasks are left: {left}"
