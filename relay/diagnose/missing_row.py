"""Hop 1: the INSERT that makes a missing outbox row out of its order.

Invariant: it is printed for a person to run, never run by itself; the payload is made from the
order's own row, in the database, so that nothing is retyped.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from relay.diagnose.report.explain import InsertTemplate
from relay.orders.catalog import FlowTableError, orders_table
from relay.orders.payload import order_payload
from relay.runtime.flow import Flow

_LITERAL: Final = "SELECT quote_literal($1::text)"


async def insert_template(connection: asyncpg.Connection, flow: Flow) -> InsertTemplate | None:
    """Return the statement for this flow's orders; None: nobody says where, or what, they are."""
    columns = flow.orders_columns
    if columns is None:
        return None
    try:
        table = await orders_table(connection, flow)
        payload = await order_payload(connection, flow, table)
        if payload is None:
            return None
        expecting = next(iter(flow.deadlines), "order.placed")
        kind = await connection.fetchval(_LITERAL, expecting)
        aggregate = await connection.fetchval(_LITERAL, flow.aggregate_type)
    except (asyncpg.PostgresError, FlowTableError):
        return None
    return InsertTemplate(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload) "  # noqa: S608
        f"SELECT {aggregate}, {table.id_of()}, {kind}, {payload.sql} "
        f"FROM {table.table} o WHERE o.{table.key} = {{key}};"
    )
