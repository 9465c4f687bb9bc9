"""Hop 5: puts refused returns where a person finds them, as the bytes that came.

Invariant: bytes stay bytes, texts are cut and freed of what PostgreSQL cannot store, so that what a
return holds seldom makes this fail (an encoding other than UTF8, a trigger of somebody's); what it
takes then is `place_only`. The same record refused again raises `seen_count`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import asyncpg

from relay.consumers.confirm.quarantine_room import QuarantineRoom
from relay.consumers.returns.packing import packed
from relay.consumers.returns.refusals import Refusal
from relay.consumers.returns.stored_record import StoredRecord, stored_headers
from relay.consumers.returns.trimming import is_whole
from relay.kafka.partition import Partition
from relay.kafka.unreadable import Fault, PartialBytes

_DETAIL_CHARACTERS = 1000

_WRITE = """
INSERT INTO relay.quarantine
    (kind, reason, detail, aggregate_id, event_id, partition, record_offset, record_key,
     record_value, record_headers, traceparent, consumer_group, topic, kept, from_offset,
     whole_bytes, whole_sha256, seen_count, names)
SELECT 'return', r.reason, r.detail, r.aggregate_id, r.event_id, r.partition, r.record_offset,
       r.record_key, r.record_value, r.record_headers::jsonb, r.traceparent, $11, $12, r.kept,
       r.from_offset, r.whole_bytes, r.whole_sha256, r.seen_count,
       string_to_array(r.names, E'\\x1f')
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bigint[],
              $7::bytea[], $8::bytea[], $9::text[], $10::text[], $13::text[], $14::bigint[],
              $15::int[], $16::text[], $17::int[], $18::text[])
       AS r (reason, detail, aggregate_id, event_id, partition, record_offset, record_key,
             record_value, record_headers, traceparent, kept, from_offset, whole_bytes,
             whole_sha256, seen_count, names)
ON CONFLICT (consumer_group, topic, partition, record_offset, md5(coalesce(record_value, '')))
      WHERE kind = 'return'
DO UPDATE SET seen_count = relay.quarantine.seen_count + 1, last_seen_at = clock_timestamp(),
              reason = excluded.reason, detail = excluded.detail,
              state = 'held', resolved_at = NULL, resolved_by = NULL, resolved_why = NULL
"""

# A million that are released at once must not be one statement, which would be cancelled, and asked
# for again, for ever.
RELEASED_AT_A_TIME = 10_000

# Released by a person: it waits with the pending ones, and is decided anew as if it came now.
_RELEASE = """
WITH released AS (
    UPDATE relay.quarantine
       SET state = 'released', resolved_at = clock_timestamp()
     WHERE quarantine_id = ANY (ARRAY(
           SELECT quarantine_id FROM relay.quarantine
            WHERE kind = 'return' AND state = 'release_requested'
              AND consumer_group = $1 AND topic = $2 AND partition = ANY ($3::int[])
              AND kept = 'whole'
            ORDER BY quarantine_id LIMIT $4 FOR UPDATE))
    RETURNING *
)
INSERT INTO relay.pending_return
    (consumer_group, topic, partition, record_offset, aggregate_id, record_key, record_value,
     record_headers, recorded_at)
SELECT consumer_group, topic, partition, record_offset, coalesce(aggregate_id, ''), record_key,
       record_value, record_headers, first_seen_at
  FROM released
 ORDER BY quarantine_id
"""


async def write_quarantine(
    connection: asyncpg.Connection,
    group: str,
    topic: str,
    refused: Sequence[Refusal],
    room: QuarantineRoom,
) -> None:
    """Write refused returns; call it in the transaction that moves the offset behind them."""
    if not refused:
        return
    refused = await room.fitted(connection, group, refused)
    records = [one.record for one in refused]
    values = [record.value for record in records]
    await connection.execute(
        _WRITE,
        [one.reason.value for one in refused],
        [_storable(one.detail) for one in refused],
        [one.order_id for one in refused],
        [one.return_id for one in refused],
        [record.partition for record in records],
        [record.offset for record in records],
        [record.key for record in records],
        values,
        [stored_headers(record) for record in records],
        [one.traceparent for one in refused],
        group,
        topic,
        [_kept(one) for one in refused],
        [value.from_offset if isinstance(value, PartialBytes) else None for value in values],
        [value.size if isinstance(value, PartialBytes) else None for value in values],
        [value.sha256 if isinstance(value, PartialBytes) else None for value in values],
        [one.count for one in refused],
        [packed(one.names) or None for one in refused],
    )


def _kept(refusal: Refusal) -> str:
    value = refusal.record.value
    if isinstance(value, PartialBytes) and value.fault is Fault.NOT_KEPT:
        return "place"
    return "whole" if is_whole(refusal.record) else "part"


def place_only(refusal: Refusal, error: str) -> Refusal:
    """Return what is left of a refusal that the database did not take: where it stands, in ASCII.

    The bytes stay in Kafka for as long as its retention; their size and hash say which they were.
    """
    record = refusal.record
    value = record.value if isinstance(record.value, PartialBytes) else None
    if value is None:
        value = PartialBytes.of(record.value or b"", from_offset=record.offset)
    bare = StoredRecord(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        None,
        value.without_prefix(),
        (),
    )
    detail = f"only its place is kept: the database refused to keep the record ({error})"
    return Refusal(bare, refusal.reason, detail.encode("ascii", "backslashreplace").decode())


async def release_requested(
    connection: asyncpg.Connection, group: str, topic: str, owned: Collection[Partition]
) -> int:
    """Move returns whose release was asked for to the pending ones, the oldest; return how many."""
    numbers = [partition.partition for partition in owned]
    done = await connection.execute(_RELEASE, group, topic, numbers, RELEASED_AT_A_TIME)
    return int(done.rpartition(" ")[2])


def _storable(text: str) -> str:
    cut = text[:_DETAIL_CHARACTERS].replace("\0", "\\0")
    return cut.encode(errors="replace").decode()
