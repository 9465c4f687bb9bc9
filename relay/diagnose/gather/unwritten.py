"""Hop 1: what the outbox holds around the moment at which an order without an event was written.

Invariant: reads only. Neither the order service's clock nor the order's own transaction is trusted
alone: an order may have been written in a savepoint, or changed since, and so stands under another
transaction than its event. What could not be looked at is absent from the result, never "nothing".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from relay.diagnose.evidence.order import Moment
from relay.orders.catalog import orders_table
from relay.orders.keys import order_key
from relay.orders.table import OrdersTable
from relay.runtime.flow import Flow

# Each order costs two descents of an index for each of the outbox's days.
ORDERS_AT_MOST: Final = 2_000
# A savepoint's transaction has a higher number than the one around it, and others come between.
_BEFORE: Final = 100
_AFTER: Final = 20
# So many neighbours on each side tell which ids the order's event could have had.
_NEXT_TO: Final = 5
# Orders that were changed since stand under the number of that change; their own time tells.
_BISECTED_AT_MOST: Final = 100
_SAME_MOMENT: Final = timedelta(seconds=5)
_SPAN_AT_MOST: Final = 10_000
_PAIRS_AT_MOST: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the outbox near an order.

    Attributes:
        low_txid: the lower half of its transaction's number, as an order's xmin has it.
        expected: of the flow's aggregate or of one of its event types.
        own: written by the very transaction that the order stands under.
        later: by a transaction with a higher number.
    """

    id: int
    created_at: datetime
    aggregate_id: str
    low_txid: int
    expected: bool
    own: bool = False
    later: bool = False


@dataclass(slots=True)
class Around:
    """What was found about orders without an event.

    Attributes:
        moments: by order; an order that was not looked at is absent.
        vacant: ids around each order that no row has.
    """

    moments: dict[str, Moment] = field(default_factory=dict)
    vacant: dict[str, tuple[int, ...]] = field(default_factory=dict)


# xmin is the lower half of a transaction's number; one that would lie ahead is of the cycle before.
_XMIN: Final = """
    SELECT CASE WHEN t.low > t.now THEN t.low - 4294967296 ELSE t.low END AS number
      FROM (SELECT n.now, div(n.now, 4294967296) * 4294967296 + o.xmin::text::bigint AS low
              FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::numeric AS now) AS n) AS t
"""
_ROW: Final = """e.id, e.created_at, e.aggregate_id,
                       (e.txid::text::numeric % 4294967296)::bigint AS low_txid,
                       e.aggregate_type = $2 OR e.event_type = ANY ($3::text[]) AS expected"""


def _near_query(table: OrdersTable) -> str:
    return f"""
        SELECT bare.key, near.id, near.created_at, near.aggregate_id, near.low_txid, near.expected,
               near.own, near.later
          FROM (SELECT {table.id_of()} AS key, x.number::text::xid8 AS txid
                  FROM {table.table} o CROSS JOIN LATERAL ({_XMIN}) AS x
                 WHERE o.{table.key} = ANY ({table.as_keys("$1")}) AND x.number >= 0) AS bare
         CROSS JOIN LATERAL (
               (SELECT {_ROW}, e.txid = bare.txid AS own, false AS later
                  FROM relay.outbox_summary e WHERE e.txid <= bare.txid
                 ORDER BY e.txid DESC, e.id DESC LIMIT {_BEFORE})
               UNION ALL
               (SELECT {_ROW}, false, true
                  FROM relay.outbox_summary e WHERE e.txid > bare.txid
                 ORDER BY e.txid, e.id LIMIT {_AFTER})) AS near
    """  # noqa: S608 - identifiers from the catalog


_FIRST_FROM: Final = (
    "SELECT id, created_at FROM relay.outbox_summary WHERE id >= $1 ORDER BY id LIMIT 1"
)
_LAST: Final = "SELECT max(id) FROM relay.outbox_summary"
_BETWEEN: Final = f"""
SELECT {_ROW} FROM relay.outbox_summary e WHERE e.id BETWEEN $1 AND $4 ORDER BY e.id
"""  # noqa: S608 - constants
_IDS: Final = """
SELECT id FROM relay.outbox_summary WHERE id BETWEEN $1 AND $2
 UNION ALL SELECT id FROM relay.kept_summary WHERE id BETWEEN $1 AND $2
"""
# The newest rows may have been deleted: up to where was an id ever drawn? Whoever may not ask knows
# up to where anything was published.
_MAY_ASK_LAST: Final = "SELECT has_function_privilege('relay.last_outbox_id()', 'EXECUTE')"
_LAST_DRAWN: Final = "SELECT relay.last_outbox_id()"
_LEDGER_END: Final = """
SELECT max(upper(id_range)) - 1
  FROM (SELECT id_range FROM relay.delivery_ledger ORDER BY ledger_id DESC LIMIT 200) AS newest
"""
# Rows leave by whole partitions only, and DEFAULT is emptied by moving: what the statistics count
# elsewhere, somebody deleted.
_DELETED: Final = """
SELECT coalesce(sum(pg_stat_get_tuples_deleted(i.inhrelid)), 0)::bigint
  FROM pg_catalog.pg_inherits i
 WHERE i.inhparent = 'relay.outbox'::regclass
   AND i.inhrelid <> 'relay.outbox_default'::regclass
"""
# As in cut_over.py: a sample's orders have events from the first one on.
_FIRST_DECIDES: Final = "SELECT kind <> 'sample' FROM relay.installation"
# Of the orders table $1, those that write to the outbox.
DISABLED_TRIGGERS: Final = """
  FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
 WHERE t.tgrelid = to_regclass($1) AND t.tgenabled = 'D' AND NOT t.tgisinternal
   AND p.prosrc ILIKE '%outbox%'
"""
_MAY_READ_PAYLOADS: Final = "SELECT has_column_privilege('relay.outbox', 'payload', 'SELECT')"
# Looked into by the server: payloads do not travel.
_NAMED: Final = """
SELECT w.place, e.payload::text ~ w.asked AS names_order, e.payload::text ~ w.own AS names_itself
  FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[]) AS w (place, id, asked, own)
  JOIN relay.outbox AS e ON e.id = w.id
"""


async def read_moments(
    connection: asyncpg.Connection, flow: Flow, placed: Mapping[str, datetime | None]
) -> Around:
    """Look around the moments of orders that have a row and no event.

    Args:
        connection: in a transaction.
        flow: names the orders table.
        placed: when each was submitted, as its own row says.

    Raises:
        asyncpg.PostgresError: the tables cannot be read.
    """
    if not placed or flow.orders_columns is None:
        return Around()
    table = await orders_table(connection, flow)
    canonical = order_key(flow)
    keys = [key for key in map(canonical, placed) if key is not None][:ORDERS_AT_MOST]
    kinds = flow.aggregate_type, flow.own_event_types
    near: defaultdict[str, list[_Row]] = defaultdict(list)
    for key, *columns in await connection.fetch(_near_query(table), keys, *kinds):
        near[key].append(_Row(*columns))
    older = {key for key, rows in near.items() if all(row.later for row in rows)}
    first_decides: bool = flow.events_since is None and await connection.fetchval(_FIRST_DECIDES)
    await _add_by_time(connection, kinds, {key: placed.get(key) for key in keys}, near)
    loose = await _loose(connection, table, canonical, near)
    named, others, unread = await _read_payloads(connection, loose)
    asked = _LAST_DRAWN if await connection.fetchval(_MAY_ASK_LAST) else _LEDGER_END
    end: int | None = await connection.fetchval(asked)
    vacant = {key: await _vacant(connection, near.get(key, ()), end) for key in keys}
    deleted: int = await connection.fetchval(_DELETED)
    before_trigger = await _before_trigger(connection, table, keys)
    moments = {
        key: Moment(
            strays=_ids(row for row in near.get(key, ()) if row.own or (key, row.id) in named),
            unclaimed=_ids(
                row for row in loose.get(key, ()) if (key, row.id) not in others | named
            ),
            payloads_unread=unread,
            vacant_count=len(vacant[key]),
            deleted_count=deleted,
            before_trigger=key in before_trigger,
            before_events=first_decides and key in older,
        )
        for key in keys
    }
    return Around(moments, vacant)


async def _before_trigger(
    connection: asyncpg.Connection, table: OrdersTable, keys: Sequence[str]
) -> frozenset[str]:
    """Return the orders that were written before a trigger was disabled: it was not the reason."""
    query = f"""
        SELECT {table.id_of()} FROM {table.table} o
         WHERE o.{table.key} = ANY ({table.as_keys("$2")})
           AND age(o.xmin) > ALL (SELECT age(t.xmin) {DISABLED_TRIGGERS})
    """  # noqa: S608 - identifiers from the catalog
    return frozenset(row[0] for row in await connection.fetch(query, table.table, keys))


def _ids(rows: Iterable[_Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.aggregate_id for row in rows))


async def _add_by_time(
    connection: asyncpg.Connection,
    kinds: tuple[str, list[str]],
    placed: Mapping[str, datetime | None],
    near: defaultdict[str, list[_Row]],
) -> None:
    """Add the rows of the time that an order names, where its transaction's rows are of another."""
    moved = [
        (key, at) for key, at in placed.items() if at is not None and _is_far(near.get(key, ()), at)
    ]
    last: int | None = await connection.fetchval(_LAST) if moved else None
    if last is None:
        return
    for key, at in moved[:_BISECTED_AT_MOST]:
        middle = await _first_since(connection, at, last)
        known = {row.id for row in near[key]}
        rows = await connection.fetch(_BETWEEN, middle - _BEFORE, *kinds, middle + _BEFORE)
        near[key] += [
            replace(_Row(*columns), later=columns[0] >= middle)
            for columns in rows
            if columns[0] not in known
        ]


def _is_far(rows: Iterable[_Row], at: datetime) -> bool:
    """Tell whether all rows near an order's transaction are younger than the order."""
    return not any(row.created_at <= at for row in rows)


async def _first_since(connection: asyncpg.Connection, at: datetime, last: int) -> int:
    """Find the first id written at or after a time: ids and times rise together."""
    low, high = 0, last + 1
    while low < high:
        middle = (low + high) // 2
        row = await connection.fetchrow(_FIRST_FROM, middle)
        if row is None or row["created_at"] >= at:
            high = middle
        else:
            low = row["id"] + 1
    return low


async def _loose(
    connection: asyncpg.Connection,
    table: OrdersTable,
    canonical: Callable[[str], str | None],
    near: Mapping[str, Sequence[_Row]],
) -> dict[str, list[_Row]]:
    """Return, by order, the rows near it that should be an order's and belong to none."""
    wanted = {row.aggregate_id for rows in near.values() for row in rows if row.expected}
    there = await _orders_that_are(
        connection, table, [one for one in map(canonical, wanted) if one]
    )
    found = {
        key: [
            row
            for row in rows
            if row.expected and not row.own and canonical(row.aggregate_id) not in there
        ]
        for key, rows in near.items()
    }
    every = [row for rows in found.values() for row in rows]
    taken = await _written_with_another(connection, table, every) if every else frozenset()
    return {key: [row for row in rows if row.low_txid not in taken] for key, rows in found.items()}


async def _orders_that_are(
    connection: asyncpg.Connection, table: OrdersTable, keys: Sequence[str]
) -> frozenset[str]:
    query = f"""
        SELECT {table.id_of()} FROM {table.table} o
         WHERE o.{table.key} = ANY ({table.as_keys("$1")})
    """  # noqa: S608 - identifiers from the catalog
    return frozenset(row[0] for row in await connection.fetch(query, keys))


async def _written_with_another(
    connection: asyncpg.Connection, table: OrdersTable, rows: Sequence[_Row]
) -> frozenset[int]:
    """Return the transactions of rows that wrote an order, too: those rows are that order's."""
    query = f"""
        SELECT DISTINCT o.xmin::text::bigint FROM {table.table} o
         WHERE {table.submitted.since("$1::timestamptz")}
           AND {table.submitted.before("$2::timestamptz")}
           AND o.xmin::text::bigint = ANY ($3::bigint[])
    """  # noqa: S608 - identifiers from the catalog
    times = [row.created_at for row in rows]
    first, last = min(times) - _SAME_MOMENT, max(times) + _SAME_MOMENT
    wanted = sorted({row.low_txid for row in rows})
    return frozenset(row[0] for row in await connection.fetch(query, first, last, wanted))


async def _read_payloads(
    connection: asyncpg.Connection, loose: Mapping[str, Sequence[_Row]]
) -> tuple[set[tuple[str, int]], set[tuple[str, int]], bool]:
    """Look for the orders' ids in the payloads of rows that belong to no order.

    Returns:
        The pairs of order and row whose payload names the order; those whose payload names the
        row's own aggregate and not the order (somebody else's); whether payloads were not read.
    """
    pairs = [(key, row) for key, rows in loose.items() for row in rows]
    if not pairs:
        return set(), set(), False
    if len(pairs) > _PAIRS_AT_MOST or not await connection.fetchval(_MAY_READ_PAYLOADS):
        return set(), set(), True
    rows = await connection.fetch(
        _NAMED,
        list(range(len(pairs))),
        [row.id for _key, row in pairs],
        [_pattern(key) for key, _row in pairs],
        [_pattern(row.aggregate_id) for _key, row in pairs],
    )
    named: set[tuple[str, int]] = set()
    others: set[tuple[str, int]] = set()
    for place, names_order, names_itself in rows:
        key, row = pairs[place]
        if names_order:
            named.add((key, row.id))
        elif names_itself:
            others.add((key, row.id))
    return named, others, False


def _pattern(text: str) -> str:
    """Return the regular expression of an id that stands by itself, in PostgreSQL's dialect."""
    literal = re.sub(r"([^0-9A-Za-z])", r"\\\1", text)
    return f"(?i)(^|[^0-9A-Za-z_-]){literal}($|[^0-9A-Za-z_-])"


async def _vacant(
    connection: asyncpg.Connection, rows: Sequence[_Row], end: int | None
) -> tuple[int, ...]:
    """Return the ids around an order that no row has: rolled back, or deleted."""
    before = sorted(row.id for row in rows if not row.later)[-_NEXT_TO:]
    after = sorted(row.id for row in rows if row.later)[:_NEXT_TO]
    first = before[0] if before else 1
    last = after[-1] if after else end
    if last is None or last < first:
        return ()
    last = min(last, first + _SPAN_AT_MOST)
    there = {row["id"] for row in await connection.fetch(_IDS, first, last)}
    return tuple(one for one in range(first, last + 1) if one not in there)
