"""Hops 1, 2, 4 and 5: reads what the database holds of many orders, each part in one statement.

Invariant: reads only, without payloads (an observer's role suffices), in the caller's REPEATABLE
READ transaction; every statement is answered by an index for each id, whatever the tables hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.order import (
    ClosedByHand,
    Delivery,
    HeldEvent,
    OrderSeen,
)
from relay.diagnose.evidence.rows import CaseRow, EventRow, HeldRow, Rows
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.reading import part
from relay.diagnose.gather.recorded_returns import read_refused_by_trace, read_returns
from relay.diagnose.gather.unwritten import Around, read_moments
from relay.orders.catalog import orders_table
from relay.orders.keys import can_be_asked_for, order_key, spellings
from relay.orders.table import OrdersTable
from relay.runtime.flow import Flow
from relay.runtime.flow_rules import LONGEST_EVENT_TYPE_BYTES
from relay.telemetry.continuity import stored_trace

# Looked up in the ledger together: ids that no row has, around orders without an event.
_VACANT_AT_ONCE: Final = 5_000

K = TypeVar("K")
V = TypeVar("V")


async def read_rows(connection: asyncpg.Connection, flow: Flow, ids: Sequence[str]) -> Rows:
    """Read everything the database holds of these orders; what cannot be read is Missing."""
    con = connection
    ids = [one for one in ids if can_be_asked_for(one)]
    orders = await part(con, "the order's row", lambda: read_orders(con, flow, ids))
    placed = {} if isinstance(orders, Missing) else orders
    hidden = None if all(one in placed for one in ids) else await _hidden(con, flow)
    events = await part(con, "the outbox row", lambda: _events(con, flow, ids, placed))
    known = {} if isinstance(events, Missing) else events
    outbox_ids = [row.outbox_id for rows in known.values() for row in rows]
    traces = [trace_id(row) for rows in known.values() for row in rows]
    bare = _without_event(ids, orders, events)
    written = {one: at for one, at in bare.items() if one in placed}
    around = await part(con, "other rows", lambda: read_moments(con, flow, written))
    vacant = [] if isinstance(around, Missing) else _vacant(around)
    return Rows(
        orders=orders,
        hidden=hidden,
        events=events,
        deliveries=await part(
            con, "the delivery ledger", lambda: read_deliveries(con, flow, outbox_ids)
        ),
        held=await part(con, "the quarantine", lambda: _held(con, flow, ids)),
        returns=await part(con, "inbox and quarantine", lambda: read_returns(con, flow, ids)),
        returns_by_trace=await part(
            con, "refused returns", lambda: read_refused_by_trace(con, traces)
        ),
        cases=_or_nothing(await part(con, "overdue cases", lambda: _cases(con, flow, ids))),
        moments=around if isinstance(around, Missing) else around.moments,
        vacant={} if isinstance(around, Missing) else around.vacant,
        vanished=await part(con, "the delivery ledger", lambda: _vanished(con, flow, vacant)),
        dropped=await part(con, "dropped days", lambda: _dropped(con, bare)),
    )


_HIDDEN: Final = "SELECT row_security_active($1::text)"


async def rows_are_hidden(connection: asyncpg.Connection, flow: Flow) -> bool:
    """Tell whether row-level security may show this role only a part of the orders.

    Raises:
        asyncpg.UndefinedTableError: there is no such table.
    """
    columns = flow.orders_columns
    return columns is not None and bool(await connection.fetchval(_HIDDEN, columns.table))


async def _hidden(connection: asyncpg.Connection, flow: Flow) -> Missing | None:
    """Say that an order without a row may have one, which this role does not see."""
    what = "the order's row"
    hidden = await part(connection, what, lambda: rows_are_hidden(connection, flow))
    if not isinstance(hidden, bool):
        return hidden
    return (
        Missing(
            what,
            Cause.PERMISSION_DENIED,
            "row-level security shows this role only a part of the orders",
            "ask as a role with BYPASSRLS, or give this one a policy that shows it every order",
        )
        if hidden
        else None
    )


def _vacant(around: Around) -> list[int]:
    return sorted({one for ids in around.vacant.values() for one in ids})


async def _vanished(
    connection: asyncpg.Connection, flow: Flow, vacant: Sequence[int]
) -> dict[int, list[Delivery]]:
    found: dict[int, list[Delivery]] = {}
    for start in range(0, len(vacant), _VACANT_AT_ONCE):
        found |= await read_deliveries(connection, flow, vacant[start : start + _VACANT_AT_ONCE])
    return found


def _or_nothing(found: Mapping[K, V] | Missing) -> Mapping[K, V]:
    return {} if isinstance(found, Missing) else found


def _without_event(
    ids: Sequence[str],
    orders: Mapping[str, OrderSeen] | Missing,
    events: Mapping[str, list[EventRow]] | Missing,
) -> dict[str, datetime | None]:
    """Return the orders that have no outbox row, with the time of their placing."""
    if isinstance(events, Missing):
        return {}
    placed = {} if isinstance(orders, Missing) else orders
    return {
        one: placed[one].submitted_at if one in placed else None for one in ids if one not in events
    }


def trace_id(row: EventRow) -> str:
    """Return the trace of an event: its traceparent's, else the one made of its event id."""
    return stored_trace(row.traceparent, UUID(row.event_id))


async def read_orders(
    connection: asyncpg.Connection, flow: Flow, ids: Sequence[str]
) -> dict[str, OrderSeen]:
    """Read the orders' own rows; none where the flow does not say where they are.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    if flow.orders_columns is None:
        return {}
    table = await orders_table(connection, flow)
    canonical = order_key(flow)
    keys = [key for key in map(canonical, ids) if key is not None]
    rows = await connection.fetch(_orders_query(table), keys)
    return {
        row["key"]: OrderSeen(
            row["status"],
            row["status"] in flow.ended_statuses,
            row["submitted_at"],
            row["returned_at"],
            row["status"] in flow.status_ranks or row["status"] in flow.later_statuses,
            row["status"] in flow.later_statuses,
        )
        for row in rows
    }


def _orders_query(table: OrdersTable) -> str:
    return f"""
        SELECT {table.id_of()} AS key, {table.status_of()} AS status,
               {table.submitted.value()} AS submitted_at, {table.returned_of()} AS returned_at
          FROM {table.table} o
         WHERE o.{table.key} = ANY ({table.as_keys("$1")})
    """  # noqa: S608 - identifiers from the catalog


# Whatever its writer wrote: a longer event type is no setting's (its length is told without reading
# it), and a longer traceparent is none.
_EVENT_TYPE: Final = f"""
       CASE WHEN octet_length(e.event_type) <= {LONGEST_EVENT_TYPE_BYTES} THEN e.event_type
            ELSE left(e.event_type, 100) || '... (' || octet_length(e.event_type) || ' bytes)'
        END"""
_TRACEPARENT: Final = "left(e.traceparent, 256)"

# The newest place of the WAL that another publisher's slot confirmed: what its snapshot shows was
# given to him.
_MARK: Final = """(
       SELECT w.seen
         FROM relay.publisher AS p
         JOIN pg_catalog.pg_replication_slots AS s
           ON s.slot_name = p.slot AND s.database = current_database()
        CROSS JOIN LATERAL (SELECT seen FROM relay.wal_mark AS k
                             WHERE k.lsn <= s.confirmed_flush_lsn
                             ORDER BY k.lsn DESC LIMIT 1) AS w
        WHERE p.kind = 'external')"""

# A row was handed over when the checkpoint's past snapshot shows it, or the page being read does.
_EVENTS: Final = f"""
SELECT e.aggregate_id, e.aggregate_type = $2, e.id, e.event_id::text, {_EVENT_TYPE}, e.created_at,
       {_TRACEPARENT}, e.kept,
       coalesce(pg_visible_in_snapshot(e.txid, c.prev)
                OR (e.id <= c.last_id AND pg_visible_in_snapshot(e.txid, c.cur)), false),
       coalesce(pg_visible_in_snapshot(e.txid, m.seen), false)
  FROM (SELECT aggregate_id, aggregate_type, id, event_id, event_type, created_at, traceparent,
               txid, false AS kept
          FROM relay.outbox_summary WHERE aggregate_id = ANY ($1::text[])
         UNION ALL
        SELECT aggregate_id, aggregate_type, id, event_id, event_type, created_at, traceparent,
               txid, true
          FROM relay.kept_summary WHERE aggregate_id = ANY ($1::text[])) AS e
  LEFT JOIN relay.checkpoint AS c ON c.shard = 0
  LEFT JOIN {_MARK} AS m ON true
 WHERE e.aggregate_type = $2 OR e.event_type = ANY ($3::text[])
 ORDER BY e.id
"""  # noqa: S608 - constants of this module


# The same, looked for where the order's day is: two or three partitions instead of all.
_EVENTS_NEAR: Final = f"""
SELECT k.order_id, e.aggregate_type = $2, e.id, e.event_id::text, {_EVENT_TYPE}, e.created_at,
       {_TRACEPARENT}, false,
       coalesce(pg_visible_in_snapshot(e.txid, c.prev)
                OR (e.id <= c.last_id AND pg_visible_in_snapshot(e.txid, c.cur)), false),
       coalesce(pg_visible_in_snapshot(e.txid, m.seen), false)
  FROM unnest($1::text[], $4::timestamptz[]) AS k (order_id, placed_at)
 CROSS JOIN LATERAL (
       SELECT o.id, o.aggregate_type, o.event_id, o.event_type, o.created_at, o.traceparent,
              o.txid
         FROM relay.outbox_summary AS o
        WHERE o.aggregate_id = k.order_id
          AND o.created_at >= k.placed_at - interval '1 day'
          AND o.created_at < k.placed_at + interval '2 days'
          AND (o.aggregate_type = $2 OR o.event_type = ANY ($3::text[]))
        ORDER BY o.id) AS e
  LEFT JOIN relay.checkpoint AS c ON c.shard = 0
  LEFT JOIN {_MARK} AS m ON true
"""  # noqa: S608 - constants of this module
# With fewer orders than this, looking everywhere costs a few milliseconds.
_NEAR_FROM: Final = 200
# Some pages of the disk for each: so that no statement reaches its timeout where nothing is cached.
_NEAR_AT_ONCE: Final = 2000


async def _events(
    connection: asyncpg.Connection,
    flow: Flow,
    ids: Sequence[str],
    placed: Mapping[str, OrderSeen],
) -> dict[str, list[EventRow]]:
    """Read outbox rows: many orders near their time first, what is not found there everywhere."""
    kinds = flow.aggregate_type, flow.own_event_types
    found: defaultdict[str, list[_Event]] = defaultdict(list)
    near = [one for one in ids if one in placed and placed[one].submitted_at is not None]
    if len(near) >= _NEAR_FROM:
        for start in range(0, len(near), _NEAR_AT_ONCE):
            some = near[start : start + _NEAR_AT_ONCE]
            times = [placed[one].submitted_at for one in some]
            for order_id, is_own, *columns in await connection.fetch(
                _EVENTS_NEAR, some, *kinds, times
            ):
                found[order_id].append((is_own, EventRow(*columns)))
    # An order without a row that expects a return may have it on another day, or in relay.kept; or
    # its writer spells the id otherwise than its table does.
    for spelt in (lambda one: (one,)), (lambda one: spellings(flow, one)[1:]):
        left = [one for one in ids if not _expecting(flow, found.get(one, ()))]
        named = {spelling: one for one in left for spelling in spelt(one)}
        if named:
            rows = await connection.fetch(_EVENTS, list(named), *kinds)
            for order_id in {named[row[0]] for row in rows}:
                found.pop(order_id, None)
            for spelling, is_own, *columns in rows:
                found[named[spelling]].append((is_own, EventRow(*columns)))
    return {order_id: _own(events) for order_id, events in found.items()}


_Event = tuple[bool, EventRow]


def _expecting(flow: Flow, events: Iterable[_Event]) -> bool:
    return any(flow.deadline_seconds(one.event_type) is not None for _, one in events)


def _own(events: Iterable[_Event]) -> list[EventRow]:
    """Return those of the flow's aggregate type; where there is none, those of its event types.

    Customer 42 is not order 42, though one of its events may be of a type that orders have, too.
    """
    own = [one for is_own, one in events if is_own]
    return own or [one for _, one in events]


# `id_range @>` is what the GiST index answers; a range may have holes, the array has not. A replay
# to another topic is no publication; a delivery to a topic that no setting names any more is one.
_DELIVERIES: Final = """
SELECT wanted.id, ledger.topic, ledger.partition,
       ledger.base_offset + array_position(ledger.outbox_ids, wanted.id) - 1,
       ledger.published_at, ledger.replay_id::text
  FROM unnest($1::bigint[]) AS wanted (id)
  JOIN relay.delivery_ledger AS ledger
    ON ledger.id_range @> wanted.id AND wanted.id = ANY (ledger.outbox_ids)
 WHERE ledger.topic = ANY ($2::text[]) OR ledger.replay_id IS NULL
 ORDER BY ledger.published_at, ledger.ledger_id
"""


async def read_deliveries(
    connection: asyncpg.Connection, flow: Flow, outbox_ids: Sequence[int]
) -> dict[int, list[Delivery]]:
    """Return what the ledger knows of these rows, oldest first."""
    rows = await connection.fetch(_DELIVERIES, outbox_ids, sorted(flow.topics))
    found: defaultdict[int, list[Delivery]] = defaultdict(list)
    for outbox_id, *columns in rows:
        found[outbox_id].append(Delivery(*columns))
    return dict(found)


_HELD: Final = """
SELECT q.aggregate_id, q.outbox_id, q.reason, coalesce(q.detail, ''), q.state, q.first_seen_at,
       q.resolved_by, q.resolved_why
  FROM relay.quarantine_summary AS q
 WHERE q.kind = 'event' AND q.aggregate_id = ANY ($1::text[])
   -- Customer 42 may have something parked, too.
   AND NOT EXISTS (SELECT FROM relay.outbox_summary AS o
                    WHERE o.id = q.outbox_id AND o.aggregate_type <> $2
                      AND o.event_type <> ALL ($3::text[]))
 ORDER BY q.outbox_id
"""


async def _held(
    connection: asyncpg.Connection, flow: Flow, ids: Sequence[str]
) -> dict[str, list[HeldRow]]:
    found: defaultdict[str, list[HeldRow]] = defaultdict(list)
    named = {spelling: one for one in ids for spelling in spellings(flow, one)}
    rows = await connection.fetch(_HELD, list(named), flow.aggregate_type, flow.own_event_types)
    for spelling, outbox_id, reason, detail, state, *rest in rows:
        # Whether it is the event's own row is known once the event is chosen.
        held = HeldEvent(reason, detail, state, False, *rest)  # noqa: FBT003
        found[named[spelling]].append(HeldRow(outbox_id, held))
    return dict(found)


_CASES: Final = """
SELECT aggregate_id, incident_id, closed_as, closed_by, closed_why, closed_at, hop, cause,
       reported_at IS NOT NULL AS reported,
       coalesce(evidence #>> '{lost,hop}', hop) AS lost_hop,
       coalesce(evidence #>> '{lost,cause}', cause) AS lost_cause
  FROM relay.overdue WHERE aggregate_id = ANY ($1::text[]) AND flow <> ALL ($2::text[])
 ORDER BY opened_at
"""


async def _cases(
    connection: asyncpg.Connection, flow: Flow, ids: Sequence[str]
) -> dict[str, CaseRow]:
    found = {}
    for row in await connection.fetch(_CASES, ids, list(flow.others.names)):
        by_hand = row["closed_as"] == "closed"
        closed = ClosedByHand(row["closed_by"] or "?", row["closed_why"] or "", row["closed_at"])
        found[row["aggregate_id"]] = CaseRow(
            row["incident_id"],
            closed if by_hand else None,
            (row["hop"], row["cause"]),
            (row["lost_hop"], row["lost_cause"]),
            row["reported"],
        )
    return found


_DROPPED: Final = """
SELECT partition_name, from_at, to_at FROM relay.dropped_partition ORDER BY from_at
"""


async def _dropped(
    connection: asyncpg.Connection, placed: Mapping[str, datetime | None]
) -> dict[str, str]:
    """Return the dropped partition that would have held each order's row."""
    if not placed:
        return {}
    days = await connection.fetch(_DROPPED)
    return {
        order_id: name
        for order_id, at in placed.items()
        for name in [_day_of(days, at)]
        if name is not None
    }


def _day_of(days: Iterable[asyncpg.Record], at: datetime | None) -> str | None:
    if at is None:
        return None
    covering = (day["partition_name"] for day in days if day["from_at"] <= at < day["to_at"])
    return next(covering, None)


async def reread(
    connection: asyncpg.Connection, flow: Flow, ids: Sequence[str], rows: Rows
) -> Rows:
    """Read the orders and their returns again: they may have arrived since."""
    ids = [one for one in ids if can_be_asked_for(one)]
    orders = await part(connection, "the order's row", lambda: read_orders(connection, flow, ids))
    returns = await part(
        connection, "inbox and quarantine", lambda: read_returns(connection, flow, ids)
    )
    return replace(rows, orders=_newer(rows.orders, orders), returns=_newer(rows.returns, returns))


def _newer(
    old: Mapping[str, V] | Missing, new: Mapping[str, V] | Missing
) -> Mapping[str, V] | Missing:
    if isinstance(old, Missing) or isinstance(new, Missing):
        return new
    return {**old, **new}
