"""All hops: finds the orders that are past their deadline and not returned.

Invariant: never an order placed before the watch began, never one that was closed by hand; an order
without an outbox row is found too, where the flow says where orders are. With the index that
`relay check` names, the cost depends on how many are open, not on how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from relay.diagnose.gather.assemble import default_deadline_seconds
from relay.orders.catalog import orders_table
from relay.orders.table import OrdersTable
from relay.runtime.flow import ApplyColumns, Flow


@dataclass(frozen=True, slots=True)
class Open:
    """An order that waits for its return; `event_id` where it is known which event it is."""

    order_id: str
    placed_at: datetime
    event_id: str | None = None


_WATCHED_SINCE: Final = "SELECT watched_since FROM relay.installation"
# The statuses stand in the text, as literals that PostgreSQL quotes: only so can the planner see
# that a partial index on them fits.
_LITERALS: Final = """
SELECT string_agg(quote_literal(status), ', ' ORDER BY status) FROM unnest($1::text[]) AS status
"""


async def find_open(
    connection: asyncpg.Connection,
    flow: Flow,
    *,
    since: datetime | None = None,
    unrecorded: bool = False,
    at_most: int = 100_000,
) -> list[Open]:
    """Return the orders past their deadline, oldest first.

    Args:
        connection: any role that may see the orders.
        flow: where orders are, and their deadlines.
        since: only orders placed from then on; None: since the installation watches.
        unrecorded: only those that no open case of relay.overdue knows.
        at_most: orders to return.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    start = since or await connection.fetchval(_WATCHED_SINCE)
    if not isinstance(flow.apply, ApplyColumns):
        return await _unanswered_events(connection, flow, start, unrecorded, at_most)
    table = await orders_table(connection, flow)
    waiting = sorted(set(flow.status_ranks) - flow.terminal_statuses)
    statuses = await connection.fetchval(_LITERALS, waiting)
    rows = await connection.fetch(
        _orders_query(table, statuses),
        start,
        default_deadline_seconds(flow),
        unrecorded,
        at_most,
    )
    found = [Open(row["key"], row["placed_at"]) for row in rows]
    rows = await connection.fetch(
        _untimed_query(table, statuses),
        start,
        default_deadline_seconds(flow),
        unrecorded,
        at_most,
        flow.aggregate_type,
        list(flow.events),
    )
    if rows:
        known = {one.order_id for one in found}
        found += [Open(row["key"], row["placed_at"]) for row in rows if row["key"] not in known]
        found.sort(key=lambda one: one.placed_at)
    return found[:at_most]


def _orders_query(table: OrdersTable, statuses: str) -> str:
    at = table.submitted
    return f"""
        SELECT {table.id_of()} AS key, {at.value()} AS placed_at
          FROM {table.table} o
         WHERE o.{table.status} IN ({statuses})
           AND {at.since("$1::timestamptz")}
           AND {at.before("clock_timestamp() - make_interval(secs => $2)")}
           AND NOT EXISTS (SELECT FROM relay.overdue v
                            WHERE v.aggregate_id = {table.id_of()}
                              AND (v.closed_as = 'closed' OR $3 AND v.closed_at IS NULL))
         ORDER BY o.{at.name}
         LIMIT $4
    """  # noqa: S608 - identifiers from the catalog, literals quoted by PostgreSQL


# Orders whose own time says nothing (never set, year 1, infinity, a clock of days ahead): the time
# of their event decides, which is the database's.
def _untimed_query(table: OrdersTable, statuses: str) -> str:
    at = table.submitted
    return f"""
        SELECT {table.id_of()} AS key, e.created_at AS placed_at
          FROM {table.table} o
         CROSS JOIN LATERAL (
               SELECT s.created_at FROM relay.outbox_summary AS s
                WHERE s.aggregate_id = {table.id_of()}
                  AND (s.aggregate_type = $5 OR s.event_type = ANY ($6::text[]))
                ORDER BY s.id LIMIT 1) AS e
         WHERE o.{table.status} IN ({statuses})
           AND (o.{at.name} IS NULL OR {at.before("'1970-01-02 00:00:00+00'::timestamptz")}
                OR {at.since("clock_timestamp() + interval '1 day'")})
           AND e.created_at >= $1::timestamptz
           AND e.created_at < clock_timestamp() - make_interval(secs => $2)
           AND NOT EXISTS (SELECT FROM relay.overdue v
                            WHERE v.aggregate_id = {table.id_of()}
                              AND (v.closed_as = 'closed' OR $3 AND v.closed_at IS NULL))
         ORDER BY e.created_at
         LIMIT $4
    """  # noqa: S608 - identifiers from the catalog, literals quoted by PostgreSQL


# Where orders are not ours to see: events without a terminal answer. Reads the outbox since then.
_UNANSWERED: Final = """
SELECT e.aggregate_id AS key, e.created_at AS placed_at, e.event_id::text AS event_id
  FROM unnest($1::text[], $2::float8[]) AS due (event_type, seconds)
  JOIN relay.outbox_summary AS e USING (event_type)
 WHERE e.created_at >= $3
   AND e.created_at < clock_timestamp() - make_interval(secs => due.seconds)
   AND NOT EXISTS (SELECT FROM relay.inbox AS i
                    WHERE i.aggregate_id = e.aggregate_id AND i.status = ANY ($4::text[])
                      AND (i.causation_id IS NULL OR i.causation_id = e.event_id::text))
   AND NOT EXISTS (SELECT FROM relay.overdue AS v
                    WHERE v.event_id = e.event_id::text
                      AND (v.closed_as = 'closed' OR $5 AND v.closed_at IS NULL))
 ORDER BY e.created_at
 LIMIT $6
"""


async def _unanswered_events(
    connection: asyncpg.Connection,
    flow: Flow,
    since: datetime | None,
    unrecorded: bool,  # noqa: FBT001 - passed through
    at_most: int,
) -> list[Open]:
    due = flow.deadlines
    words = set(flow.terminal_statuses)
    words |= {word for word, status in flow.status_aliases.items() if status in words}
    rows = await connection.fetch(
        _UNANSWERED, list(due), list(due.values()), since, sorted(words), unrecorded, at_most
    )
    return [Open(row["key"], row["placed_at"], row["event_id"]) for row in rows]
