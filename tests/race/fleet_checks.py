"""What must hold of a race of several processes."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from midstream_server.model import CancelReason, ConversationPolicy, DetachAction, Run, RunState, ToolCallDelta
from midstream_server.stores.base import RecordPhase
from midstream_server.upstreams.base import ModelFinished, PartDelta, UpstreamEvent
from race.audit import Left
from race.checks import check_answer, check_log, check_view, is_prefix, payloads_of
from race.oracle import SLACK
from race.plan import RUN_SECONDS, RunPlan
from race.scene import Note, RaceCall, Scene

PROMPT_SECONDS = 5.0
"""How long a stop that is durable may take to its owner without any hint: a heartbeat, and the store's latencies."""
RELEASE_SECONDS = 30.0
"""How long a run may go on that nobody follows: its grace, claims that are kept, replicas that must be found dead."""


@dataclass
class Lives:
    """What happened to the processes."""

    deaths: int = 0
    stops: int = 0
    stopped_seconds: float = 0.0
    dead: set[str] = field(default_factory=set)

    @property
    def are_calm(self) -> bool:
        """Whether nobody was stopped or killed."""
        return not (self.deaths or self.stops)


def judge_run(scene: Scene, run: RunPlan, final: Run | None, now: Left, lives: Lives) -> Iterable[str]:
    """What is wrong with what became of a run."""
    run_id = run.spec.run_id
    views = [view for view in scene.views if view.run_id == run_id]
    answers = [answer for answer in scene.answers if answer.run.run_id == run_id]
    started = [call for call in scene.calls if call.run_id == run_id and call.attempts]
    if final is None or now.record is None:
        if any(view.events for view in views) or answers or started:
            yield "somebody saw it, and it is unknown"
        return
    for view in views:
        yield from check_view(view, final)
    for answer in answers:
        yield from check_answer(answer, final)
    yield from check_log(now.entries, final)
    if now.record.phase is not RecordPhase.SEALED or now.record.claims or not final.state.is_ending:
        yield f"it is left {final.state.name}, {now.record.phase.name}, claims {dict(now.record.claims)}"
    if len(started) > 1:
        yield f"{len(started)} upstream calls"
    kept, said = payloads_of(final.message), _said(scene, run_id)
    if not is_prefix(kept, said):
        yield f"kept is {kept}, the upstream said {said}"
    is_whole = is_prefix(_accepted(scene, run_id), kept)
    if started and _is_of_its_start(now.record.epoch, started[0].process) and not is_whole:
        yield f"kept is {kept}, accepted was {_accepted(scene, run_id)}"
    yield from _check_cause(scene, run, final, lives)
    yield from _check_prompt(scene, run_id, started, lives)
    yield from _check_unclaimed(scene, run, final, lives)


def _is_of_its_start(epoch: int, process: str) -> bool:
    """Whether nobody has taken the run over since: the last digits of a first epoch are its replica's."""
    return epoch % 1000 == zlib.crc32(process.encode()) % 1000


def judge_after_failover(scene: Scene, run: RunPlan, final: Run | None, now: Left, lives: Lives) -> Iterable[str]:
    """What is wrong with what became of a run that the store may have lost for a moment; views are of later."""
    del lives
    if final is None or now.record is None:
        return
    for view in scene.views:
        if view.run_id == run.spec.run_id:
            yield from check_view(view, final)
    for answer in scene.answers:
        if answer.run.run_id == run.spec.run_id:
            yield from check_answer(answer, final)
    yield from check_log(now.entries, final)
    if now.record.phase is not RecordPhase.SEALED or now.record.claims:
        yield f"it is left {final.state.name}, {now.record.phase.name}, claims {dict(now.record.claims)}"


def judge_conversation(scene: Scene, finals: Mapping[str, Run], lives: Lives) -> Iterable[str]:
    """What is wrong between runs, of a race in which nothing went wrong with processes and stores."""
    if not lives.are_calm or _outages(scene):
        return
    # One that is stopped itself while it waits cannot know how those ended which it has stopped.
    knows = {note.run_id for note in scene.notes if note.kind == "called"}
    pairs = {(run_id, run.superseded_by_run_id) for run_id, run in finals.items() if run.superseded_by_run_id in knows}
    named = {(old, run_id) for run_id, run in finals.items() for old in run.superseded_run_ids if run_id in knows}
    if pairs != named:
        yield f"superseded {sorted(pairs)}, but named {sorted(named)}"
    waits = {run.spec.run_id for run in scene.plan.runs if run.spec.conversation_id and _waits(run)}
    open_run = ""
    for note in scene.notes:
        if note.kind == "called" and note.run_id in waits:
            if open_run:
                yield f"{note.run_id} did not wait for {open_run}"
            open_run = note.run_id
        elif note.kind == "abort" and note.run_id == open_run and note.detail.attempts:
            open_run = ""


def _waits(run: RunPlan) -> bool:
    return run.spec.on_conflict in (ConversationPolicy.QUEUE, ConversationPolicy.SUPERSEDE, ConversationPolicy.REJECT)


def _check_prompt(scene: Scene, run_id: str, started: Sequence[RaceCall], lives: Lives) -> Iterable[str]:
    """A stop that was told to be durable closes the upstream soon, whoever was asked (P3, P4)."""
    if _outages(scene) or lives.stops or not started or started[0].process in lives.dead:
        return
    stops = [note.time for note in scene.notes if note.kind == "cancelled" and note.run_id == run_id]
    aborts = [note.time for note in scene.notes if note.kind == "abort" and note.detail is started[0]]
    if stops and (not aborts or min(aborts) > min(stops) + PROMPT_SECONDS):
        yield f"told to stop at {min(stops)}, the upstream was closed at {aborts}"


def _check_unclaimed(scene: Scene, run: RunPlan, final: Run, lives: Lives) -> Iterable[str]:
    """Nobody follows it, and it shall not go on then: it does not run to the operator's limit."""
    is_late = final.error is not None and final.error.reason == "RUN_TIME_EXCEEDED"
    if not is_late or run.spec.on_detach.action is DetachAction.CONTINUE:
        return
    notes = [note for note in scene.notes if note.run_id in ("", run.spec.run_id)]
    wanted = {note.detail: "" for note in notes if note.kind == "wants"}
    gone = {note.detail[0]: note.time for note in notes if note.kind == "leaves"}
    deaths = {note.detail: note.time for note in notes if note.kind == "stopped" and note.detail in lives.dead}
    for claim_id in wanted:
        process = claim_id.rsplit("-id-", 1)[0]
        if claim_id not in gone and process not in deaths:
            return
        gone.setdefault(claim_id, deaths.get(process, 0.0))
    outages = sum(each.detail[1] for each in notes if each.kind == "away")
    began = min((note.time for note in notes if note.kind == "called"), default=0.0)
    if RUN_SECONDS + began - max(gone.values(), default=0.0) > RELEASE_SECONDS + outages + lives.stopped_seconds:
        yield f"nobody followed it since {max(gone.values(), default=0.0)}"


def _accepted(scene: Scene, run_id: str) -> dict[int, str]:
    """What the upstream had said before the read in which the run was decided, and before its finish."""
    notes: list[Note] = []
    for note in scene.notes:
        if note.run_id == run_id and note.kind == "abort" and note.detail.attempts:
            break
        if note.run_id == run_id and note.kind == "batch":
            notes.append(note)
    events: list[UpstreamEvent] = []
    for note in notes[:-1]:
        for event in note.detail:
            if isinstance(event, ModelFinished):
                return _fold(events)
            events.append(event)
    return _fold(events)


def _said(scene: Scene, run_id: str) -> dict[int, str]:
    """All that the upstream said, by part."""
    notes = [note for note in scene.notes if note.kind == "batch" and note.run_id == run_id]
    return _fold(event for note in notes for event in note.detail)


def _fold(events: Iterable[UpstreamEvent]) -> dict[int, str]:
    parts: dict[str, int] = {}
    said: dict[int, str] = {}
    for event in events:
        if isinstance(event, PartDelta):
            payload = event.payload
            text = payload.arguments if isinstance(payload, ToolCallDelta) else str(getattr(payload, "text", ""))
            index = parts.setdefault(event.part, len(parts))
            said[index] = said.get(index, "") + text
    return said


def _check_cause(scene: Scene, run: RunPlan, final: Run, lives: Lives) -> Iterable[str]:
    """Nothing ends a run that did not happen (P9)."""
    if final.state is RunState.CANCELLED:
        reason = final.cancel_reason
        assert reason is not None, "who is cancelled was cancelled by somebody"
        if not _stopped_by(scene, run, final, reason, lives):
            yield f"nobody asked for {reason.name}"
    if final.state is RunState.FAILED:
        assert final.error is not None, "who failed has an error"
        if not _broken_by(scene, run, final.error.reason, lives):
            yield f"there was no cause for {final.error.reason}"


def _stopped_by(scene: Scene, run: RunPlan, final: Run, reason: CancelReason, lives: Lives) -> bool:
    spec, notes = run.spec, [note for note in scene.notes if note.run_id == run.spec.run_id]
    match reason:
        case CancelReason.REQUESTED:
            assert final.cancel is not None, "a cancel has its report"
            return any(note.kind == "cancel" and note.detail == final.cancel.reason for note in notes)
        case CancelReason.CLIENT_GONE | CancelReason.DEADLINE:
            left = any(note.kind == "leaves" and note.detail[1] is reason for note in notes)
            lost = reason is CancelReason.CLIENT_GONE and bool(lives.deaths or lives.stops or _outages(scene))
            return spec.on_detach.action is not DetachAction.CONTINUE and (left or lost)
        case CancelReason.TIME_LIMIT:
            return spec.limits.total_seconds is not None
        case CancelReason.BUDGET:
            return spec.limits.output_tokens is not None
        case CancelReason.SUPERSEDED:
            others = [each.spec for each in scene.plan.runs if each is not run]
            return any(each.on_conflict.name == "SUPERSEDE" and spec.conversation_id for each in others)
    return False


def _broken_by(scene: Scene, run: RunPlan, reason: str, lives: Lives) -> bool:
    calls = [note for note in scene.notes if note.kind == "called" and note.run_id == run.spec.run_id]
    ends = [note for note in scene.notes if note.kind == "stream_end" and note.run_id == run.spec.run_id]
    match reason:
        case "OWNER_LOST":
            return bool(lives.deaths or lives.stops or _outages(scene))
        case "SERVER_SHUTDOWN":
            return any(note.kind == "shutdown" for note in scene.notes)
        case "STORE_UNAVAILABLE":
            return bool(_outages(scene))
        case "RUN_TIME_EXCEEDED":
            return any(note.time >= calls[0].time + RUN_SECONDS - SLACK for note in scene.notes) if calls else False
        case "QUEUE_TIMEOUT":
            return bool(run.spec.conversation_id)
        case "OUTPUT_TOO_LARGE":
            return any(len(text) > 3 * 1024 * 1024 for text in _said(scene, run.spec.run_id).values())
        case "UPSTREAM_TRUNCATED":
            return any(note.detail is None for note in ends)
    frames = {event.failure.reason for read in run.reads for event in read.events if hasattr(event, "failure")}
    return reason in frames | {note.detail.reason for note in ends if note.detail is not None}


def _outages(scene: Scene) -> int:
    return sum(note.kind == "outage" for note in scene.notes)
