"""Hop 5: checks the flow's table, columns and function against the database's catalog at start.

Invariant: nothing is applied before every name of the settings was found, with a type that fits. A
name that is not there is an error that says which setting, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from consumers.apply.statements import OrdersTable
from relay.runtime.client_failure import ClientFailure
from relay.runtime.flow import ApplyColumns, Flow, KeyType


class FlowTableError(Exception):
    """The flow's settings name what the database does not have; the message says what to do."""

    failure = ClientFailure.TABLE_UNFIT


_TABLE = """
SELECT t.oid, t.oid::pg_catalog.regclass::text AS name,
       -- Those of partitions, and of what inherits, are not one table's; a view has none.
       t.relkind = 'r' AND NOT t.relhassubclass
       AND pg_catalog.has_column_privilege(t.oid, 'ctid', 'SELECT') AS has_places
  FROM pg_catalog.pg_class t WHERE t.oid = pg_catalog.to_regclass($1)
"""

_COLUMNS = """
SELECT a.attname, pg_catalog.quote_ident(a.attname) AS quoted,
       pg_catalog.format_type(t.oid, NULL) AS type_name, t.typtype, t.typcategory,
       t.oid AS type_oid
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_type d ON d.oid = a.atttypid
  -- A domain is treated as what it is made of.
  JOIN pg_catalog.pg_type t ON t.oid = CASE d.typtype WHEN 'd' THEN d.typbasetype ELSE d.oid END
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
"""

_LABELS = "SELECT enumlabel FROM pg_catalog.pg_enum WHERE enumtypid = $1"

_KEY_TYPES: Final[dict[KeyType, frozenset[str]]] = {
    "uuid": frozenset({"uuid"}),
    "bigint": frozenset({"bigint", "integer", "smallint", "numeric"}),
    "text": frozenset({"text", "character varying", "character"}),
}
_HISTORY_COLUMNS = ("order_id", "old_status", "new_status", "reason", "event_id")


@dataclass(frozen=True, slots=True)
class _Column:
    quoted: str
    type_name: str
    is_enum: bool
    is_text: bool
    type_oid: int


@dataclass(frozen=True, slots=True)
class _Table:
    setting: str
    name: str
    has_places: bool
    columns: dict[str, _Column]

    def column(self, setting: str, name: str) -> _Column:
        """Find a column, or say which setting is wrong."""
        found = self.columns.get(name)
        if found is None:
            raise FlowTableError(
                f"{setting} = {name!r}: {self.name} has {', '.join(sorted(self.columns))}"
            )
        return found


async def orders_table(connection: asyncpg.Connection, flow: Flow) -> OrdersTable:
    """Look up what `flow.apply` (of type columns) names.

    Raises:
        FlowTableError: a table or column is missing, or its type does not fit.
    """
    names = flow.apply
    assert isinstance(names, ApplyColumns)
    table = await _table(connection, "table", names.table)
    key = table.column("key_column", names.key_column)
    if key.type_name not in _KEY_TYPES[names.key_type]:
        raise FlowTableError(
            f"key_type = {names.key_type!r}: {table.name}.{key.quoted} is of type {key.type_name}"
        )
    status = table.column("status_column", names.status_column)
    await _check_status(connection, flow, table, status)
    history = await _history(connection, names)
    return OrdersTable(
        table.name,
        key.quoted,
        key.type_name,
        status.quoted,
        status.type_name,
        table.column("submitted_at_column", names.submitted_at_column).quoted,
        _optional(table, "version_column", names.version_column),
        _optional(table, "returned_at_column", names.returned_at_column),
        _optional(table, "reason_column", names.reason_column),
        None if history is None else history.name,
        None if history is None else history.columns["order_id"].type_name,
        table.has_places,
    )


def _optional(table: _Table, setting: str, name: str | None) -> str | None:
    return None if name is None else table.column(setting, name).quoted


async def _table(connection: asyncpg.Connection, setting: str, name: str) -> _Table:
    try:
        found = await connection.fetchrow(_TABLE, name)
    except asyncpg.PostgresError as error:
        raise FlowTableError(f"{setting} = {name!r} is no table's name: {error}") from error
    if found is None:
        raise FlowTableError(
            f"{setting} = {name!r}: there is no such table, or this role may not use its schema"
        )
    rows = await connection.fetch(_COLUMNS, found["oid"])
    columns = {
        row["attname"]: _Column(
            row["quoted"],
            row["type_name"],
            row["typtype"] == b"e",
            row["typcategory"] == b"S",
            row["type_oid"],
        )
        for row in rows
    }
    return _Table(setting, found["name"], found["has_places"], columns)


async def _check_status(
    connection: asyncpg.Connection, flow: Flow, table: _Table, status: _Column
) -> None:
    where = f"{table.name}.{status.quoted}"
    if not status.is_enum:
        if not status.is_text:
            raise FlowTableError(
                f"status_column: {where} is of type {status.type_name}; text or an enum is needed"
            )
        return
    labels = {row["enumlabel"] for row in await connection.fetch(_LABELS, status.type_oid)}
    missing = sorted(set(flow.status_ranks) - labels)
    if missing:
        raise FlowTableError(f"status_ranks: {where} (an enum) has no {', '.join(missing)}")


async def _history(connection: asyncpg.Connection, names: ApplyColumns) -> _Table | None:
    if names.history_table is None:
        return None
    table = await _table(connection, "history_table", names.history_table)
    for column in _HISTORY_COLUMNS:
        table.column("history_table needs the column", column)
    return table


_CALLED = """
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) AS name,
       p.prorettype = 'text'::pg_catalog.regtype AND NOT p.proretset AS returns_text
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid = pg_catalog.to_regprocedure($1)
"""


async def function_name(
    connection: asyncpg.Connection, function: str, arguments: Sequence[str]
) -> str:
    """Return the quoted name of the flow's function, which must take these argument types.

    Raises:
        FlowTableError: there is no such function.
    """
    signature = f"{function}({', '.join(arguments)})"
    try:
        found = await connection.fetchrow(_CALLED, signature)
    except asyncpg.PostgresError as error:
        raise FlowTableError(f"function = {function!r} is no function's name: {error}") from error
    if found is None or not found["returns_text"]:
        raise FlowTableError(
            f"function = {function!r}: there is no function {signature} that returns text"
        )
    name: str = found["name"]
    return name
