"""Hop 2, witnessed: asks which rows records are of, and writes the proof.

Invariant: reads are bounded by what a batch names, whatever the tables hold; the proof is written
in the caller's transaction, with the offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from relay.witness.batch import NO_ROW, Batch, Place, Unmatched
from relay.witness.runs import Runs

WITNESSED_EPOCH: Final = 0
"""The epoch of ledger rows that a witness wrote: no relay ever has it."""

# A row is published within the day of its record, as a rule: three daily partitions instead of all.
_AROUND: Final = timedelta(days=1)

# The largest row that anybody writes into the ledger, in records.
_REACH: Final = 10_000

# LATERAL and OFFSET 0: row by row, by the event's index. A partition that began at midnight has no
# statistics; without this its rows of the time would be read once for each record of a batch.
_NEAR: Final = """
SELECT array_agg(r.n), array_agg(o.id)
  FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (event_id, n)
 CROSS JOIN LATERAL (SELECT id FROM relay.outbox AS o
                      WHERE o.event_id = r.event_id AND o.created_at >= $2 AND o.created_at < $3
                     OFFSET 0) AS o
"""
_EVERYWHERE: Final = """
SELECT array_agg(r.n), array_agg(o.id)
  FROM unnest($1::text::uuid[]) WITH ORDINALITY AS r (event_id, n)
  JOIN (SELECT id, event_id FROM relay.outbox UNION ALL SELECT id, event_id FROM relay.kept) AS o
 USING (event_id)
"""
_DROPPED_UNTIL: Final = """
SELECT max(to_at) FROM relay.dropped_partition WHERE isfinite(to_at) AND partition_name <> 'kept'
"""
_KNOWN: Final = """
SELECT base_offset, record_count FROM relay.delivery_ledger
 WHERE topic = $1 AND partition = $2 AND base_offset > $3 AND base_offset <= $4
"""

# Arrays of ids come as text: asyncpg takes 0.4 us for each element of an array, this 0.07 us.
_PROVE: Final = """
INSERT INTO relay.delivery_ledger
       (shard, epoch, topic, partition, base_offset, record_count, outbox_ids, id_range,
        published_at)
SELECT 0, $1, $2, b.partition, b.base_offset, b.last - b.first + 1, ids.of_all[b.first:b.last],
       int8range(b.lowest, b.highest, '[]'), least(to_timestamp(b.at), clock_timestamp())
  FROM (SELECT $3::text::bigint[] AS of_all) AS ids,
       unnest($4::int[], $5::bigint[], $6::int[], $7::int[], $8::bigint[], $9::bigint[],
              $10::float8[])
    AS b (partition, base_offset, first, last, lowest, highest, at)
"""
_SET_ASIDE: Final = """
INSERT INTO relay.unmatched_record
       (topic, partition, record_offset, topic_id, event_id, record_key, recorded_at, reason,
        retry_until)
SELECT $1, u.partition, u.record_offset, $2, u.event_id, u.record_key, to_timestamp(u.at), u.reason,
       CASE WHEN u.reason = $3 THEN clock_timestamp() + make_interval(secs => $4) END
  FROM unnest($5::int[], $6::bigint[], $7::uuid[], $8::bytea[], $9::float8[], $10::text[])
    AS u (partition, record_offset, event_id, record_key, at, reason)
ON CONFLICT DO NOTHING
"""
# Several witnesses look at once; each takes what no other has locked. One look is bounded, and the
# next goes on behind it: records whose rows never come keep no other waiting. `id + 0`: an event's
# smallest id is to be had by the index of events; by that of ids, a table without statistics would
# be read from its beginning, once for each record.
_RETRY: Final = """
WITH due AS (
    SELECT topic, partition, record_offset, recorded_at, event_id, retry_until
      FROM relay.unmatched_record
     WHERE topic = $2 AND retry_until > statement_timestamp()
       AND (retry_until, partition, record_offset) > ($3::timestamptz, $4::int, $5::bigint)
     ORDER BY retry_until, partition, record_offset LIMIT $6 FOR UPDATE SKIP LOCKED
), found AS (
    SELECT due.*, (SELECT min(o.id + 0) FROM relay.outbox AS o
                    WHERE o.event_id = due.event_id) AS id
      FROM due
), matched AS (
    DELETE FROM relay.unmatched_record AS u USING found AS f
     WHERE f.id IS NOT NULL
       AND (u.topic, u.partition, u.record_offset, u.recorded_at)
         = (f.topic, f.partition, f.record_offset, f.recorded_at)
)
, proven AS (
    INSERT INTO relay.delivery_ledger
           (shard, epoch, topic, partition, base_offset, record_count, outbox_ids, id_range,
            published_at)
    SELECT 0, $1, topic, partition, record_offset, 1, ARRAY[id], int8range(id, id, '[]'),
           least(recorded_at, clock_timestamp())
      FROM found WHERE id IS NOT NULL
)
SELECT *, count(*) OVER () AS looked_at, count(id) OVER () AS matched
  FROM found ORDER BY retry_until DESC, partition DESC, record_offset DESC LIMIT 1
"""
_FROM_THE_FIRST: Final = (datetime.min.replace(tzinfo=UTC), -1, -1)
_LOOKED_AT_ONCE: Final = 5000


async def forget_known(connection: asyncpg.Connection, topic: str, batch: Batch) -> None:
    """Leave out the relay's own records whose proof it wrote: of a time when it published."""
    spans: dict[int, tuple[int, int]] = {}
    for number in batch.own:
        partition, offset, *_ = batch.places[number]
        low, high = spans.get(partition, (offset, offset))
        spans[partition] = (min(low, offset), max(high, offset))
    known: set[tuple[int, int]] = set()
    for partition, (low, high) in spans.items():
        for base, count in await connection.fetch(_KNOWN, topic, partition, low - _REACH, high):
            known.update((partition, offset) for offset in range(base, base + count))
    batch.without(known)


async def rows_of(connection: asyncpg.Connection, batch: Batch) -> list[int | None]:
    """Return the outbox id of each record's event; of two rows with one event id the first."""
    found: list[int | None] = [None] * len(batch.event_ids)
    if not found:
        return found
    times = [place.at for place in batch.places]
    since, until = datetime.fromtimestamp(min(times), UTC), datetime.fromtimestamp(max(times), UTC)
    everything = range(len(found))
    near = await connection.fetchrow(
        _NEAR, _array(batch.event_ids), since - _AROUND, until + _AROUND
    )
    _take(found, everything, near)
    left = [n for n in everything if found[n] is None]
    if left:
        ids = [batch.event_ids[n] for n in left]
        _take(found, left, await connection.fetchrow(_EVERYWHERE, _array(ids)))
    return found


def _array(ids: Sequence[str]) -> str:
    return f"{{{','.join(ids)}}}"


def _take(found: list[int | None], places: Sequence[int], row: asyncpg.Record) -> None:
    for number, outbox_id in zip(row[0] or (), row[1] or (), strict=True):
        place = places[number - 1]
        known = found[place]
        found[place] = outbox_id if known is None else min(known, outbox_id)


async def dropped_until(connection: asyncpg.Connection) -> float:
    """Return until when rows may have left with their day, Unix seconds; 0: none ever did."""
    until: datetime | None = await connection.fetchval(_DROPPED_UNTIL)
    return 0.0 if until is None else until.timestamp()


async def prove(connection: asyncpg.Connection, topic: str, runs: Runs) -> None:
    """Write the ledger's rows, in the caller's transaction."""
    if not runs.rows:
        return
    rows = runs.rows
    await connection.execute(
        _PROVE,
        WITNESSED_EPOCH,
        topic,
        f"{{{repr(runs.outbox_ids)[1:-1]}}}",
        [row.partition for row in rows],
        [row.base_offset for row in rows],
        [row.first for row in rows],
        [row.last for row in rows],
        [row.lowest for row in rows],
        [row.highest for row in rows],
        [row.at for row in rows],
    )


async def set_aside(
    connection: asyncpg.Connection,
    topic: str,
    topic_id: str | None,
    unmatched: Sequence[Unmatched],
    row_seconds: float,
) -> None:
    """Keep the places of records without a row, in the caller's transaction."""
    if not unmatched:
        return
    places: list[Place] = [one.place for one in unmatched]
    await connection.execute(
        _SET_ASIDE,
        topic,
        topic_id,
        NO_ROW,
        row_seconds,
        [place.partition for place in places],
        [place.offset for place in places],
        [one.event_id for one in unmatched],
        [place.key for place in places],
        [place.at for place in places],
        [one.reason for one in unmatched],
    )


@dataclass(slots=True)
class LateRows:
    """Records that were there before their rows; each look is bounded, and goes on behind the last.

    Attributes:
        limit: how many records one look takes at most.
    """

    topic: str
    limit: int = _LOOKED_AT_ONCE
    _after: tuple[datetime, int, int] = _FROM_THE_FIRST

    async def match(self, connection: asyncpg.Connection) -> int:
        """Prove the records whose rows have come since; return how many."""
        last = await connection.fetchrow(
            _RETRY, WITNESSED_EPOCH, self.topic, *self._after, self.limit
        )
        if last is None or last["looked_at"] < self.limit:
            self._after = _FROM_THE_FIRST
        else:
            self._after = last["retry_until"], last["partition"], last["record_offset"]
        return 0 if last is None else last["matched"]
