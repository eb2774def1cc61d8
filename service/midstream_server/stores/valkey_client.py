"""Sends commands and scripts to the servers that have their keys, wherever these are by now.

`valkey_topology` finds the servers, `valkey_shard` speaks with one of them. A command that a server refused without
executing it (its slot has moved, it takes no writes any more, it does not know the script) is sent again to the right
one; a command whose reply was lost is `StoreUnavailable`: nobody can tell.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence

import structlog
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from midstream_server.errors import MidstreamError, StoreCorrupt, StoreUnavailable
from midstream_server.stores.valkey_address import Node, ValkeyAddress
from midstream_server.stores.valkey_connection import Reply
from midstream_server.stores.valkey_rights import check_rights, needed_rights
from midstream_server.stores.valkey_rows import BUCKET_KEYS, Argument
from midstream_server.stores.valkey_scripts import Script, load_scripts
from midstream_server.stores.valkey_shard import Job, Level, Shard
from midstream_server.stores.valkey_topology import Features, Topology, discover, inspect

MAX_ATTEMPTS = 6
PAUSE_SECONDS = 0.05
"""Before a job that a server cannot take just now is sent again, times its attempts."""

_BUCKETS = frozenset(BUCKET_KEYS)

_log = structlog.get_logger(__name__)


class ValkeyClient:
    """The servers of one store. Everything is called on one event loop."""

    def __init__(self, address: ValkeyAddress, level: Level) -> None:
        self._address = address
        self._level = level
        self._topology: Topology | None = None
        self._scripts: dict[str, Script] = {}
        self._shards: dict[Node, Shard] = {}
        self._parked: list[Job] = []
        self._refreshing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False
        self.on_change: Callable[[], None] = lambda: None
        """Told when other servers may have the keys."""

    @property
    def address(self) -> ValkeyAddress:
        """How to log in."""
        return self._address

    @property
    def topology(self) -> Topology:
        """The servers as they were last seen."""
        if self._topology is None:
            raise StoreUnavailable("the run store is closed")
        return self._topology

    async def open(self) -> Features:
        """Finds the servers and checks them.

        Raises:
            InvalidSettings, StoreUnavailable: says what is wrong with which.
        """
        topology = await discover(self._address, ())
        found = [await inspect(self._address, node, self._level) for node in topology.primaries]
        sharded = all(features.sharded_messages for features in found)
        self._scripts = load_scripts(sharded_messages=sharded)
        rights = needed_rights(self._scripts.values(), self._level, sharded_messages=sharded)
        for node in topology.primaries:
            await check_rights(self._address, node, rights)
        self._apply(topology)
        self._is_open = True
        return found[0]

    async def close(self) -> None:
        """Finishes what was asked for, and lets go. Safe to call twice."""
        self._is_open = False
        while self._tasks:
            await asyncio.wait(self._tasks)
        for shard in tuple(self._shards.values()):
            await shard.close()

    # --- Sending -----------------------------------------------------------------------------------------------------

    def script(self, name: str, keys: Sequence[bytes], *arguments: Argument) -> "asyncio.Future[Reply]":
        """Executes a script on keys of one slot; without a cluster, on any keys."""
        self._check_open()
        script = self._scripts[name]
        job = Job(keys[0], ("EVALSHA", script.digest, len(keys), *keys, *arguments), script.text)
        self._shard_of(job.key).submit(job)
        return job.future

    def over_buckets(self, name: str, *arguments: Argument) -> "list[asyncio.Future[Reply]]":
        """Executes a script on all buckets: at once, or on a cluster each by itself."""
        if not self.topology.is_cluster:
            return [self.script(name, BUCKET_KEYS, *arguments)]
        return [self.script(name, [key], *arguments) for key in BUCKET_KEYS]

    def command(self, key: bytes, *command: Argument) -> "asyncio.Future[Reply]":
        """Executes a command on a key."""
        self._check_open()
        job = Job(key, command)
        self._shard_of(key).submit(job)
        return job.future

    def on_each_shard(self, *command: Argument) -> "list[asyncio.Future[Reply]]":
        """Executes a command on every primary, in the order of their slots."""
        self._check_open()
        jobs = []
        for node in self.topology.primaries:
            job = Job(self.key_on(node), command)
            self._shards[node].submit(job)
            jobs.append(job.future)
        return jobs

    def key_on(self, node: Node) -> bytes:
        """The beginning of keys that this primary has."""
        for key in BUCKET_KEYS:
            if self.node_of(key) == node:
                return key
        raise StoreUnavailable("a server of the run store has no slots")

    def node_of(self, key: bytes) -> Node:
        """The primary that has a key."""
        topology = self.topology
        return topology.primaries[topology.owners[key_slot(key)] if topology.is_cluster else 0]

    def _shard_of(self, key: bytes) -> Shard:
        return self._shards[self.node_of(key)]

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the run store is closed")

    # --- When a server is another one by now --------------------------------------------------------------------------

    def _apply(self, topology: Topology) -> None:
        texts = [script.text for script in self._scripts.values()]
        before, self._shards = self._shards, {}
        for node in topology.primaries:
            self._shards[node] = before.pop(node) if node in before else self._new_shard(node, texts)
        self._topology = topology
        for shard in before.values():
            # Nothing waits for it: what it still has in flight ends with its connection.
            self._spawn(shard.close(), "valkey-shard-close")

    def _new_shard(self, node: Node, texts: Sequence[str]) -> Shard:
        return Shard(self._address, node, self._level, texts, self._recover, self._refresh)

    def _recover(self, job: Job, error: ResponseError) -> None:
        job.attempts += 1
        if job.attempts >= MAX_ATTEMPTS:
            job.fail(translate(error))
        elif isinstance(error, NoScriptError):
            job.tell_script()
            self._shard_of(job.key).submit(job)
        elif isinstance(error, AskError) and not isinstance(error, MovedError) and job.key not in _BUCKETS:
            self._ask(job, (error.host, error.port))
        elif isinstance(error, AskError | ReadOnlyError | ClusterDownError | TryAgainError):
            # Also a bucket whose slot is moved key by key (ASK): a script would see some of a run's keys and not the
            # others, on either server. It waits for the end of the move.
            self._parked.append(job)
            self._refresh()
        else:
            job.fail(translate(error))

    def _ask(self, job: Job, node: Node) -> None:
        if node not in self._shards:
            self._shards[node] = self._new_shard(node, [script.text for script in self._scripts.values()])
        job.asking = True
        self._shards[node].submit(job)

    def _refresh(self) -> None:
        if self._refreshing is None and self._is_open:
            self._refreshing = self._spawn(self._find_servers(), "valkey-topology")

    async def _find_servers(self) -> None:
        attempts = max((job.attempts for job in self._parked), default=1)
        error: MidstreamError | None = None
        try:
            await asyncio.sleep(PAUSE_SECONDS * (attempts - 1))
            before = self.topology
            topology = await discover(self._address, before.known)
            if (topology.primaries, topology.owners) != (before.primaries, before.owners):
                _log.info("store.servers_changed", primaries=[f"{host}:{port}" for host, port in topology.primaries])
                self._apply(topology)
                self.on_change()
        except (MidstreamError, ResponseError) as problem:
            error = problem if isinstance(problem, MidstreamError) else translate(problem)
        finally:
            self._refreshing = None
            parked, self._parked = self._parked, []
            for job in parked:
                if error is not None:
                    job.fail(error)
                else:
                    self._shard_of(job.key).submit(job)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def translate(error: ResponseError) -> MidstreamError:
    """What a server's error means to a caller."""
    if isinstance(error, OutOfMemoryError):
        translated: MidstreamError = StoreUnavailable("the memory of the run store is full")
    elif isinstance(error, AskError):
        translated = StoreUnavailable("a part of the run store is being moved to another server")
    elif str(error).startswith(("WRONGTYPE", "user_script:")):
        translated = StoreCorrupt("the run store holds what this program did not write")
    else:
        translated = StoreUnavailable(f"the run store refuses: {str(error)[:200]}")
    translated.__cause__ = error
    return translated
