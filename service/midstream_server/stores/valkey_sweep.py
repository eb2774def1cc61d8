"""What replicas do for each other: leases, runs and claims of the dead, expiry, lists that were left unfinished.

What a replica owns, claims and has to stop is kept in each bucket, by the same scripts that change the runs. So these
indexes are never wrong; a sweep reads all buckets.
"""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from midstream_server.model import Instant, RunKey
from midstream_server.stores import rules
from midstream_server.stores.base import Heartbeat, LostClaim, unframe
from midstream_server.stores.valkey_client import ValkeyClient
from midstream_server.stores.valkey_lists import ValkeyLists
from midstream_server.stores.valkey_rows import (
    BUCKET_KEYS,
    BUCKETS,
    bucket_number,
    decode_intent,
    decode_pairs,
    lease_key,
    run_key,
)
from midstream_server.stores.valkey_topology import KEEPS_ALL, parse_info

DUE_OF_A_BUCKET = 8
"""How many due runs of each bucket are looked at together."""
UNLISTED_SECONDS = 60.0
"""How often unfinished lists are looked for."""
UNLISTED_OF_A_BUCKET = 16
TOLD_BUCKETS = 8
"""Of how many buckets a heartbeat tells what the owner has in them."""
TOLD_OF_A_BUCKET = 500

_log = structlog.get_logger(__name__)


class ValkeySweep:
    """Reads all buckets, on behalf of everybody."""

    def __init__(self, client: ValkeyClient, lists: ValkeyLists, lease_seconds: float) -> None:
        self._client = client
        self._lists = lists
        self._lease_milliseconds = round(lease_seconds * 1000)
        self._look_for_unlisted_at = 0.0
        self._next_told = 0
        self._generation = ""
        self._policy = KEEPS_ALL

    # --- Leases ------------------------------------------------------------------------------------------------------

    async def heartbeat(self, owner: str) -> Heartbeat:
        """See `RunStore.heartbeat`."""
        key = lease_key(owner)
        renewed = self._client.command(key, "SET", key, b"1", "PX", self._lease_milliseconds)
        facts = self._client.on_each_shard("INFO")
        intents = self._client.over_buckets("intents_of", owner)
        # A bucket whose slot is being moved can be asked nothing, nor asked to stop anything: the lease is renewed.
        told = [
            self._gather(intents),
            self._gather(self._some("owned", owner)),
            self._gather(self._some("claims", owner)),
        ]
        self._next_told = (self._next_told + TOLD_BUCKETS) % BUCKETS
        _, texts, (replies, owned, claims) = await asyncio.gather(
            renewed, asyncio.gather(*facts), asyncio.gather(*told)
        )
        pairs = [pair for reply in replies for pair in decode_pairs(reply)]
        self._note(list(map(parse_info, texts)))
        return Heartbeat(
            intents={run_key(name): decode_intent(intent) for name, intent in pairs},
            generation=self._generation,
            owned=[run_key(name) for reply in owned for name in unframe(reply)],
            claims=[_claim(item) for reply in claims for item in unframe(reply)],
        )

    def _note(self, servers: Sequence[Mapping[str, str]]) -> None:
        """Who the primaries are by now, and whether they keep what they are given."""
        generation = ",".join(map(_generation, servers))
        if self._generation not in ("", generation):
            self._lists.note_loss()
        self._generation = generation
        policy = next((each for info in servers if (each := info.get("maxmemory_policy", KEEPS_ALL)) != KEEPS_ALL), "")
        if policy and policy != self._policy:
            _log.error("store.may_drop_runs", maxmemory_policy=policy, wanted=KEEPS_ALL)
        self._policy = policy

    async def _gather(self, asked: "Sequence[asyncio.Future[bytes]]") -> list[bytes]:
        replies = await asyncio.gather(*asked, return_exceptions=self._client.topology.is_cluster)
        return [reply for reply in replies if isinstance(reply, bytes)]

    def _some(self, what: str, owner: str) -> "list[asyncio.Future[bytes]]":
        keys = BUCKET_KEYS[self._next_told : self._next_told + TOLD_BUCKETS]
        calls = [[key] for key in keys] if self._client.topology.is_cluster else [keys]
        arguments = (what, TOLD_OF_A_BUCKET * len(keys), TOLD_OF_A_BUCKET, owner)
        return [self._client.script("of_replicas", call, *arguments) for call in calls]

    async def retire(self, owner: str) -> None:
        """See `RunStore.retire`."""
        key = lease_key(owner)
        await self._client.command(key, "DEL", key)

    async def _dead(self, owner: str) -> list[str]:
        """Replicas that have something, are not this one, and have no lease."""
        replies = await asyncio.gather(*self._client.over_buckets("replicas"))
        names = {name.decode() for reply in replies for name in unframe(reply)} - {owner}
        keys = [(name, lease_key(name)) for name in sorted(names)]
        alive = await asyncio.gather(*[self._client.command(key, "EXISTS", key) for _, key in keys])
        return [name for (name, _), lease in zip(keys, alive, strict=True) if not lease]

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        """See `RunStore.orphans`."""
        return [run_key(name) for name in await self._of_the_dead("owned", owner, limit)]

    async def lost_claims(self, owner: str, limit: int) -> Sequence[LostClaim]:
        """See `RunStore.lost_claims`."""
        return [_claim(item) for item in await self._of_the_dead("claims", owner, limit)]

    async def _of_the_dead(self, what: str, owner: str, limit: int) -> list[bytes]:
        dead = await self._dead(owner)
        if not dead:
            return []
        replies = await asyncio.gather(*self._client.over_buckets("of_replicas", what, limit, limit, *dead))
        return [item for reply in replies for item in unframe(reply)][:limit]

    # --- Expiry ------------------------------------------------------------------------------------------------------

    async def expire(self, now: Instant, remember_seconds: float, limit: int) -> int:
        """See `RunStore.expire`. Also finishes lists, now and then."""
        await self._lists.add_again()
        await self._finish_lists()
        forgotten = await self._due("forget", now, limit)
        scripts = [self._script("forget", name, forget_time) for forget_time, name in forgotten]
        await asyncio.gather(*scripts)
        expired = await self._due("expiry", now, limit)
        await asyncio.gather(*[self._expire(name, due, remember_seconds) for due, name in expired])
        return len(forgotten) + len(expired)

    async def _expire(self, name: bytes, expire_time: Instant, remember_seconds: float) -> None:
        forget_time = rules.after_seconds(expire_time, remember_seconds)
        await self._lists.finish_expiry(run_key(name), self._script("expire", name, expire_time, forget_time))

    async def _due(self, what: str, now: Instant, limit: int) -> list[tuple[Instant, bytes]]:
        """The first that are due. Of a bucket with more than was asked for, nothing after what it told counts."""
        replies = await asyncio.gather(*self._client.over_buckets("due", what, now, DUE_OF_A_BUCKET))
        places = sorted(place.partition(b"/")[::2] for reply in replies for place in unframe(reply))
        due = [(int(instant), name) for instant, name in places]
        counts = [0] * BUCKETS
        for index, (_, name) in enumerate(due):
            counts[bucket_number(name)] += 1
            if counts[bucket_number(name)] == DUE_OF_A_BUCKET:
                return due[: min(limit, index + 1)]
        return due[:limit]

    # --- Lists -------------------------------------------------------------------------------------------------------

    async def _finish_lists(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._look_for_unlisted_at:
            return
        self._look_for_unlisted_at = now + UNLISTED_SECONDS
        replies = await asyncio.gather(*self._client.over_buckets("unlisted", UNLISTED_OF_A_BUCKET))
        pairs = [pair for reply in replies for pair in decode_pairs(reply)]
        await asyncio.gather(*[self._lists.add(run_key(name), entry) for name, entry in pairs])

    def _script(self, script: str, name: bytes, *arguments: int) -> "asyncio.Future[bytes]":
        return self._client.script(script, [BUCKET_KEYS[bucket_number(name)]], name, *arguments)


def _claim(item: bytes) -> LostClaim:
    name, _, claim_id = item.rpartition(b"\n")
    return LostClaim(key=run_key(name), claim_id=claim_id.decode())


def _generation(info: Mapping[str, str]) -> str:
    """Changes when a server starts again, and when another one takes its place; not if it hides who it is."""
    return f"{info.get('run_id', '')[:12]}-{info.get('master_replid', '')[:12]}"
