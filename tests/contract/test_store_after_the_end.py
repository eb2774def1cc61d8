"""What every store does when it is read, and with runs that have ended: logs, lists, expiry; and whose they are."""

import asyncio
from itertools import pairwise
from typing import Any

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
    record_of,
    seal,
    start_run,
    whole_log,
)
from midstream_server.model import CancelReason, RunKey, RunState
from midstream_server.stores.base import IntentOutcome, ListQuery, RecordPhase, RunStore, StartOutcome

DAY = 86_400.0


# --- The log ---------------------------------------------------------------------------------------------------------


async def _read_in_pages(store: RunStore, max_bytes: int) -> list[list[bytes]]:
    pages: list[list[bytes]] = []
    sequence = 0
    while True:
        page = await store.read_log(KEY, sequence, max_bytes)
        assert page.first_sequence == sequence + 1
        if not page.entries:
            return pages
        pages.append(list(page.entries))
        sequence += len(page.entries)
        assert sequence <= page.last_sequence


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("max_bytes", [1, 50, 5_000, 1 << 20])
async def test_log_read_in_pages_is_the_log(store, sealed, max_bytes):
    """Every page keeps to its size, unless one entry is larger; together they are the log."""
    entries = [b"%04d" % n + b"." * (n % 61) for n in range(500)]
    await store.start(start_run())
    for sequence in range(0, 500, 5):
        await store.append([append(sequence + 1, *entries[sequence : sequence + 5])])
    if sealed:
        await store.seal(seal(501))

    pages = await _read_in_pages(store, max_bytes)

    assert [entry for page in pages for entry in page] == [b"started", *entries, *[b"finished"] * sealed]
    assert all(sum(map(len, page)) <= max_bytes or len(page) == 1 for page in pages)
    assert all(sum(map(len, page)) + len(following[0]) > max_bytes for page, following in pairwise(pages))


async def test_log_is_read_after_every_sequence(store):
    """No cursor loses or repeats an entry."""
    entries = [b"started", *(b"%d" % n * 200 for n in range(100))]
    await store.start(start_run())
    await store.append([append(1, *entries[1:40])])
    await store.append([append(40, *entries[40:])])

    for sequence in range(len(entries) + 2):
        page = await store.read_log(KEY, sequence, 1 << 20)
        assert list(page.entries) == entries[sequence:]
        assert (page.first_sequence, page.last_sequence) == (sequence + 1, len(entries))


async def test_log_of_an_unknown_or_deleted_run_is_empty(store):
    """There is no log, so it ends at 0."""
    unknown = await store.read_log(KEY, 3, 100)
    await store.start(start_run())
    await store.seal(seal(1))
    await store.delete(KEY, NOW, NOW + SECOND)

    deleted = await store.read_log(KEY, 0, 100)

    assert (unknown.first_sequence, list(unknown.entries), unknown.last_sequence) == (4, [], 0)
    assert (deleted.first_sequence, list(deleted.entries), deleted.last_sequence) == (1, [], 0)


async def test_finished_is_the_last_entry_of_a_sealed_run_only(store):
    """Not of a live, an unknown or a deleted one."""
    last = b"finished" * 100_000
    unknown = await store.read_finished(KEY)
    await store.start(start_run())
    live = await store.read_finished(KEY)
    await store.seal(seal(1, b"part end", last))
    sealed = await store.read_finished(KEY)
    await store.delete(KEY, NOW, NOW + SECOND)

    assert (unknown, live, sealed) == (None, None, last)
    assert await store.read_finished(KEY) is None


# --- Delete and expire -----------------------------------------------------------------------------------------------


async def test_delete_leaves_a_tombstone(store):
    """Content is gone; id, fingerprint and state are not."""
    await store.start(start_run(labels={"a": "b"}, conversation_id="talk", parent_run_id="p"))
    await store.record_intent(cancel())
    await store.seal(seal(1, state=RunState.CANCELLED))
    await store.settle(KEY, b"usage")
    before = await store.get(KEY)

    deleted = await store.delete(KEY, NOW + 5, NOW + SECOND)

    assert deleted == before
    record = await record_of(store)
    assert (record.phase, record.state, record.fingerprint) == (RecordPhase.EXPIRED, RunState.CANCELLED, "1:aa")
    assert (record.expire_time, record.forget_time) == (NOW + 5, NOW + SECOND)
    assert (record.summary, record.settlement, record.labels, record.intent) == (b"", b"", {}, None)
    assert (record.conversation_id, record.parent_run_id) == ("", "")


async def test_delete_of_live_deleted_and_unknown_runs_changes_nothing(store):
    """The caller learns what was there."""
    unknown = await store.delete(KEY, NOW, NOW)
    await store.start(start_run())
    live = await store.delete(KEY, NOW, NOW)
    after_live = await store.get(KEY)
    await store.seal(seal(1))
    await store.delete(KEY, NOW, NOW + SECOND)

    again = await store.delete(KEY, NOW + 9, NOW + 9)

    assert unknown is None
    assert live.phase is RecordPhase.LIVE
    assert live == after_live
    assert again.forget_time == NOW + SECOND
    assert await store.get(KEY) == again


async def test_expiry_deletes_what_is_due_and_forgets_it_a_day_later(store):
    """Live runs and those whose time has not come stay."""
    due, later, live = (RunKey("default", name) for name in ("due", "later", "live"))
    for key in (due, later, live):
        await store.start(start_run(key))
    await store.seal(seal(1, key=due, expire_time=NOW + 10 * SECOND))
    await store.seal(seal(1, key=later, expire_time=NOW + 99 * SECOND))

    before = await store.expire(NOW + 10 * SECOND - 1, DAY, 10)
    expired = await store.expire(NOW + 10 * SECOND, DAY, 10)
    tombstone = await record_of(store, due)
    forget_time = NOW + 10 * SECOND + int(DAY) * SECOND
    await store.seal(seal(1, key=live, expire_time=forget_time + SECOND))
    almost = await store.expire(forget_time - 1, DAY, 10)
    forgotten = await store.expire(forget_time, DAY, 10)

    assert (before, expired, almost, forgotten) == (0, 1, 1, 1)  # `almost` expires `later`
    assert (tombstone.phase, tombstone.forget_time) == (RecordPhase.EXPIRED, forget_time)
    assert await store.get(due) is None
    assert (await record_of(store, later)).phase is RecordPhase.EXPIRED
    assert (await record_of(store, live)).phase is RecordPhase.SEALED


async def test_forgotten_id_can_be_used_again(store):
    """As if it had never been."""
    await store.start(start_run())
    await store.append([append(1, b"old")])
    await store.seal(seal(2))
    await store.delete(KEY, NOW, NOW)
    await store.expire(NOW, DAY, 10)

    result = await store.start(start_run(fingerprint="1:bb", entry=b"new"))

    assert result.outcome is StartOutcome.CREATED
    assert await whole_log(store) == [b"new"]


async def test_expiry_takes_the_oldest_first_and_keeps_to_its_limit(store):
    """So that one call is bounded and no run waits for ever."""
    keys = [RunKey("default", f"run-{n}") for n in range(6)]
    for number, key in enumerate(keys):
        await store.start(start_run(key))
        await store.seal(seal(1, key=key, expire_time=NOW + (6 - number) * SECOND))

    count = await store.expire(NOW + 9 * SECOND, DAY, 4)

    phases = [(await record_of(store, key)).phase for key in keys]
    assert count == 4
    assert phases == [RecordPhase.SEALED] * 2 + [RecordPhase.EXPIRED] * 4


async def test_expired_early_cancel_is_a_tombstone_too(store):
    """A Generate that comes then is told that the id is used up."""
    await store.record_intent(early_cancel())

    count = await store.expire(NOW + 600 * SECOND, DAY, 10)

    assert count == 1
    assert (await store.start(start_run())).outcome is StartOutcome.EXPIRED
    assert (await store.record_intent(early_cancel())).outcome is IntentOutcome.EXPIRED


# --- Lists -----------------------------------------------------------------------------------------------------------


async def _listed(store: RunStore, limit: int = 50, **filters) -> list[str]:
    query = ListQuery(tenant="default", limit=limit, **filters)
    return [record.key.run_id for record in await store.list_records(query)]


async def test_list_is_newest_first_and_then_by_id(store):
    """The whole record comes, with the log's last sequence; what is deleted does not."""
    for name, second in (("b", 1), ("c", 2), ("a", 2), ("d", 0), ("e", 3)):
        await store.start(start_run(RunKey("default", name), now=NOW + second * SECOND))
    await store.append([append(1, b"x", key=RunKey("default", "c"))])
    await store.seal(seal(1, key=RunKey("default", "e")))
    await store.delete(RunKey("default", "e"), NOW, NOW + SECOND)

    records = await store.list_records(ListQuery(tenant="default", limit=50))

    assert [record.key.run_id for record in records] == ["c", "a", "b", "d"]
    assert records[0] == await store.get(RunKey("default", "c"))
    assert records[0].last_sequence == 2


async def test_list_in_pages_is_the_list_while_runs_come_and_go(store):
    """Those that were there all the time come exactly once."""
    names = [f"run-{n:02}" for n in range(30)]
    for number, name in enumerate(names):
        await store.start(start_run(RunKey("default", name), now=NOW + number // 3 * SECOND))
    seen: list[str] = []
    before = None

    while page := await store.list_records(ListQuery(tenant="default", limit=4, before=before)):
        before = (page[-1].create_time, page[-1].key.run_id)
        seen += [record.key.run_id for record in page]
        new = RunKey("default", f"new-{len(seen)}")
        await store.start(start_run(new, now=NOW + 99 * SECOND))
        last = RunKey("default", seen[-1])
        await store.seal(seal(1, key=last))
        await store.delete(last, NOW, NOW + SECOND)

    assert seen == sorted(names, reverse=True)


async def test_list_filters_by_the_state_that_callers_see(store):
    """A live run with an intent is STOPPING, and nothing else."""
    for name in ("queued", "running", "stopping", "done", "failed"):
        state = RunState.QUEUED if name == "queued" else RunState.RUNNING
        await store.start(start_run(RunKey("default", name), state=state))
    await store.record_intent(cancel(RunKey("default", "stopping")))
    await store.seal(seal(1, key=RunKey("default", "done")))
    await store.record_intent(cancel(RunKey("default", "failed")))
    await store.seal(seal(1, key=RunKey("default", "failed"), state=RunState.FAILED))
    await store.record_intent(early_cancel(RunKey("default", "early")))

    found = {state: await _listed(store, state=state) for state in RunState}

    assert found == {
        RunState.QUEUED: ["queued"],
        RunState.RUNNING: ["running"],
        RunState.STOPPING: ["stopping"],
        RunState.COMPLETED: ["done"],
        RunState.CANCELLED: ["early"],
        RunState.FAILED: ["failed"],
    }


async def test_list_filters_by_conversation_parent_and_all_labels(store):
    """Filters add up; a label filter asks for each of its labels, key and value."""
    cases: dict[str, dict[str, Any]] = {
        "a": {"conversation_id": "talk", "labels": {"team": "x", "user": "1"}},
        "b": {"conversation_id": "talk", "labels": {"team": "x", "user": "2"}},
        "c": {"conversation_id": "other", "parent_run_id": "p", "labels": {"team": "y", 'odd".$[0] key': "ü"}},
        "d": {"parent_run_id": "p", "conversation_id": "talk"},
        "e": {},
    }
    for name, fields in cases.items():
        await store.start(start_run(RunKey("default", name), **fields))

    assert await _listed(store, conversation_id="talk") == ["d", "b", "a"]
    assert await _listed(store, parent_run_id="p") == ["d", "c"]
    assert await _listed(store, parent_run_id="p", conversation_id="talk") == ["d"]
    assert await _listed(store, labels={"team": "x"}) == ["b", "a"]
    assert await _listed(store, labels={"team": "x", "user": "1"}) == ["a"]
    assert await _listed(store, labels={"team": "x", "user": "3"}) == []
    assert await _listed(store, labels={'odd".$[0] key': "ü"}) == ["c"]
    assert await _listed(store, labels={"user": ""}) == []
    assert await _listed(store, conversation_id="talk", limit=1, before=(NOW, "d")) == ["b"]


async def test_list_finds_the_one_match_among_many(store):
    """However far down it is."""
    wanted = {number: {"wanted": "yes" if number in (0, 700) else "no"} for number in range(1_200)}
    commands = [
        start_run(RunKey("default", f"r{number}"), now=NOW + number, labels=labels) for number, labels in wanted.items()
    ]
    await asyncio.gather(*map(store.start, commands))

    assert await _listed(store, labels={"wanted": "yes"}) == ["r700", "r0"]
    assert await _listed(store, labels={"wanted": "yes"}, limit=1) == ["r700"]
    assert await _listed(store, labels={"wanted": "maybe"}) == []


# --- Tenants ---------------------------------------------------------------------------------------------------------


async def test_same_id_of_another_tenant_is_another_run(store):
    """Whatever is done to one leaves the other alone."""
    ours, theirs = KEY, RunKey("other", KEY.run_id)
    await store.start(start_run(ours))
    before = await store.get(ours)

    started = await store.start(start_run(theirs, fingerprint="1:bb", entry=b"theirs", labels={"a": "b"}))
    await store.append([append(1, b"more", key=theirs)])
    await store.release(theirs, "claim-1", CancelReason.CLIENT_GONE, NOW)
    await store.seal(seal(2, key=theirs))
    await store.settle(theirs, b"usage")
    await store.delete(theirs, NOW, NOW)
    await store.expire(NOW, DAY, 10)

    assert started.outcome is StartOutcome.CREATED
    assert await store.get(theirs) is None
    assert await store.get(ours) == before
    assert await whole_log(store, ours) == [b"started"]


async def test_unknown_to_one_tenant_is_unknown_whoever_else_has_it(store):
    """Reads, lists and writes see only their own."""
    await store.start(start_run(RunKey("other", "run-1"), labels={"a": "b"}, conversation_id="talk"))

    assert await store.get(KEY) is None
    assert await whole_log(store) == []
    assert await store.claim(KEY, "c", OWNER) is None
    assert await store.take_over(KEY, OWNER, 1) is None
    assert (await store.record_intent(cancel())).outcome is IntentOutcome.UNKNOWN
    assert not (await store.append([append(1, b"x")]))[0].accepted
    assert await _listed(store) == []
    assert await _listed(store, conversation_id="talk") == []


async def test_everything_at_once_on_many_runs_ends_each_once(store):
    """Starts, appends, releases, intents and seals of many runs, all called together."""
    keys = [RunKey(f"tenant-{n % 3}", f"run-{n}") for n in range(30)]
    calls = [
        call
        for key in keys
        for call in (
            store.start(start_run(key, on_detach=GRACE)),
            store.append([append(1, b"a", key=key)]),
            store.release(key, "claim-1", CancelReason.CLIENT_GONE, NOW),
            store.append([append(2, b"b", b"c", key=key)]),
            store.record_intent(cancel(key)),
            store.seal(seal(4, key=key)),
            store.seal(seal(4, b"x", b"finished", key=key)),
        )
    ]

    results = await asyncio.gather(*calls)

    assert [result.accepted for result in results[5::7]] == [True] * 30
    assert [result.accepted for result in results[6::7]] == [False] * 30
    for key in keys:
        assert await whole_log(store, key) == [b"started", b"a", b"b", b"c", b"finished"]
