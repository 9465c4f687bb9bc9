"""Hop 5: returns of orders whose row somebody else has locked.

Invariant: they wait here, and later returns of the same order wait behind them, so that an order's
returns are decided in the order they came; returns of other orders go on. A row leaves in the
transaction that decides it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from relay.consumers.returns.packing import packed
from relay.consumers.returns.reader import Return
from relay.consumers.returns.stored_record import (
    StoredRecord,
    read_stored,
    recorded_ms,
    stored_headers,
)
from relay.kafka.partition import Partition

_WAITING = """
SELECT DISTINCT aggregate_id FROM relay.pending_return
 WHERE consumer_group = $1 AND aggregate_id = ANY (string_to_array($2, E'\\x1f'))
"""

_PUT = """
INSERT INTO relay.pending_return
    (aggregate_id, partition, record_offset, record_key, record_value, record_headers,
     recorded_at, consumer_group, topic)
SELECT r.aggregate_id, r.partition, r.record_offset, r.record_key, r.record_value,
       r.record_headers::jsonb, to_timestamp(r.recorded_ms::float8 / 1000), $8, $9
  FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bytea[], $5::bytea[], $6::text[],
              $7::bigint[])
       WITH ORDINALITY AS r (aggregate_id, partition, record_offset, record_key, record_value,
                             record_headers, recorded_ms, ordinal)
 ORDER BY r.ordinal
"""

# An order is due when its first one is: those behind it must not overtake.
_DUE = """
SELECT p.pending_id, p.aggregate_id, p.topic, p.partition, p.record_offset, p.record_key,
       p.record_value, p.record_headers,
       (extract(epoch FROM p.recorded_at) * 1000)::bigint AS recorded_ms
  FROM relay.pending_return p
 WHERE p.consumer_group = $1 AND p.topic = $2 AND p.partition = ANY ($3::int[])
   AND NOT EXISTS (
       SELECT FROM relay.pending_return e
        WHERE e.consumer_group = p.consumer_group AND e.aggregate_id = p.aggregate_id
          AND e.retry_at > now())
 ORDER BY p.pending_id
 LIMIT $4
"""

_DROP = "DELETE FROM relay.pending_return WHERE pending_id = ANY ($1::bigint[])"

# 0.1 s, 0.2 s, ... 5 s: a lock held for an hour costs a look every five seconds.
_POSTPONE = """
UPDATE relay.pending_return
   SET attempts = attempts + 1,
       retry_at = clock_timestamp() + least(0.1 * 2 ^ least(attempts, 10), 5) * interval '1 second'
 WHERE consumer_group = $1 AND aggregate_id = ANY ($2::text[])
"""

_COUNT = """
SELECT count(*) FROM (
    SELECT FROM relay.pending_return
     WHERE consumer_group = $1 AND topic = $2 AND partition = ANY ($3::int[])
     LIMIT 100000
) AS waiting
"""


@dataclass(frozen=True, slots=True)
class Pending:
    """A return that waits."""

    pending_id: int
    order_id: str
    record: StoredRecord


async def waiting_orders(
    connection: asyncpg.Connection, group: str, returns: Sequence[Return]
) -> set[str]:
    """Return the orders of these returns that have one waiting already."""
    order_ids = packed({one.order_id for one in returns})
    rows = await connection.fetch(_WAITING, group, order_ids)
    return {row["aggregate_id"] for row in rows}


async def put_pending(
    connection: asyncpg.Connection, group: str, returns: Sequence[Return]
) -> None:
    """Let these returns wait, in this order."""
    if not returns:
        return
    records = [one.record for one in returns]
    await connection.execute(
        _PUT,
        [one.order_id for one in returns],
        [record.partition for record in records],
        [record.offset for record in records],
        [record.key for record in records],
        [record.value for record in records],
        [stored_headers(record) for record in records],
        [recorded_ms(record) for record in records],
        group,
        records[0].topic,
    )


async def due_pending(
    connection: asyncpg.Connection,
    group: str,
    topic: str,
    owned: Collection[Partition],
    limit: int,
) -> list[Pending]:
    """Return what is due in these partitions, in the order it came."""
    numbers = [partition.partition for partition in owned]
    rows = await connection.fetch(_DUE, group, topic, numbers, limit)
    return [Pending(row["pending_id"], row["aggregate_id"], read_stored(row)) for row in rows]


async def drop_pending(connection: asyncpg.Connection, pending_ids: Sequence[int]) -> None:
    """Remove what is decided; call it in the transaction that decided it."""
    if pending_ids:
        await connection.execute(_DROP, pending_ids)


async def postpone(connection: asyncpg.Connection, group: str, order_ids: Collection[str]) -> None:
    """Look at these orders again later: their rows are still locked."""
    if order_ids:
        await connection.execute(_POSTPONE, group, list(order_ids))


async def count_pending(
    connection: asyncpg.Connection, group: str, topic: str, owned: Collection[Partition]
) -> int:
    """Count what waits in these partitions; 100,000 is as far as it counts."""
    numbers = [partition.partition for partition in owned]
    count: int = await connection.fetchval(_COUNT, group, topic, numbers)
    return count
