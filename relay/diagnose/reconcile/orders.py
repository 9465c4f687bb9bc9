"""Hop 1: every order that waits against its event.

Invariant: reads only, a page at a time. Orders of days that were dropped, and those placed before
events were written, are nobody's difference.
"""

from __future__ import annotations

from datetime import datetime

import asyncpg

from relay.diagnose.gather.cut_over import orders_watched_from, orders_without_any_event
from relay.diagnose.reconcile.findings import Difference, Finding, Tally
from relay.diagnose.reconcile.paging import each_row
from relay.orders.catalog import orders_table
from relay.orders.table import OrdersTable
from relay.runtime.flow import Flow


async def reconcile_orders(
    connection: asyncpg.Connection,
    flow: Flow,
    since: datetime | None,
    until: datetime | None,
    tally: Tally,
) -> list[str]:
    """List orders that wait and have no event; return what could not be looked at.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    columns = flow.orders_columns
    if columns is None:
        return ["orders without an event: no setting says in which table orders stand"]
    start = await orders_watched_from(connection, flow)
    if start is None:
        count = await orders_without_any_event(connection, flow)
        return [f"{count:,} orders: no event was ever written"] if count else []
    query = _query(await orders_table(connection, flow))
    waiting = sorted(set(flow.status_ranks) - flow.terminal_statuses)
    kinds = flow.aggregate_type, flow.own_event_types
    start = start if since is None else max(start, since)
    async for order_id, status, has_event in each_row(
        connection, query, waiting, start, until, *kinds
    ):
        if has_event:
            tally.count("orders that wait, with their event")
        else:
            tally.add(Finding(Difference.ORDER_WITHOUT_EVENT, order_id, columns.table, status))
    return []


def _query(table: OrdersTable) -> str:
    at, key = table.submitted, table.id_of()
    return f"""
        SELECT {key}, {table.status_of()},
               EXISTS (SELECT FROM relay.outbox_summary e
                        WHERE e.aggregate_id = ANY ({table.spellings(key)})
                          AND (e.aggregate_type = $4 OR e.event_type = ANY ($5::text[])))
               OR EXISTS (SELECT FROM relay.kept_summary e
                           WHERE e.aggregate_id = ANY ({table.spellings(key)})
                             AND (e.aggregate_type = $4 OR e.event_type = ANY ($5::text[])))
          FROM {table.table} o
         WHERE o.{table.status} = ANY ({table.as_statuses("$1")})
           AND {at.since("$2::timestamptz")}
           AND ($3::timestamptz IS NULL OR {at.before("$3::timestamptz")})
           AND NOT EXISTS (SELECT FROM relay.dropped_partition d
                            WHERE {at.value()} >= d.from_at AND {at.value()} < d.to_at)
    """  # noqa: S608 - identifiers from the catalog
