"""Hop 5: the inbox: one row for each return that was decided on.

Invariant: an identity is written once, its primary key sees to that. Copies are rare, so a batch is
first decided as if there were none; a key that is there already, or a return that would be refused,
rolls it back, and it is decided again with the inbox looked up first (15% of a batch's time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from relay.consumers.returns.fold import Change, Step
from relay.consumers.returns.identity import Sorted, contested, identities, sort_copies
from relay.consumers.returns.packing import packed, packed_nullable, packed_numbers
from relay.consumers.returns.reader import Return
from relay.consumers.returns.stored_record import recorded_ms

_KNOWN = """
SELECT i.event_id, i.content_hash
  FROM relay.inbox i
 WHERE i.event_id = ANY (string_to_array($1, E'\\x1f', E'\\x1e'))
"""

STEP_COLUMNS: Final = """
  FROM unnest(string_to_array($1, E'\\x1f', E'\\x1e'), string_to_array($2, E'\\x1f', E'\\x1e'),
              string_to_array($3, E'\\x1f', E'\\x1e'), string_to_array($4, E'\\x1f', E'\\x1e'),
              string_to_array($5, E'\\x1f', E'\\x1e'), string_to_array($6, E'\\x1f', E'\\x1e'),
              string_to_array($7, E'\\x1f', E'\\x1e'), string_to_array($8, E'\\x1f', E'\\x1e'),
              string_to_array($9, E'\\x1f', E'\\x1e'), string_to_array($10, E'\\x1f', E'\\x1e'),
              string_to_array($11, E'\\x1f', E'\\x1e'), string_to_array($12, E'\\x1f', E'\\x1e'),
              string_to_array($13, E'\\x1f', E'\\x1e'), string_to_array($14, E'\\x1f', E'\\x1e'),
              string_to_array($15, E'\\x1f', E'\\x1e'))
       AS s (event_id, aggregate_id, causation_id, status, old_status, new_status, outcome,
             reason, content_hash, partition, record_offset, recorded_ms, traceparent, changes,
             place)
"""
"""The steps of a batch, packed (`relay.consumers.returns.packing`), as a row source called `s`."""

WRITE_INBOX: Final = """
INSERT INTO relay.inbox
    (event_id, aggregate_id, causation_id, status, old_status, new_status, outcome, reason,
     content_hash, partition, record_offset, recorded_at, traceparent, consumer_group, topic)
SELECT s.event_id, s.aggregate_id, s.causation_id, s.status, s.old_status, s.new_status, s.outcome,
       s.reason, decode(s.content_hash, 'hex'), s.partition::int, s.record_offset::bigint,
       to_timestamp(s.recorded_ms::float8 / 1000), s.traceparent, $16, $17
"""
"""Needs a row source called `s` with the columns of `STEP_COLUMNS`."""


async def look_up(
    connection: asyncpg.Connection, returns: Sequence[Return], topic_id: str | None
) -> Sorted:
    """Tell the copies of what is in the inbox, or in this batch, from new returns."""
    known = await _known(connection, [one.own_identity or one.position for one in returns])
    disputed = contested(returns, known)
    if disputed:
        others = [name for one in disputed for name in identities(one, topic_id)]
        known |= await _known(connection, others)
    return sort_copies(returns, known, topic_id)


async def _known(connection: asyncpg.Connection, names: Sequence[str]) -> dict[str, bytes]:
    return dict(await connection.fetch(_KNOWN, packed(names)))


def is_copy(error: asyncpg.PostgresError) -> bool:
    """Tell whether an identity was in the inbox already, or is written by another just now."""
    return (
        isinstance(error, asyncpg.UniqueViolationError)
        and error.schema_name == "relay"
        and error.table_name == "inbox"
    )


def step_values(
    steps: Sequence[Step], changes: Sequence[Change], places: Sequence[str | None], group: str
) -> tuple[str, ...]:
    """Return the parameters $1 to $17 of a statement with `STEP_COLUMNS` and `WRITE_INBOX`."""
    returns = [step.returned for step in steps]
    records = [one.record for one in returns]
    counts = ["0"] * len(steps)
    at: list[str | None] = [None] * len(steps)
    for change, place in zip(changes, places, strict=True):
        counts[change.last_step] = str(change.changes)
        at[change.last_step] = place
    return (
        packed([step.identity for step in steps]),
        packed([one.order_id for one in returns]),
        packed_nullable([one.causation_id for one in returns]),
        packed([one.status for one in returns]),
        packed_nullable([step.old_status for step in steps]),
        packed([step.new_status for step in steps]),
        packed([step.outcome for step in steps]),
        packed_nullable([one.reason for one in returns]),
        packed([one.content.hex() for one in returns]),
        packed_numbers([record.partition for record in records]),
        packed_numbers([record.offset for record in records]),
        packed_numbers([recorded_ms(record) for record in records]),
        packed_nullable([one.traceparent for one in returns]),
        packed(counts),
        packed_nullable(at),
        group,
        records[0].topic,
    )


async def write_inbox(connection: asyncpg.Connection, group: str, steps: Sequence[Step]) -> None:
    """Write the rows of a batch that writes nothing else.

    Raises:
        asyncpg.UniqueViolationError: one of the identities is there (`is_copy`).
    """
    if steps:
        await connection.execute(WRITE_INBOX + STEP_COLUMNS, *step_values(steps, (), (), group))
