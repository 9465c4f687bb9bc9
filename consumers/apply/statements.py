"""Hop 5: the statements that apply returns to the columns of somebody else's table.

Invariant: the only place where SQL is put together, once, at start. Every identifier was found in
the catalog and comes from there, quoted by PostgreSQL itself (`quote_ident`, `format_type`), so a
table or column may be called anything. No value ever becomes part of a statement.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumers.apply.inbox import STEP_COLUMNS, WRITE_INBOX


@dataclass(frozen=True, slots=True)
class OrdersTable:
    """Where orders stand, in identifiers that are quoted already.

    Attributes:
        key_type: PostgreSQL's name of the key column's type.
        status_type: of the status column's: text, or an enum.
        history: the table that gets a row for each step, and the type of its `order_id`.
        has_places: a row has one (`ctid`) that its lock keeps and that no other row has, and this
            login may see it.
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
    has_places: bool = True


@dataclass(frozen=True, slots=True)
class ColumnStatements:
    """What is executed for each batch.

    Attributes:
        asks_terminal: `write` takes the terminal statuses as $18.
    """

    lock: str
    exist: str
    write: str
    asks_terminal: bool


def column_statements(orders: OrdersTable) -> ColumnStatements:
    """Put the statements together."""
    asks_terminal = orders.returned_at is not None or orders.reason is not None
    return ColumnStatements(_lock(orders), _exist(orders), _write(orders), asks_terminal)


def _lock(orders: OrdersTable) -> str:
    # NO KEY: a child row that somebody inserts (FOR KEY SHARE) is no reason to skip its order.
    # ORDER BY: all who lock several orders take them in one order.
    return f"""
        SELECT o.{orders.key}::text AS order_id, o.{orders.status}::text AS status,
               extract(epoch FROM o.{orders.submitted_at})::float8 AS submitted,
               {"o.ctid::text" if orders.has_places else "NULL"} AS place
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


def _write(orders: OrdersTable) -> str:
    # Inbox, history and status at once: taken apart once, the columns cost a fifth less.
    # A status needs no guard here: its row is locked since it was read. It also stands where it
    # stood: not to look its key up again saves an eighth.
    row = "o.ctid = s.place::tid" if orders.has_places else f"o.{orders.key} = s.order_key"
    return f"""
        WITH s AS MATERIALIZED (
            SELECT *, aggregate_id::{orders.key_type} AS order_key {STEP_COLUMNS}
        ), inbox AS ({WRITE_INBOX} FROM s){_history(orders)}
        UPDATE {orders.table} o
           SET {", ".join(_changes(orders))}
          FROM s
         WHERE {row} AND s.changes <> '0'
    """  # noqa: S608 - identifiers from the catalog


def _changes(orders: OrdersTable) -> list[str]:
    changes = [f"{orders.status} = s.new_status::{orders.status_type}"]
    if orders.version is not None:
        changes.append(f"{orders.version} = o.{orders.version} + s.changes::int")
    terminal = "CASE WHEN s.new_status = ANY ($18::text[]) THEN"
    if orders.returned_at is not None:
        changes.append(
            f"{orders.returned_at} = {terminal} clock_timestamp() ELSE o.{orders.returned_at} END"
        )
    if orders.reason is not None:
        changes.append(f"{orders.reason} = {terminal} s.reason ELSE o.{orders.reason} END")
    return changes


def _history(orders: OrdersTable) -> str:
    if orders.history is None:
        return ""
    return f""",
        history AS (
            INSERT INTO {orders.history} (order_id, old_status, new_status, reason, event_id)
            SELECT s.order_key::{orders.history_key_type}, s.old_status, s.new_status,
                   s.reason, s.event_id
              FROM s
             WHERE s.outcome = 'applied')"""  # noqa: S608 - identifiers from the catalog
