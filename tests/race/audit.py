"""What is asked once all is over, by a process that starts nothing of its own: what was seen is held against it."""

from dataclasses import dataclass, replace
from typing import Any

from midstream_server.codec import decode_event
from midstream_server.engine.supervisor import Supervisor
from midstream_server.errors import RunExpired, RunNotFound
from midstream_server.model import DEFAULT_TENANT, CancelReason, Run
from midstream_server.stores.base import ListQuery, LogPage, RunRecord, RunStore
from race.checks import Fold
from race.plan import RunPlan
from race.scene import Answer, Scene, View, key_of


@dataclass(frozen=True, slots=True)
class Left:
    """What is in the store of a run."""

    record: RunRecord | None
    entries: tuple[bytes, ...]


class Audit:
    """Asks for every run in every way; readers go on where they were cut off."""

    def __init__(self, scene: Scene, store: RunStore) -> None:
        self.finals: dict[str, Run] = {}
        """Each run that is known, as it was told first, without its settlement."""
        self.settled: set[str] = set()
        self.expired: set[str] = set()
        """An early cancel is kept for ten minutes, and a clock may have jumped by five."""
        self._scene = scene
        self._store = store

    async def ask(self, supervisor: Supervisor, wait_seconds: float | None = None) -> None:
        """Asks everything, once each run has ended or the time is over."""
        for run in self._scene.plan.runs:
            run_id = run.spec.run_id
            try:
                final = await supervisor.get(DEFAULT_TENANT, run_id, wait_seconds)
            except RunNotFound:
                continue
            except RunExpired:
                self.expired.add(run_id)
                continue
            if final.settlement is not None:
                self.settled.add(run_id)
            self.finals[run_id] = replace(final, settlement=None)
            await self._ask_again(supervisor, run)
        query = ListQuery(tenant=DEFAULT_TENANT, limit=10)
        self._scene.answers.extend(Answer("list", each) for each in await supervisor.list_runs(query))

    async def _ask_again(self, supervisor: Supervisor, run: RunPlan) -> None:
        scene, run_id = self._scene, run.spec.run_id
        outcome, answer = await supervisor.cancel(DEFAULT_TENANT, run_id, "late", "eve", 5.0)
        scene.answers.append(Answer("cancel", answer, outcome))
        claim = supervisor.new_claim(DEFAULT_TENANT, run_id)
        record = look(self._store, run_id).record
        assert record is not None, "what can be read has a record"
        reader = await supervisor.start(run.spec, record.fingerprint or "1:same", claim)
        whole = View(run_id)
        while events := await reader.next():
            whole.events.extend(map(decode_event, events))
        supervisor.detach(claim, reader, CancelReason.CLIENT_GONE, by_server=False)
        whole.has_ended = True
        for view in [each for each in scene.views if each.run_id == run_id]:
            fold = Fold()
            if view.has_ended or any(fold.take(event) for event in view.events) or fold.finished is not None:
                continue
            reader = await supervisor.watch(DEFAULT_TENANT, run_id, fold.cursor, from_snapshot=False, claim=None)
            while events := await reader.next():
                view.events.extend(map(decode_event, events))
            supervisor.detach(None, reader, CancelReason.CLIENT_GONE, by_server=False)
            view.has_ended = True
        scene.views.append(whole)
        scene.answers.append(Answer("get", await supervisor.get(DEFAULT_TENANT, run_id, 1.0)))


def look(store: RunStore, run_id: str) -> Left:
    """What is in a memory store of a run, now."""
    record = run_now(store.get(key_of(run_id)))
    page: LogPage = run_now(store.read_log(key_of(run_id), 0, 1 << 30))
    return Left(record, tuple(page.entries))


def named(final: Run | None) -> str:
    """How a run ended, in words."""
    if final is None:
        return "never"
    why = final.cancel_reason.name if final.cancel_reason else final.error.reason if final.error else ""
    return f"{final.state.name} {why}".strip()


def run_now(work: Any) -> Any:
    """The result of an operation of the memory store, which never suspends."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("an operation of the memory store suspended")
