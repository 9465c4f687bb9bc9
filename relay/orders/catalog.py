"""Hops 1 to 5: finds the flow's table and its columns in the database's catalog.

Invariant: nothing is applied, and nobody is diagnosed, before every name of the settings was found,
with a type that fits. What cannot work is a FlowTableError that names the setting and the reason:
the services end with it at start, and `relay check` says the same.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from relay.orders.keys import order_key
from relay.orders.table import CHAR, OrdersTable, TimeColumn
from relay.runtime.client_failure import ClientFailure
from relay.runtime.flow import ApplyColumns, Flow, KeyStorage, KeyType


class FlowTableError(Exception):
    """The flow's settings name what the database does not have; the message says what to do."""

    failure = ClientFailure.TABLE_UNFIT


_TABLE: Final = """
SELECT t.oid, t.oid::pg_catalog.regclass::text AS name,
       -- Those of partitions, and of what inherits, are not one table's; a view has none.
       t.relkind = 'r' AND NOT t.relhassubclass
       AND pg_catalog.has_column_privilege(t.oid, 'ctid', 'SELECT') AS has_places
  FROM pg_catalog.pg_class t WHERE t.oid = pg_catalog.to_regclass($1)
"""

_COLUMNS: Final = """
WITH RECURSIVE types AS (
    SELECT a.attnum, a.atttypid AS type, a.atttypmod AS modifier
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
     UNION ALL
    -- A domain is what it is made of, which may be a domain; the length stands with one of them.
    SELECT s.attnum, t.typbasetype, CASE WHEN s.modifier < 0 THEN t.typtypmod ELSE s.modifier END
      FROM types s JOIN pg_catalog.pg_type t ON t.oid = s.type WHERE t.typtype = 'd'
)
SELECT a.attname, pg_catalog.quote_ident(a.attname) AS quoted,
       CASE t.oid WHEN 'pg_catalog.bpchar'::regtype THEN 'pg_catalog.bpchar'
            ELSE pg_catalog.format_type(t.oid, NULL) END AS type_name,
       -- With its length, which a cast keeps to. Without one, `character` would have length 1.
       CASE WHEN t.oid = 'pg_catalog.bpchar'::regtype AND s.modifier < 0 THEN 'pg_catalog.bpchar'
            ELSE pg_catalog.format_type(t.oid, s.modifier) END AS sized_name,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS declared,
       CASE t.oid WHEN 'pg_catalog.numeric'::regtype THEN nullif(s.modifier, -1) - 4 & 2047
            ELSE 0 END AS scale,
       CASE WHEN t.oid IN ('pg_catalog.bpchar'::regtype, 'pg_catalog.varchar'::regtype)
            THEN nullif(s.modifier, -1) - 4 END AS length,
       coalesce(c.collisdeterministic, true) AS is_deterministic,
       a.atttypid <> t.oid AS is_domain, t.typtype = 'e' AS is_enum,
       -- "char" holds one byte; before PostgreSQL 15 it counted as text.
       t.typtype <> 'e' AND t.typcategory = 'S'
       AND t.oid <> 'pg_catalog."char"'::pg_catalog.regtype AS is_text,
       t.typcategory = 'N' AS is_number,
       t.oid AS type_oid
  FROM types s
  JOIN pg_catalog.pg_type t ON t.oid = s.type AND t.typtype <> 'd'
  JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attnum = s.attnum
  LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
"""

_LABELS: Final = "SELECT enumlabel FROM pg_catalog.pg_enum WHERE enumtypid = $1"
_ZONE: Final = """
SELECT pg_catalog.quote_literal($1::text), clock_timestamp() AT TIME ZONE $1::text
"""

# What ids are compared as. A column of a narrower type is compared by its own index all the same:
# the operators between the types of a family belong to it.
_COMPARED_AS: Final[dict[KeyType, dict[str, str]]] = {
    "uuid": {"uuid": "uuid"},
    "bigint": {
        "bigint": "bigint",
        "integer": "bigint",
        "smallint": "bigint",
        "numeric": "numeric",
    },
    "text": {"text": "text", "character varying": "text", CHAR: CHAR},
}
_STORAGE: Final[dict[str, KeyStorage]] = {"numeric": "numeric", CHAR: "bpchar"}
_ZONED: Final = "timestamp with time zone"
_UNZONED: Final = frozenset({"timestamp without time zone", "date"})


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    quoted: str
    type_name: str
    sized_name: str
    declared: str
    scale: int | None
    length: int | None
    is_deterministic: bool
    is_domain: bool
    is_enum: bool
    is_text: bool
    is_number: bool
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

    def refused(self, setting: str, column: _Column, wanted: str) -> FlowTableError:
        """Say that a column's type does not fit."""
        where = f"{self.name}.{column.quoted}"
        return FlowTableError(f"{setting}: {where} is of type {column.declared}; {wanted}")


async def orders_table(connection: asyncpg.Connection, flow: Flow) -> OrdersTable:
    """Look up what `flow.orders_columns` names.

    Raises:
        FlowTableError: a table or column is missing, or its type does not fit.
    """
    names = flow.orders_columns
    assert names is not None
    table = await _table(connection, "table", names.table)
    key = _key(table, names)
    status = table.column("status_column", names.status_column)
    await _check_status(connection, table, status, "status_ranks", flow.status_ranks)
    # Orders are compared with these, too: an enum refuses to be compared with what it cannot hold.
    await _check_status(connection, table, status, "later_statuses", flow.later_statuses)
    reason = _text(table, "reason_column", names.reason_column)
    found = OrdersTable(
        table.name,
        key.quoted,
        _COMPARED_AS[names.key_type][key.type_name],
        status.quoted,
        status.type_name,
        await _time(connection, table, "submitted_at_column", names),
        key_length=key.length,
        version=_version(table, names.version_column),
        reason=None if reason is None else reason.quoted,
        reason_type=None if reason is None else reason.sized_name,
        has_places=table.has_places,
    )
    if names.returned_at_column is not None:
        returned = await _time(connection, table, "returned_at_column", names)
        found = replace(found, returned=returned)
    return await _with_history(connection, flow, names, found)


@dataclass(frozen=True, slots=True)
class LookupColumn:
    """A column by which people ask for an order.

    Attributes:
        type_name: what its values are compared as: text, bigint, numeric or uuid.
    """

    name: str
    quoted: str
    type_name: str

    def value(self, text: str) -> str | None:
        """Return a text as a value of the column is written; None: it can be none."""
        if self.type_name == "text":
            return text.rstrip(" ")
        kind: KeyType = "uuid" if self.type_name == "uuid" else "bigint"
        storage: KeyStorage = "numeric" if self.type_name == "numeric" else ""
        columns = ApplyColumns(key_type=kind, key_storage=storage)
        return order_key(Flow(apply=columns))(text)

    def array(self, texts: str) -> str:
        """Return an array of such texts as what the column compares with."""
        return f"{texts}::text[]::{self.type_name}[]"


_LOOKED_UP_AS: Final = {
    "uuid": "uuid",
    "smallint": "bigint",
    "integer": "bigint",
    "bigint": "bigint",
    "numeric": "numeric",
}


async def lookup_columns(connection: asyncpg.Connection, flow: Flow) -> list[LookupColumn]:
    """Find the columns by which people ask for orders.

    Raises:
        FlowTableError: there is no such column, or its type is none of an id.
    """
    names = flow.orders_columns
    if names is None or not names.lookup_columns:
        return []
    table = await _table(connection, "table", names.table)
    found = []
    for name in names.lookup_columns:
        column = table.column("lookup_columns", name)
        kind = "text" if column.is_text else _LOOKED_UP_AS.get(column.type_name)
        if kind is None:
            raise table.refused("lookup_columns", column, "text, a number or uuid is needed")
        found.append(LookupColumn(name, column.quoted, kind))
    return found


async def with_key_column(connection: asyncpg.Connection, flow: Flow) -> Flow:
    """Return the flow with what its key column says of which ids are the same.

    Raises:
        FlowTableError: there is no such column, or its type does not fit.
    """
    names = flow.orders_columns
    if names is None:
        return flow
    key = _key(await _table(connection, "table", names.table), names)
    storage = _STORAGE.get(key.type_name, "")
    return flow.with_orders_columns(replace(names, key_storage=storage, key_length=key.length))


async def as_far_as_known(connection: asyncpg.Connection, flow: Flow) -> Flow:
    """Return the flow as `with_key_column` does, or as it is where the table does not fit.

    For those to whom that is one fact among others: they come to the table itself later.
    """
    try:
        async with connection.transaction():
            return await with_key_column(connection, flow)
    except (FlowTableError, asyncpg.SyntaxOrAccessError):
        return flow


async def _table(connection: asyncpg.Connection, setting: str, name: str) -> _Table:
    try:
        found = await connection.fetchrow(_TABLE, name)
    except (asyncpg.SyntaxOrAccessError, asyncpg.DataError) as error:
        raise FlowTableError(f"{setting} = {name!r} is no table's name: {error}") from error
    if found is None:
        raise FlowTableError(
            f"{setting} = {name!r}: there is no such table, or this role may not use its schema"
        )
    rows = await connection.fetch(_COLUMNS, found["oid"])
    columns = {row["attname"]: _Column(*row) for row in rows}
    return _Table(setting, found["name"], found["has_places"], columns)


def _key(table: _Table, names: ApplyColumns) -> _Column:
    key = table.column("key_column", names.key_column)
    setting = f"key_type = {names.key_type!r}"
    if key.type_name not in _COMPARED_AS[names.key_type]:
        fitting = [kind for kind, types in _COMPARED_AS.items() if key.type_name in types]
        wanted = f"correct it to {fitting[0]!r}" if fitting else "uuid, bigint or text is needed"
        raise table.refused(setting, key, wanted)
    if key.scale != 0 and key.scale is not None:
        raise table.refused(setting, key, "ids are whole numbers: numeric without a scale, bigint")
    if not key.is_deterministic:
        wanted = "its collation takes different ids for one, and Kafka does not: COLLATE another"
        raise table.refused(setting, key, wanted)
    return key


async def _time(
    connection: asyncpg.Connection, table: _Table, setting: str, names: ApplyColumns
) -> TimeColumn:
    column = table.column(setting, getattr(names, setting))
    if column.type_name == _ZONED:
        return TimeColumn(column.quoted, column.type_name)
    if column.type_name not in _UNZONED:
        wanted = "timestamptz, timestamp or date is needed (a generated column can be one)"
        raise table.refused(setting, column, wanted)
    return TimeColumn(
        column.quoted, column.type_name, await _zone_literal(connection, names.time_zone)
    )


async def _zone_literal(connection: asyncpg.Connection, zone: str) -> str:
    try:
        async with connection.transaction():
            literal: str = await connection.fetchval(_ZONE, zone)
    except asyncpg.DataError as error:
        raise FlowTableError(f"time_zone = {zone!r}: {error}") from error
    return literal


def _version(table: _Table, name: str | None) -> str | None:
    if name is None:
        return None
    column = table.column("version_column", name)
    if not column.is_number:
        raise table.refused("version_column", column, "a number is needed")
    return column.quoted


def _text(table: _Table, setting: str, name: str | None) -> _Column | None:
    if name is None:
        return None
    column = table.column(setting, name)
    if not column.is_text:
        raise table.refused(setting, column, "text is needed")
    return column


async def _check_status(
    connection: asyncpg.Connection,
    table: _Table,
    status: _Column,
    setting: str,
    words: Collection[str],
) -> None:
    """See that the column can hold every status that a setting names, whole.

    Raises:
        FlowTableError: one is not among the labels, too long, or refused by a domain.
    """
    if status.is_enum:
        labels = {row["enumlabel"] for row in await connection.fetch(_LABELS, status.type_oid)}
        missing = sorted(set(words) - labels)
    elif status.is_text:
        longest = status.length
        missing = [one for one in sorted(words) if longest is not None and len(one) > longest]
    else:
        raise table.refused("status_column", status, "text or an enum is needed")
    if missing:
        raise table.refused(setting, status, f"it cannot hold {', '.join(missing)}")
    if status.is_domain:
        await _check_domain(connection, table, status, setting, words)


async def _check_domain(
    connection: asyncpg.Connection,
    table: _Table,
    status: _Column,
    setting: str,
    words: Collection[str],
) -> None:
    # A domain's name takes no length. What it refuses, a savepoint survives.
    for one in sorted(words):
        try:
            async with connection.transaction():
                await connection.fetchval(f"SELECT $1::text::{status.declared}", one)
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError) as error:
            wanted = f"it cannot hold {one}: {error}"
            raise table.refused(setting, status, wanted) from error


async def _with_history(
    connection: asyncpg.Connection, flow: Flow, names: ApplyColumns, found: OrdersTable
) -> OrdersTable:
    if names.history_table is None:
        return found
    table = await _table(connection, "history_table", names.history_table)
    needs = "history_table needs the column"
    old, new = (table.column(needs, name) for name in ("old_status", "new_status"))
    for one in (old, new):
        await _check_status(connection, table, one, "status_ranks", flow.status_ranks)
    reason, event_id = (table.column(needs, name) for name in ("reason", "event_id"))
    for one in (reason, event_id):
        if not one.is_text:
            raise table.refused("history_table", one, "text is needed")
    return replace(
        found,
        history=table.name,
        history_key_type=table.column(needs, "order_id").type_name,
        history_types=(old.type_name, new.type_name, reason.sized_name),
    )
