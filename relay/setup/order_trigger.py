"""Hop 1: a trigger that writes the event of each new order, for shops whose code is not to change.

Invariant: the event is written at the order's commit (a deferred constraint trigger), in the
order's own transaction: lines that are inserted after the order are in the payload, and a failure
fails the order. Nothing is invented: the payload is what the shop's function says of the order. An
order that is deleted again in its own transaction has no event; one without a payload is an error,
never silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.orders.catalog import FlowTableError, orders_table
from relay.orders.functions import JSON_TYPES, find_function, signature_of
from relay.runtime.flow import ApplyColumns, Flow
from relay.runtime.printable import printable

PAYLOAD_ARGUMENTS: Final = ("text",)
"""What a payload function takes: the order's id."""

_QUOTED: Final = """
SELECT pg_catalog.quote_ident(n.nspname) AS schema,
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       pg_catalog.quote_ident(c.relname || '_to_outbox') AS function,
       pg_catalog.quote_ident(c.relname || '_event') AS payload_function,
       c.relname::text AS bare
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = pg_catalog.to_regclass($1)
"""
_COLUMNS: Final = """
SELECT a.attname::text AS name, pg_catalog.quote_ident(a.attname) AS quoted,
       pg_catalog.quote_literal(a.attname) AS literal,
       t.typname IN ('numeric', 'money') AS is_exact
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
"""
_LITERAL: Final = "SELECT pg_catalog.quote_literal($1::text)"
_NAME: Final = "SELECT pg_catalog.quote_ident(pg_catalog.left($1::text, 63))"


class TriggerError(Exception):
    """The trigger cannot be made as asked; the message says why and what to do."""


class NoSuchTableError(TriggerError):
    """The table that was named is not there."""

    not_found = True


@dataclass(frozen=True, slots=True)
class OrderTrigger:
    """What is wanted.

    Attributes:
        placed: the event type of a new order; None: inserts write no event.
        on_status: status -> event type of an order that comes to it.
        payload_function: schema.name of a function (text) that returns json; None: one is made.
        payload_columns: what the one that is made gives.
    """

    placed: str | None
    on_status: Mapping[str, str]
    payload_function: str | None
    payload_columns: Sequence[str] = ()


async def order_trigger_sql(
    connection: asyncpg.Connection, flow: Flow, wanted: OrderTrigger
) -> str:
    """Return the statements, to be run in one transaction.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
        TriggerError: no such function or column, or nothing is to be written at all.
    """
    names = flow.orders_columns
    if names is None:
        raise TriggerError("the settings name no orders table: [flow.NAME.columns] table = ...")
    if wanted.placed is None and not wanted.on_status:
        raise TriggerError("neither new orders nor a change of status would write an event")
    table = await orders_table(connection, flow)
    found = await connection.fetchrow(_QUOTED, names.table)
    warning = await _moving_rows(connection, names)
    function = f"{found['schema']}.{found['function']}"
    # By the key's own type, so that its index serves.
    by_key = f"o.{table.key} = {table.as_key('order_id')}"
    head, payload = await _payload(connection, names.table, found, by_key, wanted)
    aggregate = await connection.fetchval(_LITERAL, flow.aggregate_type)
    parts = [
        "SET LOCAL lock_timeout = '3s';  -- orders are not to queue behind this\n",
        *warning,
        head,
        _FUNCTION.format(
            function=function,
            payload=payload,
            id=table.id_of("NEW"),
            table=found["name"],
            key=table.key,
            aggregate=aggregate,
        ),
    ]
    if wanted.placed is not None:
        parts.append(
            await _trigger(connection, found, function, "placed", "INSERT", "", wanted.placed)
        )
    for status, event_type in wanted.on_status.items():
        literal = await connection.fetchval(_LITERAL, status)
        when = (
            f"\n    WHEN (OLD.{table.status} IS DISTINCT FROM NEW.{table.status}"
            f" AND NEW.{table.status}::text = {literal})"
        )
        parts.append(
            await _trigger(connection, found, function, status, "UPDATE", when, event_type)
        )
    return "\n".join(parts)


# What a partitioned table, and each partition that is divided again, is divided by.
_DIVIDED_BY: Final = """
SELECT DISTINCT coalesce(a.attname::text, pg_catalog.pg_get_partkeydef(p.partrelid)) AS by,
       a.attname IS NULL AS is_expression
  FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) AS t
  JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = t.relid
 CROSS JOIN LATERAL pg_catalog.unnest(p.partattrs::int2[]) AS k (num)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.num
 ORDER BY 1
"""


async def _moving_rows(connection: asyncpg.Connection, names: ApplyColumns) -> list[str]:
    """Return what is to be known where rows may change their partition: they fire as new ones do.

    Raises:
        TriggerError: the table is divided by status: each change would write the event again.
    """
    said = []
    for row in await connection.fetch(_DIVIDED_BY, names.table):
        by = row["by"]
        if by == names.status_column or (row["is_expression"] and names.status_column in by):
            raise TriggerError(
                f"{names.table} is divided by {by}: an order that changes its status moves to"
                " another partition, and PostgreSQL fires the triggers of a new row: its event"
                " would be written again. Write the event in the order service"
                " (docs/order-service.md)"
            )
        if by not in {names.key_column, names.submitted_at_column}:
            said.append(
                f"-- The table is divided by {printable(by)}. An UPDATE that changes it moves the"
                " order to another\n-- partition, which fires as a new order: its event is written"
                " again.\n"
            )
    return said


_FUNCTION: Final = """\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $relay$
DECLARE
    payload json;
BEGIN
    payload := {payload}({id});
    IF payload IS NULL THEN
        PERFORM FROM {table} o WHERE o.{key} = NEW.{key};
        IF NOT FOUND THEN
            RETURN NULL;  -- placed and deleted again in this transaction: nothing happened
        END IF;
        RAISE EXCEPTION 'order %: its payload function returned nothing', {id};
    END IF;
    -- The order service may say which trace this belongs to: SET LOCAL relay.traceparent = '...'
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, traceparent)
    VALUES ({aggregate}, {id}, TG_ARGV[0], payload,
            nullif(current_setting('relay.traceparent', true), ''));
    RETURN NULL;
END
$relay$;
"""

_TRIGGER: Final = """\
DROP TRIGGER IF EXISTS {trigger} ON {table};
CREATE CONSTRAINT TRIGGER {trigger} AFTER {event} ON {table}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW{when}
    EXECUTE FUNCTION {function}({event_type});
"""


async def _trigger(  # noqa: PLR0917 - the parts of one statement
    connection: asyncpg.Connection,
    found: asyncpg.Record,
    function: str,
    what: str,
    event: str,
    when: str,
    event_type: str,
) -> str:
    return _TRIGGER.format(
        trigger=await connection.fetchval(_NAME, f"{found['bare']}_{what}_to_outbox"),
        table=found["name"],
        event=event,
        when=when,
        function=function,
        event_type=await connection.fetchval(_LITERAL, event_type),
    )


async def _payload(
    connection: asyncpg.Connection,
    table: str,
    found: asyncpg.Record,
    by_key: str,
    wanted: OrderTrigger,
) -> tuple[str, str]:
    """Return the statement that makes the payload function (or nothing), and its name."""
    if wanted.payload_function is not None:
        return "", await payload_function(connection, wanted.payload_function)
    columns = {row["name"]: row for row in await connection.fetch(_COLUMNS, table)}
    missing = [name for name in wanted.payload_columns if name not in columns]
    if missing or not wanted.payload_columns:
        raise TriggerError(
            f"{table} has no column {', '.join(missing)}: it has {', '.join(columns)}"
            if missing
            else "name the payload's columns, or a function that makes the payload"
        )
    fields = ",\n        ".join(
        f"{row['literal']}, o.{row['quoted']}{'::text' if row['is_exact'] else ''}"
        for row in (columns[name] for name in wanted.payload_columns)
    )
    name = f"{found['schema']}.{found['payload_function']}"
    made = _MADE.format(name=name, fields=fields, table=found["name"], condition=by_key)
    return made, name


_MADE: Final = """\
-- What the event says of an order. It is yours: add the order's lines, leave out what no consumer
-- needs. Money is text: a JSON number would be rounded by some reader.
CREATE OR REPLACE FUNCTION {name}(order_id text) RETURNS json LANGUAGE sql STABLE AS $relay$
    SELECT json_build_object(
        {fields})
      FROM {table} o WHERE {condition}
$relay$;
"""


async def payload_function(connection: asyncpg.Connection, name: str) -> str:
    """Return the quoted name of a payload function.

    Raises:
        TriggerError: there is no function `name(text)` that returns json or jsonb.
    """
    signature = signature_of(name, PAYLOAD_ARGUMENTS)
    try:
        found = await find_function(connection, signature, JSON_TYPES, repr(name))
    except FlowTableError as error:
        raise TriggerError(str(error)) from error
    if found is None or found.returns_set:
        raise TriggerError(f"there is no function {signature} that returns json")
    return found.name
