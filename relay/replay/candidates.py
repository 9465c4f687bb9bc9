"""Looks up what a selection means: orders, their events' rows, what was replayed before.

Invariant: reads only; rows of partitions that were dropped are named by range, never passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.verdicts import Hop, Verdict
from relay.orders.catalog import FlowTableError, orders_table
from relay.orders.keys import canonical_order_id
from relay.publish.reading.replays import PART_ITEMS
from relay.replay.plan import EventRow
from relay.replay.selection import NothingSelectedError, Selection, SelectionError
from relay.runtime.flow import ApplyColumns, Flow

# As many ids at once as a plan by index is good for.
_AT_ONCE: Final = 10_000

_OF_INCIDENTS: Final = """
SELECT DISTINCT aggregate_id FROM relay.overdue
 WHERE incident_id = ANY ($1::bigint[]) AND flow <> ALL ($2::text[])
"""


async def orders_of_incidents(
    connection: asyncpg.Connection, flow: Flow, numbers: Sequence[int]
) -> list[str]:
    """Return the orders of these incidents.

    Raises:
        SelectionError: there are none.
    """
    found = [
        row[0] for row in await connection.fetch(_OF_INCIDENTS, numbers, list(flow.others.names))
    ]
    if not found:
        named = ", ".join(f"I-{number}" for number in numbers)
        raise NothingSelectedError(f"no order belongs to {named}: `relay incidents` lists them")
    return found


_OF_EVENTS: Final = """
SELECT aggregate_id, event_id::text FROM relay.outbox_summary WHERE event_id = ANY ($1::uuid[])
 UNION
SELECT aggregate_id, event_id::text FROM relay.kept_summary WHERE event_id = ANY ($1::uuid[])
"""
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


async def orders_of_events(connection: asyncpg.Connection, events: Sequence[str]) -> dict[str, str]:
    """Return order -> event, of events.

    Raises:
        SelectionError: one of them is no UUID, or no row has it.
    """
    wrong = next((one for one in events if not _UUID.fullmatch(one)), None)
    if wrong is not None:
        raise SelectionError(f"an event id is a UUID, not {wrong[:60]!r}")
    found = dict(list(await connection.fetch(_OF_EVENTS, list(events))))
    missing = {one.lower() for one in events} - set(found.values())
    if missing:
        raise NothingSelectedError(
            f"no row has event id {min(missing)}: it was never committed, or its day was dropped"
        )
    return found


_HAS_CUSTOMERS: Final = """
SELECT count(*) = 1 FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attname = 'customer_id' AND NOT attisdropped
"""


async def orders_of_customers(
    connection: asyncpg.Connection, flow: Flow, customers: Sequence[str]
) -> list[str]:
    """Return the orders of these customers.

    Raises:
        SelectionError: there are none, or the flow's table does not say whose an order is.
    """
    table = None if flow.orders_columns is None else flow.orders_columns.table
    if table is None or not await connection.fetchval(_HAS_CUSTOMERS, table):
        raise SelectionError("--customer needs an orders table with a column customer_id")
    orders = await orders_table(connection, flow)
    query = (
        f"SELECT {orders.id_of()} FROM {orders.table} o "  # noqa: S608 - from the catalog
        f"WHERE o.customer_id::text = ANY ($1::text[]) ORDER BY o.{orders.submitted.name}"
    )
    found = [row[0] for row in await connection.fetch(query, customers)]
    if not found:
        raise NothingSelectedError(f"no order belongs to customer {customers[0]!r}")
    return found


_FIRST_WRITTEN: Final = """
SELECT least((SELECT min(created_at) FROM relay.outbox_summary WHERE aggregate_id = ANY ($1)),
             (SELECT min(created_at) FROM relay.kept_summary WHERE aggregate_id = ANY ($1)))
"""


async def first_written(connection: asyncpg.Connection, orders: Sequence[str]) -> datetime | None:
    """Return when the first event of these orders was written; None: none is there."""
    found: datetime | None = await connection.fetchval(_FIRST_WRITTEN, list(orders))
    return found


def canonical(flow: Flow, orders: Iterable[str]) -> list[str]:
    """Write order ids as the database does, each once; what cannot be one stays as it is."""
    clean = canonical_order_id(flow)
    return list(dict.fromkeys(clean(one) or one for one in orders))


# The conditions on events; shared with everything.py.
CONDITIONS: Final = """
        (cardinality($2::text[]) = 0 OR e.event_type = ANY ($2))
    AND ($3::timestamptz IS NULL OR e.created_at >= $3)
    AND ($4::timestamptz IS NULL OR e.created_at < $4)
    AND ($5::bigint IS NULL OR e.id >= $5)
    AND ($6::bigint IS NULL OR e.id <= $6)
"""

_ROWS: Final = f"""
SELECT e.id, e.aggregate_id, e.event_type, {CONDITIONS} AS selected
  FROM (SELECT id, aggregate_id, event_type, created_at FROM relay.outbox_summary
         WHERE id = ANY ($1::bigint[])
         UNION ALL
        SELECT id, aggregate_id, event_type, created_at FROM relay.kept_summary
         WHERE id = ANY ($1::bigint[])) AS e
"""  # noqa: S608 - constants of this module

# Published: what the checkpoint has behind it.
_NEWEST: Final = """
SELECT e.aggregate_id, max(e.id)
  FROM relay.outbox_summary AS e, relay.checkpoint AS c
 WHERE e.aggregate_id = ANY ($1::text[]) AND c.shard = 0
   AND (e.aggregate_type = $2 OR e.event_type = ANY ($3::text[]))
   AND pg_visible_in_snapshot(e.txid, c.prev)
 GROUP BY e.aggregate_id
"""

_REPLAYED: Final = """
SELECT DISTINCT wanted.id
  FROM unnest($1::bigint[]) AS wanted (id)
  JOIN relay.delivery_ledger AS ledger
    ON ledger.id_range @> wanted.id AND wanted.id = ANY (ledger.outbox_ids)
 WHERE ledger.replay_id IS NOT NULL AND ledger.topic = ANY ($2::text[])
"""

# The ids of a part ascend: most parts are dismissed by their ends.
_IN_REPLAY: Final = f"""
SELECT item.id, job.replay_id::text
  FROM relay.replay_job AS job
  JOIN relay.replay_part AS part USING (replay_id)
 CROSS JOIN LATERAL unnest(part.outbox_ids) WITH ORDINALITY AS item (id, place)
 WHERE job.state IN ('running', 'paused') AND job.target_topic IS NOT DISTINCT FROM $2
   AND part.outbox_ids[1] <= $4 AND part.outbox_ids[cardinality(part.outbox_ids)] >= $3
   AND part.number::bigint * {PART_ITEMS} + item.place > job.sent_count
   AND item.id = ANY ($1::bigint[])
"""  # noqa: S608 - a constant


async def event_rows(
    connection: asyncpg.Connection,
    flow: Flow,
    outbox_ids: Sequence[int],
    selection: Selection,
    target: str | None,
) -> dict[int, EventRow]:
    """Return the rows of these events, by outbox id."""
    found: dict[int, EventRow] = {}
    for first in range(0, len(outbox_ids), _AT_ONCE):
        some = list(outbox_ids[first : first + _AT_ONCE])
        found |= await _some_rows(connection, flow, some, selection, target)
    return found


async def _some_rows(
    connection: asyncpg.Connection,
    flow: Flow,
    ids: list[int],
    selection: Selection,
    target: str | None,
) -> dict[int, EventRow]:
    rows = await connection.fetch(_ROWS, ids, *conditions(selection))
    orders = list({row["aggregate_id"] for row in rows})
    own = flow.aggregate_type, flow.own_event_types
    newest = dict(list(await connection.fetch(_NEWEST, orders, *own)))
    topics = [target] if target is not None else sorted(flow.topics)
    replayed = {row[0] for row in await connection.fetch(_REPLAYED, ids, topics)}
    busy = dict(list(await connection.fetch(_IN_REPLAY, ids, target, min(ids), max(ids))))

    def topic_of(event_type: str) -> str | None:
        route = flow.canary_routes.get(event_type) or flow.route(event_type)
        return None if route is None else route.topic

    return {
        row["id"]: EventRow(
            outbox_id=row["id"],
            order_id=row["aggregate_id"],
            event_type=row["event_type"],
            topic=target or topic_of(row["event_type"]),
            selected=row["selected"],
            newer=newest.get(row["aggregate_id"], 0) > row["id"],
            replayed=row["id"] in replayed,
            in_replay=busy.get(row["id"]),
        )
        for row in rows
    }


def conditions(selection: Selection) -> tuple[Any, ...]:
    """Return the values of the conditions on events, $2 to $6."""
    return (
        list(selection.event_types),
        selection.since,
        selection.until,
        selection.from_id,
        selection.to_id,
    )


_RECORDED: Final = """
SELECT DISTINCT ON (aggregate_id) aggregate_id, hop, verdict, cause
  FROM relay.overdue
 WHERE aggregate_id = ANY ($1::text[]) AND closed_at IS NULL AND flow <> ALL ($2::text[])
 ORDER BY aggregate_id, opened_at DESC
"""


async def recorded_cases(
    connection: asyncpg.Connection, flow: Flow, orders: Sequence[str]
) -> dict[str, tuple[Hop | None, Verdict, Cause]]:
    """Return hop, verdict and cause of open cases, as the watchdog recorded them.

    A case in a newer version's codes is left out.
    """
    found: dict[str, tuple[Hop | None, Verdict, Cause]] = {}
    for order_id, hop, verdict, cause in await connection.fetch(
        _RECORDED, orders, list(flow.others.names)
    ):
        if verdict in set(Verdict) and cause in set(Cause):
            known = Hop(hop) if hop in set(Hop) else None
            found[order_id] = (known, Verdict(verdict), Cause(cause))
    return found


_DROPPED: Final = """
SELECT partition_name, from_at, to_at, lower(id_range) AS from_id, upper(id_range) - 1 AS to_id,
       row_count - kept_count AS rows
  FROM relay.dropped_partition
 WHERE row_count > kept_count
   AND ($1::timestamptz IS NULL OR to_at > $1) AND ($2::timestamptz IS NULL OR from_at < $2)
   AND ($3::bigint IS NULL OR upper(id_range) > $3)
   AND ($4::bigint IS NULL OR lower(id_range) <= $4)
 ORDER BY from_at
"""


async def dropped_ranges(
    connection: asyncpg.Connection, selection: Selection
) -> list[dict[str, Any]]:
    """Return what of a selection by time or range can no longer be replayed."""
    limits = (selection.since, selection.until, selection.from_id, selection.to_id)
    if all(one is None for one in limits):
        return []
    return [dict(row) for row in await connection.fetch(_DROPPED, *limits)]


async def count_returned(
    connection: asyncpg.Connection, flow: Flow, since: datetime | None, until: datetime | None
) -> int | None:
    """Count the orders of a time that have their return; None: the flow has no orders table."""
    if not isinstance(flow.apply, ApplyColumns):
        return None
    try:
        table = await orders_table(connection, flow)
    except FlowTableError:
        return None
    at = table.submitted
    query = (
        f"SELECT count(*) FROM {table.table} o "  # noqa: S608 - from the catalog
        f"WHERE {table.status_of()} = ANY ($1::text[]) "
        f"AND ($2::timestamptz IS NULL OR {at.since('$2::timestamptz')}) "
        f"AND ($3::timestamptz IS NULL OR {at.before('$3::timestamptz')})"
    )
    count: int = await connection.fetchval(query, sorted(flow.terminal_statuses), since, until)
    return count
