"""Hop 5: the statements that apply returns to the columns of somebody else's table.

Invariant: put together once, at start. Every identifier was found in the catalog and comes from
there, quoted by PostgreSQL itself (`relay.orders.catalog`), so a table or column may be called
anything. No value ever becomes part of a statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from relay.consumers.apply.inbox import STEP_COLUMNS, WRITE_INBOX
from relay.orders.table import OrdersTable


@dataclass(frozen=True, slots=True)
class ColumnStatements:
    """What is executed for each batch.

    Attributes:
        shown: ids and statuses of orders, as they stand.
        write: returns how many rows took a status, which of them hold another one nevertheless,
            and whether triggers run after it.
        asks_terminal: `write` takes the terminal statuses as $18.
    """

    lock: str
    shown: str
    write: str
    asks_terminal: bool


_KEYS: Final = r"string_to_array($1, E'\x1f')"


def column_statements(orders: OrdersTable) -> ColumnStatements:
    """Put the statements together."""
    asks_terminal = orders.returned is not None or orders.reason is not None
    return ColumnStatements(_lock(orders), _shown(orders), _write(orders), asks_terminal)


def _lock(orders: OrdersTable) -> str:
    # NO KEY: a child row that somebody inserts (FOR KEY SHARE) is no reason to skip its order.
    # ORDER BY: all who lock several orders take them in one order.
    return f"""
        SELECT {orders.id_of()} AS order_id, {orders.status_of()} AS status,
               extract(epoch FROM {orders.submitted.value()})::float8 AS submitted,
               {"o.ctid::text" if orders.has_places else "NULL"} AS place
          FROM {orders.table} o
         WHERE o.{orders.key} = ANY ({orders.as_keys(_KEYS)})
         ORDER BY o.{orders.key}
           FOR NO KEY UPDATE OF o SKIP LOCKED
    """  # noqa: S608 - identifiers from the catalog


def _shown(orders: OrdersTable) -> str:
    return f"""
        SELECT {orders.id_of()} AS order_id, {orders.status_of()} AS status
          FROM {orders.table} o
         WHERE o.{orders.key} = ANY ({orders.as_keys(_KEYS)})
    """  # noqa: S608 - identifiers from the catalog


def _write(orders: OrdersTable) -> str:
    # Inbox, history and status at once: taken apart once, the columns cost a fifth less.
    # A status needs no guard here: its row is locked since it was read. It also stands where it
    # stood: not to look its key up again saves an eighth.
    # What a BEFORE trigger makes of a status is what RETURNING shows.
    row = "o.ctid = s.place::tid" if orders.has_places else f"o.{orders.key} = s.order_key"
    return f"""
        WITH s AS MATERIALIZED (
            SELECT *, {orders.as_key("aggregate_id")} AS order_key {STEP_COLUMNS}
        ), inbox AS ({WRITE_INBOX} FROM s){_history(orders)}, written AS (
            UPDATE {orders.table} o
               SET {", ".join(_changes(orders))}
              FROM s
             WHERE {row} AND s.changes <> '0'
            RETURNING CASE WHEN {orders.status_of()} IS DISTINCT FROM s.new_status
                           THEN s.aggregate_id END AS other)
        SELECT count(*)::int, array_agg(other) FILTER (WHERE other IS NOT NULL),
               {_triggers_after(orders)}
          FROM written
    """  # noqa: S608 - identifiers from the catalog


def _triggers_after(orders: OrdersTable) -> str:
    if not orders.has_places:
        return "true"  # those of a view's tables, or of one partition, are not the table's
    # tgtype: 2 before, 16 update, 64 instead of.
    return f"""EXISTS (SELECT FROM pg_catalog.pg_trigger t
                        WHERE t.tgrelid = '{orders.table.replace("'", "''")}'::pg_catalog.regclass
                          AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                          AND t.tgtype & 16 <> 0 AND t.tgtype & 66 = 0)"""


def _changes(orders: OrdersTable) -> list[str]:
    changes = [f"{orders.status} = {orders.as_status('s.new_status')}"]
    if orders.version is not None:
        changes.append(f"{orders.version} = o.{orders.version} + s.changes::int")
    terminal = "s.new_status = ANY ($18::text[])"
    if orders.returned is not None:
        name, now = orders.returned.name, orders.returned.written("clock_timestamp()")
        changes.append(f"{name} = CASE WHEN {terminal} THEN {now} ELSE o.{name} END")
    if orders.reason is not None:
        reason = f"s.reason::{orders.reason_type}"
        changes.append(
            f"{orders.reason} = CASE WHEN {terminal} THEN {reason} ELSE o.{orders.reason} END"
        )
    return changes


def _history(orders: OrdersTable) -> str:
    if orders.history is None:
        return ""
    assert orders.history_types is not None
    old, new, reason = orders.history_types
    return f""",
        history AS (
            INSERT INTO {orders.history} (order_id, old_status, new_status, reason, event_id)
            SELECT s.order_key::{orders.history_key_type}, s.old_status::{old},
                   s.new_status::{new}, s.reason::{reason}, s.event_id
              FROM s
             WHERE s.outcome = 'applied')"""  # noqa: S608 - identifiers from the catalog
