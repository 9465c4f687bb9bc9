"""Finds the orders that are past their deadline and not returned.

Invariant: never an order placed before the watch began, or before the first event was written;
never one that was closed by hand; an order without an outbox row is found too, where the flow says
where orders are. The database's clock decides, where an order has an event: its own time, which
another program's clock gave, says only where to look. With the index that `relay check` names, the
cost depends on how many are open, not on how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.diagnose.gather.cut_over import orders_behind, watched_from
from relay.diagnose.gather.database import read_orders, rows_are_hidden
from relay.diagnose.watch.odd_statuses import (
    find_contradicted,
    find_overwritten,
    find_unknown,
)
from relay.diagnose.watch.open_sql import literals, unclosed
from relay.orders.catalog import orders_table
from relay.orders.table import OrdersTable
from relay.runtime.flow import ApplyColumns, Flow, default_deadline_seconds


@dataclass(frozen=True, slots=True)
class Open:
    """An order that waits for its return; `event_id` where it is known which event it is."""

    order_id: str
    placed_at: datetime
    event_id: str | None = None


# Orders whose own time hides that they are overdue are looked for among so many of each kind, those
# that are furthest ahead first: each costs a descent of an index for some days of the outbox.
_ELSEWHERE_AT_MOST: Final = 5_000
# Clocks differ by less, or by so much that the order's day says nothing at all.
_SKEW: Final = "interval '2 days'"
_NOW: Final = "SELECT clock_timestamp()"


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
        since: only orders placed from then on; None: since the installation watches, and events
            are written.
        unrecorded: only those that no open case of relay.overdue knows.
        at_most: orders to return.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    start = since or await watched_from(connection, flow)
    if start is None:
        return []
    own = since or start - await orders_behind(connection, flow)
    found: list[Open] = []
    if not isinstance(flow.apply, ApplyColumns):
        found = await _unanswered_events(connection, flow, start, unrecorded, at_most)
    elif await rows_are_hidden(connection, flow):
        found = await _of_hidden_orders(connection, flow, start, unrecorded, at_most)
    if flow.orders_columns is not None:
        found += await _open_orders(connection, flow, own, unrecorded, at_most)
    once = {one.order_id: one for one in reversed(found)}
    return sorted(once.values(), key=lambda one: one.placed_at)[:at_most]


async def _open_orders(
    connection: asyncpg.Connection,
    flow: Flow,
    start: datetime,
    unrecorded: bool,  # noqa: FBT001 - passed through
    at_most: int,
) -> list[Open]:
    table = await orders_table(connection, flow)
    statuses = await literals(connection, set(flow.status_ranks) - flow.terminal_statuses)
    decides = isinstance(flow.apply, ApplyColumns)
    asked: tuple[Any, ...] = (
        start,
        default_deadline_seconds(flow),
        unrecorded,
        at_most,
        flow.aggregate_type,
        flow.own_event_types,
        await connection.fetchval(_NOW),
        list(flow.others.names),
    )
    rows = []
    own = (_orders_query, _elsewhere_query, _future_query) if decides else (_bare_query,)
    for query in own:
        rows += await connection.fetch(query(table, statuses), *asked)
    if decides:
        rows += await find_contradicted(connection, flow, table, *asked[:4])
        rows += await find_unknown(connection, flow, table, *asked[:4])
        rows += await find_overwritten(connection, flow, table, *asked[:4])
    return [Open(row["key"], row["placed_at"]) for row in rows]


_DUE: Final = "$7::timestamptz - make_interval(secs => $2)"


# No row is of a later day, and the partitions that are made ahead are not looked into.
_TOMORROW: Final = "$7::timestamptz + interval '1 day'"


def _event(key: str, condition: str) -> str:
    """Return whether an order has an event of the flow; a scalar, which no plan turns to a scan."""
    return f"""(SELECT true FROM relay.outbox_summary AS s
                 WHERE s.aggregate_id = {key} AND {condition}
                   AND (s.aggregate_type = $5 OR s.event_type = ANY ($6::text[]))
                 LIMIT 1) IS TRUE"""  # noqa: S608 - identifiers from the catalog


# Not overdue, whatever its own time says: all its events are younger than the deadline.
def _orders_query(table: OrdersTable, statuses: str) -> str:
    at, key = table.submitted, table.id_of()
    return f"""
        SELECT {key} AS key, {at.value()} AS placed_at
          FROM {table.table} o
         WHERE o.{table.status} IN ({statuses})
           AND {at.since("$1::timestamptz")}
           AND {at.before(_DUE)}
           AND {unclosed(key, "$8")}
           AND NOT ({at.since(f"{_DUE} - {_SKEW}")}
                    AND {_event(key, f"s.created_at >= {_DUE} AND s.created_at < {_TOMORROW}")}
                    AND NOT {_event(key, f"s.created_at < {_DUE}")})
         ORDER BY o.{at.name}
         LIMIT $4
    """  # noqa: S608 - identifiers from the catalog, literals quoted by PostgreSQL


# Overdue, though their own time says otherwise: it is still to come or not yet due (a clock that is
# ahead), from before the watch (one that is behind), or none (never set, year 1, infinity).
# `id + 0`: by the order's index, also where there are no statistics.
def _elsewhere_query(table: OrdersTable, statuses: str) -> str:
    at, key = table.submitted, table.id_of()
    near = f"greatest($1::timestamptz, {at.value()} - {_SKEW})"

    def part(condition: str, bound: str) -> str:
        return f"""
               (SELECT {key} AS key, {bound} AS from_at FROM {table.table} o
                 WHERE o.{table.status} IN ({statuses}) AND {condition}
                 ORDER BY o.{at.name} DESC LIMIT {_ELSEWHERE_AT_MOST})"""  # noqa: S608

    day, epoch = _TOMORROW, "'1970-01-02 00:00:00+00'::timestamptz"
    past = f"($1::timestamptz - {_SKEW})"
    return f"""
        SELECT o.key, e.created_at AS placed_at
          FROM ({part(f"{at.since(_DUE)} AND {at.before(day)}", near)}
                UNION ALL {part(at.since(day), "$1::timestamptz")}
                UNION ALL {part(f"{at.since(past)} AND {at.before('$1::timestamptz')}", near)}
                UNION ALL {part(at.before(epoch), "$1::timestamptz")}
                UNION ALL {part(f"o.{at.name} IS NULL", "$1::timestamptz")}) AS o
         CROSS JOIN LATERAL (
               SELECT s.created_at FROM relay.outbox_summary AS s
                WHERE s.aggregate_id = o.key AND s.created_at >= o.from_at
                  AND s.created_at < {_DUE}
                  AND (s.aggregate_type = $5 OR s.event_type = ANY ($6::text[]))
                ORDER BY s.id + 0 LIMIT 1) AS e
         WHERE {unclosed("o.key", "$8")}
         ORDER BY e.created_at
         LIMIT $4
    """  # noqa: S608 - identifiers from the catalog, literals quoted by PostgreSQL


# No clock that is right writes a time that is still to come; without an event nothing tells when
# the order was placed: it bypassed the outbox the moment it was committed.
def _future_query(table: OrdersTable, statuses: str) -> str:
    at = table.submitted
    return f"""
        SELECT o.key, $7::timestamptz AS placed_at
          FROM (SELECT {table.id_of()} AS key FROM {table.table} o
                 WHERE o.{table.status} IN ({statuses})
                   AND {at.since("$7::timestamptz + interval '1 minute'")}
                   AND $1::timestamptz <= $7 AND $2::float8 > 0
                 ORDER BY o.{at.name} DESC LIMIT {_ELSEWHERE_AT_MOST}) AS o
         WHERE NOT {_event("o.key", "true")} AND {unclosed("o.key", "$8")}
         LIMIT $4
    """  # noqa: S608 - identifiers from the catalog, literals quoted by PostgreSQL


# Where a status may never move, of the newest orders those that have no event at all.
def _bare_query(table: OrdersTable, statuses: str) -> str:
    at = table.submitted
    return f"""
        SELECT o.key, o.placed_at
          FROM (SELECT {table.id_of()} AS key, {at.value()} AS placed_at
                  FROM {table.table} o
                 WHERE o.{table.status} IN ({statuses})
                   AND {at.since("$1::timestamptz")} AND {at.before(_DUE)}
                 ORDER BY o.{at.name} DESC LIMIT {_ELSEWHERE_AT_MOST}) AS o
         WHERE NOT {_event("o.key", "true")} AND {unclosed("o.key", "$8")}
         ORDER BY o.placed_at
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
                      AND i.consumer_group <> ALL ($9::text[])
                      AND (i.causation_id IS NULL OR i.causation_id = e.event_id::text))
   AND NOT EXISTS (SELECT FROM relay.overdue AS v
                    WHERE v.event_id = e.event_id::text
                      AND (v.closed_as = 'closed' OR $5 AND v.closed_at IS NULL))
   AND (e.aggregate_type = $7 OR e.event_type = ANY ($8::text[]))
 ORDER BY e.created_at
 LIMIT $6
"""


async def _of_hidden_orders(
    connection: asyncpg.Connection,
    flow: Flow,
    since: datetime,
    unrecorded: bool,  # noqa: FBT001 - passed through
    at_most: int,
) -> list[Open]:
    """Find orders that row-level security hides from this role by their events."""
    found = await _unanswered_events(connection, flow, since, unrecorded, at_most)
    shown = await read_orders(connection, flow, [one.order_id for one in found])
    return [one for one in found if one.order_id not in shown]


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
        _UNANSWERED, list(due), list(due.values()), since, sorted(words), unrecorded, at_most,
        flow.aggregate_type, flow.own_event_types, list(flow.others.groups),
    )  # fmt: skip
    return [Open(row["key"], row["placed_at"], row["event_id"]) for row in rows]
