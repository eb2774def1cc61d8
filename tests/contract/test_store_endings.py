"""What every store does with intents, seals, owners and conversations."""

import asyncio
from dataclasses import replace

import pytest

from contract.store_cases import (
    GRACE,
    KEY,
    NOW,
    OWNER,
    SECOND,
    append,
    cancel,
    early_cancel,
    intent,
    record_of,
    seal,
    start_run,
    whole_log,
)
from midstream_server.model import CancelReason, RunKey, RunState
from midstream_server.stores.base import (
    IntentOutcome,
    RecordPhase,
    RunRecord,
    StartOutcome,
)

GONE = CancelReason.CLIENT_GONE


# --- Intents ---------------------------------------------------------------------------------------------------------
async def test_first_intent_wins_for_ever(store):
    """A second one is told of the first."""
    await store.start(start_run())

    first = await store.record_intent(cancel(text="first"))
    second = await store.record_intent(cancel(text="second"))

    assert first.outcome is IntentOutcome.RECORDED
    assert second.outcome is IntentOutcome.ALREADY
    assert first.record.intent == second.record.intent == intent("first")
    assert await store.get(KEY) == second.record


async def test_of_many_intents_at_once_one_is_recorded(store):
    """Also when they come together."""
    await store.start(start_run())

    results = await asyncio.gather(*(store.record_intent(cancel(text=str(n))) for n in range(20)))

    assert [result.outcome for result in results].count(IntentOutcome.RECORDED) == 1
    record = await record_of(store)
    assert all(result.record.intent == record.intent for result in results)


async def test_intent_for_unknown_ended_and_deleted_runs(store):
    """Each is told apart, and nothing is created."""
    unknown = await store.record_intent(cancel())
    await store.start(start_run())
    await store.seal(seal(1))
    ended = await store.record_intent(early_cancel())
    await store.delete(KEY, NOW, NOW + SECOND)
    expired = await store.record_intent(early_cancel())

    outcomes = [unknown.outcome, ended.outcome, expired.outcome]
    assert outcomes == [IntentOutcome.UNKNOWN, IntentOutcome.ENDED, IntentOutcome.EXPIRED]
    assert unknown.record is None
    assert (ended.record.intent, ended.record.state) == (None, RunState.COMPLETED)
    assert expired.record == await store.get(KEY)


async def test_intent_of_the_grace_clock_needs_the_grace_to_be_over(store):
    """Claimed, or not yet over: nothing. Over: recorded."""
    await store.start(start_run(on_detach=GRACE))
    claimed = await store.record_intent(cancel(unclaimed_since=NOW + 60 * SECOND))
    await store.release(KEY, "claim-1", GONE, NOW)
    early = await store.record_intent(cancel(unclaimed_since=NOW + 10 * SECOND - 1))

    over = await store.record_intent(cancel(unclaimed_since=NOW + 10 * SECOND))

    outcomes = [claimed.outcome, early.outcome, over.outcome]
    assert outcomes == [IntentOutcome.CLAIMED, IntentOutcome.CLAIMED, IntentOutcome.RECORDED]
    assert claimed.record.intent is None
    assert over.record.intent == intent()


async def test_intent_of_the_grace_clock_creates_nothing(store):
    """A clock's intent for a run that is gone is no early cancel."""
    result = await store.record_intent(cancel(unclaimed_since=NOW))

    assert (result.outcome, result.record) == (IntentOutcome.UNKNOWN, None)


# --- Early cancel ----------------------------------------------------------------------------------------------------
async def test_early_cancel_creates_a_sealed_record(store):
    """Cancelled before it started: two entries, no start, no fingerprint."""
    result = await store.record_intent(early_cancel())

    assert result.outcome is IntentOutcome.REMEMBERED
    assert result.record == RunRecord(
        key=KEY,
        phase=RecordPhase.SEALED,
        state=RunState.CANCELLED,
        fingerprint="",
        epoch=0,
        owner="",
        last_sequence=2,
        intent=intent(),
        retention_seconds=0.0,
        create_time=NOW,
        end_time=NOW,
        expire_time=NOW + 600 * SECOND,
        summary=b"summary of an early cancel",
    )
    assert await store.get(KEY) == result.record
    assert await whole_log(store) == [b"early start", b"early finish"]
    assert await store.read_finished(KEY) == b"early finish"


async def test_start_that_meets_an_early_cancel_adds_its_fingerprint(store):
    """From then on it is a run like any other that has ended."""
    await store.record_intent(early_cancel())

    met = await store.start(start_run())
    same = await store.start(start_run())
    other = await store.start(start_run(fingerprint="1:bb"))
    again = await store.record_intent(early_cancel())

    assert (met.outcome, met.record.fingerprint, met.record.claims) == (StartOutcome.ENDED, "1:aa", {})
    assert same.outcome is StartOutcome.ENDED
    assert other.outcome is StartOutcome.CONFLICT
    assert again.outcome is IntentOutcome.ENDED
    assert await store.get(KEY) == met.record
    assert await whole_log(store) == [b"early start", b"early finish"]


async def test_early_cancel_again_is_remembered_still(store):
    """Until a start comes; the first words stay."""
    first = await store.record_intent(early_cancel())

    again = await store.record_intent(early_cancel(now=NOW + SECOND))

    assert again.outcome is IntentOutcome.REMEMBERED
    assert again.record == first.record


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_early_cancel_and_start_at_once(store, cancel_first):
    """Either order leaves one run that is to stop."""
    start, early = store.start(start_run()), store.record_intent(early_cancel())

    await asyncio.gather(*((early, start) if cancel_first else (start, early)))

    record = await record_of(store)
    assert record.intent == intent()
    assert record.fingerprint == "1:aa"
    assert record.phase is (RecordPhase.SEALED if cancel_first else RecordPhase.LIVE)


async def test_early_cancels_are_limited_for_each_tenant(store):
    """Those that a start has met, or that are expired, count no more."""
    keys = [RunKey("default", f"early-{n}") for n in range(6)]
    for key in keys[:3]:
        await store.record_intent(early_cancel(key, max_remembered=3))

    full = await store.record_intent(early_cancel(keys[3], max_remembered=3))
    known = await store.record_intent(early_cancel(keys[0], max_remembered=3))
    other_tenant = await store.record_intent(early_cancel(RunKey("other", "early"), max_remembered=3))
    await store.start(start_run(keys[0]))
    after_start = await store.record_intent(early_cancel(keys[4], max_remembered=3))
    await store.expire(NOW + 600 * SECOND, 60.0, 1)
    after_expiry = await store.record_intent(early_cancel(keys[5], max_remembered=3))

    assert (full.outcome, full.record) == (IntentOutcome.FULL, None)
    assert await store.get(keys[3]) is None
    assert known.outcome is IntentOutcome.REMEMBERED
    assert other_tenant.outcome is IntentOutcome.REMEMBERED
    assert after_start.outcome is IntentOutcome.REMEMBERED
    assert after_expiry.outcome is IntentOutcome.FULL  # the one that expired had been met by a start


# --- Seal ------------------------------------------------------------------------------------------------------------
async def test_seal_ends_the_run_in_one_step(store):
    """Last entries, state, times and summary; claims and the grace clock are gone."""
    await store.start(start_run(on_detach=GRACE))
    await store.release(KEY, "claim-1", GONE, NOW)
    before = await record_of(store)

    result = await store.seal(seal(1, b"part end", b"finished", state=RunState.FAILED))

    assert result.accepted
    assert result.record == await store.get(KEY)
    assert result.record.phase is RecordPhase.SEALED
    assert result.record.state is RunState.FAILED
    assert (result.record.end_time, result.record.expire_time) == (NOW + SECOND, NOW + 61 * SECOND)
    assert (result.record.claims, result.record.detach_time, result.record.detach_reason) == ({}, None, None)
    assert (result.record.last_sequence, result.record.summary) == (3, b"summary at the end")
    assert (result.record.labels, result.record.on_detach) == (before.labels, before.on_detach)
    assert await whole_log(store) == [b"started", b"part end", b"finished"]
    assert await store.read_finished(KEY) == b"finished"


async def test_seal_keeps_the_intent_that_is_there_and_adds_its_own_otherwise(store):
    """First reason wins."""
    other = RunKey("default", "run-2")
    await store.start(start_run())
    await store.start(start_run(other))
    await store.record_intent(cancel(text="first"))

    kept = await store.seal(seal(1, intent=intent("late")))
    added = await store.seal(seal(1, key=other, intent=intent("limit")))

    assert kept.record.intent == intent("first")
    assert added.record.intent == intent("limit")


async def test_seal_from_the_log_is_refused_once_an_intent_has_come(store):
    """Who never drove the run has to look again: the intent decides."""
    await store.start(start_run())
    await store.record_intent(cancel(text="stop"))

    blind = await store.seal(replace(seal(1, state=RunState.FAILED), from_log=True))
    seeing = await store.seal(replace(seal(1, intent=intent("stop"), state=RunState.CANCELLED), from_log=True))

    assert not blind.accepted
    assert (blind.record.phase, blind.record.intent) == (RecordPhase.LIVE, intent("stop"))
    assert seeing.accepted
    assert seeing.record.state is RunState.CANCELLED


async def test_same_seal_again_is_accepted_and_changes_nothing(store):
    """A seal whose answer was lost is repeated as it was."""
    await store.start(start_run())
    first = await store.seal(seal(1))

    again = await store.seal(seal(1))

    assert again.accepted
    assert again.record == first.record
    assert await whole_log(store) == [b"started", b"finished"]


async def test_seal_that_does_not_fit_is_refused(store):
    """Another epoch, another end of the log, and a second, different seal."""
    await store.start(start_run())
    await store.append([append(1, b"a")])

    refused = [await store.seal(seal(2, epoch=2)), await store.seal(seal(1)), await store.seal(seal(3))]
    before = await record_of(store)
    sealed = await store.seal(seal(2))
    second = await store.seal(seal(2, b"x", b"finished", state=RunState.FAILED))

    assert [result.accepted for result in refused] == [False, False, False]
    assert [result.is_behind for result in refused] == [True, False, True]
    assert all(result.record == before for result in refused)
    assert before.phase is RecordPhase.LIVE
    assert not second.accepted
    assert second.record == sealed.record == await store.get(KEY)
    assert await whole_log(store) == [b"started", b"a", b"finished"]


async def test_seal_of_an_unknown_run_says_that_the_store_has_lost_it(store):
    """There is no record to answer with: only an owner seals, and what it owns was once there."""
    result = await store.seal(seal(1))

    assert not result.accepted
    assert result.is_behind
    assert result.record is None
    assert await store.get(KEY) is None


async def test_of_many_different_seals_at_once_one_is_accepted(store):
    """A run ends once."""
    await store.start(start_run())

    results = await asyncio.gather(*(store.seal(seal(1, *[b"x"] * n, b"finished")) for n in range(10)))

    assert [result.accepted for result in results] == [True] + [False] * 9
    assert await whole_log(store) == [b"started", b"finished"]


@pytest.mark.parametrize("intent_first", [True, False])
async def test_intent_and_seal_at_once(store, intent_first):
    """The intent is kept, or told that it came too late."""
    await store.start(start_run())
    intents, seals = store.record_intent(cancel()), store.seal(seal(1))

    results = await asyncio.gather(*((intents, seals) if intent_first else (seals, intents)))

    result = results[0] if intent_first else results[1]
    assert result.outcome is (IntentOutcome.RECORDED if intent_first else IntentOutcome.ENDED)
    assert ((await record_of(store)).intent == intent()) is intent_first


async def test_settlement_is_kept_only_of_a_sealed_run(store):
    """It became known after the end."""
    await store.settle(KEY, b"nobody's")
    await store.start(start_run())
    await store.settle(KEY, b"too early")
    early = (await record_of(store)).settlement
    await store.seal(seal(1))

    await store.settle(KEY, b"usage")

    assert early == b""
    assert (await record_of(store)).settlement == b"usage"


# --- Owners ----------------------------------------------------------------------------------------------------------
async def test_take_over_raises_the_epoch_and_fences_the_old_owner(store):
    """Appends and seals of the old epoch are refused, those of the new one accepted."""
    await store.start(start_run())

    taken = await store.take_over(KEY, "replica-2", 1)
    old = [(await store.append([append(1, b"old")]))[0].accepted, (await store.seal(seal(1))).accepted]
    appended, sealed = await store.append([append(1, b"new", epoch=2)]), await store.seal(seal(2, epoch=2))

    assert (taken.owner, taken.epoch) == ("replica-2", 2)
    assert old == [False, False]
    assert appended[0].accepted
    assert sealed.accepted
    assert await whole_log(store) == [b"started", b"new", b"finished"]


async def test_take_over_needs_the_epoch_that_was_seen(store):
    """Of many who try, one takes over; of unknown and ended runs nobody."""
    unknown = await store.take_over(KEY, "replica-2", 1)
    await store.start(start_run())

    taken = await asyncio.gather(*(store.take_over(KEY, f"replica-{n}", 1) for n in range(2, 12)))
    await store.seal(seal(1, epoch=2))
    ended = await store.take_over(KEY, "replica-2", 2)

    assert unknown is None
    assert [record is not None for record in taken].count(True) == 1
    assert ended is None


async def test_orphans_are_live_runs_of_other_owners(store):
    """Those that ended, and our own, are not; no more than the limit."""
    names = ["a", "b", "c", "d"]
    for name in names:
        await store.start(start_run(RunKey("default", name), owner="dead" if name != "c" else OWNER))
    await store.seal(seal(1, key=RunKey("default", "a")))

    orphans = await store.orphans(OWNER, 10)
    limited = await store.orphans(OWNER, 1)

    assert set(orphans) == {RunKey("default", "b"), RunKey("default", "d")}
    assert len(limited) == 1
    assert set(limited) < set(orphans)


async def test_heartbeat_of_an_exclusive_store_brings_nothing(exclusive_store):
    """There are no others who could have recorded an intent."""
    await exclusive_store.start(start_run())
    await exclusive_store.record_intent(cancel())

    first, second = await exclusive_store.heartbeat(OWNER), await exclusive_store.heartbeat("another")

    assert exclusive_store.exclusive
    assert first.intents == {}
    assert first.generation == second.generation
    assert list(await exclusive_store.lost_claims("another", 10)) == []


# --- Conversations ---------------------------------------------------------------------------------------------------
async def test_conversation_is_the_ordered_set_of_its_members(store):
    """Who joins learns who was there; who joins again keeps its place."""
    joined = [await store.join_conversation("default", "talk", name, NOW) for name in ("b", "a", "c", "a")]

    await store.leave_conversation("default", "talk", "a")
    await store.leave_conversation("default", "talk", "nobody")

    assert [list(members) for members in joined] == [[], ["b"], ["b", "a"], ["b"]]
    assert list(await store.join_conversation("default", "talk", "d", NOW)) == ["b", "c"]
    assert list(await store.join_conversation("default", "other", "e", NOW)) == []
    assert list(await store.join_conversation("other", "talk", "f", NOW)) == []


async def test_members_who_join_at_once_see_a_growing_conversation(store):
    """Each sees those before it: no two can both believe to be first."""
    joined = await asyncio.gather(*(store.join_conversation("default", "talk", f"r{n}", NOW) for n in range(10)))

    assert sorted(len(members) for members in joined) == list(range(10))


async def test_seal_takes_the_run_out_of_its_conversation(store):
    """And a run that has ended cannot come back to block it."""
    await store.start(start_run(conversation_id="talk"))
    await store.join_conversation("default", "talk", "run-1", NOW)
    await store.seal(seal(1))

    late = await store.join_conversation("default", "talk", "run-1", NOW)

    assert list(late) == []
    assert list(await store.join_conversation("default", "talk", "run-2", NOW)) == []
