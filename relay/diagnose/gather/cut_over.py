"""Hop 1: since when the order service writes events: before, no order has one.

Invariant: reads only. The first event that is proven decides (a row, a row that was kept, a day
that was dropped with rows in it), unless the settings name the moment; where no event was ever
written, nothing is expected of any order.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import asyncpg

from relay.orders.catalog import orders_table
from relay.runtime.flow import Flow

# The sample's own service writes events from its first order on.
_FIRST_EVENT: Final = """
SELECT CASE WHEN i.kind = 'sample' THEN i.watched_since ELSE least(
           (SELECT created_at FROM relay.outbox_summary
             WHERE aggregate_type = $1 OR event_type = ANY ($2::text[]) ORDER BY id LIMIT 1),
           (SELECT created_at FROM relay.kept_summary
             WHERE aggregate_type = $1 OR event_type = ANY ($2::text[]) ORDER BY id LIMIT 1),
           (SELECT min(from_at) FROM relay.dropped_partition WHERE row_count > 0)) END
  FROM relay.installation AS i
"""
_COUNTED: Final = 10_000
_WATCHED_SINCE: Final = "SELECT watched_since FROM relay.installation"


async def events_since(connection: asyncpg.Connection, flow: Flow) -> datetime | None:
    """Return since when orders have events; None: none was ever written."""
    if flow.events_since is not None:
        return flow.events_since
    found: datetime | None = await connection.fetchval(
        _FIRST_EVENT, flow.aggregate_type, flow.own_event_types
    )
    return found


async def watched_since(connection: asyncpg.Connection) -> datetime | None:
    """Return since when the installation watches; None: it is not migrated."""
    since: datetime | None = await connection.fetchval(_WATCHED_SINCE)
    return since


async def watched_from(connection: asyncpg.Connection, flow: Flow) -> datetime | None:
    """Return from when on orders are judged unless one asks for older ones; None: from no time."""
    first = await events_since(connection, flow)
    since = await watched_since(connection)
    return None if first is None or since is None else max(first, since)


async def orders_without_any_event(connection: asyncpg.Connection, flow: Flow) -> int:
    """Return how many orders were placed since the watch began, where no event was ever written.

    At most so many are counted; 0 where there was an event, or no setting says where orders are.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    if flow.orders_columns is None or await events_since(connection, flow) is not None:
        return 0
    table = await orders_table(connection, flow)
    since = f"({_WATCHED_SINCE})"
    query = (
        f"SELECT count(*) FROM (SELECT FROM {table.table} o "  # noqa: S608 - from the catalog
        f"WHERE {table.submitted.since(since)} LIMIT {_COUNTED}) AS counted"
    )
    count: int = await connection.fetchval(query)
    return count
