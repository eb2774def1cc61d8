"""Lists of records, read in slices: a filter that matches little must not hold up the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from midstream_server.model import Instant, RunState
from midstream_server.stores.base import ListQuery, RunRecord
from midstream_server.stores.sqlite_rows import SELECT, integer, text
from midstream_server.stores.sqlite_tables import SqliteTables

if TYPE_CHECKING:
    from apsw import SQLiteValue, SQLiteValues

SLICE_RECORDS = 500
"""How many records one slice looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSlice:
    """What one slice found, and the place where the next one begins (None: that was all)."""

    records: Sequence[RunRecord]
    end: tuple[Instant, str] | None


def list_slice(tables: SqliteTables, query: ListQuery, limit: int, before: tuple[Instant, str] | None) -> ListSlice:
    """Looks at the SLICE_RECORDS records below a place, and takes those that match, up to the limit."""
    source, bindings = _source(query, before)
    conditions, values = _conditions(query)
    rows = tables.connection.execute(
        f"{SELECT} WHERE number IN (SELECT number {source} LIMIT {SLICE_RECORDS}){conditions}"
        " ORDER BY create_time DESC, run_id DESC LIMIT ?",
        (*bindings, *values, limit),
    ).fetchall()
    records = [tables.to_record(row) for row in rows]
    if len(records) == limit:
        return ListSlice(records=records, end=None)
    last = tables.connection.execute(
        f"SELECT create_time, run_id {source} LIMIT 1 OFFSET {SLICE_RECORDS - 1}", bindings
    ).fetchone()
    return ListSlice(records=records, end=(integer(last[0]), text(last[1])) if last else None)


def _source(query: ListQuery, before: tuple[Instant, str] | None) -> "tuple[str, SQLiteValues]":
    """The records in their order, by the index that leaves out most."""
    index, condition, values = "run_by_time", "", [query.tenant]
    bindings: list[SQLiteValue] = [*values]
    if query.conversation_id:
        index, condition = "run_by_conversation", " AND conversation_id = ? AND conversation_id <> ''"
        bindings.append(query.conversation_id)
    elif query.parent_run_id:
        index, condition = "run_by_parent", " AND parent_run_id = ? AND parent_run_id <> ''"
        bindings.append(query.parent_run_id)
    if before is not None:
        condition += " AND (create_time, run_id) < (?, ?)"
        bindings.extend(before)
    statement = (
        f"FROM run INDEXED BY {index} WHERE tenant = ? AND phase < 3{condition} ORDER BY create_time DESC, run_id DESC"
    )
    return statement, tuple(bindings)


def _conditions(query: ListQuery) -> "tuple[str, SQLiteValues]":
    conditions = ""
    values: list[SQLiteValue] = []
    if query.state is RunState.STOPPING:
        conditions += " AND phase = 1 AND intent IS NOT NULL"
    elif query.state is not None:
        conditions += " AND state = ? AND (phase = 2 OR intent IS NULL)"
        values.append(int(query.state))
    if query.parent_run_id:
        conditions += " AND parent_run_id = ?"
        values.append(query.parent_run_id)
    for key, value in query.labels.items():
        conditions += " AND EXISTS (SELECT 1 FROM json_each(labels) WHERE key = ? AND value = ?)"
        values.extend((key, value))
    return conditions, tuple(values)
