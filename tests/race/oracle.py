"""Who wins, told by what was done to the run in which order: the rules of DESIGN §3, without the engine's code.

A note of the scene either must decide (then the upstream is closed in the same step), or may: two things of the same
moment, or one that only the engine can see. A run ends by the first that must, or earlier by one that may.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from midstream_server.model import CancelReason, DetachAction, FinishReason, RunState, ToolCallDelta
from midstream_server.upstreams.base import ModelFinished, PartDelta, UpstreamEvent, UpstreamFailed, UsageReported
from race.plan import QUEUE_SECONDS, RUN_SECONDS, Plan, RunPlan
from race.scene import Note, RaceCall

SLACK = 1e-6
MAX_OUTPUT_BYTES = 3 * 1024 * 1024
OUTAGE_SECONDS = 30.0
KEPT_CLAIM_SECONDS = 10.0
STORE_SECONDS = 5.0
"""More than the slowest store of a plan without an outage takes for all that is asked of it at once."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: the facts that the oracle knows."""

    state: RunState
    cancel_reason: CancelReason | None = None
    error: str = ""
    text: str | None = None
    """The caller's words of the cancel; None: not compared."""


def stopped(reason: CancelReason, text: str | None = None) -> Ending:
    """A caller, or a rule of the caller's, stopped it."""
    return Ending(RunState.CANCELLED, reason, text=text)


def failed(reason: str) -> Ending:
    """It failed."""
    return Ending(RunState.FAILED, error=reason)


@dataclass
class Prediction:
    """What must have become of a run in one life of the process."""

    endings: set[Ending] = field(default_factory=set)
    """One of these."""
    finish_reason: FinishReason | None = None
    payloads: dict[int, str] = field(default_factory=dict)
    """What was accepted, by part."""
    discarded_events: int = 0
    problems: list[str] = field(default_factory=list)
    was_decided: bool = False


class Oracle:
    """Reads the notes of one run in order."""

    def __init__(self, plan: Plan, run: RunPlan, calls: Sequence[RaceCall]) -> None:
        self.result = Prediction()
        self._plan = plan
        self._run = run
        self._calls = calls
        self._must: Note | None = None
        self._may: set[Ending] = set()
        self._marker: ModelFinished | None = None
        self._frame: Ending | None = None
        self._marker_due = float("inf")
        self._parts: dict[str, int] = {}
        self._bytes = 0
        self._usage: int | None = None
        self._called_at: float | None = None
        self._created_at: float | None = None
        self._outage_at: float | None = None
        self._wanted: set[str] = set()
        self._held: set[str] = set()
        self._uncertain = False
        self._lingering: list[tuple[float, CancelReason]] = []
        self._left: list[tuple[float, CancelReason]] = []
        self._unclaimed_at = float("inf")

    def read(self, notes: Iterable[Note]) -> Prediction:
        """The prediction."""
        for note in notes:
            if note.kind == "abort":
                self._abort(note)
                continue
            if self._must is not None:
                self._complain(f"{self._must.kind} did not close the upstream before {note.kind}")
            if note.kind == "batch":
                self._batch(note)
            elif not self.result.was_decided:
                self._take(note)
        if self._must is not None and not self.result.was_decided:
            self._complain(f"{self._must.kind} never closed the upstream")
        return self.result

    def _complain(self, problem: str) -> None:
        self.result.problems.append(problem)
        self._must = None

    # --- the decision -------------------------------------------------------------------------------------------------

    def _decides(self, note: Note, ending: Ending) -> None:
        """This must be the decision, unless something that may be came first."""
        self._must = note
        self._may = {ending}

    def _abort(self, note: Note) -> None:
        # A start that only attached has a call of its own, which is never asked; nobody decides about that one.
        if note.detail not in self._calls or self.result.was_decided:
            return
        if self._must is not None:
            if note.step != self._must.step:
                self._complain(f"{self._must.kind} closed the upstream {note.step - self._must.step} steps later")
            endings = self._may
        else:
            endings = self._may | self._by_clock(note.time)
        self.result.was_decided = True
        self.result.finish_reason = self._marker.reason if self._marker else None
        if self._frame is not None:
            endings = {self._frame}
        elif self._marker is not None and endings:
            endings = {Ending(RunState.COMPLETED)}
        if not endings:
            self._complain(f"decided at {note.time} for no reason")
        if note.time > self._latest() + SLACK:
            self._complain(f"decided at {note.time}, a clock ran out at {self._latest()}")
        self.result.endings = endings
        self._must = None

    def _by_clock(self, now: float) -> set[Ending]:
        """What the clocks that only the engine hears may have decided."""
        endings: set[Ending] = set()
        limits, spec = self._run.spec.limits, self._run.spec
        began_at = self._called_at if self._called_at is not None else self._created_at
        if began_at is not None:
            if limits.total_seconds is not None and now >= began_at + limits.total_seconds - SLACK:
                endings.add(stopped(CancelReason.TIME_LIMIT))
            if now >= began_at + RUN_SECONDS - SLACK:
                endings.add(failed("RUN_TIME_EXCEEDED"))
        if now >= self._marker_due - SLACK:
            endings.add(Ending(RunState.COMPLETED))
        if self._outage_at is not None and now >= self._outage_at + OUTAGE_SECONDS - SLACK:
            endings.add(failed("STORE_UNAVAILABLE"))
        if spec.conversation_id and self._called_at is None:
            queue = QUEUE_SECONDS if limits.queue_seconds is None else limits.queue_seconds
            if self._created_at is not None and now >= self._created_at + queue - SLACK:
                endings.add(failed("QUEUE_TIMEOUT"))
        if spec.conversation_id and any(
            each.spec.on_conflict.name == "SUPERSEDE" for each in self._plan.runs if each is not self._run
        ):
            endings.add(stopped(CancelReason.SUPERSEDED))
        return endings | self._by_claims(now)

    def _by_claims(self, now: float) -> set[Ending]:
        policy = self._run.spec.on_detach
        if policy.action is DetachAction.CONTINUE or self._held:
            return set()
        wait = policy.grace_seconds
        ripe = [reason for at, reason in self._left if now >= at + wait - SLACK]
        ripe += [reason for at, reason in self._lingering if now >= at + KEPT_CLAIM_SECONDS + wait - SLACK]
        return {stopped(reason) for reason in ripe}

    def _latest(self) -> float:
        """When some clock must have decided."""
        latest = min(self._marker_due, self._latest_without_claims())
        if self._called_at is not None:
            total = self._run.spec.limits.total_seconds
            latest = min(latest, self._called_at + (RUN_SECONDS if total is None else min(total, RUN_SECONDS)))
        return latest

    def _latest_without_claims(self) -> float:
        policy = self._run.spec.on_detach
        if policy.action is DetachAction.CONTINUE or self._plan.trouble.outage is not None:
            return float("inf")
        kept = KEPT_CLAIM_SECONDS if self._lingering else 0.0
        return self._unclaimed_at + policy.grace_seconds + kept + STORE_SECONDS

    # --- what happens to it -------------------------------------------------------------------------------------------

    def _take(self, note: Note) -> None:
        match note.kind:
            case "called":
                self._called_at = note.time
                self._created_at = self._created_at if self._created_at is not None else note.time
            case "stream_end":
                failure = note.detail.reason if note.detail is not None else "UPSTREAM_TRUNCATED"
                self._may.add(failed(failure))
            case "cancel":
                self._cancel(note)
            case "shutdown":
                self._stop_all(note)
            case "outage":
                self._outage_at = note.time
            case "wants":
                self._wanted.add(note.detail)
                self._unclaimed_at = float("inf")
                self._created_at = self._created_at if self._created_at is not None else note.time
            case "holds":
                self._held.add(note.detail)
            case "leaves":
                self._leave(note)

    def _cancel(self, note: Note) -> None:
        ending = stopped(CancelReason.REQUESTED, note.detail)
        if self._called_at is not None:
            self._decides(note, ending)
        else:
            self._may.add(ending)

    def _stop_all(self, note: Note) -> None:
        ending = failed("SERVER_SHUTDOWN")
        if self._called_at is not None:
            self._decides(note, ending)
        else:
            self._may.add(ending)

    def _leave(self, note: Note) -> None:
        claim_id, reason, by_server = note.detail
        was_held = claim_id in self._held
        self._held.discard(claim_id)
        self._wanted.discard(claim_id)
        if not self._wanted:
            self._unclaimed_at = note.time
        if by_server:
            self._lingering.append((note.time, reason))
        if not was_held:
            self._uncertain = True
            self._left.append((note.time, reason))
        elif not by_server:
            self._left.append((note.time, reason))
            is_last = not self._wanted and not self._uncertain and not self._lingering
            cancels = self._run.spec.on_detach.action is DetachAction.CANCEL
            if is_last and cancels and self._called_at is not None:
                self._decides(note, stopped(reason))

    # --- what the upstream says ---------------------------------------------------------------------------------------

    def _batch(self, note: Note) -> None:
        for event in note.detail:
            if self.result.was_decided or self._must is not None:
                self.result.discarded_events += 1
            else:
                self._event(note, event)
        if not self.result.was_decided and self._must is None:
            self._check_budget(note)

    def _event(self, note: Note, event: UpstreamEvent) -> None:
        match event:
            case PartDelta():
                self._delta(note, event)
            case UsageReported(usage=usage):
                assert usage.output is not None, "the plan's accounts have an output"
                self._usage = usage.output.value
                if self._marker is not None:
                    self._marker_due = min(self._marker_due, note.time + 0.05)
            case ModelFinished() if self._marker is None:
                self._marker = event
                self._marker_due = note.time + 1.0
            case UpstreamFailed(failure=failure):
                self._frame = failed(failure.reason)
                self._decides(note, self._frame)
            case _:
                pass

    def _delta(self, note: Note, delta: PartDelta) -> None:
        if self._marker is not None:
            return
        self._check_budget(note)
        if self._must is not None:
            self.result.discarded_events += 1
            return
        payload = delta.payload
        assert payload is not None, "the plan's deltas have payloads"
        text = payload.arguments if isinstance(payload, ToolCallDelta) else str(getattr(payload, "text", ""))
        if len(text) > MAX_OUTPUT_BYTES:
            self._decides(note, failed("OUTPUT_TOO_LARGE"))
            return
        index = self._parts.setdefault(delta.part, len(self._parts))
        self.result.payloads[index] = self.result.payloads.get(index, "") + text
        self._bytes += len(text.encode())

    def _check_budget(self, note: Note) -> None:
        budget = self._run.spec.limits.output_tokens
        if budget is None or self._marker is not None or not (self._bytes or self._usage is not None):
            return
        used = self._usage if self._usage is not None else -(-self._bytes // 4)
        if used >= budget:
            self._decides(note, stopped(CancelReason.BUDGET))
