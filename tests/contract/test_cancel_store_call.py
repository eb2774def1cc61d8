"""A caller that is cancelled while it waits for the store changes nothing."""

import asyncio

import pytest

from contract.store_cases import (
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
    RecordPhase,
)

GONE = CancelReason.CLIENT_GONE


async def _cancel_while_it_waits(coroutine) -> None:
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)  # it runs up to its first wait
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


OPERATIONS = {
    "claim": (lambda store: store.claim(KEY, "c", OWNER), lambda record: "c" in record.claims),
    "release": (lambda store: store.release(KEY, "claim-1", GONE, NOW), lambda record: record.intent is not None),
    "set_running": (lambda store: store.set_running(KEY, 1, NOW), lambda record: record.state is RunState.RUNNING),
    "append": (lambda store: store.append([append(1, b"a")]), lambda record: record.last_sequence == 2),
    "record_intent": (lambda store: store.record_intent(cancel()), lambda record: record.intent == intent()),
    "seal": (lambda store: store.seal(seal(1)), lambda record: record.phase is RecordPhase.SEALED),
    "take_over": (lambda store: store.take_over(KEY, "replica-2", 1), lambda record: record.epoch == 2),
    "start": (lambda store: store.start(start_run(claim_id="c")), lambda record: "c" in record.claims),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_caller_changes_nothing(store, name):
    """The operation takes effect all the same, and the store goes on."""
    operation, took_effect = OPERATIONS[name]
    await store.start(start_run(state=RunState.QUEUED))
    assert not took_effect(await record_of(store))

    await _cancel_while_it_waits(operation(store))

    assert took_effect(await record_of(store))
    await store.probe()


async def test_cancelled_first_start_and_early_cancel_take_effect(store):
    """Also where there was no record before."""
    await _cancel_while_it_waits(store.start(start_run()))
    await _cancel_while_it_waits(store.record_intent(early_cancel(RunKey("default", "run-2"))))

    assert (await record_of(store)).phase is RecordPhase.LIVE
    assert (await record_of(store, RunKey("default", "run-2"))).state is RunState.CANCELLED


async def test_cancelled_settle_delete_and_conversation_take_effect(store):
    """The operations after the end and beside the record."""
    await store.start(start_run())
    await store.seal(seal(1))

    await _cancel_while_it_waits(store.settle(KEY, b"usage"))
    settled = await record_of(store)
    await _cancel_while_it_waits(store.delete(KEY, NOW, NOW + SECOND))
    await _cancel_while_it_waits(store.join_conversation("default", "talk", "a", NOW))
    joined = await store.join_conversation("default", "talk", "b", NOW)
    await _cancel_while_it_waits(store.leave_conversation("default", "talk", "a"))

    assert settled.settlement == b"usage"
    assert (await record_of(store)).phase is RecordPhase.EXPIRED
    assert list(joined) == ["a"]
    assert list(await store.join_conversation("default", "talk", "c", NOW)) == ["b"]


async def test_cancelled_reads_leave_the_store_as_it_was(store):
    """Nobody waits for the answer; the next read gets its own."""
    await store.start(start_run())

    for read in (store.get(KEY), store.read_log(KEY, 0, 100), store.read_finished(KEY), store.probe()):
        await _cancel_while_it_waits(read)

    assert await whole_log(store) == [b"started"]
