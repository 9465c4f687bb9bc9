"""All hops: reads from the database what is known of one order's way.

Invariant: reads only, without payloads, so that an observer's role suffices; all in one REPEATABLE
READ transaction, so that the parts fit each other. What the role may not read is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from relay.diagnose.timeline_facts import (
    Delivery,
    EventRow,
    OrderFacts,
    OrderRow,
    ParkedEvent,
    ReturnFact,
)
from relay.runtime.flow import ApplyColumns, Flow

_TIMEOUT_SECONDS: Final = 10.0


async def read_rows(connection: asyncpg.Connection, flow: Flow, order_id: str) -> OrderFacts:
    """Read everything but what the broker knows.

    Raises:
        asyncpg.PostgresError: relay's own tables cannot be read.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        order, readable = await _order(connection, flow, order_id)
        events = await _events(connection, flow, order_id)
        return OrderFacts(
            order_id=order_id,
            now=await _now(connection),
            order=order,
            order_readable=readable,
            events=tuple(events),
            deliveries=tuple(await _deliveries(connection, flow, events)),
            parked=tuple(await _parked(connection, order_id)),
            returns=tuple(await _returns(connection, order_id)),
            consumer_offsets=await _consumer_offsets(connection, flow),
        )


async def _now(connection: asyncpg.Connection) -> datetime:
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return now


async def _order(
    connection: asyncpg.Connection, flow: Flow, order_id: str
) -> tuple[OrderRow | None, bool]:
    """Read the order's own row; (None, False) when this flow has none or it may not be read."""
    if not isinstance(flow.apply, ApplyColumns):
        return None, False
    try:
        # A savepoint: a refusal must not end the transaction that the other parts are read in.
        async with connection.transaction():
            row = await connection.fetchrow(
                _order_query(flow.apply), order_id, timeout=_TIMEOUT_SECONDS
            )
    except asyncpg.InsufficientPrivilegeError:
        return None, False
    except asyncpg.DataError:
        return None, True  # no id of that type: no such order
    return (None if row is None else OrderRow(row["status"], row["submitted_at"])), True


def _order_query(apply: ApplyColumns) -> str:
    """Make the query of the configured table: quoted identifiers, the key as a parameter."""
    table = ".".join(_quoted(part) for part in apply.table.split("."))
    status, key = _quoted(apply.status_column), _quoted(apply.key_column)
    submitted_at = _quoted(apply.submitted_at_column)
    # The cast is on the parameter: on the column it would cost the index.
    return (
        f"SELECT {status}::text AS status, {submitted_at} AS submitted_at "  # noqa: S608
        f"FROM {table} WHERE {key} = $1::text::{apply.key_type}"
    )


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


# The views leave the payloads out; an observer may read them.
_EVENTS: Final = """
SELECT id, event_id::text, event_type, created_at, traceparent, false AS kept
  FROM relay.outbox_summary WHERE aggregate_type = $1 AND aggregate_id = $2
UNION ALL
SELECT id, event_id::text, event_type, created_at, traceparent, true
  FROM relay.kept_summary WHERE aggregate_type = $1 AND aggregate_id = $2
 ORDER BY id
"""


async def _events(connection: asyncpg.Connection, flow: Flow, order_id: str) -> list[EventRow]:
    rows = await connection.fetch(_EVENTS, flow.aggregate_type, order_id, timeout=_TIMEOUT_SECONDS)
    return [EventRow(*row) for row in rows]


# `id_range @>` is what the GiST index answers; the range may have holes, the array has not.
# Only the event's own topics: a replay elsewhere is no publication.
_DELIVERIES: Final = """
SELECT wanted.id, ledger.topic, ledger.partition,
       ledger.base_offset + array_position(ledger.outbox_ids, wanted.id) - 1,
       ledger.epoch, ledger.published_at, ledger.replay_id::text
  FROM unnest($1::bigint[]) AS wanted (id)
  JOIN relay.delivery_ledger AS ledger
    ON ledger.id_range @> wanted.id AND wanted.id = ANY (ledger.outbox_ids)
 WHERE ledger.topic = ANY ($2)
 ORDER BY ledger.published_at, ledger.ledger_id
"""


async def _deliveries(
    connection: asyncpg.Connection, flow: Flow, events: Sequence[EventRow]
) -> list[Delivery]:
    ids, topics = [event.outbox_id for event in events], sorted(flow.topics)
    rows = await connection.fetch(_DELIVERIES, ids, topics, timeout=_TIMEOUT_SECONDS)
    return [Delivery(*row) for row in rows]


_PARKED: Final = """
SELECT outbox_id, reason, first_seen_at
  FROM relay.quarantine_summary
 WHERE kind = 'event' AND aggregate_id = $1 AND state IN ('held', 'release_requested')
 ORDER BY outbox_id
"""


async def _parked(connection: asyncpg.Connection, order_id: str) -> list[ParkedEvent]:
    rows = await connection.fetch(_PARKED, order_id, timeout=_TIMEOUT_SECONDS)
    return [ParkedEvent(*row) for row in rows]


_INBOX: Final = """
SELECT 'inbox', topic, partition, record_offset, status, causation_id, old_status, new_status,
       outcome, recorded_at, received_at
  FROM relay.inbox WHERE aggregate_id = $1
 UNION ALL
SELECT 'quarantine', topic, partition, record_offset, NULL, NULL, NULL, NULL,
       reason, NULL, first_seen_at
  FROM relay.quarantine_summary
 WHERE kind = 'return' AND aggregate_id = $1 AND state IN ('held', 'release_requested')
 ORDER BY 3, 4
"""
_MAY_READ_PENDING: Final = "SELECT has_table_privilege('relay.pending_return', 'SELECT')"
_PENDING: Final = """
SELECT 'pending', topic, partition, record_offset, NULL, NULL, NULL, NULL, NULL, recorded_at,
       pending_since
  FROM relay.pending_return WHERE aggregate_id = $1
 ORDER BY partition, record_offset
"""


async def _returns(connection: asyncpg.Connection, order_id: str) -> list[ReturnFact]:
    rows = await connection.fetch(_INBOX, order_id, timeout=_TIMEOUT_SECONDS)
    if await connection.fetchval(_MAY_READ_PENDING):
        rows += await connection.fetch(_PENDING, order_id, timeout=_TIMEOUT_SECONDS)
    return [ReturnFact(*row) for row in rows]


_CONSUMER_OFFSETS: Final = """
SELECT topic, partition, next_offset
  FROM relay.consumer_offset WHERE consumer_group = $1 AND topic = $2
"""


async def _consumer_offsets(
    connection: asyncpg.Connection, flow: Flow
) -> dict[tuple[str, int], int]:
    rows = await connection.fetch(_CONSUMER_OFFSETS, flow.confirm_group, flow.returns_topic)
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
