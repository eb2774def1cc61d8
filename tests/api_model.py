"""What the public API promises about runs, as a small model: no log, no store, one step after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from midstream_server.model import (
    CancelOutcome,
    CancelReason,
    ConversationPolicy,
    DetachAction,
    FinishReason,
    Instant,
    Run,
    RunState,
)

SECOND = 1_000_000_000
CONTENT_GRACE = 60 * SECOND
EARLY_CANCEL = 600 * SECOND
REMEMBERED = 24 * 3600 * SECOND


@dataclass
class ModelRun:
    """A run as a caller may know it."""

    run_id: str
    fingerprint: str
    state: RunState
    conversation_id: str = ""
    detach: DetachAction = DetachAction.CANCEL
    labels: Mapping[str, str] = field(default_factory=dict)
    retention: Instant = 0
    text: str = ""
    cancel_reason: CancelReason | None = None
    cancel_text: str = ""
    error: str = ""
    finish_reason: FinishReason | None = None
    superseded_by: str = ""
    create_time: Instant = 0
    expire_time: Instant = 0
    forget_time: Instant = 0
    claims: set[int] = field(default_factory=set)
    waits_for: list["ModelRun"] = field(default_factory=list)
    was_called: bool = False
    """Its upstream."""

    @property
    def is_live(self) -> bool:
        return not self.state.is_ending

    @property
    def is_expired(self) -> bool:
        return bool(self.forget_time)


class Model:
    """All runs of one tenant."""

    def __init__(self) -> None:
        self.runs: dict[str, ModelRun] = {}
        self._order: list[ModelRun] = []

    def readable(self) -> list[ModelRun]:
        """Those whose content is there."""
        return [run for run in self.runs.values() if not run.is_expired]

    def live(self) -> list[ModelRun]:
        """Those that have not ended, in the order of their starts."""
        return [run for run in self._order if run.is_live]

    # --- Generate -----------------------------------------------------------------------------------------------------

    def start(self, run: ModelRun, policy: ConversationPolicy) -> str:
        """What a Generate does: `conflict`, `expired`, `busy`, `attached`, `replayed` or `created`."""
        known = self.runs.get(run.run_id)
        if known is not None:
            return self._attach(known, run.fingerprint)
        members = [each for each in self.live() if run.conversation_id and each.conversation_id == run.conversation_id]
        if members and policy is ConversationPolicy.REJECT:
            return "busy"
        self.runs[run.run_id] = run
        self._order.append(run)
        if policy in (ConversationPolicy.QUEUE, ConversationPolicy.SUPERSEDE):
            run.waits_for = members
        if policy is ConversationPolicy.SUPERSEDE:
            for each in members:
                each.superseded_by = run.run_id
                self.cancel_live(each, CancelReason.SUPERSEDED)
        self._move_queue()
        return "created"

    @staticmethod
    def _attach(known: ModelRun, fingerprint: str) -> str:
        if known.is_expired:
            return "expired"
        known.fingerprint = known.fingerprint or fingerprint
        if known.fingerprint != fingerprint:
            return "conflict"
        return "attached" if known.is_live else "replayed"

    # --- endings ------------------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, text: str) -> CancelOutcome | None:
        """What a Cancel answers; None: the content is gone."""
        run = self.runs.get(run_id)
        if run is None:
            early = ModelRun(run_id, "", RunState.CANCELLED, cancel_reason=CancelReason.REQUESTED, cancel_text=text)
            self.runs[run_id] = early
            return CancelOutcome.REMEMBERED
        if run.is_expired:
            return None
        if run.is_live:
            self.cancel_live(run, CancelReason.REQUESTED, text)
        if not run.fingerprint:
            return CancelOutcome.REMEMBERED
        return CancelOutcome.CANCELLED if run.state is RunState.CANCELLED else CancelOutcome.ALREADY_FINISHED

    def cancel_live(self, run: ModelRun, reason: CancelReason, text: str = "") -> None:
        """It is stopped."""
        run.cancel_reason, run.cancel_text = reason, text
        self.end(run, RunState.CANCELLED)

    def end(self, run: ModelRun, state: RunState, error: str = "", finish: FinishReason | None = None) -> None:
        """It ends."""
        run.state, run.error, run.finish_reason = state, error, finish
        run.claims.clear()
        self._move_queue()

    def end_all(self, error: str) -> None:
        """The process goes."""
        for run in self.live():
            run.state, run.error = RunState.FAILED, error
            run.claims.clear()

    def leave(self, run: ModelRun, claim: int) -> None:
        """A stream is gone."""
        if claim in run.claims:
            run.claims.discard(claim)
            if not run.claims and run.detach is DetachAction.CANCEL:
                self.cancel_live(run, CancelReason.CLIENT_GONE)

    def _move_queue(self) -> None:
        for run in self.live():
            is_waiting = any(each.is_live for each in run.waits_for)
            run.state = RunState.QUEUED if is_waiting else RunState.RUNNING

    # --- time ---------------------------------------------------------------------------------------------------------

    def settle_times(self, run: ModelRun, shown: Run) -> None:
        """Takes over what only the service can know, and checks what follows from it."""
        run.create_time = shown.create_time
        if run.is_live:
            assert shown.expire_time is None, "a live run never expires"
            return
        assert shown.end_time is not None
        assert shown.end_time >= shown.create_time
        kept = EARLY_CANCEL if not shown.model else run.retention or CONTENT_GRACE
        run.expire_time = shown.end_time + kept
        assert shown.expire_time == run.expire_time

    def delete(self, run: ModelRun, now: Instant) -> None:
        """Its content goes; its id stays for a day."""
        run.forget_time = now + REMEMBERED

    def expire(self, now: Instant) -> None:
        """What is over by now."""
        for run in list(self.runs.values()):
            if not run.is_live and not run.is_expired and run.expire_time <= now:
                run.forget_time = run.expire_time + REMEMBERED
            if run.is_expired and run.forget_time <= now:
                del self.runs[run.run_id]

    # --- lists --------------------------------------------------------------------------------------------------------

    def listed(self, state: RunState | None, conversation_id: str, labels: Mapping[str, str]) -> Sequence[str]:
        """The ids of a list, newest first."""
        found = [
            run
            for run in self.readable()
            if state in (None, run.state)
            and conversation_id in ("", run.conversation_id)
            and labels.items() <= run.labels.items()
        ]
        return [run.run_id for run in sorted(found, key=lambda run: (run.create_time, run.run_id), reverse=True)]
