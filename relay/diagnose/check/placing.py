"""Hop 1: whether orders have events, and times that the database's clock agrees with.

Invariant: reads a bounded number of rows. An order's own time is another program's: nothing is
decided by it where there is an event, and a clock that is wrong is said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import asyncpg

from relay.diagnose.check.result import (
    CLOCK_TOLERANCE_SECONDS,
    Result,
    failed,
    ok,
    unknown,
    warning,
)
from relay.diagnose.gather.cut_over import events_since, orders_without_any_event
from relay.diagnose.gather.database import read_orders
from relay.orders.catalog import FlowTableError, lookup_columns
from relay.orders.keys import order_key
from relay.runtime.flow import Flow
from relay.runtime.times import OddTime

_COMPARED: Final = 500
# An order may wait for its own transaction; and a batch of old ones is no wrong clock.
_BEHIND_SECONDS: Final = 60.0
_SHARE: Final = 0.1

_NEWEST: Final = """
SELECT aggregate_id, created_at FROM relay.outbox_summary
 WHERE event_type = ANY ($1::text[]) ORDER BY id DESC LIMIT $2
"""


async def check_placing(connection: asyncpg.Connection, flow: Flow) -> list[Result]:
    """Return every check of how orders are written."""
    try:
        found = [await _first_event(connection, flow), await _clock(connection, flow)]
    except FlowTableError as error:
        return [unknown("place.clock", str(error), "correct flow.orders.columns in the settings")]
    return [*found, await _lookup(connection, flow)]


_INDEXED: Final = """
SELECT a.attname::text FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = pg_catalog.to_regclass($1)
   AND EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indpred IS NULL
                  AND i.indkey[0] = a.attnum)
"""


async def _lookup(connection: asyncpg.Connection, flow: Flow) -> Result:
    name, columns = "orders.lookup_columns", flow.orders_columns
    try:
        wanted = await lookup_columns(connection, flow)
    except FlowTableError as error:
        return failed(name, str(error), "correct lookup_columns in the settings")
    if columns is None or not wanted:
        return ok(name, "none: an order is found by its own id, and its event's")
    indexed = {row[0] for row in await connection.fetch(_INDEXED, columns.table)}
    bare = [one.quoted for one in wanted if one.name not in indexed]
    if not bare:
        return ok(name, "each has an index")
    return warning(
        name,
        f"no index on {', '.join(bare)}: each question reads the whole table",
        "; ".join(f"CREATE INDEX CONCURRENTLY ON {columns.table} ({one})" for one in bare),
    )


async def _first_event(connection: asyncpg.Connection, flow: Flow) -> Result:
    first = await events_since(connection, flow)
    if first is not None:
        return ok("place.events", f"orders have events since {first:%Y-%m-%d %H:%M:%S}")
    without = await orders_without_any_event(connection, flow)
    if not without:
        return ok("place.events", "none was written yet, and no order was placed")
    return warning(
        "place.events",
        f"no event was ever written, and orders are placed: none of them is judged [{without}]",
        "let the order service write to relay.outbox in the order's transaction"
        " (docs/order-service.md)",
    )


async def _clock(connection: asyncpg.Connection, flow: Flow) -> Result:
    name = "place.clock"
    if flow.orders_columns is None:
        return ok(name, "not compared: no setting says where orders stand")
    ahead = await _seconds_ahead(connection, flow)
    if not ahead:
        return ok(name, "nothing to compare")
    wrong = _wrong(ahead)
    if wrong is None:
        return ok(name, f"orders' times agree with the database's [{median(ahead):+.1f} s]")
    return warning(
        name,
        f"{flow.orders_columns.submitted_at_column} is {wrong}",
        "set the order service's clock (NTP), or time_zone for a column without a zone; overdue"
        " orders with an event are found by the database's clock all the same",
    )


async def _seconds_ahead(connection: asyncpg.Connection, flow: Flow) -> list[float]:
    """Return by how much the newest orders' times are ahead of their events'."""
    events = await connection.fetch(_NEWEST, list(flow.deadlines), _COMPARED)
    clean = order_key(flow)
    written = {clean(row["aggregate_id"]): row["created_at"] for row in events}
    orders = await read_orders(connection, flow, [one for one in written if one is not None])
    times = [(one.submitted_at, written[key]) for key, one in orders.items()]
    return [
        (placed - event).total_seconds()
        for placed, event in times
        if placed is not None and not isinstance(placed, OddTime)
    ]


def _wrong(ahead: Sequence[float]) -> str | None:
    late = [one for one in ahead if one > CLOCK_TOLERANCE_SECONDS]
    early = [-one for one in ahead if one < -_BEHIND_SECONDS]
    if late:
        return f"ahead of the database's clock [{len(late)} of {len(ahead)}, by {max(late):.0f} s]"
    if len(early) > len(ahead) * _SHARE:
        by = median(early)
        return f"behind the database's clock [{len(early)} of {len(ahead)}, by {by:.0f} s]"
    return None
