"""A record as the fields of a hash, and back; and the names of keys.

All keys of a run are in one of 256 buckets, which is their hash tag: one script call can carry many runs of a bucket,
and a cluster spreads the buckets over its shards. What belongs to a tenant or a conversation has a slot of its own.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence

from midstream_server.model import (
    CancelIntent,
    CancelReason,
    DetachAction,
    DetachPolicy,
    Instant,
    RunKey,
    RunState,
)
from midstream_server.stores.base import RecordPhase, RunRecord, frame, unframe

BUCKETS = 256
BUCKET_KEYS = tuple(b"midstream:{%02x}" % number for number in range(BUCKETS))

Argument = bytes | str | int | float
_NANOSECONDS = 1_000_000_000


def run_name(key: RunKey) -> bytes:
    """A run's name within its bucket. An id has no slash, so the last one ends the tenant."""
    return f"{key.tenant}/{key.run_id}".encode()


def run_key(name: bytes) -> RunKey:
    """The run of a name."""
    tenant, _, run_id = name.decode().rpartition("/")
    return RunKey(tenant, run_id)


def bucket_number(name: bytes) -> int:
    """The bucket of a run, for ever."""
    return zlib.crc32(name) % BUCKETS


def tenant_key(tenant: str) -> bytes:
    """The beginning of the keys of a tenant's lists."""
    return b"midstream:{lists/%s}" % tenant.encode()


def early_key(tenant: str) -> bytes:
    """The early cancels of a tenant that no start has met."""
    return tenant_key(tenant) + b":early"


def conversation_key(tenant: str, conversation_id: str) -> bytes:
    """The members of a conversation."""
    return b"midstream:{talk/%s}" % f"{tenant}/{conversation_id}".encode()


def lease_key(replica: str) -> bytes:
    """Exists while the replica is alive."""
    return b"midstream:{lease/%s}" % replica.encode()


# --- Lists -----------------------------------------------------------------------------------------------------------


def list_place(create_time: Instant, run_id: str) -> bytes:
    """Where a run stands in a list: sorts like (create_time, run_id)."""
    return f"{create_time:020d}/{run_id}".encode()


def list_keys(tenant: str, conversation_id: str, parent_run_id: str) -> list[bytes]:
    """The lists that a run of these is in."""
    keys = [tenant_key(tenant) + b":all"]
    if conversation_id:
        keys.append(tenant_key(tenant) + b":conversation:" + conversation_id.encode())
    if parent_run_id:
        keys.append(tenant_key(tenant) + b":parent:" + parent_run_id.encode())
    return keys


def list_entry(record: RunRecord) -> bytes:
    """What the lists need of a record, kept with it until they have it."""
    return json.dumps([record.create_time, record.conversation_id, record.parent_run_id]).encode()


def listed_at(key: RunKey, entry: bytes) -> tuple[list[bytes], bytes]:
    """The lists of a run, and its place in them."""
    create_time, conversation_id, parent_run_id = json.loads(entry)
    return list_keys(key.tenant, conversation_id, parent_run_id), list_place(create_time, key.run_id)


# --- Records ---------------------------------------------------------------------------------------------------------


def encode_record(record: RunRecord) -> list[Argument]:
    """The fields of a whole record, names and values in turn."""
    fields: dict[str, Argument | None] = {
        "phase": int(record.phase),
        "state": int(record.state),
        "fingerprint": record.fingerprint,
        "epoch": record.epoch,
        "owner": record.owner,
        "last": record.last_sequence,
        "claims": 0,
        "action": int(record.on_detach.action),
        "grace": round(record.on_detach.grace_seconds * _NANOSECONDS),
        "made": json.dumps([record.create_time, record.retention_seconds, record.on_detach.grace_seconds]),
        "place": json.dumps([record.conversation_id, record.parent_run_id, dict(record.labels)]),
        "summary": record.summary,
        "settlement": record.settlement or None,
        "intent": None if record.intent is None else encode_intent(record.intent),
        "detach_time": record.detach_time,
        "detach_reason": None if record.detach_reason is None else int(record.detach_reason),
        "start_time": record.start_time,
        "end_time": record.end_time,
        "expire_time": record.expire_time,
        "forget_time": record.forget_time,
    }
    return [item for name, value in fields.items() if value is not None for item in (name, value)]


def decode_answer(reply: bytes) -> tuple[str, Mapping[bytes, bytes]]:
    """The outcome of a script and the fields of the record; without fields there is none."""
    items = unframe(reply)
    return items[0].decode(), dict(_pairs(items[1:]))


def decode_record(key: RunKey, fields: Mapping[bytes, bytes]) -> RunRecord:
    """A record from the fields of its hash."""
    create_time, retention_seconds, grace_seconds = json.loads(fields[b"made"])
    conversation_id, parent_run_id, labels = json.loads(fields.get(b"place", b'["", "", {}]'))
    reason = fields.get(b"detach_reason")
    return RunRecord(
        key=key,
        phase=RecordPhase(int(fields[b"phase"])),
        state=RunState(int(fields[b"state"])),
        fingerprint=fields[b"fingerprint"].decode(),
        epoch=int(fields[b"epoch"]),
        owner=fields[b"owner"].decode(),
        last_sequence=int(fields[b"last"]),
        intent=decode_intent(intent) if (intent := fields.get(b"intent")) else None,
        claims={
            name.removeprefix(b"claim:").decode(): value.decode()
            for name, value in fields.items()
            if name.startswith(b"claim:")
        },
        on_detach=DetachPolicy(action=DetachAction(int(fields[b"action"])), grace_seconds=grace_seconds),
        detach_time=_instant(fields, b"detach_time"),
        detach_reason=CancelReason(int(reason)) if reason else None,
        conversation_id=conversation_id,
        parent_run_id=parent_run_id,
        labels=labels,
        retention_seconds=retention_seconds,
        create_time=create_time,
        start_time=_instant(fields, b"start_time"),
        end_time=_instant(fields, b"end_time"),
        expire_time=_instant(fields, b"expire_time"),
        forget_time=_instant(fields, b"forget_time"),
        summary=fields.get(b"summary", b""),
        settlement=fields.get(b"settlement", b""),
    )


def fields_digest(reply: bytes) -> str:
    """Of the fields in an answer, in whatever order; `restore.lua` makes the same."""
    digests = sorted(_sha1(frame(pair)) for pair in _pairs(unframe(reply)[1:]))
    return _sha1("".join(digests).encode())


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _instant(fields: Mapping[bytes, bytes], name: bytes) -> Instant | None:
    value = fields.get(name)
    return None if value is None else int(value)


def _pairs(items: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(items[::2], items[1::2], strict=True)


def decode_pairs(reply: bytes) -> list[tuple[bytes, bytes]]:
    """Framed items, two by two."""
    return list(_pairs(unframe(reply)))


def encode_intent(intent: CancelIntent) -> bytes:
    """An intent as JSON."""
    return json.dumps(
        [intent.reason, intent.requested_by, intent.text, intent.request_time, intent.superseded_by_run_id]
    ).encode()


def decode_intent(data: bytes) -> CancelIntent:
    """An intent from JSON."""
    reason, requested_by, words, request_time, superseded_by_run_id = json.loads(data)
    return CancelIntent(
        reason=CancelReason(reason),
        requested_by=requested_by,
        text=words,
        request_time=request_time,
        superseded_by_run_id=superseded_by_run_id,
    )
