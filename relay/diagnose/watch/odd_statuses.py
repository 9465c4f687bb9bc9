"""Orders that are not returned, and whose status keeps them from being found as open.

Invariant: an order whose final status a held return contradicts, and one whose status the flow does
not know, are found like any other that is overdue. The second needs an index on large tables: where
none serves, they are not looked for, and the caller is told so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.gather.cut_over import watched_from
from relay.diagnose.watch.open_sql import literals, unclosed
from relay.orders.catalog import orders_table
from relay.orders.table import OrdersTable
from relay.runtime.flow import ApplyColumns, Flow

# By the planner's reckoning, some 100,000 orders read through: 50 ms. With an index, as many as
# there are to be found.
MOST_COST: Final = 10_000.0

Rows = list[asyncpg.Record]


async def find_contradicted(
    connection: asyncpg.Connection, flow: Flow, table: OrdersTable, *given: Any
) -> Rows:
    """Return key and time of orders with a final status that a held return contradicts.

    Args:
        connection: any role that may see the orders.
        flow: says which statuses are final.
        table: where orders are.
        given: from when on, deadline in seconds, only those without an open case, how many.
    """
    terminal = sorted(flow.terminal_statuses)
    rows: Rows = await connection.fetch(
        _contradicted_query(table), *given, terminal, *_others(flow), flow.confirm_group
    )
    return rows


async def find_unknown(
    connection: asyncpg.Connection, flow: Flow, table: OrdersTable, *given: Any
) -> Rows:
    """Return the same of orders with a status that the flow does not know; none if it is dear.

    Those that a return ended are left out: somebody went on with them.
    """
    query = _unknown_query(table, await _known(connection, flow))
    given = (*given, sorted(flow.terminal_statuses), *_others(flow))
    if await _cost(connection, query, *given) > MOST_COST:
        return []
    rows: Rows = await connection.fetch(query, *given)
    return rows


async def find_overwritten(
    connection: asyncpg.Connection, flow: Flow, table: OrdersTable, *given: Any
) -> Rows:
    """Return the same of orders whose final status is none that a return gave them.

    Of all returns where that is cheap, else of those of the last day, hour or minutes; and of those
    that are recorded as such: `relay reconcile` looks at every one.
    """
    given = (*given, sorted(flow.terminal_statuses), *_others(flow))
    rows: Rows = await connection.fetch(_overwritten_query(table, _RECORDED), *given)
    for window in _WINDOWS:
        query = _overwritten_query(table, window)
        if await _cost(connection, query, *given) <= MOST_COST:
            return rows + list(await connection.fetch(query, *given))
    return rows


async def count_unknown(
    connection: asyncpg.Connection, flow: Flow, *, most_cost: float = MOST_COST
) -> Mapping[str, int] | None:
    """Return how many orders have each status that the flow does not know, since it is watched.

    Args:
        connection: any role that may see the orders.
        flow: says which statuses there are.
        most_cost: in the planner's units.

    Returns:
        None: it is dearer to look.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    if not isinstance(flow.apply, ApplyColumns):
        return {}
    start = await watched_from(connection, flow)
    if start is None:
        return {}
    table = await orders_table(connection, flow)
    query = _count_query(table, await _known(connection, flow))
    if await _cost(connection, query, start) > most_cost:
        return None
    return dict(await connection.fetch(query, start))


async def list_unknown(
    connection: asyncpg.Connection, flow: Flow, since: datetime | None, until: datetime | None
) -> Rows:
    """Return id and status of every order with a status that the flow does not know.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    start = since or await watched_from(connection, flow)
    if start is None:
        return []
    table = await orders_table(connection, flow)
    query = _list_query(table, await _known(connection, flow))
    rows: Rows = await connection.fetch(query, start, until)
    return rows


def _others(flow: Flow) -> tuple[list[str], list[str]]:
    return list(flow.others.names), list(flow.others.groups)


async def _known(connection: asyncpg.Connection, flow: Flow) -> str:
    return await literals(connection, {*flow.status_ranks, *flow.later_statuses})


async def _cost(connection: asyncpg.Connection, query: str, *values: Any) -> float:
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *values))
    top = plan[0]["Plan"]
    # A LIMIT looks cheap where nothing is found, and everything is read for it.
    if top["Node Type"] == "Limit":
        top = top["Plans"][0]
    return float(top["Total Cost"])


def _overdue(table: OrdersTable) -> str:
    return f"""{table.submitted.since("$1::timestamptz")}
           AND {table.submitted.before("clock_timestamp() - make_interval(secs => $2)")}
           AND {unclosed(table.id_of(), "$6")}
           AND NOT EXISTS (SELECT FROM relay.inbox i
                            WHERE i.aggregate_id = {table.id_of()}
                              AND i.consumer_group <> ALL ($7::text[])
                              AND i.outcome = 'applied' AND i.new_status = ANY ($5::text[]))"""


# Returns of any age, or of that one and younger.
_WINDOWS: Final = (
    "true",
    *(
        f"i.received_at > clock_timestamp() - interval '{age}'"
        for age in ("1 day", "1 hour", "2 minutes")
    ),
)
_RECORDED: Final = f"""i.aggregate_id IN (
               SELECT aggregate_id FROM relay.overdue
                WHERE closed_at IS NULL AND flow <> ALL ($6::text[])
                  AND cause = '{Cause.STATUS_OVERWRITTEN.value}')"""  # noqa: S608


def _overwritten_query(table: OrdersTable, returns: str) -> str:
    # An order's own clock may be ahead: it was there when its return came.
    placed = f"least({table.submitted.value()}, i.received_at)"
    # Other flows' ids may be none of this table's: they are left out before they are converted.
    return f"""
        SELECT DISTINCT ON (1) {table.id_of()} AS key, {placed} AS placed_at
          FROM (SELECT i.aggregate_id, i.new_status, i.received_at FROM relay.inbox i
                 WHERE i.outcome = 'applied' AND i.consumer_group <> ALL ($7::text[])
                   AND i.new_status = ANY ($5::text[]) AND i.received_at >= $1::timestamptz
                   AND {returns} OFFSET 0) AS i
          JOIN {table.table} o ON o.{table.key} = {table.as_key("i.aggregate_id")}
         WHERE {table.status_of()} = ANY ($5::text[]) AND {table.status_of()} <> i.new_status
           AND {placed} < clock_timestamp() - make_interval(secs => $2)
           AND {unclosed(table.id_of(), "$6")}
           AND NOT EXISTS (SELECT FROM relay.inbox j
                            WHERE j.aggregate_id = i.aggregate_id AND j.outcome = 'applied'
                              AND j.consumer_group <> ALL ($7::text[])
                              AND j.new_status = {table.status_of()})
         ORDER BY 1, 2 LIMIT $4
    """  # noqa: S608 - identifiers from the catalog


def _contradicted_query(table: OrdersTable) -> str:
    return f"""
        SELECT {table.id_of()} AS key, {table.submitted.value()} AS placed_at
          FROM (SELECT DISTINCT aggregate_id FROM relay.quarantine_summary
                 WHERE kind = 'return' AND reason = 'conflict' AND consumer_group = $8
                   AND state IN ('held', 'release_requested') OFFSET 0) AS q
          JOIN {table.table} o ON o.{table.key} = {table.as_key("q.aggregate_id")}
         WHERE {table.status_of()} = ANY ($5::text[]) AND {_overdue(table)}
         ORDER BY o.{table.submitted.name} LIMIT $4
    """  # noqa: S608 - identifiers from the catalog


def _unknown_query(table: OrdersTable, known: str) -> str:
    return f"""
        SELECT {table.id_of()} AS key, {table.submitted.value()} AS placed_at
          FROM {table.table} o
         WHERE o.{table.status} NOT IN ({known}) AND {_overdue(table)}
         ORDER BY o.{table.submitted.name} LIMIT $4
    """  # noqa: S608 - identifiers from the catalog, literals quoted by PostgreSQL


def _count_query(table: OrdersTable, known: str) -> str:
    return f"""
        SELECT {table.status_of()}, count(*)
          FROM {table.table} o
         WHERE o.{table.status} NOT IN ({known}) AND {table.submitted.since("$1::timestamptz")}
         GROUP BY 1 ORDER BY 2 DESC, 1
    """  # noqa: S608 - identifiers from the catalog, literals quoted by PostgreSQL


def _list_query(table: OrdersTable, known: str) -> str:
    at = table.submitted
    return f"""
        SELECT {table.id_of()}, coalesce({table.status_of()}, 'NULL')
          FROM {table.table} o
         WHERE (o.{table.status} IN ({known})) IS NOT TRUE AND {at.since("$1::timestamptz")}
           AND ($2::timestamptz IS NULL OR {at.before("$2::timestamptz")})
    """  # noqa: S608 - identifiers from the catalog, literals quoted by PostgreSQL
