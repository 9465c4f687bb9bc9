"""Of the orders that were placed in one minute, how many have reached each stage.

It is what a manager graphs, and the first sign of a loss that nothing else says: a stage that stays
below the one before it, for minutes whose orders are long due.

Invariant: reads only, and costs the same however busy the minute was: of one with more events
than LOOKED_AT, so many are looked at, spread evenly. All stages are counted over the same orders,
so that their ratios are true. A stage that cannot be known has no count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from relay.diagnose.gather.cut_over import watched_from
from relay.diagnose.gather.database import read_orders
from relay.orders.keys import order_key
from relay.runtime.flow import ApplyColumns, Flow

LOOKED_AT: Final = 4000
MINUTE: Final = timedelta(minutes=1)
# A transaction may commit a while after its row was made; positions are written every ten seconds.
SETTLED: Final = timedelta(minutes=1)
DUE: Final = "due"
AGES: Final[Mapping[str, timedelta]] = {"1m": timedelta(0), "5m": timedelta(minutes=4)}
STAGES: Final = ("placed", "published", "processed", "returned", "confirmed")
_ORDERS_AT_ONCE: Final = 1000
_REMEMBERED: Final = 64

Stages = Mapping[str, int]


def minutes(now: datetime, flow: Flow) -> dict[str, datetime]:
    """Return the minutes to look at: age, and the minute's end.

    Args:
        now: by the database's clock.
        flow: its longest deadline says when a minute's orders are due.
    """
    ages = dict(AGES)
    if flow.deadlines:
        ages[DUE] = timedelta(seconds=max(flow.deadlines.values()))
    return {
        age: (now - SETTLED - passed).replace(second=0, microsecond=0)
        for age, passed in ages.items()
    }


@dataclass(slots=True)
class Completeness:
    """Counts the stages of minutes; remembers where in the outbox minutes begin."""

    flow: Flow
    _ids: dict[datetime, int] = field(default_factory=dict, init=False)
    _known: dict[str, tuple[datetime, Stages]] = field(default_factory=dict, init=False)

    async def look(self, connection: asyncpg.Connection) -> dict[tuple[str, ...], float]:
        """Return orders by age and stage; a minute that was counted is not counted again.

        Args:
            connection: used by nobody else meanwhile; it should plan for the values at hand.

        Raises:
            DATABASE_FAILURES: the database cannot be asked.
        """
        now = await connection.fetchval("SELECT clock_timestamp()")
        since = await watched_from(connection, self.flow)
        wanted = minutes(now, self.flow) if since is not None else {}
        for age, end in wanted.items():
            known = self._known.get(age)
            if since is not None and since > end - MINUTE:
                self._known.pop(age, None)  # nothing was watched yet
            elif known is None or known[0] != end:
                self._known[age] = end, await self._minute(connection, end - MINUTE, end)
        return {
            (age, stage): float(count)
            for age, (_, stages) in self._known.items()
            for stage, count in stages.items()
        }

    async def _minute(
        self, connection: asyncpg.Connection, start: datetime, end: datetime
    ) -> Stages:
        first, last = [await self._first_id(connection, at) for at in (start, end)]
        stride = max(1, (last - first) // LOOKED_AT)
        types = list(self.flow.deadlines)
        whose = self.flow.aggregate_type, self.flow.own_event_types
        rows = await connection.fetch(_MINUTE, first, last, start, end, types, stride, *whose)
        rows = rows[:LOOKED_AT]
        published = {row["id"] for row in rows if row["published"]}
        waiting = await self._unprocessed(connection, published, first, last)
        confirmed = await self._confirmed(connection, rows)
        open_orders = sorted({row["aggregate_id"] for row in rows if row["id"] not in confirmed})
        others = list(self.flow.others.groups)
        returned = set(await connection.fetchval(_RETURNED, open_orders, others) or ())
        back = sum(row["id"] in confirmed or row["aggregate_id"] in returned for row in rows)
        counts = {"placed": len(rows), "published": len(published), "returned": back}
        if waiting is not None:
            counts["processed"] = len(published - waiting)
        return {**counts, "confirmed": len(confirmed)}

    async def _unprocessed(
        self, connection: asyncpg.Connection, published: Collection[int], first: int, last: int
    ) -> set[int] | None:
        """Return the published rows that a processor's group has not passed; None: not known."""
        flow = self.flow
        seen = await connection.fetch(_COMMITTED, flow.processor_groups, sorted(flow.topics))
        if not seen:
            return None
        columns = [[row[n] for row in seen] for n in ("topic", "partition", "committed")]
        behind = await connection.fetchval(_UNPROCESSED, first, last, *columns)
        return set(behind or ()) & set(published)

    async def _confirmed(
        self, connection: asyncpg.Connection, rows: Sequence[asyncpg.Record]
    ) -> set[int]:
        """Return the rows whose orders have ended, as the orders or, without them, returns say."""
        orders = sorted({row["aggregate_id"] for row in rows})
        ended: set[str] = set()
        for start in range(0, len(orders), _ORDERS_AT_ONCE):
            page = orders[start : start + _ORDERS_AT_ONCE]
            ended |= await self._ended(connection, page)
        return {row["id"] for row in rows if row["aggregate_id"] in ended}

    async def _ended(self, connection: asyncpg.Connection, orders: Sequence[str]) -> set[str]:
        flow = self.flow
        if isinstance(flow.apply, ApplyColumns):
            seen, canonical = await read_orders(connection, flow, orders), order_key(flow)
            done = {key for key, one in seen.items() if one.terminal}
            return {one for one in orders if canonical(one) in done}
        words = set(flow.terminal_statuses)
        words |= {word for word, status in flow.status_aliases.items() if status in words}
        others = list(flow.others.groups)
        return set(await connection.fetchval(_ANSWERED, orders, sorted(words), others) or ())

    async def _first_id(self, connection: asyncpg.Connection, at: datetime) -> int:
        """Return the id from which rows are made at or after a time; found by halving.

        Ids and times rise together, but for transactions that overlap: whoever counts a minute
        asks for its times, too.
        """
        if at in self._ids:
            return self._ids[at]
        low, high = 0, (await connection.fetchval(_LAST_ID) or 0) + 1
        while low < high:
            middle = (low + high) // 2
            row = await connection.fetchrow(_NEXT_ROW, middle, at - timedelta(days=1))
            if row is None or row["created_at"] >= at:
                high = middle
            else:
                low = row["id"] + 1
        while len(self._ids) >= _REMEMBERED:
            self._ids.pop(next(iter(self._ids)))
        self._ids[at] = low
        return low


_LAST_ID: Final = "SELECT max(id) FROM relay.outbox"
_NEXT_ROW: Final = """
SELECT id, created_at FROM relay.outbox WHERE id >= $1 AND created_at >= $2 ORDER BY id LIMIT 1
"""

# Published is what the checkpoint's snapshots show, and is not parked; canaries have no deadline.
_MINUTE: Final = """
SELECT o.id, o.aggregate_id,
       (pg_visible_in_snapshot(o.txid, p.prev)
        OR (p.cur IS NOT NULL AND o.id <= p.last_id AND pg_visible_in_snapshot(o.txid, p.cur)))
       AND o.id <> ALL (coalesce(held.ids, '{}')) AS published
  FROM relay.outbox AS o
 CROSS JOIN (SELECT prev, cur, last_id FROM relay.checkpoint WHERE shard = 0) AS p
 CROSS JOIN (SELECT array_agg(outbox_id) AS ids FROM relay.quarantine_summary
              WHERE kind = 'event' AND state IN ('held', 'release_requested')
                AND outbox_id >= $1 AND outbox_id < $2) AS held
 WHERE o.id >= $1 AND o.id < $2 AND o.created_at >= $3 AND o.created_at < $4
   AND o.event_type = ANY ($5::text[]) AND o.id % $6 = 0
   AND (o.aggregate_type = $7 OR o.event_type = ANY ($8::text[]))
 ORDER BY o.id
"""

# The slowest group counts; one that is not there has passed nothing.
_COMMITTED: Final = """
SELECT topic, partition, min(coalesce(committed_offset, 0)) AS committed
  FROM (SELECT DISTINCT ON (consumer_group, topic, partition)
               consumer_group, topic, partition, committed_offset
          FROM relay.position
         WHERE consumer_group = ANY ($1::text[]) AND topic = ANY ($2::text[])
           AND taken_at > clock_timestamp() - interval '2 minutes'
         ORDER BY consumer_group, topic, partition, taken_at DESC) AS newest
 GROUP BY topic, partition
"""

_UNPROCESSED: Final = """
SELECT array_agg(u.id)
  FROM relay.delivery_ledger AS l
  JOIN unnest($3::text[], $4::int[], $5::bigint[]) AS c (topic, partition, committed)
       USING (topic, partition)
 CROSS JOIN LATERAL unnest(l.outbox_ids) WITH ORDINALITY AS u (id, place)
 WHERE l.id_range && int8range($1, $2) AND l.replay_id IS NULL
   AND l.base_offset + l.record_count > c.committed
   AND l.base_offset + u.place - 1 >= c.committed AND u.id >= $1 AND u.id < $2
"""

# A return that our consumer has seen, whatever became of it.
_RETURNED: Final = """
SELECT array_agg(k.id)
  FROM unnest($1::text[]) AS k (id)
 WHERE EXISTS (SELECT FROM relay.inbox
                WHERE aggregate_id = k.id AND consumer_group <> ALL ($2::text[]))
    OR EXISTS (SELECT FROM relay.quarantine_summary
                WHERE aggregate_id = k.id AND kind = 'return'
                  AND consumer_group <> ALL ($2::text[]))
    OR EXISTS (SELECT FROM relay.pending_return
                WHERE aggregate_id = k.id AND consumer_group <> ALL ($2::text[]))
"""

_ANSWERED: Final = """
SELECT array_agg(k.id) FROM unnest($1::text[]) AS k (id)
 WHERE EXISTS (SELECT FROM relay.inbox
                WHERE aggregate_id = k.id AND status = ANY ($2::text[])
                  AND consumer_group <> ALL ($3::text[]))
"""
