"""The store that replicas share: a Valkey or Redis server, replicated servers, or a cluster.

Every conditional write is one script on the keys of one run. `valkey_client` sends, `valkey_rows` has the data model,
`valkey_log` the logs, `valkey_lists` the lists and conversations, `valkey_sweep` what replicas do for each other,
`valkey_hints` the messages between them. What the scripts decide is written down, and tried, as `rules`.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from midstream_server.errors import StoreUnavailable
from midstream_server.model import CancelIntent, CancelReason, Instant, RunKey, RunState
from midstream_server.stores import rules
from midstream_server.stores.base import (
    Append,
    AppendResult,
    Heartbeat,
    IntentOutcome,
    IntentResult,
    ListQuery,
    LogPage,
    LostClaim,
    RecordIntent,
    RecordPhase,
    RunRecord,
    Seal,
    SealResult,
    StartOutcome,
    StartResult,
    StartRun,
    StoreListener,
    unframe,
)
from midstream_server.stores.valkey_address import parse_address
from midstream_server.stores.valkey_client import ValkeyClient
from midstream_server.stores.valkey_hints import ValkeyHints
from midstream_server.stores.valkey_lists import ValkeyLists
from midstream_server.stores.valkey_log import ValkeyLog, batches_of
from midstream_server.stores.valkey_rows import (
    BUCKET_KEYS,
    Argument,
    bucket_number,
    decode_answer,
    decode_record,
    encode_intent,
    encode_record,
    fields_digest,
    list_entry,
    run_name,
)
from midstream_server.stores.valkey_shard import Level
from midstream_server.stores.valkey_sweep import ValkeySweep

ResultT = TypeVar("ResultT")

_START_OUTCOMES = {
    "created": StartOutcome.CREATED,
    "attached": StartOutcome.ATTACHED,
    "met": StartOutcome.ENDED,
    "ended": StartOutcome.ENDED,
    "conflict": StartOutcome.CONFLICT,
    "expired": StartOutcome.EXPIRED,
}
RESTORE_ATTEMPTS = 20

_log = structlog.get_logger(__name__)


class ValkeyRunStore:
    """Runs on a Valkey that several replicas share.

    Args:
        url: `valkey://` or `valkeys://`, see `valkey_address`.
        durability: `process` (the primary has it), `disk` (on its disk too) or `replica` (another server has it too).
        lease_seconds: how long a replica counts as alive after a heartbeat.
    """

    exclusive = False

    def __init__(self, url: str, *, durability: str, lease_seconds: float) -> None:
        self._client = ValkeyClient(parse_address(url), Level(durability))
        self._log = ValkeyLog(self._client)
        self._lists = ValkeyLists(self._client)
        self._sweep = ValkeySweep(self._client, self._lists, lease_seconds)
        self._hints = ValkeyHints(self._client)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_open = False

    # --- Life --------------------------------------------------------------------------------------------------------

    def listen(self, listener: StoreListener) -> None:
        """See `RunStore.listen`."""
        self._hints.listen(listener)

    def follow(self, key: RunKey) -> None:
        """See `RunStore.follow`."""
        self._hints.follow(key)

    def unfollow(self, key: RunKey) -> None:
        """See `RunStore.unfollow`."""
        self._hints.unfollow(key)

    async def open(self) -> None:
        """See `RunStore.open`."""
        features = await self._client.open()
        self._hints.open(sharded_messages=features.sharded_messages)
        self._is_open = True
        _log.info(
            "store.opened",
            server=features.version,
            primaries=len(self._client.topology.primaries),
            cluster=self._client.topology.is_cluster,
            missing=features.missing,
        )

    async def close(self) -> None:
        """See `RunStore.close`."""
        self._is_open = False
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._hints.close()
        await self._client.close()

    # --- Starts and claims -------------------------------------------------------------------------------------------

    async def start(self, command: StartRun) -> StartResult:
        """See `RunStore.start`."""
        created = rules.start(None, command).record
        self._hints.serve(command.owner)
        reply = self._run_script(
            "start",
            command.key,
            command.fingerprint,
            command.owner,
            command.claim_id,
            _framed(command.entry),
            list_entry(created),
            *encode_record(created),
        )
        return await self._finish(self._started(command.key, reply))

    async def _started(self, key: RunKey, reply: "asyncio.Future[bytes]") -> StartResult:
        outcome, fields = decode_answer(await reply)
        record = decode_record(key, fields)
        if outcome == "created":
            await self._lists.add(key, list_entry(record))
        elif outcome == "met":
            await self._lists.forget_early(key)
        return StartResult(outcome=_START_OUTCOMES[outcome], record=record)

    async def set_running(self, key: RunKey, epoch: int, now: Instant) -> bool:
        """See `RunStore.set_running`."""
        states = int(RunState.QUEUED), int(RunState.RUNNING)
        return await self._run_script("set_running", key, epoch, *states, now) == b"1"

    async def claim(self, key: RunKey, claim_id: str, replica: str) -> RunRecord | None:
        """See `RunStore.claim`."""
        return _known(key, await self._run_script("claim", key, claim_id, replica))

    async def release(self, key: RunKey, claim_id: str, reason: CancelReason, now: Instant) -> RunRecord | None:
        """See `RunStore.release`."""
        intent = CancelIntent(reason=reason, requested_by="client", request_time=now)
        reply = self._run_script("release", key, claim_id, int(reason), now, encode_intent(intent))
        return _known(key, await reply)

    # --- The log and the end -----------------------------------------------------------------------------------------

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        """See `RunStore.append`."""
        self._check_open()
        return await self._log.append(batch)

    async def seal(self, command: Seal) -> SealResult:
        """See `RunStore.seal`."""
        reply = self._run_script(
            "seal",
            command.key,
            command.epoch,
            command.expected_last_sequence,
            command.last_sequence,
            command.entries,
            b"" if command.intent is None else encode_intent(command.intent),
            "" if command.start_time is None else command.start_time,
            command.expire_time,
            int(command.from_log),
            *("state", int(command.state), "end_time", command.end_time, "summary", command.summary),
        )
        return await self._finish(self._sealed(command.key, reply))

    async def _sealed(self, key: RunKey, reply: "asyncio.Future[bytes]") -> SealResult:
        outcome, fields = decode_answer(await reply)
        if not fields:
            return SealResult(accepted=False, record=None, is_behind=True)
        record = decode_record(key, fields)
        if outcome == "accepted":
            await self._lists.leave(key.tenant, record.conversation_id, key.run_id)
        return SealResult(accepted=outcome == "accepted", record=record, is_behind=outcome == "behind")

    async def settle(self, key: RunKey, settlement: bytes) -> None:
        """See `RunStore.settle`."""
        await self._run_script("settle", key, settlement)

    async def record_intent(self, command: RecordIntent) -> IntentResult:
        """See `RunStore.record_intent`."""
        since = "" if command.unclaimed_since is None else command.unclaimed_since
        arguments: list[Argument] = [encode_intent(command.intent), since]
        if command.early is not None and command.unclaimed_since is None:
            entries = command.early.entries
            record = rules.record_intent(None, command, lambda: 0, len(unframe(entries))).record
            if record is not None and record.expire_time is not None:
                place = (entries, record.expire_time, list_entry(record))
                arguments += [*place, *encode_record(record)]
        reply = self._run_script("intent", command.key, *arguments)
        return await self._finish(self._intended(command, reply))

    async def _intended(self, command: RecordIntent, reply: "asyncio.Future[bytes]") -> IntentResult:
        outcome, fields = decode_answer(await reply)
        if not fields:
            return IntentResult(outcome=IntentOutcome.UNKNOWN, record=None)
        record = decode_record(command.key, fields)
        if outcome == "remembered" and command.early is not None and not await self._remember(command, record):
            return IntentResult(outcome=IntentOutcome.FULL, record=None)
        return IntentResult(outcome=IntentOutcome(outcome), record=record)

    async def _remember(self, command: RecordIntent, record: RunRecord) -> bool:
        """Counts an early cancel. False: there are too many, and it is taken back."""
        assert command.early is not None
        if await self._lists.remember_early(record, command.intent.request_time, command.early.max_remembered):
            await self._lists.add(command.key, list_entry(record))
            return True
        return bool(await self._client_script("forget_early", command.key) != b"1")

    # --- Replicas ----------------------------------------------------------------------------------------------------

    async def take_over(self, key: RunKey, owner: str, seen_epoch: int) -> RunRecord | None:
        """See `RunStore.take_over`."""
        return _known(key, await self._run_script("take_over", key, owner, seen_epoch, seen_epoch + 1))

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        """See `RunStore.orphans`. Of many, each call finds others."""
        return await self._sweep.orphans(owner, limit)

    async def lost_claims(self, owner: str, limit: int) -> Sequence[LostClaim]:
        """See `RunStore.lost_claims`. Of many, each call finds others."""
        return await self._sweep.lost_claims(owner, limit)

    async def heartbeat(self, owner: str) -> Heartbeat:
        """See `RunStore.heartbeat`."""
        self._hints.serve(owner)
        return await self._sweep.heartbeat(owner)

    async def retire(self, owner: str) -> None:
        """See `RunStore.retire`."""
        await self._sweep.retire(owner)

    async def restore(self, record: RunRecord, entries: Sequence[bytes]) -> bool:
        """See `RunStore.restore`."""
        self._check_open()
        return await self._finish(self._restore(record, entries))

    async def _restore(self, record: RunRecord, entries: Sequence[bytes]) -> bool:
        for _ in range(RESTORE_ATTEMPTS):
            found = self._client_script("get_whole", record.key)
            reply, page = await asyncio.gather(found, self._log.read(record.key, 0, 1 << 40))
            known, log = _known(record.key, reply), page.entries
            restored = rules.restore(known, list(log) == list(entries[: len(log)]), record)
            if restored is None or restored is known:
                return restored is not None
            digest = fields_digest(reply) if known else ""
            if await self._put_back(restored, entries, digest):
                if known is not None and not known.fingerprint:
                    await self._lists.forget_early(record.key)
                return True
        raise StoreUnavailable("others change the run at the same time")

    async def _put_back(self, record: RunRecord, entries: Sequence[bytes], digest: str) -> bool:
        claims = [item for claim in record.claims.items() for item in claim]
        batches = batches_of(entries)
        arguments: list[Argument] = [
            digest,
            list_entry(record),
            record.owner,
            "" if record.expire_time is None else record.expire_time,
            len(record.claims),
            *claims,
            len(batches),
            *(item for batch in batches for item in batch),
        ]
        if await self._client_script("restore", record.key, *arguments, *encode_record(record)) != b"restored":
            return False
        await self._lists.add(record.key, list_entry(record))
        if record.phase is not RecordPhase.LIVE:
            await self._lists.leave(record.key.tenant, record.conversation_id, record.key.run_id)
        return True

    # --- Conversations -----------------------------------------------------------------------------------------------

    async def join_conversation(self, tenant: str, conversation_id: str, run_id: str, now: Instant) -> Sequence[str]:
        """See `RunStore.join_conversation`."""
        joined = self._lists.begin_join(tenant, conversation_id, run_id)
        return await self._finish(self._lists.finish_join(tenant, conversation_id, run_id, joined))

    async def leave_conversation(self, tenant: str, conversation_id: str, run_id: str) -> None:
        """See `RunStore.leave_conversation`."""
        await self._lists.leave(tenant, conversation_id, run_id)

    # --- After the end -----------------------------------------------------------------------------------------------

    async def delete(self, key: RunKey, now: Instant, forget_time: Instant) -> RunRecord | None:
        """See `RunStore.delete`."""
        reply = self._run_script("expire", key, now, forget_time)
        return await self._finish(self._lists.finish_expiry(key, reply))

    async def expire(self, now: Instant, remember_seconds: float, limit: int) -> int:
        """See `RunStore.expire`."""
        self._check_open()
        return await self._finish(self._sweep.expire(now, remember_seconds, limit))

    # --- Reading -----------------------------------------------------------------------------------------------------

    async def get(self, key: RunKey) -> RunRecord | None:
        """See `RunStore.get`."""
        return _known(key, await self._run_script("get", key))

    async def read_log(self, key: RunKey, after_sequence: int, max_bytes: int) -> LogPage:
        """See `RunStore.read_log`."""
        return await self._log.read(key, after_sequence, max_bytes)

    async def read_finished(self, key: RunKey) -> bytes | None:
        """See `RunStore.read_finished`."""
        entries = unframe(await self._run_script("read_finished", key))
        return entries[-1] if entries else None

    async def list_records(self, query: ListQuery) -> Sequence[RunRecord]:
        """See `RunStore.list_records`."""
        return await self._lists.list_records(query)

    async def probe(self) -> None:
        """See `RunStore.probe`."""
        self._check_open()
        topology = self._client.topology
        keys = [self._client.key_on(node) + b":probe" for node in topology.primaries]
        written = [self._client.command(key, "SET", key, b"1", "PX", 60_000) for key in keys]
        await asyncio.gather(*written, *[self._client.command(key, "GET", key) for key in keys])

    # --- Helpers -----------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the run store is closed")

    def _run_script(self, name: str, key: RunKey, *arguments: Argument) -> "asyncio.Future[bytes]":
        """Sends a script about a run at once, so that calls take effect in their order."""
        self._check_open()
        return self._client_script(name, key, *arguments)

    def _client_script(self, name: str, key: RunKey, *arguments: Argument) -> "asyncio.Future[bytes]":
        run = run_name(key)
        return self._client.script(name, [BUCKET_KEYS[bucket_number(run)]], run, *arguments)

    async def _finish(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Does what takes several steps; a cancel of the caller leaves none of them out."""
        task = asyncio.get_running_loop().create_task(work, name="valkey-operation")
        self._tasks.add(task)
        task.add_done_callback(self._settled)
        return await asyncio.shield(task)

    def _settled(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have left: then nobody else takes it


def _known(key: RunKey, reply: bytes) -> RunRecord | None:
    _, fields = decode_answer(reply)
    return decode_record(key, fields) if fields else None


def _framed(entry: bytes) -> bytes:
    return len(entry).to_bytes(4, "big") + entry
