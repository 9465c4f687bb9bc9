"""Hop 5: the statements that apply returns to the columns of somebody else's table.

Invariant: the only place where SQL is put together, once, at start. Every identifier was found in
the catalog and comes from there, quoted by PostgreSQL itself (`quote_ident`, `format_type`), so a
table or column may be called anything. No value ever becomes part of a statement.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OrdersTable:
    """Where orders stand, in identifiers that are quoted already.

    Attributes:
        key_type: PostgreSQL's name of the key column's type.
        status_type: of the status column's: text, or an enum.
        history: the table that gets a row for each step, and the type of its `order_id`.
    """

    table: str
    key: str
    key_type: str
    status: str
    status_type: str
    submitted_at: str
    version: str | None = None
    returned_at: str | None = None
    reason: str | None = None
    history: str | None = None
    history_key_type: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnStatements:
    """What is executed for each batch."""

    lock: str
    exist: str
    update: str
    history: str | None


def column_statements(orders: OrdersTable) -> ColumnStatements:
    """Put the statements together."""
    return ColumnStatements(_lock(orders), _exist(orders), _update(orders), _history(orders))


def _columns(count: int) -> str:
    # See consumers.packing.
    columns = (f"string_to_array(${n}, E'\\x1f', E'\\x1e')" for n in range(1, count + 1))
    return ", ".join(columns)


def _lock(orders: OrdersTable) -> str:
    # NO KEY: a child row that somebody inserts (FOR KEY SHARE) is no reason to skip its order.
    # ORDER BY: all who lock several orders take them in one order.
    return f"""
        SELECT o.{orders.key}::text AS order_id, o.{orders.status}::text AS status,
               extract(epoch FROM o.{orders.submitted_at})::float8 AS submitted
          FROM {orders.table} o
         WHERE o.{orders.key} = ANY (string_to_array($1, E'\\x1f')::{orders.key_type}[])
         ORDER BY o.{orders.key}
           FOR NO KEY UPDATE OF o SKIP LOCKED
    """  # noqa: S608 - identifiers from the catalog


def _exist(orders: OrdersTable) -> str:
    return f"""
        SELECT o.{orders.key}::text AS order_id
          FROM {orders.table} o
         WHERE o.{orders.key} = ANY (string_to_array($1, E'\\x1f')::{orders.key_type}[])
    """  # noqa: S608 - identifiers from the catalog


def _update(orders: OrdersTable) -> str:
    # The status guard can only miss when a trigger or a rule changed the row under our lock.
    # "= ANY" besides the join: by the join alone the planner reads the whole table to hash it
    # (140 ms for 2,000 of 100,000 rows, against 25).
    changes = [f"{orders.status} = u.new_status::{orders.status_type}"]
    if orders.version is not None:
        changes.append(f"{orders.version} = o.{orders.version} + u.changes::int")
    if orders.returned_at is not None:
        changes.append(
            f"{orders.returned_at} = "
            f"CASE WHEN u.terminal::bool THEN clock_timestamp() ELSE o.{orders.returned_at} END"
        )
    if orders.reason is not None:
        changes.append(
            f"{orders.reason} = CASE WHEN u.terminal::bool THEN u.reason ELSE o.{orders.reason} END"
        )
    return f"""
        UPDATE {orders.table} o
           SET {", ".join(changes)}
          FROM unnest({_columns(6)})
               AS u (order_id, old_status, new_status, changes, terminal, reason)
         WHERE o.{orders.key} = ANY (string_to_array($1, E'\\x1f')::{orders.key_type}[])
           AND o.{orders.key} = u.order_id::{orders.key_type}
           AND o.{orders.status}::text = u.old_status
    """  # noqa: S608 - identifiers from the catalog


def _history(orders: OrdersTable) -> str | None:
    if orders.history is None:
        return None
    return f"""
        INSERT INTO {orders.history} (order_id, old_status, new_status, reason, event_id)
        SELECT h.order_id::{orders.history_key_type}, h.old_status, h.new_status, h.reason,
               h.event_id
          FROM unnest({_columns(5)})
               AS h (order_id, old_status, new_status, reason, event_id)
    """  # noqa: S608 - identifiers from the catalog
