"""What is beside the runs, in slots of its own: the lists and early cancels of a tenant, and conversations.

A run is written first, with a note in its bucket that its lists do not have it yet; then the lists are written, and the
note is removed. Who finds a note that was left does the rest. A place in a list whose run is not there, or is expired,
is dropped by who meets it: nothing is listed before it exists.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence

from midstream_server.model import Instant, RunKey
from midstream_server.stores import rules
from midstream_server.stores.base import ListQuery, RecordPhase, RunRecord, unframe
from midstream_server.stores.valkey_client import ValkeyClient
from midstream_server.stores.valkey_rows import (
    BUCKET_KEYS,
    bucket_number,
    conversation_key,
    decode_answer,
    decode_record,
    early_key,
    list_entry,
    list_keys,
    list_place,
    listed_at,
    run_name,
)

KEEP_SECONDS = 60.0
MAX_KEPT_PLACES = 10_000
"""What was put into lists from here within this time, so many at most, is put there again after a failover."""
SLICE_RECORDS = 250
"""How many places of a list are looked at together."""
SETTLED_MICROSECONDS = 60_000_000
"""A member of a conversation that joined so long ago and is not live is dropped. A younger one may start yet."""
_NANOSECONDS = 1_000_000_000


class ValkeyLists:
    """Lists, early cancels and conversations."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client
        self._added: deque[tuple[float, RunKey, bytes]] = deque(maxlen=MAX_KEPT_PLACES)
        self._lost: list[tuple[RunKey, bytes]] = []

    # --- Lists -------------------------------------------------------------------------------------------------------

    async def add(self, key: RunKey, entry: bytes) -> None:
        """Puts a run into its lists, then removes the note in its bucket."""
        if self._client.topology.is_cluster:
            self._added.append((asyncio.get_running_loop().time(), key, entry))
        lists, place = listed_at(key, entry)
        await asyncio.gather(*[self._client.command(each, "ZADD", each, 0, place) for each in lists])
        name = run_name(key)
        await self._client.script("listed", [BUCKET_KEYS[bucket_number(name)]], name, entry)

    def note_loss(self) -> None:
        """On a cluster a failover may lose the places of runs, elsewhere, that it has not lost."""
        oldest = asyncio.get_running_loop().time() - KEEP_SECONDS
        self._lost += [(key, entry) for at, key, entry in self._added if at >= oldest]
        self._added.clear()

    async def add_again(self) -> None:
        """Puts into their lists what may have been lost from them."""
        while self._lost:
            part = self._lost[:SLICE_RECORDS]
            await asyncio.gather(*[self.add(key, entry) for key, entry in part])
            del self._lost[: len(part)]

    async def remove(self, record: RunRecord) -> None:
        """Takes a run out of its lists."""
        lists, place = listed_at(record.key, list_entry(record))
        await asyncio.gather(*[self._client.command(each, "ZREM", each, place) for each in lists])

    async def finish_expiry(self, key: RunKey, reply: "asyncio.Future[bytes]") -> RunRecord | None:
        """The record before an expiry, which the lists then have no more."""
        _, fields = decode_answer(await reply)
        if not fields:
            return None
        record = decode_record(key, fields)
        if record.phase is RecordPhase.SEALED:
            await self.remove(record)
            if not record.fingerprint:
                await self.forget_early(key)
        return record

    async def list_records(self, query: ListQuery) -> Sequence[RunRecord]:
        """See `RunStore.list_records`."""
        found: list[RunRecord] = []
        async for record in self._records(query):
            if rules.matches(record, query):
                found.append(record)
                if len(found) == query.limit:
                    break
        return found

    async def _records(self, query: ListQuery) -> AsyncIterator[RunRecord]:
        parent_run_id = "" if query.conversation_id else query.parent_run_id
        source = list_keys(query.tenant, query.conversation_id, parent_run_id)[-1]
        below = b"+" if query.before is None else b"(" + list_place(*query.before)
        size = min(SLICE_RECORDS, query.limit + 1)
        while True:
            limits = (source, below, b"-", b"LIMIT", 0, size)
            places: list[bytes] = await self._client.command(source, "ZREVRANGEBYLEX", *limits)
            for record in await self._read(query.tenant, source, places):
                yield record
            if len(places) < size:
                return
            below, size = b"(" + places[-1], SLICE_RECORDS

    async def _read(self, tenant: str, source: bytes, places: Sequence[bytes]) -> list[RunRecord]:
        keys = [RunKey(tenant, place.partition(b"/")[2].decode()) for place in places]
        records = await self.get_many(keys)
        found: list[RunRecord] = []
        stale: list[bytes] = []
        for place, record in zip(places, records, strict=True):
            if record is None or record.phase is RecordPhase.EXPIRED or _place_of(record) != place:
                stale.append(place)
            else:
                found.append(record)
        if stale:
            await self._client.command(source, "ZREM", source, *stale)
        return found

    async def get_many(self, keys: Iterable[RunKey]) -> list[RunRecord | None]:
        """The records of runs."""
        runs = [(key, run_name(key)) for key in keys]
        replies = [self._client.script("get", [BUCKET_KEYS[bucket_number(name)]], name) for _, name in runs]
        answers = [decode_answer(reply)[1] for reply in await asyncio.gather(*replies)]
        return [decode_record(key, fields) if fields else None for (key, _), fields in zip(runs, answers, strict=True)]

    # --- Early cancels -----------------------------------------------------------------------------------------------

    async def remember_early(self, record: RunRecord, now: Instant, limit: int) -> bool:
        """Counts an early cancel of a tenant. False: there are too many."""
        key = early_key(record.key.tenant)
        expire_time = record.expire_time or now
        seconds = (now // _NANOSECONDS, -(-expire_time // _NANOSECONDS))
        return bool(await self._client.script("remember", [key], record.key.run_id, *seconds, limit) == b"1")

    async def forget_early(self, key: RunKey) -> None:
        """An early cancel counts no more: a start has met it, or it has expired."""
        early = early_key(key.tenant)
        await self._client.command(early, "ZREM", early, key.run_id)

    # --- Conversations -----------------------------------------------------------------------------------------------

    def begin_join(self, tenant: str, conversation_id: str, run_id: str) -> "asyncio.Future[bytes]":
        """Makes a run the last member of a conversation."""
        return self._client.script("join", [conversation_key(tenant, conversation_id)], run_id)

    async def finish_join(
        self, tenant: str, conversation_id: str, run_id: str, joined: "asyncio.Future[bytes]"
    ) -> Sequence[str]:
        """The members before; takes out those that are over, the one that joined too."""
        items = unframe(await joined)
        members = [(member.decode(), int(age)) for member, age in zip(items[::2], items[1::2], strict=True)]
        suspects = [member for member, age in members if age > SETTLED_MICROSECONDS]
        own, *others = await self.get_many(RunKey(tenant, each) for each in (run_id, *suspects))
        gone = {each for each, record in zip(suspects, others, strict=True) if not _is_live(record)}
        if own is not None and not _is_live(own):
            gone.add(run_id)
        for member in gone:
            await self.leave(tenant, conversation_id, member)
        return [member for member, _ in members if member not in gone]

    async def leave(self, tenant: str, conversation_id: str, run_id: str) -> None:
        """Removes a run from a conversation, if it is in one."""
        if conversation_id:
            key = conversation_key(tenant, conversation_id)
            await self._client.command(key, "ZREM", key, run_id)


def _is_live(record: RunRecord | None) -> bool:
    return record is not None and record.phase is RecordPhase.LIVE


def _place_of(record: RunRecord) -> bytes:
    return list_place(record.create_time, record.key.run_id)
