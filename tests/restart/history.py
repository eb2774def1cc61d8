"""Fills a store as a server would have, but quickly."""

import asyncio
from collections.abc import Awaitable, Iterable
from itertools import accumulate
from pathlib import Path

from midstream_server.codec import encode_event, encode_run
from midstream_server.model import (
    DEFAULT_TENANT,
    DetachPolicy,
    Instant,
    MessageDelta,
    Run,
    RunFinished,
    RunKey,
    RunStarted,
    RunState,
    TextDelta,
)
from midstream_server.stores.base import Append, Seal, StartRun, frame
from midstream_server.stores.sqlite import SqliteRunStore

DAY = 24 * 3600 * 1_000_000_000
LONG_RUN = "long"
_AT_ONCE = 500


def piece(number: int) -> str:
    """What one append of the long run says."""
    return f"{number} "


async def fill(path: Path, appends: int, runs: int, now: Instant) -> None:
    """A store with a live run of so many appends, and so many short runs that have ended."""
    store = SqliteRunStore(path, durability="process")
    await store.open()
    try:
        await _start(store, LONG_RUN, now)
        offsets = list(accumulate((len(piece(number)) for number in range(appends)), initial=0))
        half = appends // 2
        await _all(_append(store, number, offsets[number]) for number in range(half))
        await _all(_short_run(store, f"short-{number}", now + number) for number in range(runs))
        await _all(_append(store, number, offsets[number]) for number in range(half, appends))
    finally:
        await store.close()


async def _all(work: Iterable[Awaitable[object]]) -> None:
    waiting: list[Awaitable[object]] = []
    for each in work:
        waiting.append(each)
        if len(waiting) == _AT_ONCE:
            await asyncio.gather(*waiting)
            waiting = []
    await asyncio.gather(*waiting)


def _key(run_id: str) -> RunKey:
    return RunKey(DEFAULT_TENANT, run_id)


async def _start(store: SqliteRunStore, run_id: str, now: Instant) -> None:
    run = Run(run_id=run_id, state=RunState.RUNNING, model="up/model", create_time=now, start_time=now)
    await store.start(
        StartRun(
            key=_key(run_id),
            fingerprint=f"1:{run_id}",
            state=RunState.RUNNING,
            owner="a process that died",
            claim_id="claim",
            on_detach=DetachPolicy(),
            conversation_id="",
            parent_run_id="",
            labels={},
            retention_seconds=DAY / 1e9,
            now=now,
            summary=encode_run(run),
            entry=encode_event(1, RunStarted(run_id=run_id, create_time=now)),
        )
    )


async def _append(store: SqliteRunStore, number: int, offset: int) -> None:
    delta = MessageDelta(part_index=0, offset=offset, payload=TextDelta(piece(number)))
    sequence = number + 2
    (result,) = await store.append(
        [
            Append(
                key=_key(LONG_RUN),
                epoch=1,
                expected_last_sequence=sequence - 1,
                last_sequence=sequence,
                entries=frame([encode_event(sequence, delta)]),
            )
        ]
    )
    assert result.accepted


async def _short_run(store: SqliteRunStore, run_id: str, now: Instant) -> None:
    await _start(store, run_id, now)
    run = Run(
        run_id=run_id,
        state=RunState.COMPLETED,
        model="up/model",
        last_sequence=2,
        create_time=now,
        start_time=now,
        end_time=now,
        expire_time=now + DAY,
    )
    await store.seal(
        Seal(
            key=_key(run_id),
            epoch=1,
            expected_last_sequence=1,
            last_sequence=2,
            entries=frame([encode_event(2, RunFinished(run=run))]),
            state=run.state,
            intent=None,
            end_time=now,
            start_time=now,
            expire_time=now + DAY,
            summary=encode_run(run),
        )
    )
