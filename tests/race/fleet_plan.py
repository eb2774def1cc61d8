"""What happens in a race of several processes: a plan as for one, dealt out to them, and what goes wrong with each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from race.plan import Plan, RunPlan, Trouble, make_plan
from race.store import Outage

_STOPS = (0.3, 3.0, 5.8, 6.2, 7.0, 8.5, 12.0, 30.0)
"""For how long a process is stopped: less than a lease, about one, more than one."""
WRITES = (
    "append", "claim", "delete", "heartbeat", "join_conversation", "leave_conversation", "record_intent", "release",
    "restore", "seal", "set_running", "start", "take_over",
)  # fmt: skip
_RESUMES = (0.05, 0.5, 3.0, 7.0, 9.0, 15.0)


@dataclass(frozen=True, slots=True)
class Stop:
    """SIGSTOP after so many steps of the race, SIGCONT so many seconds later; None: SIGKILL."""

    after_steps: int
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """One process: its part of the plan, and what goes wrong with it."""

    name: str
    plan: Plan
    begins_at: float
    stops: Sequence[Stop]
    clock_ahead: float
    resumes_at: Sequence[float]
    """When clients come here that were cut off elsewhere."""


@dataclass(frozen=True, slots=True)
class Failover:
    """The store goes back to what it was."""

    copied_after_steps: int
    lost_after_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """One race of several processes."""

    whole: Plan
    processes: Sequence[ProcessPlan]
    lost_hints: float
    """How many of them are lost: 0 to 1."""
    hint_seconds: float
    """How late the others come, at most."""
    failovers: Sequence[Failover]


def make_fleet_plan(random: Random, count: int, *, fails_over: bool, is_late: bool = False) -> FleetPlan:
    """The plan of a seed. With `is_late` most processes give up writes that take effect later."""
    whole = make_plan(random)
    others = [make_plan(random).trouble for _ in range(count)]
    calm = random.random() < 0.2
    if is_late:
        others = [_late(random, trouble) for trouble in others]
    return FleetPlan(
        whole=whole,
        processes=[
            ProcessPlan(
                name=f"replica-{number}",
                plan=replace(whole, runs=runs, trouble=_trouble(random, trouble, is_calm=calm)),
                begins_at=random.choice((3.0, 8.0, 12.0)) if number > 1 and random.random() < 0.2 else 0.0,
                stops=() if calm else _stops(random),
                clock_ahead=random.choice((0.0, 0.0, 2.0, -2.0)),
                resumes_at=random.sample(_RESUMES, random.randint(0, 3)),
            )
            for number, (runs, trouble) in enumerate(zip(_dealt(random, whole.runs, count), others, strict=True), 1)
        ],
        lost_hints=random.choice((0.0, 0.0, 0.5, 1.0)),
        hint_seconds=random.choice((0.0, 0.01, 0.5)),
        failovers=[_failover(random)] if fails_over else (),
    )


def _dealt(random: Random, runs: Sequence[RunPlan], count: int) -> list[list[RunPlan]]:
    """Every stream and every question to one of so many processes."""
    hands: list[list[RunPlan]] = [[] for _ in range(count)]
    for run in runs:
        streams = [random.randrange(count) for _ in run.streams]
        asks = [random.randrange(count) for _ in run.asks]
        for number, hand in enumerate(hands):
            mine = [each for each, to in zip(run.streams, streams, strict=True) if to == number]
            asked = [each for each, to in zip(run.asks, asks, strict=True) if to == number]
            hand.append(replace(run, streams=mine, asks=asked))
    return hands


def _late(random: Random, trouble: Trouble) -> Trouble:
    if random.random() < 0.2:
        return trouble
    operations = frozenset(random.sample(WRITES, random.randint(1, 4))) if random.random() < 0.7 else frozenset[str]()
    seconds = random.choice((0.01, 0.1, 1.0, 3.0, 8.0))
    return replace(trouble, outage=Outage(kind="late", operations=operations), outage_seconds=seconds)


def _trouble(random: Random, trouble: Trouble, *, is_calm: bool) -> Trouble:
    """That of one process, which is here stopped and killed otherwise; less often than if there were only one."""
    if is_calm or random.random() < 0.4:
        return Trouble()
    # Together they jump by less than what an early cancel is kept for.
    return replace(trouble, crash_after_steps=None, jump_seconds=trouble.jump_seconds / 3)


def _stops(random: Random) -> list[Stop]:
    stops: list[Stop] = []
    if random.random() < 0.45:
        seconds = random.choice(_STOPS) if random.random() < 0.7 else None
        stops.append(Stop(random.randrange(1, random.choice((60, 400, 1500))), seconds))
        if seconds is not None and random.random() < 0.3:
            stops.append(Stop(stops[0].after_steps + random.randrange(1, 800), random.choice((*_STOPS, None))))
    return stops


def _failover(random: Random) -> Failover:
    copied = random.randrange(1, random.choice((60, 300, 1000)))
    return Failover(copied, copied + random.randrange(1, 200))
