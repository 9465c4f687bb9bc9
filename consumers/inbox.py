"""Hop 5: the inbox: one row for each return that was decided on.

Invariant: an identity is written once, its primary key sees to that. Copies are rare, so a batch is
first decided as if there were none; a key that is there already, or a return that would be refused,
rolls it back, and it is decided again with the inbox looked up first (15% of a batch's time).
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from consumers.fold import Step
from consumers.identity import Sorted, contested, identities, tell_apart
from consumers.packing import packed, packed_nullable, packed_numbers
from consumers.returns import Return
from consumers.stored_record import recorded_ms

_KNOWN = """
SELECT i.event_id, i.content_hash
  FROM relay.inbox i
 WHERE i.event_id = ANY (string_to_array($1, E'\\x1f', E'\\x1e'))
"""

_WRITE = """
INSERT INTO relay.inbox
    (event_id, aggregate_id, causation_id, status, old_status, new_status, outcome, reason,
     content_hash, partition, record_offset, recorded_at, traceparent, consumer_group, topic)
SELECT r.event_id, r.aggregate_id, r.causation_id, r.status, r.old_status, r.new_status, r.outcome,
       r.reason, decode(r.content_hash, 'hex'), r.partition::int, r.record_offset::bigint,
       to_timestamp(r.recorded_ms::float8 / 1000), r.traceparent, $14, $15
  FROM unnest(string_to_array($1, E'\\x1f', E'\\x1e'), string_to_array($2, E'\\x1f', E'\\x1e'),
              string_to_array($3, E'\\x1f', E'\\x1e'), string_to_array($4, E'\\x1f', E'\\x1e'),
              string_to_array($5, E'\\x1f', E'\\x1e'), string_to_array($6, E'\\x1f', E'\\x1e'),
              string_to_array($7, E'\\x1f', E'\\x1e'), string_to_array($8, E'\\x1f', E'\\x1e'),
              string_to_array($9, E'\\x1f', E'\\x1e'), string_to_array($10, E'\\x1f', E'\\x1e'),
              string_to_array($11, E'\\x1f', E'\\x1e'), string_to_array($12, E'\\x1f', E'\\x1e'),
              string_to_array($13, E'\\x1f', E'\\x1e'))
       AS r (event_id, aggregate_id, causation_id, status, old_status, new_status, outcome,
             reason, content_hash, partition, record_offset, recorded_ms, traceparent)
"""


async def look_up(
    connection: asyncpg.Connection, returns: Sequence[Return], topic_id: str | None
) -> Sorted:
    """Tell the copies of what is in the inbox, or in this batch, from new returns."""
    known = await _known(connection, [one.own_identity or one.position for one in returns])
    disputed = contested(returns, known)
    if disputed:
        others = [name for one in disputed for name in identities(one, topic_id)]
        known |= await _known(connection, others)
    return tell_apart(returns, known, topic_id)


async def _known(connection: asyncpg.Connection, names: Sequence[str]) -> dict[str, bytes]:
    return dict(await connection.fetch(_KNOWN, packed(names)))


def is_copy(error: asyncpg.PostgresError) -> bool:
    """Tell whether an identity was in the inbox already, or is written by another just now."""
    return (
        isinstance(error, asyncpg.UniqueViolationError)
        and error.schema_name == "relay"
        and error.table_name == "inbox"
    )


async def write_inbox(connection: asyncpg.Connection, group: str, steps: Sequence[Step]) -> None:
    """Write the rows of a batch.

    Raises:
        asyncpg.UniqueViolationError: one of the identities is there (`is_copy`).
    """
    if not steps:
        return
    # In one order, whoever writes: two batches with the same two copies must not wait in a circle.
    ordered = sorted(steps, key=lambda step: step.identity)
    returns = [step.returned for step in ordered]
    records = [one.record for one in returns]
    await connection.execute(
        _WRITE,
        packed([step.identity for step in ordered]),
        packed([one.order_id for one in returns]),
        packed_nullable([one.causation_id for one in returns]),
        packed([one.status for one in returns]),
        packed_nullable([step.old_status for step in ordered]),
        packed([step.new_status for step in ordered]),
        packed([step.outcome for step in ordered]),
        packed_nullable([one.reason for one in returns]),
        packed([one.content.hex() for one in returns]),
        packed_numbers([record.partition for record in records]),
        packed_numbers([record.offset for record in records]),
        packed_numbers([recorded_ms(record) for record in records]),
        packed_nullable([one.traceparent for one in returns]),
        group,
        records[0].topic,
    )
