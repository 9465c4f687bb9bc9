"""Hop 5: the inbox: one row for each return that was decided on.

Invariant: an identity is written once. A row that is there already when it should be new means that
another consumer handles a copy at this moment: the batch is rolled back and decided anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from consumers.fold import Step
from consumers.identity import Sorted, contested, identities, tell_apart
from consumers.returns import Return
from consumers.stored_record import recorded_ms

_KNOWN = "SELECT event_id, content_hash FROM relay.inbox WHERE event_id = ANY ($1::text[])"

_WRITE = """
INSERT INTO relay.inbox
    (event_id, aggregate_id, causation_id, status, old_status, new_status, outcome, reason,
     content_hash, partition, record_offset, recorded_at, traceparent, consumer_group, topic)
SELECT r.event_id, r.aggregate_id, r.causation_id, r.status, r.old_status, r.new_status, r.outcome,
       r.reason, r.content_hash, r.partition, r.record_offset,
       to_timestamp(r.recorded_ms::float8 / 1000), r.traceparent, $14, $15
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
              $8::text[], $9::bytea[], $10::int[], $11::bigint[], $12::bigint[], $13::text[])
       AS r (event_id, aggregate_id, causation_id, status, old_status, new_status, outcome,
             reason, content_hash, partition, record_offset, recorded_ms, traceparent)
ON CONFLICT (event_id) DO NOTHING
"""


class InboxRaceError(Exception):
    """Another consumer handles a copy of one of these returns at this moment: decide anew."""


async def sort_out(
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
    rows = await connection.fetch(_KNOWN, names)
    return dict(rows)


async def write_inbox(connection: asyncpg.Connection, group: str, steps: Sequence[Step]) -> None:
    """Write the rows of a batch.

    Raises:
        InboxRaceError: one of the identities is there by now.
    """
    if not steps:
        return
    # In one order, whoever writes: two batches with the same two copies must not wait in a circle.
    ordered = sorted(steps, key=lambda step: step.identity)
    returns = [step.returned for step in ordered]
    done = await connection.execute(
        _WRITE,
        [step.identity for step in ordered],
        [one.order_id for one in returns],
        [one.causation_id for one in returns],
        [one.status for one in returns],
        [step.old_status for step in ordered],
        [step.new_status for step in ordered],
        [step.outcome.value for step in ordered],
        [one.reason for one in returns],
        [one.content for one in returns],
        [one.record.partition for one in returns],
        [one.record.offset for one in returns],
        [recorded_ms(one.record) for one in returns],
        [one.traceparent for one in returns],
        group,
        returns[0].record.topic,
    )
    if int(done.rpartition(" ")[2]) != len(ordered):
        raise InboxRaceError("a copy of a return of this batch is being handled elsewhere")
