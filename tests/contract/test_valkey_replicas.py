"""Two replicas on one Valkey: what one does, the other hears of; what one leaves behind, the other finds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from contract.store_cases import (
    GRACE,
    KEY,
    NOW,
    OWNER,
    SECOND,
    append,
    cancel,
    intent,
    record_of,
    seal,
    start_run,
    valkey_cluster,
    valkey_server,
    whole_log,
)
from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelIntent, CancelReason, DetachAction, DetachPolicy, RunKey
from midstream_server.stores.base import ListQuery, LostClaim
from midstream_server.stores.valkey import ValkeyRunStore
from midstream_server.stores.valkey_rows import BUCKETS
from valkey_server import ValkeyServer, eventually, shard_channels

OTHER = "replica-2"
GONE = CancelReason.CLIENT_GONE
DAY = 86_400.0


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.moved: list[RunKey] = []
        self.stops: list[tuple[RunKey, CancelIntent]] = []
        self._changed = asyncio.Event()

    def run_moved(self, key: RunKey) -> None:
        """A hint."""
        self.moved.append(key)
        self._changed.set()

    def stop_asked(self, key: RunKey, intent: CancelIntent) -> None:
        """A hint."""
        self.stops.append((key, intent))
        self._changed.set()

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Waits for a hint that makes it so."""
        async with asyncio.timeout(10):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()


class Replica:
    """A store of its own, and what it heard."""

    def __init__(self, url: str) -> None:
        self.heard = Heard()
        self.store = ValkeyRunStore(url, durability="process", lease_seconds=30.0)
        self.store.listen(self.heard)

    async def follows(self, key: RunKey) -> None:
        """Follows a run, and hears that it does."""
        before = len(self.heard.moved)
        self.store.follow(key)
        await self.heard.until(lambda: len(self.heard.moved) > before)


@pytest.fixture(params=["single", "cluster"])
def servers(request: pytest.FixtureRequest) -> list[ValkeyServer]:
    """The servers, empty."""
    servers = [valkey_server()] if request.param == "single" else valkey_cluster()
    for server in servers:
        server.client.flushall()
    return servers


@pytest.fixture
async def replicas(servers: list[ValkeyServer]) -> AsyncIterator[list[Replica]]:
    """Two of them; both have a lease, the first owns what it starts."""
    async with AsyncExitStack() as stack:
        both = [Replica(servers[0].url) for _ in range(2)]
        for replica, owner in zip(both, (OWNER, OTHER), strict=True):
            await replica.store.open()
            stack.push_async_callback(replica.store.close)
            await replica.store.heartbeat(owner)
        await eventually(lambda: shard_channels(servers) == 2 * BUCKETS)
        yield both


# --- Hints -----------------------------------------------------------------------------------------------------------


async def test_owner_hears_of_an_intent_that_another_replica_records(replicas):
    """With the words of who asked; the others hear nothing."""
    owner, other = replicas
    await owner.store.start(start_run())

    await other.store.record_intent(cancel(text="enough"))

    await owner.heard.until(lambda: bool(owner.heard.stops))
    assert owner.heard.stops == [(KEY, intent("enough"))]
    assert other.heard.stops == []


async def test_owner_hears_of_the_last_release_on_another_replica(replicas):
    """What `on_detach` makes of it is an intent like any other."""
    owner, other = replicas
    await owner.store.start(start_run())
    await owner.store.claim(KEY, "claim-2", OTHER)

    await owner.store.release(KEY, "claim-1", GONE, NOW)
    await other.store.release(KEY, "claim-2", GONE, NOW + 1)

    await owner.heard.until(lambda: bool(owner.heard.stops))
    ((key, asked),) = owner.heard.stops
    assert (key, asked.reason, asked.request_time) == (KEY, GONE, NOW + 1)


async def test_new_owner_hears_what_the_old_one_does_not_any_more(replicas):
    """A takeover takes the hints along, and an intent that was there is in the heartbeat."""
    owner, other = replicas
    await owner.store.start(start_run())
    await other.store.take_over(KEY, OTHER, 1)

    await owner.store.record_intent(cancel())

    await other.heard.until(lambda: bool(other.heard.stops))
    assert owner.heard.stops == []
    assert (await owner.store.heartbeat(OWNER)).intents == {}
    assert (await other.store.heartbeat(OTHER)).intents == {KEY: intent()}


async def test_follower_hears_of_every_move_until_it_unfollows(replicas):
    """An append, an intent, the end; not of runs that it does not follow."""
    owner, other = replicas
    silent = RunKey("default", "run-2")
    await owner.store.start(start_run(silent))
    await owner.store.start(start_run())
    await other.follows(KEY)

    for number, move in enumerate(
        (
            owner.store.append([append(1, b"a"), append(1, b"a", key=silent)]),
            owner.store.record_intent(cancel()),
            owner.store.seal(seal(2)),
        ),
        start=2,
    ):
        await move
        await other.heard.until(lambda: len(other.heard.moved) >= number)  # noqa: B023

    assert set(other.heard.moved) == {KEY}
    assert owner.heard.moved == []


async def test_follower_of_a_run_that_it_left_hears_nothing(replicas, servers):
    """Whoever still listens hears it."""
    owner, other = replicas
    await owner.store.start(start_run())
    await other.follows(KEY)
    await owner.follows(KEY)
    other.heard.moved.clear()

    other.store.unfollow(KEY)
    await eventually(lambda: _listeners(servers) == 1)
    before = len(owner.heard.moved)
    await owner.store.append([append(1, b"a")])

    await owner.heard.until(lambda: len(owner.heard.moved) > before)
    assert other.heard.moved == []


def _listeners(servers: list[ValkeyServer]) -> int:
    return sum(
        count
        for server in servers
        for channel in server.execute("PUBSUB SHARDCHANNELS", "*:moved:*")
        for _, count in server.execute("PUBSUB SHARDNUMSUB", channel)
    )


async def test_lost_connection_of_hints_is_made_again_and_tells_every_follower(replicas, servers):
    """What happened meanwhile may have been missed; what happens then is heard."""
    owner, other = replicas
    await owner.store.start(start_run())
    await other.follows(KEY)
    before = len(other.heard.moved)

    for server in servers:
        server.execute("CLIENT KILL", "TYPE", "pubsub")
    await other.heard.until(lambda: len(other.heard.moved) > before)
    await eventually(lambda: shard_channels(servers) == 2 * BUCKETS + 1)
    after = len(other.heard.moved)
    await owner.store.append([append(1, b"a")])
    await other.store.record_intent(cancel())

    await other.heard.until(lambda: len(other.heard.moved) > after)
    await owner.heard.until(lambda: bool(owner.heard.stops))


# --- Leases ----------------------------------------------------------------------------------------------------------


async def test_heartbeat_tells_the_intents_of_live_runs_only(replicas):
    """Also those of which the hint was lost; ended runs have none."""
    owner, other = replicas
    ended = RunKey("default", "run-2")
    await owner.store.start(start_run())
    await owner.store.start(start_run(ended))
    before = await owner.store.heartbeat(OWNER)

    await other.store.record_intent(cancel())
    await other.store.record_intent(cancel(ended))
    await owner.store.seal(seal(1, key=ended))
    after = await owner.store.heartbeat(OWNER)

    assert before.intents == {}
    assert after.intents == {KEY: intent()}
    assert (await other.store.heartbeat(OTHER)).intents == {}
    assert before.generation == after.generation != ""


async def test_runs_and_claims_of_a_living_replica_are_nobodys_to_take(replicas):
    """A lease says that it is alive."""
    owner, other = replicas
    await owner.store.start(start_run())
    await other.store.claim(KEY, "claim-2", OTHER)

    assert list(await other.store.orphans(OTHER, 10)) == []
    assert list(await other.store.lost_claims(OTHER, 10)) == []
    assert list(await owner.store.lost_claims(OWNER, 10)) == []


async def test_what_a_dead_replica_owned_and_claimed_is_found(replicas):
    """Live runs only, and no more than the limit."""
    owner, other = replicas
    theirs, ended = RunKey("other/tenant", "run-2"), RunKey("default", "run-3")
    await owner.store.start(start_run())
    await owner.store.start(start_run(theirs, owner=OTHER, claim_id="claim-2"))
    await owner.store.claim(theirs, "claim-3", OWNER)
    await owner.store.start(start_run(ended))
    await owner.store.seal(seal(1, key=ended))

    await owner.store.retire(OWNER)
    orphans = await other.store.orphans(OTHER, 10)
    claims = await other.store.lost_claims(OTHER, 10)

    assert list(orphans) == [KEY]
    assert sorted(claims, key=lambda claim: claim.claim_id) == [
        LostClaim(key=KEY, claim_id="claim-1"),
        LostClaim(key=theirs, claim_id="claim-3"),
    ]
    assert len(await other.store.lost_claims(OTHER, 1)) == 1


async def test_released_and_sealed_runs_leave_nothing_to_find(replicas, servers):
    """The indexes are as empty as before."""
    owner, other = replicas
    await owner.store.start(start_run(on_detach=GRACE))
    await other.store.claim(KEY, "claim-2", OTHER)
    await other.store.claim(KEY, "claim-1", OTHER)
    await other.store.release(KEY, "claim-2", GONE, NOW)
    await other.store.take_over(KEY, OTHER, 1)
    await owner.store.record_intent(cancel())

    await other.store.seal(seal(1, epoch=2))

    left = [key for server in servers for key in server.client.keys("midstream:*")]
    kinds = {key.split(b"}:")[1].split(b":")[0] for key in left if b"{lists" not in key and b"{lease" not in key}
    assert kinds == {b"run", b"log", b"expiry"}


async def test_lease_ends_by_the_clock_of_the_store(servers):
    """Without a heartbeat nobody stays alive."""
    short = ValkeyRunStore(servers[0].url, durability="process", lease_seconds=0.05)
    await short.open()
    try:
        await short.heartbeat(OWNER)
        await short.start(start_run())

        await eventually(lambda: not any(server.client.keys("*lease*") for server in servers))

        assert list(await short.orphans(OTHER, 10)) == [KEY]
    finally:
        await short.close()


async def test_grace_is_added_to_the_nanosecond(replicas):
    """Though the numbers of the scripts cannot hold such an instant."""
    owner, _ = replicas
    policy = DetachPolicy(action=DetachAction.GRACE, grace_seconds=10.6)
    await owner.store.start(start_run(on_detach=policy))

    record = await owner.store.release(KEY, "claim-1", GONE, NOW + 700_000_001)

    assert record.detach_time == NOW + 11 * SECOND + 300_000_001


# --- What is left half done -------------------------------------------------------------------------------------------


async def test_run_whose_replica_died_before_it_was_listed_is_listed_by_another(replicas, servers):
    """The note in its bucket says what is missing."""
    owner, other = replicas
    await owner.store.start(start_run(conversation_id="talk"))
    everything = ListQuery(tenant="default", limit=10)
    entry = b'[%d, "talk", ""]' % NOW
    for server in servers:
        for key in server.client.keys("*{lists*"):
            server.client.delete(key)
        for key in server.client.keys("*:run:default/run-1"):
            server.client.hset(key.split(b"}")[0] + b"}:lists", "default/run-1", entry)
    assert list(await other.store.list_records(everything)) == []

    await other.store.expire(NOW, DAY, 10)

    assert list(await other.store.list_records(everything)) == [await record_of(other.store)]
    assert not [key for server in servers for key in server.client.keys("*}:lists")]


async def test_place_in_a_list_without_its_run_is_dropped(replicas, servers):
    """As after a failover that lost the run."""
    owner, _ = replicas
    await owner.store.start(start_run())
    for server in servers:
        for key in server.client.keys("*:run:*"):
            server.client.delete(key)

    listed = await owner.store.list_records(ListQuery(tenant="default", limit=10))

    assert list(listed) == []
    assert not [key for server in servers for key in server.client.keys("*{lists*")]


async def test_member_that_joined_long_ago_and_is_not_live_is_dropped(replicas, servers):
    """It left no run behind that could leave; one that has just joined may start yet."""
    owner, _ = replicas
    await owner.store.join_conversation("default", "talk", "gone", NOW)
    for server in servers:
        for key in server.client.keys("*{talk*"):
            server.client.zadd(key, {"long-gone": 1})

    members = await owner.store.join_conversation("default", "talk", "run-1", NOW)

    assert list(members) == ["gone"]
    assert list(await owner.store.join_conversation("default", "talk", "run-2", NOW)) == ["gone", "run-1"]


# --- Restore ---------------------------------------------------------------------------------------------------------


async def _rolled_back(replica: Replica, servers: list[ValkeyServer]) -> tuple:
    """A run with two entries more than the store has by now."""
    await replica.store.start(start_run(conversation_id="talk", labels={"a": "b"}))
    await replica.store.append([append(1, b"a")])
    kept = [
        (server, key, server.client.dump(key)) for server in servers for key in server.client.keys("*:*:default/run-1")
    ]
    await replica.store.append([append(2, b"b", b"c")])
    record, log = await record_of(replica.store), await whole_log(replica.store)
    for server, key, value in kept:
        server.execute("RESTORE", key, 0, value, "REPLACE")
    return record, log


async def test_owner_puts_back_what_the_store_lost(replicas, servers):
    """It learns of the loss by its next append, restores, and goes on; repeats are accepted."""
    owner, other = replicas
    record, log = await _rolled_back(owner, servers)
    await other.store.record_intent(cancel())
    await other.store.claim(KEY, "claim-2", OTHER)

    lost = await owner.store.append([append(4, b"d")])
    restored = [await owner.store.restore(record, log), await owner.store.restore(record, log)]
    appended = await owner.store.append([append(4, b"d")])

    assert [result.is_behind for result in lost] == [True]
    assert restored == [True, True]
    assert appended[0].accepted
    assert appended[0].intent == intent()
    assert await whole_log(other.store) == [b"started", b"a", b"b", b"c", b"d"]
    now = await record_of(other.store)
    assert now.claims == {"claim-1": OWNER, "claim-2": OTHER}
    assert list(await other.store.list_records(ListQuery(tenant="default", limit=9, conversation_id="talk"))) == [now]
    assert (await owner.store.heartbeat(OWNER)).intents == {KEY: intent()}


async def test_owner_puts_back_a_run_that_is_gone_and_one_that_had_ended(replicas, servers):
    """Another replica finds them as they were."""
    owner, other = replicas
    ended = RunKey("default", "run-2")
    await owner.store.start(start_run())
    await owner.store.start(start_run(ended))
    await owner.store.append([append(1, b"x" * 200_000, b"y")])
    sealed = (await owner.store.seal(seal(1, key=ended))).record
    live, log = await record_of(owner.store), await whole_log(owner.store)
    for server in servers:
        server.client.flushall()

    lost = await owner.store.seal(seal(3))
    restored = [await owner.store.restore(live, log), await owner.store.restore(sealed, [b"started", b"finished"])]

    assert (lost.accepted, lost.is_behind, lost.record) == (False, True, None)
    assert restored == [True, True]
    assert await other.store.get(KEY) == live
    assert await other.store.get(ended) == sealed
    assert await whole_log(other.store) == log
    assert await other.store.read_finished(ended) == b"finished"
    assert len(await other.store.list_records(ListQuery(tenant="default", limit=9))) == 2
    assert await other.store.expire(NOW + 100 * SECOND, DAY, 10) == 1


async def test_nothing_is_put_back_over_more_or_over_another_owner(replicas, servers):
    """Who has more knows better."""
    owner, other = replicas
    record, log = await _rolled_back(owner, servers)
    await other.store.take_over(KEY, OTHER, 1)

    taken = await owner.store.restore(record, log)
    await other.store.seal(seal(2, epoch=2))
    ended = await owner.store.restore(record, log)

    assert (taken, ended) == (False, False)
    assert await whole_log(other.store) == [b"started", b"a", b"finished"]


async def test_many_replicas_put_back_at_once_and_nothing_is_lost_or_twice(replicas, servers):
    """Each compares what it read with what is there; a claim that comes in between stays."""
    owner, other = replicas
    record, log = await _rolled_back(owner, servers)

    async def claim_one_by_one() -> None:
        for number in range(8):
            await other.store.claim(KEY, f"c{number}", OTHER)

    restored = await asyncio.gather(
        *[replica.store.restore(record, log) for replica in (owner, other) * 2], claim_one_by_one()
    )

    assert restored[:4] == [True] * 4
    assert await whole_log(other.store) == log
    assert set((await record_of(other.store)).claims) == {"claim-1", *(f"c{number}" for number in range(8))}


# --- Servers that do not answer --------------------------------------------------------------------------------------


async def test_server_that_forgot_the_scripts_is_told_them_again(replicas, servers):
    """Nothing fails."""
    owner, _ = replicas
    await owner.store.start(start_run())
    for server in servers:
        server.client.script_flush()

    results = await asyncio.gather(*[owner.store.append([append(number, b"x")]) for number in range(1, 20)])

    assert all(result[0].accepted for result in results)


async def test_lost_connection_is_unavailable_and_then_made_again(replicas, servers):
    """Who had asked learns that nobody can tell; no reply goes to the wrong one."""
    owner, _ = replicas
    await owner.store.start(start_run())
    asked = [asyncio.ensure_future(owner.store.append([append(number, b"x")])) for number in range(1, 50)]
    await asyncio.sleep(0)
    for server in servers:
        server.execute("CLIENT KILL", "TYPE", "normal", "SKIPME", "yes")

    answers = await asyncio.gather(*asked, return_exceptions=True)
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    record, log = await record_of(owner.store), await whole_log(owner.store)

    assert all(isinstance(answer, StoreUnavailable) for answer in failed)
    assert record.last_sequence == len(log)
    assert [answer[0].accepted for answer in answers if not isinstance(answer, BaseException)].count(True) <= len(log)
