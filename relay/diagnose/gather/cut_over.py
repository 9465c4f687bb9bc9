"""Hop 1: since when the order service writes events: before, no order has one.

Invariant: reads only. The first event that is proven decides (a row, a row that was kept, a day
that was dropped with rows in it), unless the settings name the moment; where no event was ever
written, nothing is expected of any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from relay.diagnose.gather.database import read_orders
from relay.orders.catalog import orders_table
from relay.orders.keys import order_key
from relay.runtime.flow import Flow
from relay.runtime.times import OddTime

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


# The first events tell how far the order service's clock is behind: each order against its event.
_FIRST_PAIRS: Final = 50
_SAME_SECONDS: Final = 60.0
_SHARE: Final = 0.9
# A clock or a time zone is wrong by hours; what is older was placed before, and imported.
_MOST_BEHIND_SECONDS: Final = 15 * 3600.0
_YOUNG_WATCH: Final = "SELECT watched_since > now() - interval '7 days' FROM relay.installation"


_FIRST_EVENTS: Final = f"""
SELECT aggregate_id, created_at FROM relay.outbox_summary
 WHERE aggregate_type = $1 AND event_type = ANY ($2::text[]) AND created_at >= ({_WATCHED_SINCE})
 ORDER BY id LIMIT {_FIRST_PAIRS}
"""  # noqa: S608 - constants of this module


def clock_behind(seconds: Sequence[float]) -> timedelta:
    """Return how far a clock is behind by which orders were written; 0: it is not, or nobody knows.

    Args:
        seconds: each event's time, by the database's clock, less its order's own.
    """
    if not seconds:
        return timedelta(0)
    middle = sorted(seconds)[len(seconds) // 2]
    alike = sum(abs(one - middle) <= _SAME_SECONDS for one in seconds)
    behind = _SAME_SECONDS < middle <= _MOST_BEHIND_SECONDS
    return timedelta(seconds=middle if behind and alike >= _SHARE * len(seconds) else 0)


async def orders_behind(connection: asyncpg.Connection, flow: Flow) -> timedelta:
    """Return how far the orders' own clock was behind when the watch began; 0 after a week.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    if flow.orders_columns is None or not await connection.fetchval(_YOUNG_WATCH):
        return timedelta(0)
    rows = await connection.fetch(_FIRST_EVENTS, flow.aggregate_type, list(flow.deadlines))
    clean = order_key(flow)
    written = {clean(row["aggregate_id"]): row["created_at"] for row in rows}
    orders = await read_orders(connection, flow, [one for one in written if one is not None])
    return clock_behind(
        [
            (written[key] - one.submitted_at).total_seconds()
            for key, one in orders.items()
            if one.submitted_at is not None and not isinstance(one.submitted_at, OddTime)
        ]
    )


async def watched_from(connection: asyncpg.Connection, flow: Flow) -> datetime | None:
    """Return from when on orders are judged unless one asks for older ones; None: from no time."""
    first = await events_since(connection, flow)
    since = await watched_since(connection)
    return None if first is None or since is None else max(first, since)


async def orders_watched_from(connection: asyncpg.Connection, flow: Flow) -> datetime | None:
    """Return the same in the orders' own time: their clock may be behind."""
    start = await watched_from(connection, flow)
    return None if start is None else start - await orders_behind(connection, flow)


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
