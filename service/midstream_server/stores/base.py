"""The port to stores: one record and one log per run, changed only by conditional writes.

There is one record per (tenant, run_id); a start, an early cancel, a claim, an intent, a seal and an expiry are
conditional writes to it, each atomic and acknowledged only when it is as durable as the store's level says. The store
does not interpret entries: it keeps the bytes.

For every operation:

* Calls may overlap. Operations on one run take effect in the order in which they were called.
* A caller that is cancelled while it waits changes nothing: the operation takes effect all the same.
* `StoreUnavailable` means that the operation did not take effect, or that nobody can tell; it may be repeated.
* Reads see every acknowledged write of this process.

Times are given by the caller (`now`, nanoseconds since the epoch); no store reads a clock of its own but for leases.

A store that several replicas share (not `exclusive`) has leases and epochs. A lease says that a replica is alive: it
is renewed by `heartbeat`, and only the store's clock ends it. An epoch says who may write a run: `take_over` raises it,
and an append, a seal or a restore of an earlier epoch changes nothing.
"""

import enum
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from midstream_server.model import CancelIntent, CancelReason, DetachPolicy, Instant, RunKey, RunState, token_value

_LENGTH = struct.Struct(">I")


def frame(entries: Iterable[bytes]) -> bytes:
    """Joins entries, each behind its length (4 bytes, big endian)."""
    pieces: list[bytes] = []
    for entry in entries:
        pieces.append(_LENGTH.pack(len(entry)))
        pieces.append(entry)
    return b"".join(pieces)


def unframe(data: bytes) -> list[bytes]:
    """Takes joined entries apart.

    Raises:
        ValueError: the data does not end where an entry ends.
    """
    entries: list[bytes] = []
    read_length = _LENGTH.unpack_from
    position, end = 0, len(data)
    while position < end:
        if position + 4 > end:
            raise ValueError("an entry's length is cut")
        begin = position + 4
        position = begin + read_length(data, position)[0]
        entries.append(data[begin:position])
    if position > end:
        raise ValueError("an entry is cut")
    return entries


class RecordPhase(enum.IntEnum):
    """What a record still holds."""

    LIVE = 1
    SEALED = 2
    EXPIRED = 3
    """Content deleted; id, fingerprint and state are remembered until `forget_time`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What is known of a run beside its log."""

    key: RunKey
    phase: RecordPhase
    state: RunState
    """QUEUED or RUNNING while live, the ending afterwards. STOPPING is not stored: it is live with an intent."""
    fingerprint: str
    """Empty: an early cancel that no Generate has met."""
    epoch: int
    owner: str
    """The replica that runs it, or ran it."""
    last_sequence: int
    intent: CancelIntent | None = None
    """Why it is to stop; the first one, for ever."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Claim id to replica. Empty once sealed. A store may leave them out where there are very many: it decides by them,
    nobody else."""
    on_detach: DetachPolicy = DetachPolicy()
    detach_time: Instant | None = None
    """When the grace of an unclaimed run is over."""
    detach_reason: CancelReason | None = None
    conversation_id: str = ""
    parent_run_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    retention_seconds: float
    create_time: Instant
    start_time: Instant | None = None
    end_time: Instant | None = None
    expire_time: Instant | None = None
    forget_time: Instant | None = None
    summary: bytes
    """A Run without its message, encoded: as it was started, or as it ended."""
    settlement: bytes = b""
    """A Usage, encoded, that became known after the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """Creates a run, or finds the one that exists. `entry` is sequence 1."""

    key: RunKey
    fingerprint: str
    state: RunState
    owner: str
    claim_id: str
    on_detach: DetachPolicy
    conversation_id: str
    parent_run_id: str
    labels: Mapping[str, str]
    retention_seconds: float
    now: Instant
    summary: bytes
    entry: bytes
    epoch: int = 1
    """The first one. In a shared store each start has another: what a failover lost may be begun anew meanwhile, and
    then neither takes the other's log for its own."""


class StartOutcome(enum.Enum):
    """What a start found."""

    CREATED = "created"
    ATTACHED = "attached"
    """The same request; live; the claim was added, and a running grace clock stopped."""
    ENDED = "ended"
    """The same request, sealed; or an early cancel, which now has this fingerprint."""
    CONFLICT = "conflict"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartResult:
    """What a start found, and the record as it now is."""

    outcome: StartOutcome
    record: RunRecord


@token_value
class Append:
    """Adds entries to a live run's log: those after `expected_last_sequence`, up to `last_sequence`, framed."""

    key: RunKey
    epoch: int
    expected_last_sequence: int
    last_sequence: int
    entries: bytes


@token_value
class AppendResult:
    """Whether the entries are in the log.

    A repeat (same epoch, entries already there) is accepted. Not accepted: the run is sealed, another epoch owns it, or
    `expected_last_sequence` is not the log's. `intent` is the record's, so that an owner learns of it by appending.
    """

    accepted: bool
    intent: CancelIntent | None = None
    is_behind: bool = False
    """Not accepted because the store lost what it had acknowledged (a failover): the log is shorter than this owner
    knows it, its epoch is an earlier one, or the run is gone. `restore` puts it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyCancel:
    """What to create if the run is unknown: a record that is sealed as CANCELLED, with these two entries (framed)."""

    entries: bytes
    summary: bytes
    expire_time: Instant
    max_remembered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordIntent:
    """Asks a run to stop. The first intent wins.

    With `unclaimed_since`, only if the run still has no claim and its grace was over by then. Without `early`, an
    unknown run stays unknown.
    """

    key: RunKey
    intent: CancelIntent
    early: EarlyCancel | None = None
    unclaimed_since: Instant | None = None


class IntentOutcome(enum.Enum):
    """What an intent found."""

    RECORDED = "recorded"
    ALREADY = "already"
    """Live, with an earlier intent."""
    ENDED = "ended"
    REMEMBERED = "remembered"
    """Created sealed, or created so earlier and met by no Generate yet."""
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    CLAIMED = "claimed"
    """`unclaimed_since` was given, and the run has a claim again."""
    FULL = "full"
    """The tenant has `max_remembered` early cancels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentResult:
    """What an intent found, and the record as it now is (None with UNKNOWN and FULL)."""

    outcome: IntentOutcome
    record: RunRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """Ends a run: the last entries (framed; the very last is RunFinished) and the final record, in one step.

    With `from_log`, by somebody who never drove it: refused if the record's intent is not `intent`, since one that came
    meanwhile decides.
    """

    key: RunKey
    epoch: int
    expected_last_sequence: int
    last_sequence: int
    entries: bytes
    state: RunState
    intent: CancelIntent | None
    end_time: Instant
    start_time: Instant | None
    expire_time: Instant
    summary: bytes
    from_log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SealResult:
    """`accepted` False: it was sealed already, another epoch owns it, the log ends elsewhere, or `from_log` says no.

    A repeat of the same seal (same epoch, same last sequence) is accepted. `is_behind` as in `AppendResult`.
    """

    accepted: bool
    record: RunRecord | None
    """None: the store has lost the run."""
    is_behind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LostClaim:
    """A claim on a live run, held by a replica that is not alive, or does not know of it."""

    key: RunKey
    claim_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a replica learns when it renews its lease."""

    intents: Mapping[RunKey, CancelIntent]
    """Of its live runs, those that others recorded."""
    generation: str
    """Changes when the store may have lost what it had acknowledged: owners then restore what they know."""
    owned: Sequence[RunKey] = ()
    """Some of the live runs that the store has as its own; with other heartbeats the others, all in about a minute. A
    write whose answer was lost may take effect long after its replica has given it up."""
    claims: Sequence[LostClaim] = ()
    """In the same way, some of the claims that the store has as its own."""


class StoreListener(Protocol):
    """Who is told of what other replicas do. Hints: one may be missing, late or repeated, and none is the truth.

    Called on the event loop, and must return at once.
    """

    def run_moved(self, key: RunKey) -> None:
        """A run that this process follows has more in its log, a new state, or an end."""
        ...

    def stop_asked(self, key: RunKey, intent: CancelIntent) -> None:
        """Another replica recorded an intent for a run of this owner."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Consecutive entries of a log: `entries[0]` has sequence `first_sequence`."""

    first_sequence: int
    entries: Sequence[bytes]
    last_sequence: int
    """Of the whole log, when it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """A page of a tenant's records that are not expired: newest first by (create_time, run_id).

    `before` is the (create_time, run_id) of the last record of the page before. STOPPING means live with an intent;
    QUEUED and RUNNING mean without one.
    """

    tenant: str
    limit: int
    before: tuple[Instant, str] | None = None
    state: RunState | None = None
    conversation_id: str = ""
    parent_run_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class RunStore(Protocol):
    """One record and one log per run. See the module for what holds of every operation."""

    exclusive: bool
    """Whether this process is the only one that can write: then what it knows of claims is complete."""

    def listen(self, listener: StoreListener) -> None:
        """Tells this one, from `open` to `close`, what other replicas do. An exclusive store has nothing to tell."""
        ...

    def follow(self, key: RunKey) -> None:
        """Asks for `run_moved` of another replica's run, until `unfollow`. Not counted: the second changes nothing."""
        ...

    def unfollow(self, key: RunKey) -> None:
        """Asks no longer."""
        ...

    async def open(self) -> None:
        """Opens or creates the store, and migrates it.

        Raises:
            StoreLocked: another process owns it.
            StoreCorrupt: it is damaged, or newer than this program.
            StoreUnavailable: it cannot be reached or written.
        """
        ...

    async def close(self) -> None:
        """Finishes what was asked for, and lets go. Safe to call twice."""
        ...

    async def start(self, command: StartRun) -> StartResult:
        """Creates the run, or finds the one that exists."""
        ...

    async def set_running(self, key: RunKey, epoch: int, now: Instant) -> bool:
        """QUEUED becomes RUNNING with this start_time. False: it is not live, or another epoch owns it."""
        ...

    async def claim(self, key: RunKey, claim_id: str, replica: str) -> RunRecord | None:
        """Adds a claim to a live run and stops its grace clock; changes nothing in an ended one. None: unknown."""
        ...

    async def release(self, key: RunKey, claim_id: str, reason: CancelReason, now: Instant) -> RunRecord | None:
        """Removes a claim. If it was the last of a live run, `on_detach` takes effect in the same step.

        CANCEL records an intent with `reason` (requested_by `client`), unless there is one; GRACE sets `detach_time`;
        CONTINUE nothing. A claim that is not there changes nothing. None: unknown.
        """
        ...

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        """Adds entries to the logs of many runs; one result each, in order. One acknowledgement for all."""
        ...

    async def record_intent(self, command: RecordIntent) -> IntentResult:
        """Asks a run to stop."""
        ...

    async def seal(self, command: Seal) -> SealResult:
        """Ends a run; also drops its claims and its place in its conversation. Keeps an intent that is there."""
        ...

    async def settle(self, key: RunKey, settlement: bytes) -> None:
        """Stores what became known of the usage after the end."""
        ...

    async def take_over(self, key: RunKey, owner: str, seen_epoch: int) -> RunRecord | None:
        """Makes `owner` the owner of a live run whose epoch still is `seen_epoch`, and raises it. None: it is not."""
        ...

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        """Live runs whose owner is not this one and is not alive."""
        ...

    async def lost_claims(self, owner: str, limit: int) -> Sequence[LostClaim]:
        """Claims on live runs, held by replicas that are not alive; asked for by `owner`, which is."""
        ...

    async def restore(self, record: RunRecord, entries: Sequence[bytes]) -> bool:
        """Puts a run back that the store lost in part: the record, and its whole log from sequence 1.

        It takes effect if the store does not know the run, or has it live with an epoch that is not higher and with a
        log that is a shorter prefix; an intent and claims that the store has are kept. An early cancel that was
        remembered meanwhile (epoch 0) gives way, and its intent is the run's. False: the store has more, or another
        epoch owns it. A repeat is accepted.
        """
        ...

    async def heartbeat(self, owner: str) -> Heartbeat:
        """Renews the owner's lease. A store that cannot be reached does not renew it."""
        ...

    async def retire(self, owner: str) -> None:
        """Ends the owner's lease at once: it has no live runs and no claims any more."""
        ...

    async def join_conversation(self, tenant: str, conversation_id: str, run_id: str, now: Instant) -> Sequence[str]:
        """Appends a run to a conversation; the ids of the members before it, oldest first."""
        ...

    async def leave_conversation(self, tenant: str, conversation_id: str, run_id: str) -> None:
        """Removes a run from a conversation."""
        ...

    async def delete(self, key: RunKey, now: Instant, forget_time: Instant) -> RunRecord | None:
        """Deletes the content of a sealed run, which becomes EXPIRED; changes nothing in another. The record before."""
        ...

    async def expire(self, now: Instant, remember_seconds: float, limit: int) -> int:
        """Expires up to `limit` sealed runs whose expire_time has passed (remembered for `remember_seconds` from then),
        and forgets up to `limit` expired ones whose forget_time has passed. How many there were."""
        ...

    async def get(self, key: RunKey) -> RunRecord | None:
        """The record, expired ones too. None: unknown."""
        ...

    async def read_log(self, key: RunKey, after_sequence: int, max_bytes: int) -> LogPage:
        """Entries after a sequence: as many as fit in `max_bytes`, at least one if there is one."""
        ...

    async def read_finished(self, key: RunKey) -> bytes | None:
        """The last entry of a sealed run's log. None: not sealed, expired or unknown."""
        ...

    async def list_records(self, query: ListQuery) -> Sequence[RunRecord]:
        """A page of records."""
        ...

    async def probe(self) -> None:
        """Writes and reads something small, as durable as the level says.

        Raises:
            StoreUnavailable: it cannot.
        """
        ...
