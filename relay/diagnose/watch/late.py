"""Finds orders that were returned late while no watchdog ran.

Invariant: each stretch of time is looked at once, remembered in relay.maintenance, and only after
every transaction that could still write into it has ended by any reasonable clock; a stretch costs
what was returned in it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from relay.orders.catalog import orders_table
from relay.orders.table import OrdersTable
from relay.runtime.flow import ApplyColumns, Flow, default_deadline_seconds

_DUTY: Final = "watchdog_late"
# A batch of returns is applied within a second or so; its rows carry the time of their insert.
_SETTLED: Final = timedelta(seconds=15)
_STRETCH: Final = timedelta(minutes=5)
# In one round: after a long time without a watchdog the rest comes with the next ones.
_LOOK_SECONDS: Final = 1.0

_UNTIL: Final = """
SELECT coalesce((SELECT done_until FROM relay.maintenance WHERE duty = $1),
                (SELECT watched_since FROM relay.installation)) AS done_until,
       clock_timestamp() AS now_at,
       (SELECT watched_since FROM relay.installation) AS watched_since
"""
_DONE: Final = """
INSERT INTO relay.maintenance (duty, done_until) VALUES ($1, $2)
ON CONFLICT (duty) DO UPDATE SET done_until = excluded.done_until, ran_at = clock_timestamp()
"""


@dataclass(frozen=True, slots=True)
class Late:
    """Orders returned late, and until when was looked (None: nothing to remember)."""

    order_ids: list[str]
    until: datetime | None


async def find_late(connection: asyncpg.Connection, flow: Flow, at_most: int) -> Late:
    """Return orders returned late that no case knows, from where `looked_until` stands.

    Args:
        connection: in autocommit.
        flow: where orders are; another one than `columns` has no late orders to find.
        at_most: about so many; the rest comes with the next call.
    """
    row = await connection.fetchrow(_UNTIL, _duty(flow))
    if not isinstance(flow.apply, ApplyColumns) or row is None or row["done_until"] is None:
        return Late([], None)
    until = row["now_at"] - _SETTLED
    query = _late_query(await orders_table(connection, flow))
    start: datetime = row["done_until"]
    found: list[str] = []
    deadline = time.monotonic() + _LOOK_SECONDS
    while start < until and len(found) < at_most and time.monotonic() < deadline:
        end = min(start + _STRETCH, until)
        rows = await connection.fetch(
            query,
            start,
            end,
            sorted(flow.terminal_statuses),
            default_deadline_seconds(flow),
            row["watched_since"],
            list(flow.others.names),
            list(flow.others.groups),
        )
        found += [one["key"] for one in rows]
        start = end
    return Late(list(dict.fromkeys(found)), start)


def _duty(flow: Flow) -> str:
    return _DUTY if flow.is_first else f"{_DUTY}:{flow.name}"


async def looked_until(connection: asyncpg.Connection, flow: Flow, until: datetime | None) -> None:
    """Remember it, once what was found is written."""
    if until is not None:
        await connection.execute(_DONE, _duty(flow), until)


def _late_query(table: OrdersTable) -> str:
    # The inbox holds the order's key as the database writes it, so the cast always fits.
    return f"""
        SELECT i.aggregate_id AS key
          FROM relay.inbox AS i
          JOIN {table.table} AS o ON o.{table.key} = {table.as_key("i.aggregate_id")}
         WHERE i.received_at > $1 AND i.received_at <= $2
           AND i.outcome = 'applied' AND i.new_status = ANY ($3::text[])
           AND i.received_at - make_interval(secs => $4) > {table.submitted.value()}
           AND {table.submitted.since("$5::timestamptz")}
           AND i.consumer_group <> ALL ($7::text[])
           AND NOT EXISTS (SELECT FROM relay.overdue AS v
                            WHERE v.aggregate_id = i.aggregate_id AND v.flow <> ALL ($6::text[]))
    """  # noqa: S608 - identifiers from the catalog
