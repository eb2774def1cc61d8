"""Messages between replicas, over one connection to each server, however many runs are followed.

A run's followers have a channel, and so has each owner in each bucket, in the slot of the runs: the scripts that change
a run tell both. A message may be lost: a connection that was lost is made again, and then every followed run of that
server counts as moved.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog
from redis.exceptions import RedisError

from midstream_server.errors import StoreUnavailable
from midstream_server.model import RunKey
from midstream_server.stores.base import StoreListener, unframe
from midstream_server.stores.valkey_address import Node
from midstream_server.stores.valkey_client import ValkeyClient
from midstream_server.stores.valkey_connection import Reply, ValkeyConnection
from midstream_server.stores.valkey_rows import BUCKET_KEYS, bucket_number, decode_intent, run_key, run_name

PING_SECONDS = 5.0
"""A server that has nothing to say is asked so often; one that does not answer the next time is lost."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
CHANNELS_AT_ONCE = 256

_MOVED = b":moved:"
_STOP = b":stop:"

_log = structlog.get_logger(__name__)


class ValkeyHints:
    """What this process listens to, and whom it tells."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client
        self._listener: StoreListener | None = None
        self._is_open = False
        self._is_sharded = True
        self._owners: set[str] = set()
        self._followed: set[RunKey] = set()
        self._feeds: dict[Node, _Feed] = {}
        self._retired: set[asyncio.Task[None]] = set()

    def listen(self, listener: StoreListener) -> None:
        """Tells this one from now on."""
        self._listener = listener
        if self._is_open:
            self._reconnect()

    def open(self, *, sharded_messages: bool) -> None:
        """Begins to listen, if there is a listener."""
        self._is_open = True
        self._is_sharded = sharded_messages
        self._client.on_change = self._reconnect
        self._reconnect()

    async def close(self) -> None:
        """Listens no longer. Safe to call twice."""
        self._is_open = False
        for feed in self._feeds.values():
            feed.stop(self._retired)
        self._feeds.clear()
        if self._retired:
            await asyncio.wait(self._retired)

    def serve(self, owner: str) -> None:
        """Hears what is asked of this owner from now on."""
        if owner not in self._owners:
            self._owners.add(owner)
            self._subscribe([bucket + _STOP + owner.encode() for bucket in BUCKET_KEYS])

    def follow(self, key: RunKey) -> None:
        """Hears of this run from now on."""
        if key not in self._followed:
            self._followed.add(key)
            self._subscribe([_moved_channel(key)])

    def unfollow(self, key: RunKey) -> None:
        """Hears of it no longer."""
        if key not in self._followed:
            return
        self._followed.discard(key)
        for feed in self._feeds.values():
            feed.remove(_moved_channel(key))

    def _subscribe(self, channels: Iterable[bytes]) -> None:
        if not self._is_open or self._listener is None:
            return
        for channel in channels:
            self._feed_of(channel).add(channel)

    def _feed_of(self, channel: bytes) -> "_Feed":
        node = self._client.node_of(channel)
        if node not in self._feeds:
            self._feeds[node] = _Feed(self, self._client, node, is_sharded=self._is_sharded)
        return self._feeds[node]

    def _reconnect(self) -> None:
        """Listens to the servers that have the keys now."""
        for node in set(self._feeds) - set(self._client.topology.primaries):
            self._feeds.pop(node).stop(self._retired)
        for feed in self._feeds.values():
            feed.keep(lambda channel, feed=feed: self._client.node_of(channel) == feed.node)  # type: ignore[misc]
        for owner in self._owners:
            self._subscribe([bucket + _STOP + owner.encode() for bucket in BUCKET_KEYS])
        self._subscribe([_moved_channel(key) for key in self._followed])

    # --- What a feed tells -------------------------------------------------------------------------------------------

    def subscribed(self, channel: bytes) -> None:
        """A channel is heard from now on: what happened before may have been missed."""
        bucket, found, name = channel.partition(_MOVED)
        if not found or not self._is_open:
            return
        try:
            marked = self._client.script("watch", [bucket], name)
        except StoreUnavailable:
            return
        marked.add_done_callback(lambda future: self._watched(run_key(name), future))

    def _watched(self, key: RunKey, future: "asyncio.Future[Reply]") -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.debug("store.watch_failed", run_id=key.run_id, error=str(error))
        self._tell_moved(key)

    def heard(self, channel: bytes, payload: bytes) -> None:
        """A message came. One that nobody understands, of another program's or another version's, is dropped."""
        try:
            self._hear(channel, payload)
        except Exception as error:
            _log.warning("store.hint_not_understood", channel=channel.decode(errors="replace"), error=repr(error)[:200])

    def _hear(self, channel: bytes, payload: bytes) -> None:
        if _MOVED in channel:
            self._tell_moved(run_key(payload))
        elif self._listener is not None:
            name, intent = unframe(payload)
            self._listener.stop_asked(run_key(name), decode_intent(intent))

    def _tell_moved(self, key: RunKey) -> None:
        if self._listener is not None and key in self._followed:
            self._listener.run_moved(key)


class _Feed:
    """The channels of one server, and the task that owns the connection for them."""

    def __init__(self, hints: ValkeyHints, client: ValkeyClient, node: Node, *, is_sharded: bool) -> None:
        self.node = node
        self._hints = hints
        self._client = client
        self._prefix = "S" if is_sharded else ""
        self._channels: set[bytes] = set()
        self._changes: dict[bytes, bool] = {}
        """Channels to subscribe (True) and to leave, in order."""
        self._is_heard = False
        """Whether the connection has told anything."""
        self._changed = asyncio.Event()
        name = f"valkey-hints-{node[0]}:{node[1]}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    def add(self, channel: bytes) -> None:
        """Hears a channel from now on."""
        if channel not in self._channels:
            self._channels.add(channel)
            self._change(channel, True)

    def remove(self, channel: bytes) -> None:
        """Hears it no longer."""
        if channel in self._channels:
            self._channels.discard(channel)
            self._change(channel, False)

    def keep(self, is_wanted: Callable[[bytes], bool]) -> None:
        """Removes the channels that another server has now."""
        for channel in [each for each in self._channels if not is_wanted(each)]:
            self.remove(channel)

    def stop(self, tasks: "set[asyncio.Task[None]]") -> None:
        """Ends; its task is among these until it has."""
        self._task.cancel()
        tasks.add(self._task)
        self._task.add_done_callback(tasks.discard)

    def _change(self, channel: bytes, subscribe: bool) -> None:
        self._changes.pop(channel, None)
        self._changes[channel] = subscribe
        self._changed.set()

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            connection = ValkeyConnection(self._client.address, self.node)
            try:
                await connection.open()
                self._is_heard = False
                self._changes = dict.fromkeys(self._channels, True)
                self._changed.set()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._receive(connection), name="valkey-hints-receive")
                    group.create_task(self._send(connection), name="valkey-hints-send")
            except* (OSError, RedisError) as group_error:
                _log.debug(
                    "store.hints_lost", node=f"{self.node[0]}:{self.node[1]}", error=repr(group_error.exceptions)
                )
            finally:
                await connection.close()
            # A server that takes the connection and refuses the channels is not asked ever faster.
            pause = FIRST_PAUSE_SECONDS if self._is_heard else min(2 * pause, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _send(self, connection: ValkeyConnection) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            changes, self._changes = self._changes, {}
            for subscribe in (False, True):
                verb = f"{self._prefix}{'' if subscribe else 'UN'}SUBSCRIBE"
                channels = [channel for channel, wanted in changes.items() if wanted is subscribe]
                await connection.send([(verb, *some) for some in self._together(channels)])

    def _together(self, channels: list[bytes]) -> list[list[bytes]]:
        """Channels that one command may name: on a cluster those of one slot."""
        size = 1 if self._client.topology.is_cluster else CHANNELS_AT_ONCE
        return [channels[at : at + size] for at in range(0, len(channels), size)]

    async def _receive(self, connection: ValkeyConnection) -> None:
        is_silent = False
        while True:
            message = await connection.receive(PING_SECONDS)
            if message is not None:
                is_silent = False
                self._handle(message)
            elif is_silent:
                raise ConnectionResetError("no answer")
            else:
                is_silent = True
                await connection.send([("PING",)])

    def _handle(self, message: Reply) -> None:
        kind = message[0].lower() if isinstance(message, list) else b""
        if kind.endswith(b"unsubscribe"):
            if message[1] in self._channels:
                # The server has given the slot away.
                raise ConnectionResetError("the channel has moved")
        elif kind.endswith(b"subscribe"):
            self._is_heard = True
            self._hints.subscribed(message[1])
        elif kind.endswith(b"message"):
            self._hints.heard(message[1], message[2])


def _moved_channel(key: RunKey) -> bytes:
    name = run_name(key)
    return BUCKET_KEYS[bucket_number(name)] + _MOVED + name
