"""What every store does with a run from its start on: starts, claims, appends."""

import asyncio

import pytest

from contract.store_cases import (
    CONTINUE,
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
from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelIntent, CancelReason, DetachPolicy, RunKey, RunState
from midstream_server.stores.base import (
    AppendResult,
    RecordPhase,
    RunRecord,
    StartOutcome,
)

GONE = CancelReason.CLIENT_GONE


# --- Start -----------------------------------------------------------------------------------------------------------
async def test_start_creates_a_live_record_with_everything_that_was_given(store):
    """Nothing of the command is lost, and the entry is sequence 1."""
    command = start_run(
        on_detach=GRACE, conversation_id="talk", parent_run_id="run-0", labels={"team": "ü", "x": ""}, claim_id="c"
    )

    result = await store.start(command)

    assert result.outcome is StartOutcome.CREATED
    assert result.record == RunRecord(
        key=KEY,
        phase=RecordPhase.LIVE,
        state=RunState.RUNNING,
        fingerprint="1:aa",
        epoch=1,
        owner=OWNER,
        last_sequence=1,
        claims={"c": OWNER},
        on_detach=GRACE,
        conversation_id="talk",
        parent_run_id="run-0",
        labels={"team": "ü", "x": ""},
        retention_seconds=60.0,
        create_time=NOW,
        start_time=NOW,
        summary=b"summary at the start",
    )
    assert await store.get(KEY) == result.record
    assert await whole_log(store) == [b"started"]


async def test_start_of_a_queued_run_has_no_start_time_until_it_runs(store):
    """Waiting is not running."""
    created = (await store.start(start_run(state=RunState.QUEUED))).record

    ran = await store.set_running(KEY, 1, NOW + SECOND)

    assert (created.state, created.start_time) == (RunState.QUEUED, None)
    assert ran
    record = await record_of(store)
    assert (record.state, record.start_time) == (RunState.RUNNING, NOW + SECOND)


async def test_same_start_again_attaches_and_adds_its_claim(store):
    """A repeated start finds its run."""
    await store.start(start_run())

    again = await store.start(start_run(claim_id="claim-2", owner="replica-2", entry=b"other"))

    assert again.outcome is StartOutcome.ATTACHED
    assert again.record.claims == {"claim-1": OWNER, "claim-2": "replica-2"}
    assert again.record.owner == OWNER
    assert await store.get(KEY) == again.record
    assert await whole_log(store) == [b"started"]


async def test_same_start_again_stops_the_grace_clock(store):
    """Who attaches in time keeps the run alive."""
    await store.start(start_run(on_detach=GRACE))
    await store.release(KEY, "claim-1", GONE, NOW)

    again = await store.start(start_run(on_detach=GRACE, claim_id="claim-2"))

    assert (again.record.detach_time, again.record.detach_reason) == (None, None)
    assert await store.get(KEY) == again.record


@pytest.mark.parametrize("ended", [False, True])
async def test_start_with_another_fingerprint_conflicts_and_changes_nothing(store, ended):
    """One id, one request."""
    await store.start(start_run())
    if ended:
        await store.seal(seal(1))
    before = await store.get(KEY)

    result = await store.start(start_run(fingerprint="1:bb", claim_id="claim-2"))

    assert result.outcome is StartOutcome.CONFLICT
    assert result.record == before == await store.get(KEY)


async def test_same_start_after_the_end_finds_the_ended_run(store):
    """It neither runs again nor takes a claim."""
    await store.start(start_run())
    await store.seal(seal(1))

    result = await store.start(start_run(claim_id="claim-2"))

    assert result.outcome is StartOutcome.ENDED
    assert result.record.claims == {}
    assert await whole_log(store) == [b"started", b"finished"]


@pytest.mark.parametrize("fingerprint", ["1:aa", "1:bb"])
async def test_start_after_the_content_was_deleted_is_expired(store, fingerprint):
    """The id is used up, whatever is asked."""
    await store.start(start_run())
    await store.seal(seal(1))
    await store.delete(KEY, NOW, NOW + SECOND)

    result = await store.start(start_run(fingerprint=fingerprint))

    assert result.outcome is StartOutcome.EXPIRED
    assert await whole_log(store) == []


async def test_of_many_identical_starts_at_once_one_creates(store):
    """The others attach, and every claim is there."""
    results = await asyncio.gather(*(store.start(start_run(claim_id=f"claim-{n}")) for n in range(20)))

    outcomes = [result.outcome for result in results]
    assert outcomes.count(StartOutcome.CREATED) == 1
    assert outcomes.count(StartOutcome.ATTACHED) == 19
    assert set((await record_of(store)).claims) == {f"claim-{n}" for n in range(20)}
    assert await whole_log(store) == [b"started"]


async def test_of_many_different_starts_at_once_one_creates(store):
    """The others conflict."""
    results = await asyncio.gather(*(store.start(start_run(fingerprint=f"1:{n}")) for n in range(20)))

    outcomes = [result.outcome for result in results]
    assert outcomes.count(StartOutcome.CREATED) == 1
    assert outcomes.count(StartOutcome.CONFLICT) == 19


async def test_set_running_needs_the_epoch_and_a_live_run(store):
    """Nobody else's run starts to run."""
    unknown = await store.set_running(KEY, 1, NOW)
    await store.start(start_run(state=RunState.QUEUED))

    other_epoch = await store.set_running(KEY, 2, NOW)
    ran = await store.set_running(KEY, 1, NOW + 1)
    again = await store.set_running(KEY, 1, NOW + 2)
    start_time = (await record_of(store)).start_time
    await store.seal(seal(1))
    sealed = await store.set_running(KEY, 1, NOW)

    assert [unknown, other_epoch, ran, again, sealed] == [False, False, True, True, False]
    assert start_time == NOW + 1


# --- Claims ----------------------------------------------------------------------------------------------------------
async def test_last_release_under_cancel_records_an_intent(store):
    """Nobody follows any more: the run is to stop, for the reason of the last one."""
    await store.start(start_run())
    await store.claim(KEY, "claim-2", OWNER)

    first = await store.release(KEY, "claim-1", GONE, NOW)
    last = await store.release(KEY, "claim-2", CancelReason.DEADLINE, NOW + 5)

    assert (first.intent, first.claims) == (None, {"claim-2": OWNER})
    assert last.intent == CancelIntent(reason=CancelReason.DEADLINE, requested_by="client", request_time=NOW + 5)
    assert last.claims == {}
    assert await store.get(KEY) == last


async def test_last_release_keeps_an_earlier_intent(store):
    """The first intent wins."""
    await store.start(start_run())
    await store.record_intent(cancel())

    record = await store.release(KEY, "claim-1", GONE, NOW)

    assert record.intent == intent()


async def test_last_release_under_grace_starts_a_clock_that_a_claim_stops(store):
    """No intent yet; the time is the release's plus the grace."""
    await store.start(start_run(on_detach=GRACE))

    released = await store.release(KEY, "claim-1", GONE, NOW)
    claimed = await store.claim(KEY, "claim-2", "replica-2")

    assert (released.detach_time, released.detach_reason, released.intent) == (NOW + 10 * SECOND, GONE, None)
    assert (claimed.detach_time, claimed.detach_reason) == (None, None)
    assert claimed.claims == {"claim-2": "replica-2"}
    assert await store.get(KEY) == claimed


async def test_last_release_under_continue_changes_nothing_else(store):
    """The run goes on alone."""
    await store.start(start_run(on_detach=CONTINUE))

    record = await store.release(KEY, "claim-1", GONE, NOW)

    assert (record.claims, record.intent, record.detach_time) == ({}, None, None)


async def test_release_of_a_claim_that_is_not_there_changes_nothing(store):
    """A repeated release does not end a run that somebody else follows, nor one that nobody does."""
    await store.start(start_run(on_detach=GRACE))
    before = await store.get(KEY)

    other = await store.release(KEY, "claim-9", GONE, NOW)
    await store.release(KEY, "claim-1", GONE, NOW)
    again = await store.release(KEY, "claim-1", CancelReason.DEADLINE, NOW + 5 * SECOND)

    assert other == before
    assert (again.detach_time, again.detach_reason) == (NOW + 10 * SECOND, GONE)


async def test_claims_of_unknown_and_ended_runs(store):
    """Unknown is None; an ended run takes no claim and records no intent."""
    unknown = [await store.claim(KEY, "c", OWNER), await store.release(KEY, "c", GONE, NOW)]
    await store.start(start_run())
    await store.seal(seal(1))
    before = await store.get(KEY)

    claimed = await store.claim(KEY, "c", OWNER)
    released = await store.release(KEY, "claim-1", GONE, NOW)

    assert unknown == [None, None]
    assert claimed == released == before == await store.get(KEY)
    assert before.claims == {}


async def test_many_releases_at_once_record_one_intent_with_the_last(store):
    """Only the release that leaves no claim takes effect."""
    await store.start(start_run())
    await asyncio.gather(*(store.claim(KEY, f"c{n}", OWNER) for n in range(20)))
    names = ["claim-1", *(f"c{n}" for n in range(20))]

    records = await asyncio.gather(*(store.release(KEY, name, GONE, NOW + n) for n, name in enumerate(names)))

    assert [record.intent is not None for record in records] == [False] * 20 + [True]
    assert records[-1].intent.request_time == NOW + 20
    assert await store.get(KEY) == records[-1]


@pytest.mark.parametrize("claim_first", [True, False])
async def test_claim_and_last_release_at_once_take_effect_in_call_order(store, claim_first):
    """A claim before the last release saves the run, one after it comes too late."""
    await store.start(start_run())
    claim, release = store.claim(KEY, "c", OWNER), store.release(KEY, "claim-1", GONE, NOW)

    await asyncio.gather(*((claim, release) if claim_first else (release, claim)))

    record = await record_of(store)
    assert set(record.claims) == {"c"}
    assert (record.intent is None) is claim_first


# --- Append ----------------------------------------------------------------------------------------------------------
async def test_append_adds_entries_and_they_come_back_as_they_were(store):
    """Bytes in, bytes out: empty, with NUL, not UTF-8, and larger than any row."""
    entries = [b"", b"\x00\x00", b"\xff\xfe", b"x" * 100_000, "…".encode(), b""]
    await store.start(start_run())

    results = await store.append([append(1, *entries)])

    assert list(results) == [AppendResult(accepted=True)]
    assert await whole_log(store) == [b"started", *entries]
    assert (await record_of(store)).last_sequence == 7


async def test_many_small_appends_make_one_dense_log(store):
    """Whatever the store cuts the log into, it is one log."""
    entries = [b"%05d" % n + b"." * (n % 97) for n in range(600)]
    await store.start(start_run())

    for sequence, entry in enumerate(entries, start=1):
        assert (await store.append([append(sequence, entry)]))[0].accepted

    assert await whole_log(store) == [b"started", *entries]


async def test_append_for_many_runs_answers_each_in_order(store):
    """One that is refused does not spoil the others."""
    keys = [RunKey("default", f"run-{n}") for n in range(5)]
    for key in keys:
        await store.start(start_run(key))
    await store.seal(seal(1, key=keys[1]))
    await store.record_intent(cancel(keys[3]))

    results = await store.append([append(1, b"a", b"b", key=key) for key in keys])

    assert [result.accepted for result in results] == [True, False, True, True, True]
    assert [result.intent for result in results] == [None, None, None, intent(), None]
    assert await whole_log(store, keys[0]) == [b"started", b"a", b"b"]
    assert await whole_log(store, keys[1]) == [b"started", b"finished"]


async def test_several_appends_to_one_run_in_one_batch_take_effect_in_order(store):
    """A batch is a sequence, not a set."""
    await store.start(start_run())

    results = await store.append([append(1, b"a"), append(2, b"b"), append(1, b"a"), append(5, b"z")])

    assert [result.accepted for result in results] == [True, True, True, False]
    assert await whole_log(store) == [b"started", b"a", b"b"]


async def test_append_again_is_accepted_and_adds_nothing(store):
    """So that an append whose answer was lost can be repeated as it was."""
    await store.start(start_run())
    await store.append([append(1, b"a", b"b")])
    await store.append([append(3, b"c")])

    results = await store.append([append(1, b"a", b"b"), append(3, b"c")])

    assert [result.accepted for result in results] == [True, True]
    assert await whole_log(store) == [b"started", b"a", b"b", b"c"]


async def test_append_of_nothing_tells_the_intent(store):
    """An owner may ask without having anything to say."""
    await store.start(start_run())
    await store.record_intent(cancel())

    results = await store.append([append(1)])

    assert list(results) == [AppendResult(accepted=True, intent=intent())]


@pytest.mark.parametrize(
    ("expected", "entries", "epoch", "is_behind"),
    [
        (3, [b"x"], 1, True),
        (1, [b"a", b"x"], 1, False),
        (2, [b"x"], 2, True),
        (2, [b"x"], 0, False),
        (1, [b"a"], 2, True),
    ],
    ids=["gap", "half-a-repeat", "later-epoch", "earlier-epoch", "repeat-of-another-epoch"],
)
async def test_append_that_does_not_fit_is_refused(store, expected, entries, epoch, is_behind):
    """A gap, half a repeat, and another epoch leave the log alone. A store that knows less than the owner says so."""
    await store.start(start_run())
    await store.append([append(1, b"a")])

    results = await store.append([append(expected, *entries, epoch=epoch)])

    assert list(results) == [AppendResult(accepted=False, is_behind=is_behind)]
    assert await whole_log(store) == [b"started", b"a"]


async def test_append_to_an_unknown_or_ended_run_is_refused(store):
    """After the seal nothing follows, not even a repeat; the intent is told all the same."""
    await store.start(start_run())
    await store.append([append(1, b"a")])
    await store.record_intent(cancel())
    await store.seal(seal(2, state=RunState.CANCELLED))

    results = await store.append([append(1, b"a"), append(3, b"b"), append(0, b"c", key=RunKey("default", "run-2"))])

    assert list(results) == [
        AppendResult(accepted=False, intent=intent()),
        AppendResult(accepted=False, intent=intent()),
        AppendResult(accepted=False, is_behind=True),
    ]
    assert await whole_log(store) == [b"started", b"a", b"finished"]


async def test_append_to_an_early_cancel_says_that_the_store_has_lost_the_run(store):
    """Nobody ever owned it: whoever writes to it as its owner knows more."""
    await store.record_intent(early_cancel())

    results = await store.append([append(1, b"a")])
    result = await store.seal(seal(1))

    assert [(each.accepted, each.is_behind) for each in (*results, result)] == [(False, True)] * 2
    assert (await record_of(store)).fingerprint == ""


async def test_appends_at_once_take_effect_in_call_order(store):
    """A pipeline of appends needs no waiting in between."""
    await store.start(start_run())

    results = await asyncio.gather(*(store.append([append(n, b"%d" % n)]) for n in range(1, 200)))

    assert all(result[0].accepted for result in results)
    assert await whole_log(store) == [b"started", *(b"%d" % n for n in range(1, 200))]


# --- Open and close --------------------------------------------------------------------------------------------------
async def test_closed_store_refuses_and_closes_again(store):
    """What was asked for before is done; what comes after fails at once."""
    starting = asyncio.ensure_future(store.start(start_run(on_detach=DetachPolicy())))
    await asyncio.sleep(0)

    await store.close()
    await store.close()

    assert (await starting).outcome is StartOutcome.CREATED
    for operation in (store.get(KEY), store.start(start_run()), store.append([append(1, b"a")]), store.probe()):
        with pytest.raises(StoreUnavailable):
            await operation
