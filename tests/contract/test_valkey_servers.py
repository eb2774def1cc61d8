"""What the store does when its servers are not as they should be: refused settings, outages, failovers, moved slots."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trustme
from redis.crc import key_slot

from contract.store_cases import KEY, OWNER, append, record_of, seal, start_run, valkey_server, whole_log
from midstream_server.engine.store_guard import StoreGuard
from midstream_server.errors import InvalidSettings, StoreUnavailable
from midstream_server.model import RunKey
from midstream_server.stores import valkey_client, valkey_connection, valkey_shard
from midstream_server.stores.base import RecordPhase
from midstream_server.stores.valkey import ValkeyRunStore
from midstream_server.stores.valkey_rows import BUCKET_KEYS, bucket_number, run_name
from valkey_server import (
    HOST,
    ValkeyServer,
    cluster_servers,
    free_port,
    replicated_servers,
    single_server,
    wait_until,
)

T = TypeVar("T")


@asynccontextmanager
async def opened(url: str, durability: str = "process") -> AsyncIterator[ValkeyRunStore]:
    """A store, open."""
    store = ValkeyRunStore(url, durability=durability, lease_seconds=30.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def insist(operation: Callable[[], Awaitable[T]]) -> T:
    """Repeats an operation until the store takes it, as the engine does."""
    async with asyncio.timeout(20):
        return await StoreGuard().insist(operation)


# --- What is refused at the start -------------------------------------------------------------------------------------


async def test_server_that_would_drop_runs_is_refused():
    """Its memory policy is named, and what it should be."""
    problem = r'maxmemory-policy is "allkeys-lru"\); set it to "noeviction"'
    with single_server("--maxmemory-policy", "allkeys-lru") as server, pytest.raises(InvalidSettings, match=problem):
        async with opened(server.url):
            pass


async def test_durability_disk_needs_an_append_only_file():
    """A server without one would promise what it cannot keep."""
    with pytest.raises(InvalidSettings, match='set its "appendonly" to "yes"'):
        async with opened(valkey_server().url, "disk"):
            pass


async def test_durability_replica_needs_a_replica():
    """It may come back, so this is an outage."""
    with pytest.raises(StoreUnavailable, match="has no replica"):
        async with opened(valkey_server().url, "replica"):
            pass


async def test_server_that_is_not_there_is_unavailable():
    """The sentence says that it cannot be reached."""
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        async with opened(f"valkey://{HOST}:{free_port()}"):
            pass


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("valkey://host:port", "host:port"),
        ("valkey://host:0", "host:port"),
        ("valkey://host/one", "number of a database"),
        ("valkey://host?timeout=1", "unknown option 'timeout'"),
        ("redis://host", "must be valkey://"),
    ],
)
def test_address_that_says_nothing_is_refused(url, problem):
    """With what it should be."""
    with pytest.raises(InvalidSettings, match=problem):
        ValkeyRunStore(url, durability="process", lease_seconds=6.0)


async def test_password_user_and_database_of_the_address_are_used():
    """Another database is another store; without the password nothing is told."""
    with single_server() as server:
        server.execute("ACL", "SETUSER", "midstream", "on", ">p@ss:word", "~*", "&*", "+@all")
        server.execute("ACL", "SETUSER", "default", "resetpass", "off")
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            async with opened(server.url):
                pass
        address = f"valkey://midstream:p%40ss%3Aword@{HOST}:{server.port}"
        async with opened(f"{address}/3") as store, opened(address) as other:
            await store.start(start_run())

            assert await other.get(KEY) is None
            assert (await record_of(store)).phase is RecordPhase.LIVE


@asynccontextmanager
async def tls_front(server: ValkeyServer, ca_file: Path) -> AsyncIterator[int]:
    """A port that speaks TLS in front of a server (the tests' server cannot)."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(HOST, server.port)
        await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

    async with await asyncio.start_server(serve, HOST, 0, ssl=context) as front:
        yield front.sockets[0].getsockname()[1]


async def test_valkeys_speaks_tls_with_a_server_that_it_can_trust(tmp_path):
    """By the authority that the address names; by no other."""
    ca_file = tmp_path / "ca.pem"
    with single_server() as server:
        async with tls_front(server, ca_file) as port:
            async with opened(f"valkeys://{HOST}:{port}?ca_file={ca_file}") as store:
                await store.start(start_run())

                assert await whole_log(store) == [b"started"]
            with pytest.raises(StoreUnavailable, match=r"cannot be reached.*certificate"):
                async with opened(f"valkeys://{HOST}:{port}"):
                    pass


# --- Outages ---------------------------------------------------------------------------------------------------------


async def test_server_that_hangs_is_unavailable_in_bounded_time_and_mixes_no_replies(monkeypatch):
    """What was asked meanwhile may have taken effect; every later answer belongs to its own question."""
    keys = [RunKey("default", f"run-{number}") for number in range(20)]
    with single_server() as server:
        async with opened(server.url) as store:
            for key in keys:
                await store.start(start_run(key))
            server.pause()
            monkeypatch.setattr(valkey_connection, "REPLY_SECONDS", 0.1)
            monkeypatch.setattr(valkey_connection, "CONNECT_SECONDS", 0.1)
            hanging = [asyncio.ensure_future(store.append([append(1, b"a", key=key)])) for key in keys]
            hanging[3].cancel()
            answers = await asyncio.gather(*hanging, return_exceptions=True)
            monkeypatch.undo()
            server.resume()

            found = [await insist(partial(record_of, store, key)) for key in keys]

            del answers[3]
            assert all(isinstance(answer, StoreUnavailable) for answer in answers)
            assert [record.key for record in found] == keys
            again = [await store.append([append(1, b"a", key=key)]) for key in keys]
            assert all(result[0].accepted for result in again)
            assert await whole_log(store, keys[0]) == [b"started", b"a"]


async def test_memory_that_is_full_is_unavailable_and_nothing_is_half_done():
    """Nothing is evicted; reads go on, and writes once there is room."""
    with single_server() as server:
        async with opened(server.url) as store:
            await store.start(start_run())
            server.execute("CONFIG", "SET", "maxmemory", "1")

            with pytest.raises(StoreUnavailable, match="memory of the run store is full"):
                await store.append([append(1, b"a")])

            assert await whole_log(store) == [b"started"]
            server.execute("CONFIG", "SET", "maxmemory", "0")
            assert (await store.append([append(1, b"a")]))[0].accepted


async def test_everything_that_was_acknowledged_survives_a_kill_at_the_level_disk():
    """And the generation tells that the server started anew."""
    with single_server("--appendonly", "yes", "--appendfsync", "everysec") as server:
        async with opened(server.url, "disk") as store:
            await store.start(start_run())
            before = await store.heartbeat(OWNER)
            await store.append([append(1, b"a", b"b")])
            waits = server.client.info("commandstats")["cmdstat_waitaof"]["calls"]

            server.kill()
            with pytest.raises(StoreUnavailable):
                await store.append([append(3, b"c")])
            server.start()

            log = await insist(lambda: whole_log(store))
            after = await store.heartbeat(OWNER)
            assert log in ([b"started", b"a", b"b"], [b"started", b"a", b"b", b"c"])
            assert waits >= 3
            assert before.generation != after.generation


# --- Failover --------------------------------------------------------------------------------------------------------


def _promote(replica: ValkeyServer) -> None:
    replica.execute("REPLICAOF", "NO", "ONE")


async def test_failover_loses_at_the_level_process_what_no_replica_had_and_the_owner_is_told():
    """By the next append, and by the generation; it puts back the same bytes and goes on."""
    with replicated_servers() as (primary, replica):
        async with opened(primary.url) as store:
            await store.start(start_run())
            wait_until(primary.is_replicated, "the replica has the start")
            before = await store.heartbeat(OWNER)
            replica.execute("REPLICAOF", HOST, free_port())  # its primary is out of its reach
            await store.append([append(1, b"a")])
            record, log = await record_of(store), await whole_log(store)

            primary.kill()
            _promote(replica)

            (behind,) = await insist(lambda: store.append([append(2, b"b")]))
            after = await store.heartbeat(OWNER)
            assert (behind.accepted, behind.is_behind) == (False, True)
            assert before.generation != after.generation
            assert await store.restore(record, log)
            assert (await store.append([append(2, b"b")]))[0].accepted
            assert await whole_log(store) == [b"started", b"a", b"b"]


async def test_failover_loses_nothing_acknowledged_at_the_level_replica(monkeypatch):
    """While no replica confirms, nothing is acknowledged, reads included; repeated, it is there once."""
    monkeypatch.setattr(valkey_shard, "CONFIRM_MILLISECONDS", 50)
    with replicated_servers() as (primary, replica):
        address = f"{primary.url},{HOST}:{replica.port}"
        async with opened(address, "replica") as store, opened(address, "replica") as reader:
            await store.start(start_run())
            replica.pause()
            for attempt in (lambda: store.append([append(1, b"a")]), lambda: reader.read_log(KEY, 0, 100)):
                with pytest.raises(StoreUnavailable, match="no replica of the run store confirmed"):
                    await attempt()
            monkeypatch.undo()
            replica.resume()
            await insist(lambda: store.append([append(1, b"a")]))
            sealed = await insist(lambda: store.seal(seal(2)))

            primary.kill()
            _promote(replica)

            with pytest.raises(StoreUnavailable):
                await store.get(KEY)
            async with opened(replica.url) as other:
                assert await other.get(KEY) == sealed.record
                assert await whole_log(other) == [b"started", b"a", b"finished"]


async def test_primary_that_was_demoted_is_left_for_the_new_one():
    """It refuses to write; the store finds who does, also from an address that names only a replica."""
    with replicated_servers() as (primary, replica):
        async with opened(replica.url) as store:
            await store.start(start_run())
            wait_until(primary.is_replicated, "the replica has the start")
            _promote(replica)
            primary.execute("REPLICAOF", HOST, replica.port)

            (result,) = await insist(lambda: store.append([append(1, b"a")]))

            assert result.accepted
            assert replica.client.info("commandstats")["cmdstat_evalsha"]["calls"] >= 1


# --- Clusters --------------------------------------------------------------------------------------------------------


async def test_cluster_goes_on_when_a_primary_dies_and_when_a_slot_moves(monkeypatch):
    """Its replica takes over; of a slot that is being moved nothing is told or changed until it has moved."""
    with cluster_servers(3, 1) as servers:
        keys = [RunKey("default", f"run-{number}") for number in range(30)]
        async with opened(servers[1].url) as store:
            for key in keys:
                await store.start(start_run(key))
            for server in servers[:3]:
                wait_until(server.is_replicated, "the replica has the starts")
            servers[0].kill()

            results = await insist(lambda: store.append([append(1, b"a", key=key) for key in keys]))

            assert all(result.accepted for result in results)
            monkeypatch.setattr(valkey_client, "PAUSE_SECONDS", 0.001)
            await _move_slot_of(keys[0], servers[1:], store)
            for key in keys:
                assert (await store.seal(seal(3 if key == keys[0] else 2, key=key))).accepted
                assert (await whole_log(store, key))[-1] == b"finished"


async def _move_slot_of(key: RunKey, servers: list[ValkeyServer], store: ValkeyRunStore) -> None:
    """Moves the slot of a run to another primary, key by key, and tries at each step what would split the run."""
    slot = key_slot(BUCKET_KEYS[bucket_number(run_name(key))])
    primaries = [server for server in servers if server.info("role") == "master"]
    source = next(server for server in primaries if server.execute("CLUSTER COUNTKEYSINSLOT", slot))
    target = next(server for server in primaries if server is not source)
    names = {server: server.execute("CLUSTER MYID").decode() for server in primaries}
    target.execute("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
    source.execute("CLUSTER SETSLOT", slot, "MIGRATING", names[target])
    for each in (None, *source.execute("CLUSTER GETKEYSINSLOT", slot, 1000)):
        if each is not None:
            source.execute("MIGRATE", HOST, target.port, each, 0, 1000)
        for attempt in (lambda: store.start(start_run(key)), lambda: store.append([append(2, b"moved", key=key)])):
            with pytest.raises(StoreUnavailable, match="being moved"):
                await attempt()
    assert (await store.heartbeat(OWNER)).generation

    for server in (target, source):
        server.execute("CLUSTER SETSLOT", slot, "NODE", names[target])
    assert (await store.append([append(2, b"moved", key=key)]))[0].accepted
    assert (await whole_log(store, key)) == [b"started", b"a", b"moved"]
