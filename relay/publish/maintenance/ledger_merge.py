"""Hop 2: keeps the delivery ledger small: neighbouring rows become one, old rows go.

Invariant: every event keeps its exact topic, partition and offset: only rows whose offsets touch,
of one epoch, and with known offsets, are joined, in record order. What is lost is time: a joined
row's `published_at` is that of its first record, at most `span_seconds` early. One statement
deletes and inserts, so that a reader, or a crash, sees the rows either apart or joined.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import asyncpg

DUTY = "merge_ledger"

# Ids grow with time, but for joined rows, which are behind us.
_FIRST = "SELECT published_at FROM relay.delivery_ledger ORDER BY ledger_id LIMIT 1"
# Asked only where a slice was empty: it reads what it finds.
_NEXT = """
SELECT min(published_at) FROM relay.delivery_ledger WHERE published_at >= $1 AND published_at < $2
"""
_DONE_UNTIL = "SELECT done_until FROM relay.maintenance WHERE duty = $1"
_NOW = "SELECT clock_timestamp()"

# A row starts a new run where its offset does not continue the one before, and a new row where the
# run has grown to $3 ids: an event is then found by unpacking that many, in each partition.
_MERGE = """
WITH slice AS MATERIALIZED (
    SELECT *, base_offset IS DISTINCT FROM lag(base_offset + record_count) OVER series AS starts
      FROM relay.delivery_ledger
     WHERE published_at >= $1 AND published_at < $2 AND base_offset IS NOT NULL
    WINDOW series AS (PARTITION BY shard, epoch, topic, partition, replay_id
                      ORDER BY base_offset, ledger_id)
), runs AS (
    SELECT *, count(*) FILTER (WHERE starts) OVER series AS run
      FROM slice
    WINDOW series AS (PARTITION BY shard, epoch, topic, partition, replay_id
                      ORDER BY base_offset, ledger_id)
), sized AS (
    SELECT *, (sum(record_count) OVER (PARTITION BY shard, epoch, topic, partition, replay_id, run
                                       ORDER BY base_offset, ledger_id) - 1) / $3 AS piece
      FROM runs
), members AS (
    SELECT *, first_value(ledger_id) OVER piece AS joined_into, count(*) OVER piece AS joined
      FROM sized
    WINDOW piece AS (PARTITION BY shard, epoch, topic, partition, replay_id, run, piece)
), gone AS (
    DELETE FROM relay.delivery_ledger
     WHERE ledger_id = ANY (ARRAY(SELECT ledger_id FROM members WHERE joined > 1))
    RETURNING ledger_id
), added AS (
    INSERT INTO relay.delivery_ledger (shard, epoch, topic, partition, base_offset, record_count,
                                       outbox_ids, id_range, replay_id, published_at)
    SELECT shard, epoch, topic, partition, min(base_offset), count(*),
           array_agg(id ORDER BY base_offset, place), int8range(min(id), max(id), '[]'),
           replay_id, min(published_at)
      FROM members JOIN gone USING (ledger_id)
           CROSS JOIN LATERAL unnest(outbox_ids) WITH ORDINALITY AS ids (id, place)
     GROUP BY joined_into, shard, epoch, topic, partition, replay_id
    RETURNING 1
)
SELECT EXISTS (SELECT FROM slice) AS any_row,
       (SELECT count(*) FROM gone) - (SELECT count(*) FROM added) AS fewer
"""

_NOTE = """
INSERT INTO relay.maintenance (duty, done_until) VALUES ($1, $2)
ON CONFLICT (duty) DO UPDATE SET done_until = excluded.done_until, ran_at = clock_timestamp()
"""


async def merge_ledger(
    connection: asyncpg.Connection,
    *,
    after_seconds: float,
    span_seconds: float,
    most_ids: int,
    most_slices: int,
) -> int:
    """Join the rows of `span_seconds` at a time; return how many rows fewer there are.

    Args:
        connection: in autocommit; nobody else merges meanwhile (maintenance holds its lock).
        after_seconds: rows younger than that are left alone.
        span_seconds: rows further apart are not joined.
        most_ids: a joined row holds about so many events.
        most_slices: how much is done in one run, after a long pause.
    """
    until = await connection.fetchval(_NOW) - timedelta(seconds=after_seconds)
    start: datetime | None = await connection.fetchval(_DONE_UNTIL, DUTY)
    start = start or await connection.fetchval(_FIRST)
    fewer = 0
    for _ in range(most_slices):
        if start is None or start >= until:
            break
        end = min(start + timedelta(seconds=span_seconds), until)
        async with connection.transaction():
            slice_ = await connection.fetchrow(_MERGE, start, end, most_ids)
            if not slice_["any_row"]:
                end = await connection.fetchval(_NEXT, end, until) or until
            await connection.execute(_NOTE, DUTY, end)
        fewer += slice_["fewer"]
        start = end
    return fewer
