"""What happens in one race, chosen by its seed: what upstreams say, who follows, who stops, and what goes wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from midstream_server.errors import (
    FirstTokenTimeout,
    IdleTimeout,
    RunFailure,
    UpstreamMalformed,
    UpstreamRejected,
    UpstreamUnavailable,
)
from midstream_server.model import (
    CancelReason,
    ConversationPolicy,
    DetachAction,
    DetachPolicy,
    FinishReason,
    Prompt,
    RunLimits,
    RunSpec,
    TextDelta,
    TokenCount,
    ToolCallDelta,
    Usage,
    UsageSource,
)
from midstream_server.upstreams.base import (
    DrainCaps,
    EventIgnored,
    ModelFinished,
    PartDelta,
    UpstreamEvent,
    UpstreamFailed,
    UsageReported,
)
from race.store import Outage

T = TypeVar("T")

RUN_SECONDS = 45.0
"""The operator's cap: every run that nothing else ends has ended by then."""
QUEUE_SECONDS = 15.0

_MOMENTS = (0.0, 0.0, 0.0, 0.01, 0.01, 0.02, 0.02, 0.03, 0.05, 0.1, 0.2, 1.0)
_HUGE = TextDelta("x" * (3 * 1024 * 1024 + 1))
_WORDS = ("Once ", "upon", " a time", " é", "😀", "\n", "the end.", "[", "1, ", "2]")
_WRITES = ("append", "seal", "record_intent", "release", "start", "set_running", "get", "claim", "read_log")
_BREAKS: tuple[type[RunFailure], ...] = (UpstreamUnavailable, IdleTimeout, FirstTokenTimeout, UpstreamMalformed)


@dataclass(frozen=True, slots=True)
class Read:
    """One read of the upstream's socket, so many seconds after the one before."""

    after: float
    events: Sequence[UpstreamEvent] = ()
    failure: RunFailure | None = None
    is_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """A stream of Generate or WatchRun."""

    at: float
    generates: bool
    claims: bool
    fingerprint: str = ""
    snapshot: bool = False
    leaves_after_events: int | None = None
    leaves_at: float | None = None
    reason: CancelReason = CancelReason.CLIENT_GONE
    by_server: bool = False
    pause: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AskPlan:
    """A Cancel, a GetRun or a ListRuns."""

    kind: str
    at: float
    wait: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One run: what is asked for, what its upstream does, who follows it, who asks about it."""

    spec: RunSpec
    reads: Sequence[Read]
    reads_on: bool
    """The upstream's iteration goes on after the abort, until it is cancelled."""
    drain_caps: DrainCaps | None
    """The upstream is drained after a stop."""
    streams: Sequence[StreamPlan]
    asks: Sequence[AskPlan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What happens to the process."""

    outage: Outage | None = None
    outage_at: float = 0.0
    outage_seconds: float = 0.0
    drain_at: float | None = None
    seal_at: float | None = None
    leave_at: float | None = None
    jump_at: float | None = None
    jump_seconds: float = 0.0
    crash_after_steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One race."""

    disorder: float
    latency: float | None
    runs: Sequence[RunPlan]
    trouble: Trouble
    second_crash_after_steps: int | None


def make_plan(random: Random) -> Plan:
    """The plan of a seed."""
    count = random.choice((1, 1, 1, 2, 2, 3))
    conversation = "talk" if count > 1 and random.random() < 0.8 else ""
    runs = [_run(random, f"run-{number}", conversation) for number in range(count)]
    return Plan(
        disorder=random.choice((0.0, 0.0, 0.3, 1.0)),
        latency=random.choice((None, None, 0.0, 0.0, 0.03, 0.3)),
        runs=runs,
        trouble=_trouble(random),
        second_crash_after_steps=random.randrange(1, 120) if random.random() < 0.2 else None,
    )


def _moment(random: Random) -> float:
    return random.choice(_MOMENTS)


def _trouble(random: Random) -> Trouble:
    def sometimes(share: float) -> float | None:
        return _moment(random) if random.random() < share else None

    outage = None
    if random.random() < 0.3:
        kind = random.choice(("refuse", "refuse", "lose", "hang", "withhold"))
        some = random.sample(_WRITES, random.randint(1, 3)) if random.random() < 0.6 else ()
        outage = Outage(kind=kind, operations=frozenset(some))
    return Trouble(
        outage=outage,
        outage_at=_moment(random),
        outage_seconds=random.choice((0.01, 0.1, 1.0, 3.0, 8.0, 34.0, 34.0)),
        drain_at=sometimes(0.08),
        seal_at=sometimes(0.1),
        leave_at=sometimes(0.15),
        jump_at=sometimes(0.1),
        jump_seconds=random.choice((300.0, -300.0)),
        crash_after_steps=random.randrange(1, 900) if random.random() < 0.3 else None,
    )


def _run(random: Random, run_id: str, conversation_id: str) -> RunPlan:
    reads_on = random.random() < 0.1
    limits = RunLimits(
        total_seconds=random.choice((0.0, 0.02, 0.05, 1.0)) if random.random() < 0.25 else None,
        output_tokens=random.randint(1, 6) if random.random() < 0.25 else None,
        queue_seconds=random.choice((0.0, 0.02, 5.0)) if random.random() < 0.3 else None,
    )
    spec = RunSpec(
        run_id=run_id,
        model=run_id,
        prompt=Prompt(messages=()),
        on_detach=_on_detach(random),
        limits=limits,
        conversation_id=conversation_id,
        on_conflict=random.choice(tuple(ConversationPolicy)),
        labels={"kind": "race"},
        retention_seconds=86_400.0,
    )
    return RunPlan(
        spec=spec,
        reads=_reads(random),
        reads_on=reads_on,
        drain_caps=_drain_caps(random) if random.random() < 0.3 else None,
        streams=[
            _stream(random, generates=True, first=True),
            *_some(random, 3, lambda: _stream(random, generates=None)),
        ],
        asks=_some(random, random.choice((1, 4)), lambda: _ask(random)),
    )


def _drain_caps(random: Random) -> DrainCaps:
    return DrainCaps(seconds=random.choice((0.0, 0.02, 1.0, 5.0)), output_tokens=random.choice((0, 5, 1_000_000)))


def _on_detach(random: Random) -> DetachPolicy:
    action = random.choice(tuple(DetachAction))
    return DetachPolicy(action=action, grace_seconds=random.choice((0.02, 2.0)) if action is DetachAction.GRACE else 0)


def _some(random: Random, most: int, make: Callable[[], T]) -> list[T]:
    return [make() for _ in range(random.randint(0, most))]


def _stream(random: Random, *, generates: bool | None, first: bool = False) -> StreamPlan:
    if generates is None:
        generates = random.random() < 0.4
    leaves = random.choice(("no", "no", "no", "events", "time"))
    return StreamPlan(
        at=0.0 if first and random.random() < 0.8 else _moment(random),
        generates=generates,
        claims=generates or random.random() < 0.5,
        fingerprint=random.choice(("1:same", "1:same", "1:same", "1:same", "1:other")),
        snapshot=not generates and random.random() < 0.3,
        leaves_after_events=random.randint(1, 6) if leaves == "events" else None,
        leaves_at=_moment(random) if leaves == "time" else None,
        reason=random.choice((CancelReason.CLIENT_GONE, CancelReason.DEADLINE)),
        by_server=random.random() < 0.15,
        pause=random.choice((0.0, 0.0, 0.0, 0.02, 0.3)),
    )


def _ask(random: Random) -> AskPlan:
    kind = random.choice(("cancel", "get", "list"))
    wait = random.choice((0.0, 0.02, 5.0)) if kind == "cancel" else random.choice((None, None, 0.02, 60.0))
    return AskPlan(
        kind=kind, at=random.choice((_moment(random), 0.1, 0.3, 2.0)), wait=wait, text=f"stop {random.randrange(1000)}"
    )


# --- what the upstream says ------------------------------------------------------------------------------------------


def _reads(random: Random) -> list[Read]:
    """Deltas, and one of the ways in which a stream ends or does not; cut into reads at random."""
    events: list[UpstreamEvent] = []
    for _ in range(random.randint(0, 8)):
        events.append(_said(random))
    tail, last = _ending(random)
    events += tail
    reads: list[Read] = []
    while events:
        size = random.randint(1, min(4, len(events)))
        taken, events = events[:size], events[size:]
        reads.append(Read(_moment(random) if random.random() < 0.7 else 0.0, taken))
    return [*reads, *last]


def _said(random: Random) -> UpstreamEvent:
    number = random.random()
    if number < 0.7:
        return PartDelta(part=random.choice("ab"), payload=TextDelta("".join(random.choices(_WORDS, k=2))))
    if number < 0.8:
        return PartDelta(part="call", payload=ToolCallDelta(id="c1", name="f", arguments=random.choice(_WORDS)))
    if number < 0.9:
        return _usage(random, UsageSource.UPSTREAM_RUNNING)
    if number < 0.91:
        return PartDelta(part="huge", payload=_HUGE)
    return EventIgnored(kind="ping")


def _usage(random: Random, source: UsageSource) -> UpstreamEvent:
    return UsageReported(usage=Usage(output=TokenCount(value=random.randint(0, 9), source=source)))


def _ending(random: Random) -> tuple[list[UpstreamEvent], list[Read]]:
    """The events before the end of the body, and the reads after them."""
    reason = random.choice((FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS))
    marker: list[UpstreamEvent] = [ModelFinished(reason=reason, raw=reason.name.lower())]
    account = [_usage(random, UsageSource.UPSTREAM_FINAL)]
    frame: list[UpstreamEvent] = [UpstreamFailed(failure=random.choice((UpstreamRejected, UpstreamUnavailable))())]
    after = _moment(random)
    end, reset = Read(after, is_end=True), Read(after, failure=random.choice(_BREAKS)())
    stall: list[Read] = []
    return random.choice(
        (
            (marker + account, [end]),
            (marker + account, [end]),
            (marker, [end]),
            (marker, stall),
            (marker + account, stall),
            (marker, [reset]),
            (marker + frame, stall),
            ([*marker, _said(random), *account], [end]),
            (frame, stall),
            ([], [reset]),
            ([], [end]),
            ([], stall),
            ([], stall),
        )
    )
