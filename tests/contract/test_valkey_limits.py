"""What a Valkey store does at its limits: many claims, users with few rights, messages that nobody understands, keys
that were lost alone, a server that is changed while it is in use."""

import asyncio
import contextlib
import gc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import MovedError
from structlog.testing import capture_logs

from contract.store_cases import (
    KEY,
    NOW,
    OWNER,
    append,
    intent,
    record_of,
    seal,
    start_run,
    valkey_cluster,
    valkey_server,
    whole_log,
)
from contract.test_valkey_replicas import Heard
from contract.test_valkey_servers import opened
from midstream_server.errors import InvalidSettings, StoreCorrupt, StoreUnavailable
from midstream_server.model import RunKey
from midstream_server.stores import rules, valkey, valkey_sweep
from midstream_server.stores.base import ListQuery, LostClaim, RecordIntent
from midstream_server.stores.valkey_rights import needed_rights
from midstream_server.stores.valkey_rows import BUCKET_KEYS, bucket_number, list_keys, run_name
from midstream_server.stores.valkey_scripts import load_scripts
from midstream_server.stores.valkey_shard import Level
from midstream_server.stores.valkey_sweep import TOLD_BUCKETS
from valkey_server import HOST, ValkeyServer, eventually, shard_channels, single_server

ROOT = Path(__file__).parents[2]
RUN_KEY = BUCKET_KEYS[bucket_number(run_name(KEY))] + b":run:" + run_name(KEY)
STOP_CHANNEL = BUCKET_KEYS[bucket_number(run_name(KEY))] + b":stop:" + OWNER.encode()


@pytest.fixture
def server() -> ValkeyServer:
    """The single server of the tests, empty."""
    server = valkey_server()
    server.client.flushall()
    return server


# --- Many claims ------------------------------------------------------------------------------------------------------


async def test_claim_costs_the_same_however_many_there_are(server):
    """Nobody is told of the others; the run is stopped by the last of them to leave."""
    async with opened(server.url) as store:
        await store.start(start_run())
        before = int(server.info("total_net_output_bytes"))
        await asyncio.gather(*[store.claim(KEY, f"{number:036d}", OWNER) for number in range(400)])
        told = int(server.info("total_net_output_bytes")) - before

        assert told / 400 < 2_000
        assert server.client.hget(RUN_KEY, "claims") == b"401"
        record = await record_of(store)
        assert replace(record, claims={}) == replace((await store.start(start_run())).record, claims={})


async def test_run_with_many_claims_is_put_back_with_all_of_them(server):
    """What the store knows of them, and what the owner does."""
    async with opened(server.url) as store:
        record = (await store.start(start_run())).record
        await asyncio.gather(*[store.claim(KEY, f"other-{number}", "replica-2") for number in range(50)])
        log = await whole_log(store)

        assert await store.restore(replace(record, last_sequence=2), [*log, b"a"])

        assert server.client.hget(RUN_KEY, "claims") == b"51"
        assert await whole_log(store) == [b"started", b"a"]


async def test_run_is_put_back_in_one_attempt_however_its_fields_are_told(server, monkeypatch):
    """While a table grows, each look at it changes the order of what it tells."""
    monkeypatch.setattr(valkey, "RESTORE_ATTEMPTS", 1)
    async with opened(server.url) as store:
        record = (await store.start(start_run())).record
        orders: set[tuple[bytes, ...]] = set()
        count = 0
        while len(orders) < 2:
            orders = set()
            await asyncio.gather(*[store.claim(KEY, f"{count + more:036d}", "replica-2") for more in range(10)])
            count += 10
            for _ in range(2):
                orders.add(tuple(server.client.hkeys(RUN_KEY)))
                server.client.hmget(RUN_KEY, "phase", "owner", "expire_time")
            assert count < 5_000, "its order never changes"

        assert await store.restore(replace(record, last_sequence=2), [b"started", b"a"])

        assert server.client.hget(RUN_KEY, "claims") == b"%d" % (count + 1)


# --- Rights -----------------------------------------------------------------------------------------------------------


def _url_of_user(server: ValkeyServer, *rights: str) -> str:
    server.execute("ACL", "SETUSER", "midstream", "reset", "on", ">secret", *rights)
    return f"valkey://midstream:secret@{HOST}:{server.port}"


@pytest.mark.parametrize(
    ("rights", "problem"),
    [
        (["+@all", "-xadd", "~midstream:*", "&midstream:*"], "may not call XADD;"),
        (["+@all", "~midstream:*", "resetchannels"], "may not call SPUBLISH, SSUBSCRIBE;"),
        (["+@all", "-eval", "~midstream:*", "&midstream:*"], "may not run scripts"),
        (["+@all", "-evalsha", "~midstream:*", "&midstream:*"], "may not run scripts"),
        (["+@all", "-script", "~midstream:*", "&midstream:*"], "may not run scripts"),
    ],
)
async def test_user_who_may_not_do_all_is_refused_at_the_start(server, rights, problem):
    """A script that is stopped midway would leave half of what it does."""
    with pytest.raises(InvalidSettings, match=problem):
        async with opened(_url_of_user(server, *rights)):
            pass


def _rights_of_the_page() -> list[str]:
    """Those of the page of guarantees, without the password."""
    blocks = (ROOT / "docs" / "guarantees.md").read_text().split("```")
    (block,) = [block for block in blocks if "ACL SETUSER" in block]
    words = block.replace("\\\n", " ").split()
    return words[words.index(">PASSWORD") + 1 :]


@pytest.mark.parametrize("level", list(Level))
def test_rights_of_the_page_are_those_that_are_asked_for(level):
    """What is asked at the start, of servers with sharded messages, at every level; and how it is asked."""
    needed = needed_rights(load_scripts(sharded_messages=True).values(), level, sharded_messages=True)

    assert {f"+{name.lower()}" for name in needed} <= set(_rights_of_the_page())


async def test_user_with_the_rights_of_the_page_can_do_all(server):
    """The commands of the scripts and ours, on keys and channels of ours."""
    heard = Heard()
    async with opened(_url_of_user(server, *_rights_of_the_page())) as store:
        store.listen(heard)
        await store.start(start_run(conversation_id="talk"))
        await store.join_conversation(KEY.tenant, "talk", KEY.run_id, NOW)
        await store.heartbeat(OWNER)
        await eventually(lambda: shard_channels([server]) > 0)
        await store.append([append(1, b"a")])
        await store.record_intent(RecordIntent(key=KEY, intent=intent()))
        await heard.until(lambda: bool(heard.stops))
        assert (await store.seal(seal(2))).accepted
        assert await store.lost_claims("other", 10) == []
        assert len(await store.list_records(ListQuery(tenant=KEY.tenant, limit=10))) == 1
        assert await store.expire(1 << 62, 10.0, 100) == 1
        await store.probe()


# --- Messages ---------------------------------------------------------------------------------------------------------


async def test_message_that_nobody_understands_ends_no_hints(server):
    """Of another program's, or of a later version's; the next one is heard."""
    heard = Heard()
    async with opened(server.url) as store:
        store.listen(heard)
        await store.start(start_run())
        await store.heartbeat(OWNER)
        await eventually(lambda: server.execute("PUBSUB", "SHARDNUMSUB", STOP_CHANNEL)[-1] == 1)

        with capture_logs() as logs:
            for junk in (b"junk", b"\x00\x00\x00\x01x\x00\x00\x00\x02{}", b""):
                server.execute("SPUBLISH", STOP_CHANNEL, junk)
            await store.record_intent(RecordIntent(key=KEY, intent=intent()))
            await heard.until(lambda: bool(heard.stops))

        assert [line["event"] for line in logs].count("store.hint_not_understood") == 3


# --- Keys that were lost alone ----------------------------------------------------------------------------------------


async def test_place_in_the_expiry_without_its_run_is_dropped(server):
    """It would be due for ever, and the expiry would ask for it without a pause."""
    async with opened(server.url) as store:
        await store.start(start_run())
        await store.seal(seal(1))
        server.client.delete(RUN_KEY)

        assert [await store.expire(1 << 62, 10.0, 100) for _ in range(2)] == [1, 0]


async def test_key_of_another_program_is_damage_and_no_outage(server):
    """Nothing is gained by asking again."""
    server.client.set(RUN_KEY, "x")
    async with opened(server.url) as store:
        with pytest.raises(StoreCorrupt):
            await store.get(KEY)


async def test_place_in_a_list_that_a_cluster_lost_is_taken_again(monkeypatch):
    """A tenant's lists are elsewhere than its runs. The next expiry, every 5 s, puts right what the failover lost."""
    servers = valkey_cluster()
    for server in servers:
        server.client.flushall()
    keys = [RunKey(KEY.tenant, f"run-{number}") for number in range(20)]
    every = ListQuery(tenant=KEY.tenant, limit=50)
    async with opened(servers[0].url) as store:
        for key in keys:
            await store.start(start_run(key))
        await store.heartbeat(OWNER)
        for server in servers:
            with contextlib.suppress(MovedError):
                server.client.delete(list_keys(KEY.tenant, "", "")[0])

        assert await store.list_records(every) == []
        await store.expire(NOW, 10.0, 100)
        assert await store.list_records(every) == []
        monkeypatch.setattr(valkey_sweep, "_generation", lambda info: f"another {info['run_id']}")
        await store.heartbeat(OWNER)
        await store.expire(NOW, 10.0, 100)

        assert {record.key for record in await store.list_records(every)} == set(keys)


# --- While it is in use -----------------------------------------------------------------------------------------------


async def test_heartbeats_tell_in_turn_what_the_store_has_as_the_owners(server):
    """Each run and each claim once in a round of all buckets."""
    keys = [RunKey(KEY.tenant, f"run-{number}") for number in range(30)]
    async with opened(server.url) as store:
        for key in keys:
            await store.start(start_run(key))
        await store.claim(keys[0], "of-another", "replica-2")

        beats = [await store.heartbeat(OWNER) for _ in range(len(BUCKET_KEYS) // TOLD_BUCKETS)]

        assert sorted(key for beat in beats for key in beat.owned) == sorted(keys)
        claims = {claim for beat in beats for claim in beat.claims}
        assert claims == {LostClaim(key=key, claim_id="claim-1") for key in keys}


async def test_run_with_very_many_claims_leaves_others_their_share(server, monkeypatch):
    """What is told of each bucket is bounded by itself: no claim waits for ever behind those of another run."""
    monkeypatch.setattr(valkey_sweep, "TOLD_OF_A_BUCKET", 3)
    keys = [RunKey(KEY.tenant, f"run-{number}") for number in range(60)]
    first = min(keys, key=lambda key: bucket_number(run_name(key)))
    async with opened(server.url) as store:
        for key in keys:
            await store.start(start_run(key))
        await asyncio.gather(*[store.claim(first, f"claim-{number}", OWNER) for number in range(2, 60)])

        beats = [await store.heartbeat(OWNER) for _ in range(len(BUCKET_KEYS) // TOLD_BUCKETS)]

        claims = [claim.key for beat in beats for claim in beat.claims]
        assert set(claims) >= set(keys) - {first}
        assert claims.count(first) <= 3


async def test_server_that_begins_to_drop_runs_is_told_of_once():
    """It was checked at the start; a policy can change, and another primary can have another one."""
    with single_server() as server:
        async with opened(server.url) as store:
            await store.heartbeat(OWNER)
            server.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

            with capture_logs() as logs:
                await store.heartbeat(OWNER)
                await store.heartbeat(OWNER)

            told = [line for line in logs if line["event"] == "store.may_drop_runs"]
            assert [line["maxmemory_policy"] for line in told] == ["allkeys-lru"]


async def test_heartbeat_that_fails_leaves_no_error_that_nobody_takes():
    """Every one of an outage would be in the log with its trace."""
    left: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: left.append(context))
    with single_server() as server:
        async with opened(server.url) as store:
            server.kill()
            for operation in (partial(store.heartbeat, OWNER), partial(store.restore, _record(), [b"started"])):
                with pytest.raises(StoreUnavailable):
                    await operation()
            gc.collect()
            await asyncio.sleep(0)

            assert left == []


async def test_operation_whose_caller_left_leaves_no_error_that_nobody_takes(monkeypatch):
    """It goes on, so that no half of it is done; when it fails after all there is nobody to tell."""
    left: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: left.append(context))
    with single_server() as server:
        async with opened(server.url) as store:
            server.kill()
            caller = loop.create_task(store.record_intent(RecordIntent(key=KEY, intent=intent())))
            await asyncio.sleep(0)
            under_way = {task for task in asyncio.all_tasks() if task.get_name() == "valkey-operation"}
            assert under_way
            caller.cancel()
            await asyncio.wait({caller, *under_way})
            assert caller.cancelled()
            del caller, under_way  # nobody has what went wrong any more
            gc.collect()
            await asyncio.sleep(0)

            assert left == []


def _record() -> Any:
    return rules.start(None, start_run()).record
