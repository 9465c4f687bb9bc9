"""Hop 1: every order that waits against its event, and every event that waits against its order.

Invariant: reads only, a page at a time. Orders of days that were dropped, and those placed before
events were written, are nobody's difference.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.diagnose.gather.cut_over import orders_watched_from, orders_without_any_event
from relay.diagnose.gather.database import read_orders
from relay.diagnose.reconcile.findings import Difference, Finding, Tally
from relay.diagnose.reconcile.paging import each_row
from relay.orders.catalog import orders_table
from relay.orders.keys import canonical_order_id
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


_ORDERS_AT_A_TIME: Final = 1_000


async def reconcile_gone(
    connection: asyncpg.Connection,
    flow: Flow,
    since: datetime | None,
    until: datetime | None,
    tally: Tally,
    *,
    told: Collection[str] = (),
) -> None:
    """List orders that have an event, no final return and no row: nobody waits for them any more.

    Where a return was applied, or waits for the consumer (`told`), that is the finding.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    columns = flow.orders_columns
    if columns is None:
        return
    query = _gone_query(await orders_table(connection, flow))
    values = sorted(flow.deadlines), since, until, list(flow.others.groups), list(flow.others.names)
    walk = _GoneWalk(connection, flow, tally, frozenset(told))
    page: list[tuple[Any, ...]] = []
    async for row in each_row(connection, query, *values, flow.aggregate_type):
        page.append(row)
        if len(page) == _ORDERS_AT_A_TIME:
            await walk.list_gone(page)
            page = []
    await walk.list_gone(page)


@dataclass(frozen=True, slots=True)
class _GoneWalk:
    connection: asyncpg.Connection
    flow: Flow
    tally: Tally
    told: frozenset[str]

    async def list_gone(self, page: Sequence[tuple[Any, ...]]) -> None:
        """List those whose order is not there under any spelling of its id."""
        clean, columns = canonical_order_id(self.flow), self.flow.orders_columns
        assert columns is not None
        named = {one: clean(one) or one for one, _event in page}
        wanted = sorted(set(named.values()) - self.told)
        there = await read_orders(self.connection, self.flow, wanted)
        for spelling, event_id in page:
            order = named[spelling]
            if order not in there and order not in self.told:
                detail = f"its event {event_id} waits for a return"
                self.tally.add(Finding(Difference.ORDER_GONE, order, columns.table, detail))


def _gone_query(table: OrdersTable) -> str:
    return f"""
        SELECT e.aggregate_id, min(e.event_id::text)
          FROM (SELECT aggregate_id, aggregate_type, event_type, event_id, created_at
                  FROM relay.outbox_summary
                UNION ALL
                SELECT aggregate_id, aggregate_type, event_type, event_id, created_at
                  FROM relay.kept_summary) AS e
         WHERE e.event_type = ANY ($1::text[]) AND e.aggregate_type = $6
           AND ($2::timestamptz IS NULL OR e.created_at >= $2)
           AND ($3::timestamptz IS NULL OR e.created_at < $3)
           AND NOT EXISTS (SELECT FROM {table.table} o WHERE {table.id_of()} = e.aggregate_id)
           AND NOT EXISTS (SELECT FROM relay.inbox i
                            WHERE i.aggregate_id = e.aggregate_id
                              AND i.outcome IN ('applied', 'observed')
                              AND i.consumer_group <> ALL ($4::text[]))
           AND NOT EXISTS (SELECT FROM relay.overdue v
                            WHERE v.aggregate_id = e.aggregate_id AND v.closed_as = 'closed'
                              AND v.flow <> ALL ($5::text[]))
         GROUP BY 1
    """  # noqa: S608 - identifiers from the catalog


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
