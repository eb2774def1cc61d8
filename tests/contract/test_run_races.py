"""Whatever happens to a run, in whichever order: one ending, the same for everybody, and nothing after it (P1 to P9).

CI runs two thousand of these, `make race` ten thousand; a seed that breaks a promise breaks it again.
"""

import pytest

from midstream_server.codec import DecodedEvent
from midstream_server.model import MessageDelta, Run, RunFinished, RunStarted, RunState, TextDelta
from race.checks import check_view
from race.fleet import race_fleet
from race.machine import race
from race.scene import View

SEEDS_PER_TEST = 50
TESTS = 10
FLEET_SEEDS = 15


@pytest.mark.parametrize("first", range(0, SEEDS_PER_TEST * TESTS, SEEDS_PER_TEST))
def test_races_end_once_and_alike_for_everybody(first: int):
    """Each seed is a race of its own: upstreams, streams, callers, limits, outages, shutdowns, crashes."""
    endings = {ending for seed in range(first, first + SEEDS_PER_TEST) for ending in race(seed).endings}

    assert {each.split()[0] for each in endings} >= {"COMPLETED", "CANCELLED", "FAILED"}


def test_same_seed_gives_the_same_race():
    """A failure can be looked at again: every step of it."""
    for seed in range(7_000, 7_010):
        assert race(seed) == race(seed), seed


@pytest.mark.parametrize("count", [2, 3])
def test_races_of_several_replicas_end_once_and_alike_for_everybody(count: int):
    """Stopped, woken and killed at any step, cut off from the store, without hints: nothing is left live."""
    endings = {ending for seed in range(FLEET_SEEDS) for ending in race_fleet(seed, count).endings}

    assert {each.split()[0] for each in endings} >= {"COMPLETED", "CANCELLED", "FAILED"}


def test_races_of_replicas_whose_writes_come_late_end_once_and_alike_for_everybody():
    """A write that its replica has given up takes effect up to 8 s later: nothing is left live that nobody drives."""
    endings = {ending for seed in range(FLEET_SEEDS) for ending in race_fleet(seed, 3, is_late=True).endings}

    assert {each.split()[0] for each in endings} >= {"COMPLETED", "CANCELLED", "FAILED"}


def test_races_of_replicas_whose_store_fails_over_leave_nothing_live():
    """What the store had acknowledged is lost: nobody waits for ever, and all who ask afterwards are told the same."""
    endings = {ending for seed in range(FLEET_SEEDS) for ending in race_fleet(seed, 2, fails_over=True).endings}

    assert {each.split()[0] for each in endings} >= {"COMPLETED", "CANCELLED", "FAILED"}


@pytest.mark.parametrize("seed", [50_000_112, 50_001_667, 50_003_573])
def test_races_that_once_left_a_run_live_do_not(seed: int):
    """A replica took a run from a dead one, and its store was away before it could seal it."""
    assert race_fleet(seed, 2).endings


def test_races_that_once_mixed_two_logs_of_one_id_do_not():
    """A failover lost a run that was live; a start of the same id, under way just then, began it anew."""
    assert race_fleet(1_040_578, 3, fails_over=True).endings


def test_same_seed_gives_the_same_race_of_replicas():
    """A failure can be looked at again: every step of it."""
    for seed in range(7_000, 7_005):
        assert race_fleet(seed, 2) == race_fleet(seed, 2), seed


def test_what_breaks_a_promise_is_noticed():
    """The checks themselves can fail: a gap, a second ending, a text that is not kept."""
    run = Run(run_id="run", state=RunState.FAILED, last_sequence=3, create_time=1)
    started = DecodedEvent(sequence=1, first_sequence=0, payload=RunStarted(run_id="run", create_time=1))
    delta = DecodedEvent(
        sequence=2, first_sequence=0, payload=MessageDelta(part_index=0, offset=0, payload=TextDelta("x"))
    )
    finished = DecodedEvent(sequence=3, first_sequence=0, payload=RunFinished(run=run))

    def problems(*events: DecodedEvent) -> str:
        return " ".join(check_view(View("run", list(events), has_ended=True), run))

    assert "entries 2 to 2 after 0" in problems(delta)
    assert "RunFinished after RunFinished" in problems(started, delta, finished, finished)
    assert "kept is {}" in problems(started, delta, finished)
    assert "without RunFinished" in problems(started)
