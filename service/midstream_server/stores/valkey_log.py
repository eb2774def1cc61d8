"""Logs: streams of batches, each under its last sequence as its id, so that the server refuses one that goes back."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import groupby

from midstream_server.model import RunKey
from midstream_server.stores import rules
from midstream_server.stores.base import Append, AppendResult, LogPage, frame, unframe
from midstream_server.stores.valkey_client import ValkeyClient
from midstream_server.stores.valkey_rows import (
    BUCKET_KEYS,
    Argument,
    bucket_number,
    decode_intent,
    run_name,
)

MAX_CALL_RUNS = 256
MAX_CALL_BYTES = 1024 * 1024
"""One script call carries no more: others have their turn."""
RESTORED_BATCH_BYTES = 64 * 1024

_ACCEPTED = AppendResult(accepted=True)
_REFUSED = AppendResult(accepted=False)
_BEHIND = AppendResult(accepted=False, is_behind=True)
_PLAIN = {ord("1"): _ACCEPTED, ord("0"): _REFUSED, ord("b"): _BEHIND}

_Item = tuple[int, bytes, int, Append]
"""Bucket, name of the run, place in the batch, and what to append."""


class ValkeyLog:
    """Appends to the logs of runs and reads them."""

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        """See `RunStore.append`."""
        calls = [(items, self._send(items)) for items in self._calls(batch)]
        # All are in flight by now: whoever is cancelled here changes nothing.
        replies = await asyncio.gather(*[reply for _, reply in calls])
        results: list[AppendResult] = [_REFUSED] * len(batch)
        for (items, _), reply in zip(calls, replies, strict=True):
            for (_, _, place, _), result in zip(items, _decode_results(reply), strict=True):
                results[place] = result
        return results

    def _calls(self, batch: Sequence[Append]) -> Iterator[list[_Item]]:
        """The batch as calls that are not too large; on a cluster each has one bucket."""
        items: list[_Item] = []
        for place, command in enumerate(batch):
            name = run_name(command.key)
            items.append((bucket_number(name), name, place, command))
        if not self._client.topology.is_cluster:
            yield from _cut(items)
            return
        items.sort(key=lambda item: (item[0], item[2]))
        for _, group in groupby(items, key=lambda item: item[0]):
            yield from _cut(list(group))

    def _send(self, items: Sequence[_Item]) -> "asyncio.Future[bytes]":
        numbers: dict[int, int] = {}
        arguments: list[Argument] = []
        for bucket, name, _, command in items:
            number = numbers.setdefault(bucket, len(numbers) + 1)
            fields = (number, name, command.epoch, command.expected_last_sequence, command.last_sequence)
            arguments += (*fields, command.entries)
        return self._client.script("append", [BUCKET_KEYS[bucket] for bucket in numbers], *arguments)

    async def read(self, key: RunKey, after_sequence: int, max_bytes: int) -> LogPage:
        """See `RunStore.read_log`."""
        name = run_name(key)
        bucket = BUCKET_KEYS[bucket_number(name)]
        reply = await self._client.script("read_log", [bucket], name, after_sequence, max_bytes)
        last, *batches = unframe(reply)
        entries = rules.fit(_entries_after(after_sequence, batches), max_bytes)
        return LogPage(first_sequence=after_sequence + 1, entries=entries, last_sequence=int(last))


def _cut(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    call: list[_Item] = []
    size = 0
    for item in items:
        call.append(item)
        size += len(item[3].entries)
        if len(call) >= MAX_CALL_RUNS or size >= MAX_CALL_BYTES:
            yield call
            call, size = [], 0
    if call:
        yield call


def _decode_results(reply: bytes) -> list[AppendResult]:
    flags, *told = unframe(reply)
    results = [_PLAIN[flag] for flag in flags]
    for number, intent in zip(told[::2], told[1::2], strict=True):
        plain = results[int(number)]
        results[int(number)] = AppendResult(
            accepted=plain.accepted, intent=decode_intent(intent), is_behind=plain.is_behind
        )
    return results


def _entries_after(after_sequence: int, batches: Sequence[bytes]) -> Iterator[bytes]:
    """The entries of batches, without those of the first one that the reader has."""
    for last, data in zip(batches[::2], batches[1::2], strict=True):
        entries = unframe(data)
        first = int(last) - len(entries) + 1
        yield from entries[max(0, after_sequence + 1 - first) :]


def batches_of(entries: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """A whole log as batches: the last sequence and the framed entries of each."""
    batches: list[tuple[int, bytes]] = []
    pending: list[bytes] = []
    size = 0
    for sequence, entry in enumerate(entries, start=1):
        pending.append(entry)
        size += len(entry)
        if size >= RESTORED_BATCH_BYTES or sequence == len(entries):
            batches.append((sequence, frame(pending)))
            pending, size = [], 0
    return batches
