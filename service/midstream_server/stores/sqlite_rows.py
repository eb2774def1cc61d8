"""A record as a row of the table `run`, and back."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from midstream_server.model import CancelIntent, CancelReason, DetachAction, DetachPolicy, RunKey, RunState
from midstream_server.stores.base import RecordPhase, RunRecord

if TYPE_CHECKING:
    from apsw import SQLiteValue, SQLiteValues

IMMUTABLE = (
    "tenant",
    "run_id",
    "on_detach",
    "grace_seconds",
    "conversation_id",
    "parent_run_id",
    "labels",
    "retention_seconds",
    "create_time",
)
"""Columns that are written when the record is made, and cleared when it expires."""

LIVE = ("state", "epoch", "owner", "intent", "claims", "detach_time", "detach_reason", "start_time")
"""Columns that change while a run lives. No index covers them."""

ENDED = ("phase", "fingerprint", "last_sequence", "end_time", "expire_time", "forget_time", "summary", "settlement")
"""Columns that change with the end and after it."""

COLUMNS = (*IMMUTABLE, *LIVE, *ENDED)

SELECT = f"SELECT number, {', '.join(COLUMNS)} FROM run"
INSERT = f"INSERT INTO run (number, {', '.join(COLUMNS)}) VALUES ({', '.join('?' * (1 + len(COLUMNS)))})"
UPDATE_LIVE = f"UPDATE run SET {', '.join(f'{column} = ?' for column in LIVE)} WHERE number = ?"
UPDATE_ENDED = f"UPDATE run SET {', '.join(f'{column} = ?' for column in (*LIVE, *ENDED))} WHERE number = ?"
UPDATE_EXPIRED = "UPDATE run SET conversation_id = '', parent_run_id = '', labels = '{}' WHERE number = ?"


def immutable_values(record: RunRecord) -> "SQLiteValues":
    """The values of the columns IMMUTABLE."""
    return (
        record.key.tenant,
        record.key.run_id,
        int(record.on_detach.action),
        record.on_detach.grace_seconds,
        record.conversation_id,
        record.parent_run_id,
        _encode_map(record.labels),
        record.retention_seconds,
        record.create_time,
    )


def live_values(record: RunRecord) -> "SQLiteValues":
    """The values of the columns LIVE."""
    return (
        int(record.state),
        record.epoch,
        record.owner,
        encode_intent(record.intent),
        _encode_map(record.claims),
        record.detach_time,
        None if record.detach_reason is None else int(record.detach_reason),
        record.start_time,
    )


def ended_values(record: RunRecord) -> "SQLiteValues":
    """The values of the columns ENDED."""
    return (
        int(record.phase),
        record.fingerprint,
        record.last_sequence,
        record.end_time,
        record.expire_time,
        record.forget_time,
        record.summary,
        record.settlement,
    )


def to_record(row: "SQLiteValues", last_sequence: int | None) -> RunRecord:
    """A row of SELECT as a record; `last_sequence` as given, if the log knows better than the row."""
    column = dict(zip(COLUMNS, row[1:], strict=True))
    return RunRecord(
        key=RunKey(text(column["tenant"]), text(column["run_id"])),
        phase=RecordPhase(integer(column["phase"])),
        state=RunState(integer(column["state"])),
        fingerprint=text(column["fingerprint"]),
        epoch=integer(column["epoch"]),
        owner=text(column["owner"]),
        last_sequence=integer(column["last_sequence"]) if last_sequence is None else last_sequence,
        intent=decode_intent(column["intent"]),
        claims=_decode_map(column["claims"]),
        on_detach=DetachPolicy(
            action=DetachAction(integer(column["on_detach"])), grace_seconds=_real(column["grace_seconds"])
        ),
        detach_time=_optional(column["detach_time"]),
        detach_reason=CancelReason(reason) if (reason := _optional(column["detach_reason"])) else None,
        conversation_id=text(column["conversation_id"]),
        parent_run_id=text(column["parent_run_id"]),
        labels=_decode_map(column["labels"]),
        retention_seconds=_real(column["retention_seconds"]),
        create_time=integer(column["create_time"]),
        start_time=_optional(column["start_time"]),
        end_time=_optional(column["end_time"]),
        expire_time=_optional(column["expire_time"]),
        forget_time=_optional(column["forget_time"]),
        summary=blob(column["summary"]),
        settlement=blob(column["settlement"]),
    )


# --- Values: what STRICT tables promise, and mypy does not know -------------------------------------------------------


def text(value: "SQLiteValue") -> str:
    """A value of a TEXT column."""
    assert isinstance(value, str)
    return value


def integer(value: "SQLiteValue") -> int:
    """A value of an INTEGER column."""
    assert isinstance(value, int)
    return value


def blob(value: "SQLiteValue") -> bytes:
    """A value of a BLOB column."""
    assert isinstance(value, bytes)
    return value


def _real(value: "SQLiteValue") -> float:
    assert isinstance(value, float)
    return value


def _optional(value: "SQLiteValue") -> int | None:
    return None if value is None else integer(value)


def _encode_map(items: Mapping[str, str]) -> str:
    return json.dumps(dict(items)) if items else "{}"


def _decode_map(value: "SQLiteValue") -> dict[str, str]:
    items: dict[str, str] = {} if value == "{}" else json.loads(text(value))
    return items


def encode_intent(intent: CancelIntent | None) -> str | None:
    """An intent as JSON."""
    if intent is None:
        return None
    return json.dumps(
        [intent.reason, intent.requested_by, intent.text, intent.request_time, intent.superseded_by_run_id]
    )


def decode_intent(value: "SQLiteValue") -> CancelIntent | None:
    """An intent from JSON."""
    if value is None:
        return None
    reason, requested_by, words, request_time, superseded_by_run_id = json.loads(text(value))
    return CancelIntent(
        reason=CancelReason(reason),
        requested_by=requested_by,
        text=words,
        request_time=request_time,
        superseded_by_run_id=superseded_by_run_id,
    )
