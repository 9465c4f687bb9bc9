"""Hops 1 and 5: the statements that mend an order: its missing outbox row, its overwritten status.

Invariant: they are printed for a person to run, never run by themselves; a payload is made from the
order's own row, in the database, so that nothing is retyped, and a status is set only where the one
that was seen still stands.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from relay.diagnose.report.explain import Statements
from relay.orders.catalog import FlowTableError, orders_table
from relay.orders.payload import order_payload
from relay.orders.table import OrdersTable
from relay.runtime.flow import Flow

_LITERAL: Final = "SELECT quote_literal($1::text)"


async def statements_of(connection: asyncpg.Connection, flow: Flow) -> Statements:
    """Return the statements for this flow's orders, those that can be had."""
    if flow.orders_columns is None:
        return Statements()
    try:
        table = await orders_table(connection, flow)
        return Statements(await _insert(connection, flow, table), _update(table))
    except (asyncpg.PostgresError, FlowTableError):
        return Statements()


def _update(table: OrdersTable) -> str:
    return (
        f"UPDATE {table.table} SET {table.status} = {{given}} "  # noqa: S608 - for a person
        f"WHERE {table.key} = {{key}} AND {table.status} = {{now}};"
    )


async def _insert(connection: asyncpg.Connection, flow: Flow, table: OrdersTable) -> str | None:
    payload = await order_payload(connection, flow, table)
    if payload is None:
        return None
    expecting = next(iter(flow.deadlines), "order.placed")
    kind = await connection.fetchval(_LITERAL, expecting)
    aggregate = await connection.fetchval(_LITERAL, flow.aggregate_type)
    return (
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload) "  # noqa: S608
        f"SELECT {aggregate}, {table.id_of()}, {kind}, {payload.sql} "
        f"FROM {table.table} o WHERE o.{table.key} = {{key}};"
    )
