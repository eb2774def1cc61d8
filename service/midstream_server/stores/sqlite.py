"""The embedded default: one SQLite file, owned by one thread of one process.

`sqlite_writer` is the thread, `sqlite_tables` what it does, `sqlite_log` the logs in memory and in the file,
`sqlite_rows` a record as a row, `sqlite_list` the lists, `sqlite_schema` the file itself.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import apsw

from midstream_server.errors import InvalidSettings, MidstreamError
from midstream_server.model import CancelReason, Instant, RunKey
from midstream_server.stores import rules
from midstream_server.stores.base import (
    Append,
    AppendResult,
    Heartbeat,
    IntentResult,
    ListQuery,
    LogPage,
    LostClaim,
    RecordIntent,
    RunRecord,
    Seal,
    SealResult,
    StartResult,
    StartRun,
    StoreListener,
)
from midstream_server.stores.sqlite_list import list_slice
from midstream_server.stores.sqlite_schema import SYNCHRONOUS, explain, open_connection
from midstream_server.stores.sqlite_tables import SqliteTables
from midstream_server.stores.sqlite_writer import SqliteWriter


class SqliteRunStore:
    """Runs in a SQLite file.

    Args:
        path: of the file; its directory must exist.
        durability: `process` survives a kill of this process, `disk` also a loss of power.
    """

    exclusive = True

    def __init__(self, path: Path | str, *, durability: str) -> None:
        if durability not in SYNCHRONOUS:
            raise InvalidSettings(f'durability: must be "process" or "disk" with a SQLite store, not "{durability}"')
        self._path = Path(path)
        self._durability = durability
        self._writer = SqliteWriter(self._open_tables)

    def _open_tables(self) -> SqliteTables:
        connection = open_connection(self._path, self._durability)
        try:
            return SqliteTables(connection)
        except apsw.Error as error:
            connection.close(True)
            raise explain(self._path, error) from error
        except MidstreamError:
            connection.close(True)
            raise

    def listen(self, listener: StoreListener) -> None:
        """See `RunStore.listen`: there are no others."""

    def follow(self, key: RunKey) -> None:
        """See `RunStore.follow`."""

    def unfollow(self, key: RunKey) -> None:
        """See `RunStore.unfollow`."""

    async def open(self) -> None:
        """See `RunStore.open`."""
        await self._writer.open()

    async def close(self) -> None:
        """See `RunStore.close`."""
        await self._writer.close()

    async def start(self, command: StartRun) -> StartResult:
        """See `RunStore.start`."""
        return await self._writer.call(lambda tables: tables.start(command))

    async def set_running(self, key: RunKey, epoch: int, now: Instant) -> bool:
        """See `RunStore.set_running`."""
        return await self._change(key, partial(rules.set_running, epoch=epoch, now=now)) is not None

    async def claim(self, key: RunKey, claim_id: str, replica: str) -> RunRecord | None:
        """See `RunStore.claim`."""
        return await self._change(key, partial(rules.claim, claim_id=claim_id, replica=replica))

    async def release(self, key: RunKey, claim_id: str, reason: CancelReason, now: Instant) -> RunRecord | None:
        """See `RunStore.release`."""
        return await self._change(key, partial(rules.release, claim_id=claim_id, reason=reason, now=now))

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        """See `RunStore.append`."""
        return await self._writer.call(lambda tables: tables.append(batch))

    async def record_intent(self, command: RecordIntent) -> IntentResult:
        """See `RunStore.record_intent`."""
        return await self._writer.call(lambda tables: tables.record_intent(command))

    async def seal(self, command: Seal) -> SealResult:
        """See `RunStore.seal`."""
        return await self._writer.call(lambda tables: tables.seal(command))

    async def settle(self, key: RunKey, settlement: bytes) -> None:
        """See `RunStore.settle`."""
        await self._change(key, partial(rules.settle, settlement=settlement))

    async def take_over(self, key: RunKey, owner: str, seen_epoch: int) -> RunRecord | None:
        """See `RunStore.take_over`."""
        return await self._change(key, partial(rules.take_over, owner=owner, seen_epoch=seen_epoch))

    async def orphans(self, owner: str, limit: int) -> Sequence[RunKey]:
        """See `RunStore.orphans`: nobody else can be alive, so all that have another owner."""
        return await self._writer.call(lambda tables: tables.orphans(owner, limit))

    async def lost_claims(self, owner: str, limit: int) -> Sequence[LostClaim]:
        """See `RunStore.lost_claims`: only an earlier process could hold any, and its runs are orphans."""
        return ()

    async def restore(self, record: RunRecord, entries: Sequence[bytes]) -> bool:
        """See `RunStore.restore`: there is no other copy of the file that it could have fallen back to."""
        return False

    async def heartbeat(self, owner: str) -> Heartbeat:
        """See `RunStore.heartbeat`: there are no others."""
        return Heartbeat(intents={}, generation="")

    async def retire(self, owner: str) -> None:
        """See `RunStore.retire`."""

    async def join_conversation(self, tenant: str, conversation_id: str, run_id: str, now: Instant) -> Sequence[str]:
        """See `RunStore.join_conversation`."""
        return await self._writer.call(lambda tables: tables.join_conversation(tenant, conversation_id, run_id))

    async def leave_conversation(self, tenant: str, conversation_id: str, run_id: str) -> None:
        """See `RunStore.leave_conversation`."""
        await self._writer.call(lambda tables: tables.leave_conversation(tenant, conversation_id, run_id))

    async def delete(self, key: RunKey, now: Instant, forget_time: Instant) -> RunRecord | None:
        """See `RunStore.delete`."""
        return await self._writer.call(lambda tables: tables.delete(key, now, forget_time))

    async def expire(self, now: Instant, remember_seconds: float, limit: int) -> int:
        """See `RunStore.expire`. Between two slices others have their turn.

        The journal's copy of what expired is gone after the second call.
        """

        def forget(left: int) -> Awaitable[int]:
            return self._writer.call(lambda tables: tables.forget_slice(now, left))

        def expire(left: int) -> Awaitable[int]:
            return self._writer.call(lambda tables: tables.expire_slice(now, remember_seconds, left))

        while not await self._writer.call(SqliteTables.clear_journal):
            pass
        return await _in_slices(limit, forget) + await _in_slices(limit, expire)

    async def get(self, key: RunKey) -> RunRecord | None:
        """See `RunStore.get`."""
        return await self._writer.call(lambda tables: tables.get(key))

    async def read_log(self, key: RunKey, after_sequence: int, max_bytes: int) -> LogPage:
        """See `RunStore.read_log`."""
        return await self._writer.call(lambda tables: tables.read_log(key, after_sequence, max_bytes))

    async def read_finished(self, key: RunKey) -> bytes | None:
        """See `RunStore.read_finished`."""
        return await self._writer.call(lambda tables: tables.read_finished(key))

    async def list_records(self, query: ListQuery) -> Sequence[RunRecord]:
        """See `RunStore.list_records`. Between two slices others have their turn."""
        records: list[RunRecord] = []
        before = query.before
        while len(records) < query.limit:
            limit = query.limit - len(records)
            part = await self._writer.call(partial(list_slice, query=query, limit=limit, before=before))
            records.extend(part.records)
            before = part.end
            if before is None:
                break
        return records

    async def probe(self) -> None:
        """See `RunStore.probe`."""
        await self._writer.call(SqliteTables.probe)

    async def _change(self, key: RunKey, change: rules.Change) -> RunRecord | None:
        return await self._writer.call(lambda tables: tables.change(key, change))


async def _in_slices(limit: int, work: Callable[[int], Awaitable[int]]) -> int:
    done = 0
    while done < limit and (count := await work(limit - done)):
        done += count
    return done
