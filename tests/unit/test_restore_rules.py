"""What becomes of a run that its owner puts back, by what the store has of it: pure."""

from dataclasses import replace

import pytest

from contract.store_cases import NOW, early_cancel, intent, start_run
from midstream_server.model import RunState
from midstream_server.stores import rules
from midstream_server.stores.base import RecordPhase, RunRecord


def live(**changes: object) -> RunRecord:
    """A live run of the first epoch, with five entries."""
    record = rules.start(None, start_run()).record
    return replace(record, last_sequence=5, **changes)  # type: ignore[arg-type]  # any field


def ended() -> RunRecord:
    """The same run, after its end."""
    return replace(live(), phase=RecordPhase.SEALED, state=RunState.COMPLETED, last_sequence=6, claims={}, end_time=NOW)


def remembered() -> RunRecord:
    """An early cancel."""
    record = rules.record_intent(None, early_cancel(), lambda: 0, 2).record
    assert record is not None
    return record


@pytest.mark.parametrize("record", [live(), ended()], ids=["live", "ended"])
def test_unknown_run_is_put_back_as_it_is(record):
    """Nothing is known better."""
    assert rules.restore(None, True, record) is record


def test_live_run_keeps_the_intent_and_the_claims_that_the_store_has():
    """Others wrote them meanwhile; what the owner knows is added."""
    known = live(intent=intent("stop"), claims={"theirs": "replica-2"})

    restored = rules.restore(replace(known, last_sequence=2), True, live(claims={"ours": "replica-1"}))

    assert restored is not None
    assert restored.intent == intent("stop")
    assert restored.claims == {"theirs": "replica-2", "ours": "replica-1"}
    assert restored.last_sequence == 5


def test_run_of_a_later_epoch_or_with_another_log_is_not_put_back():
    """Somebody else owns it now, or wrote what we did not."""
    assert rules.restore(live(epoch=2), True, live()) is None
    assert rules.restore(live(), False, live()) is None


def test_run_of_an_earlier_epoch_is_put_back():
    """The store has lost that it was taken over."""
    assert rules.restore(live(), True, live(epoch=2)) == live(epoch=2)


def test_ending_is_put_back_over_a_live_run_and_keeps_its_intent():
    """It was sealed, and the store has lost that."""
    restored = rules.restore(live(intent=intent("late")), True, ended())

    assert restored is not None
    assert (restored.phase, restored.intent, restored.claims) == (RecordPhase.SEALED, intent("late"), {})


def test_early_cancel_gives_way_and_stops_the_run():
    """It came while the run was unknown; an ending stays what it is."""
    stopped = rules.restore(remembered(), False, live())

    assert stopped is not None
    assert stopped.phase is RecordPhase.LIVE
    assert stopped.intent == remembered().intent
    assert rules.restore(remembered(), False, ended()) == ended()


def test_ended_run_is_never_changed():
    """The same ending again is accepted, anything else is refused."""
    assert rules.restore(ended(), True, ended()) == ended()
    assert rules.restore(ended(), False, ended()) is None
    assert rules.restore(ended(), True, live()) is None
    assert rules.restore(ended(), True, replace(ended(), epoch=2)) is None
    assert rules.restore(replace(ended(), phase=RecordPhase.EXPIRED), True, ended()) is None
