"""Insisting: until the store takes it, and not harder than it helps."""

import asyncio
import itertools

import pytest

from engine_scenario import advance, settle
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.errors import StoreUnavailable


class Store:
    """Refuses until it is healed; remembers when it was asked."""

    def __init__(self) -> None:
        self.is_away = True
        self.asked: dict[str, list[float]] = {}

    async def write(self, name: str) -> str:
        self.asked.setdefault(name, []).append(asyncio.get_running_loop().time())
        if self.is_away:
            raise StoreUnavailable
        return name


@pytest.mark.looptime
async def test_one_answer_wakes_all_who_wait_for_a_repeat():
    """Whoever has just begun a long pause does not finish it once the store is known to be back."""
    guard, store = StoreGuard(), Store()
    first = asyncio.create_task(guard.insist(lambda: store.write("first")))
    await advance(1.0)
    second = asyncio.create_task(guard.insist(lambda: store.write("second")))
    await advance(20)
    store.is_away = False

    answers = await asyncio.gather(first, second)

    assert list(answers) == ["first", "second"]
    times = sorted(times[-1] for times in store.asked.values())
    assert times[1] - times[0] <= 0.1


@pytest.mark.looptime
async def test_pauses_grow_to_their_bound():
    """Two seconds at most between two attempts."""
    guard, store = StoreGuard(), Store()
    task = asyncio.create_task(guard.insist(lambda: store.write("it")))
    await advance(30)
    store.is_away = False
    await task

    times = store.asked["it"]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[0] == pytest.approx(0.1, abs=0.01)
    assert max(pauses) == pytest.approx(2.0, abs=0.01)


@pytest.mark.looptime
async def test_cancel_of_the_only_one_who_insists_leaves_the_outage_to_the_next_answer():
    """Nothing that was given up keeps the store away."""
    guard, store = StoreGuard(), Store()
    news: list[bool] = []
    guard.on_change = news.append
    task = asyncio.create_task(guard.insist(lambda: store.write("given up")))
    await settle()
    task.cancel()
    await settle()
    away = guard.out_since is not None
    store.is_away = False
    await guard.ask(lambda: store.write("next"))

    assert away
    assert task.cancelled()
    assert guard.out_since is None
    assert news == [False, True]


async def test_error_of_another_kind_is_not_repeated():
    """It is a bug, and not an outage."""
    guard = StoreGuard()

    async def fail() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await guard.insist(fail)
    assert guard.out_since is None
