"""Hop 5: reads what the database holds of returns: applied, refused, waiting for a locked order.

Invariant: reads only, each statement answered by an index, without the records' values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import asyncpg

from relay.diagnose.evidence.order import Place, ReturnSeen
from relay.diagnose.evidence.rows import ReturnRow
from relay.orders.keys import can_be_asked_for
from relay.runtime.flow import Flow
from relay.telemetry.continuity import trace_of

_INBOX: Final = """
SELECT aggregate_id, causation_id, topic, partition, record_offset, status, recorded_at,
       received_at, outcome, reason, CASE WHEN outcome = 'applied' THEN new_status END AS became
  FROM relay.inbox WHERE aggregate_id = ANY ($1::text[]) AND consumer_group <> ALL ($2::text[])
 ORDER BY received_at, record_offset
"""
_REFUSED: Final = """
SELECT aggregate_id, topic, partition, record_offset, reason, detail, state, first_seen_at,
       resolved_by, resolved_why, traceparent, coalesce(names, ARRAY[aggregate_id]) AS names
  FROM relay.quarantine_summary
 WHERE kind = 'return' AND (aggregate_id = ANY ($1::text[]) OR names && $1::text[])
   AND consumer_group <> ALL ($2::text[])
 ORDER BY quarantine_id
"""
_PENDING: Final = """
SELECT aggregate_id, topic, partition, record_offset, recorded_at, pending_since
  FROM relay.pending_return
 WHERE aggregate_id = ANY ($1::text[]) AND consumer_group <> ALL ($2::text[])
 ORDER BY pending_id
"""


async def read_returns(
    connection: asyncpg.Connection, flow: Flow, ids: Sequence[str]
) -> dict[str, list[ReturnRow]]:
    """Return what was recorded of these orders' returns, by order id."""
    others = list(flow.others.groups)
    found: defaultdict[str, list[ReturnRow]] = defaultdict(list)
    for row in await connection.fetch(_INBOX, ids, others):
        found[row["aggregate_id"]].append(_inbox_row(row, flow))
    wanted = frozenset(ids)
    for row in await connection.fetch(_REFUSED, ids, others):
        for name in wanted.intersection(row["names"]):
            found[name].append(_refused_row(row))
    for row in await connection.fetch(_PENDING, ids, others):
        found[row["aggregate_id"]].append(_pending_row(row))
    return dict(found)


def is_terminal(flow: Flow, word: str | None) -> bool | None:
    """Tell whether a return's word for a status ends the wait; None: the flow does not know it."""
    if word is None:
        return None
    status = flow.status_aliases.get(word, word)
    return status in flow.terminal_statuses if status in flow.status_ranks else None


def _inbox_row(row: asyncpg.Record, flow: Flow) -> ReturnRow:
    return ReturnRow(
        ReturnSeen(
            place=Place.INBOX,
            topic=row["topic"],
            partition=row["partition"],
            offset=row["record_offset"],
            status=row["status"],
            terminal=is_terminal(flow, row["status"]),
            recorded_at=row["recorded_at"],
            handled_at=row["received_at"],
            outcome=row["outcome"],
            names_order=row["aggregate_id"],
            reason=row["reason"],
            became=row["became"],
        ),
        row["causation_id"],
    )


def _refused_row(row: asyncpg.Record) -> ReturnRow:
    return ReturnRow(
        ReturnSeen(
            place=Place.QUARANTINE,
            topic=row["topic"],
            partition=row["partition"],
            offset=row["record_offset"],
            status=None,
            terminal=None,
            handled_at=row["first_seen_at"],
            names_order=row["aggregate_id"],
            reason=row["reason"],
            detail=row["detail"],
            state=row["state"],
            resolved_by=row["resolved_by"],
            resolved_why=row["resolved_why"],
        )
    )


def _pending_row(row: asyncpg.Record) -> ReturnRow:
    return ReturnRow(
        ReturnSeen(
            place=Place.PENDING,
            topic=row["topic"],
            partition=row["partition"],
            offset=row["record_offset"],
            status=None,
            terminal=None,
            recorded_at=row["recorded_at"],
            handled_at=row["pending_since"],
            names_order=row["aggregate_id"],
        )
    )


# A return that names no order, or a wrong one, still carries its event's trace. What is refused is
# little, and is read as a whole.
_REFUSED_BY_TRACE: Final = """
SELECT aggregate_id, topic, partition, record_offset, reason, detail, state, first_seen_at,
       resolved_by, resolved_why, traceparent
  FROM relay.quarantine_summary
 WHERE kind = 'return' AND substring(traceparent FROM 4 FOR 32) = ANY ($1::text[])
 ORDER BY quarantine_id
"""


async def read_refused_by_trace(
    connection: asyncpg.Connection, traces: Sequence[str]
) -> dict[str, list[ReturnRow]]:
    """Return the returns that were refused, by the trace id that they carry."""
    found: defaultdict[str, list[ReturnRow]] = defaultdict(list)
    for row in await connection.fetch(_REFUSED_BY_TRACE, traces):
        trace = trace_of(row["traceparent"])
        if trace is not None:  # what is not valid names no trace
            found[trace].append(_refused_row(row))
    return dict(found)


# Ranges of refusals follow one another, and overlap where a batch was read again: the next few that
# end behind a record are those that it may be in.
_REFUSED_AT: Final = """
SELECT q.aggregate_id, q.topic, q.partition, at.record_offset, q.reason, q.detail, q.state,
       q.first_seen_at, q.resolved_by, q.resolved_why, q.traceparent, false AS own_row
  FROM unnest($3::int[], $4::bigint[]) AS at (partition, record_offset)
 CROSS JOIN LATERAL (
       SELECT * FROM relay.quarantine_summary
        WHERE kind = 'return' AND consumer_group = $1 AND topic = $2
          AND partition = at.partition AND record_offset >= at.record_offset
          AND from_offset IS NOT NULL
        ORDER BY record_offset LIMIT 256) AS q
 WHERE q.from_offset <= at.record_offset
UNION ALL
SELECT q.aggregate_id, q.topic, q.partition, q.record_offset, q.reason, q.detail, q.state,
       q.first_seen_at, q.resolved_by, q.resolved_why, q.traceparent, true
  FROM unnest($3::int[], $4::bigint[]) AS at (partition, record_offset)
  JOIN relay.quarantine_summary AS q USING (partition, record_offset)
 WHERE q.kind = 'return' AND q.consumer_group = $1 AND q.topic = $2 AND q.from_offset IS NULL
 ORDER BY own_row
"""


async def read_refused_at(
    connection: asyncpg.Connection, flow: Flow, positions: Collection[tuple[int, int]]
) -> dict[tuple[int, int], ReturnRow]:
    """Return what was quarantined from these partitions and offsets of the returns topic.

    A return that names no order, or a wrong one, and carries no trace is found only by where it is:
    by a row of its own, or by the range of those of which only the place is kept.
    """
    if not positions:
        return {}
    rows = await connection.fetch(
        _REFUSED_AT,
        flow.confirm_group,
        flow.returns_topic,
        [partition for partition, _ in positions],
        [offset for _, offset in positions],
    )
    return {(row["partition"], row["record_offset"]): _refused_row(row) for row in rows}


_ANSWERED: Final = """
SELECT aggregate_id, min(handled_at) AS first_handled_at
  FROM (SELECT aggregate_id, received_at AS handled_at FROM relay.inbox
         WHERE aggregate_id = ANY ($1::text[]) AND consumer_group <> ALL ($2::text[])
         UNION ALL
        SELECT aggregate_id, first_seen_at FROM relay.quarantine_summary
         WHERE kind = 'return' AND aggregate_id = ANY ($1::text[])
           AND consumer_group <> ALL ($2::text[])) AS r
 GROUP BY aggregate_id
"""


async def read_answered(
    connection: asyncpg.Connection, flow: Flow, ids: Collection[str]
) -> dict[str, datetime | None]:
    """Return those orders of which any return was ever handled, and when the first one was."""
    stored = [one for one in ids if can_be_asked_for(one)]
    rows = await connection.fetch(_ANSWERED, stored, list(flow.others.groups))
    return {row["aggregate_id"]: row["first_handled_at"] for row in rows}
