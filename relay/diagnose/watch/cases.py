"""The overdue cases in relay.overdue: opened, diagnosed again, closed.

Invariant: one row per overdue event, opened by one insert that only one watchdog can win; a case
that was closed by hand is never touched again; a late return closes its case.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from relay.diagnose.causes import PROVISIONAL, Cause
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.verdicts import Verdict
from relay.runtime.flow import Flow

NO_HOP: Final = "-"
NO_EVENT: Final = "order:"
"""Before the order's id, the key of a case without an event."""


@dataclass(frozen=True, slots=True)
class OpenCase:
    """A case that is open."""

    key: str
    order_id: str
    event_id: str | None


def case_key(flow: Flow, diagnosis: Diagnosis) -> str:
    """Return what the case of a diagnosis goes by: its event, else its order (in its flow)."""
    if diagnosis.event_id:
        return diagnosis.event_id
    whose = "" if flow.is_first else f"{flow.name}:"
    return f"{NO_EVENT}{whose}{diagnosis.order_id}"


def event_of(key: str) -> str | None:
    """Return the event that a case is about; None: of an order without an event."""
    return None if key.startswith(NO_EVENT) else key


def hop_and_cause(diagnosis: Diagnosis) -> tuple[str, str]:
    """Return hop and cause as they are counted: a late order's are those of its delay."""
    delay = diagnosis.delay
    if delay is None:
        return diagnosis.hop.value if diagnosis.hop else NO_HOP, diagnosis.cause.value
    return delay.hop.value, (delay.cause or Cause.LATE).value


# Who is late already comes as closed. A case that a return had closed opens again when the order
# is no longer returned; one that a person closed stays closed.
_OPEN: Final = """
INSERT INTO relay.overdue AS v
    (event_id, aggregate_id, event_type, placed_at, deadline_at, hop, verdict, cause, evidence,
     outbox_id, traceparent, closed_at, closed_as, closed_by, flow)
SELECT c.event_id, c.aggregate_id, c.event_type, c.placed_at, c.deadline_at, c.hop, c.verdict,
       c.cause, c.evidence::jsonb, c.outbox_id, c.traceparent,
       CASE WHEN c.returned THEN clock_timestamp() END, CASE WHEN c.returned THEN 'returned' END,
       CASE WHEN c.returned THEN 'watchdog' END, $13
  FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[],
              $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::text[],
              $12::boolean[])
       AS c (event_id, aggregate_id, event_type, placed_at, deadline_at, hop, verdict, cause,
             evidence, outbox_id, traceparent, returned)
ON CONFLICT (event_id) DO UPDATE
   SET hop = excluded.hop, verdict = excluded.verdict, cause = excluded.cause,
       evidence = excluded.evidence, diagnosed_at = clock_timestamp(),
       closed_at = NULL, closed_as = NULL, closed_by = NULL
 WHERE v.closed_as = 'returned' AND excluded.closed_at IS NULL
RETURNING v.event_id
"""


async def open_cases(
    connection: asyncpg.Connection, flow: Flow, found: Sequence[Diagnosis]
) -> set[str]:
    """Open cases; return the keys of those that were not open yet.

    Args:
        connection: in autocommit.
        flow: whose orders they are.
        found: overdue orders, or late ones (their cases come closed).
    """
    placed = [one for one in found if one.placed_at is not None and one.due_at is not None]
    if not placed:
        return set()
    kinds = [hop_and_cause(one) for one in placed]
    event_type = next(iter(flow.deadlines or flow.events))  # of orders without an event
    rows = await connection.fetch(
        _OPEN,
        [case_key(flow, one) for one in placed],
        [one.order_id for one in placed],
        [one.event_type or event_type for one in placed],
        [one.placed_at for one in placed],
        [one.due_at for one in placed],
        [hop for hop, _ in kinds],
        [one.verdict.value for one in placed],
        [cause for _, cause in kinds],
        [evidence_json(one) for one in placed],
        [one.outbox_id for one in placed],
        [one.traceparent for one in placed],
        [one.verdict is Verdict.RETURNED for one in placed],
        flow.name,
    )
    return {row["event_id"] for row in rows}


def evidence_json(diagnosis: Diagnosis) -> str:
    """Return the evidence as the case keeps it: hop by hop, with times and the next command."""
    lines = [
        {
            "hop": line.hop.value,
            "mark": line.mark.value,
            "at": None if line.at is None else line.at.isoformat(),
            "found": line.text,
        }
        for line in diagnosis.lines
    ]
    told = {"lines": lines, "missing": diagnosis.missing, "next": list(diagnosis.next)}
    return json.dumps(told).replace("\\u0000", "")


# What was said of it before it was sent again is kept: it is where the order was lost.
_UPDATE: Final = """
UPDATE relay.overdue AS v
   SET hop = c.hop, verdict = c.verdict, cause = c.cause, diagnosed_at = clock_timestamp(),
       evidence = c.evidence::jsonb || CASE
           WHEN v.evidence ? 'lost' THEN jsonb_build_object('lost', v.evidence -> 'lost')
           WHEN c.verdict = 'in_flight'
           THEN jsonb_build_object('lost', jsonb_build_object('hop', v.hop, 'cause', v.cause))
           ELSE '{}' END
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
       AS c (event_id, hop, verdict, cause, evidence)
 WHERE v.event_id = c.event_id AND v.closed_at IS NULL
"""


async def update_cases(
    connection: asyncpg.Connection, found: Sequence[tuple[str, Diagnosis]]
) -> None:
    """Write what open cases are now.

    Args:
        connection: in autocommit.
        found: key and diagnosis.
    """
    if not found:
        return
    kinds = [hop_and_cause(one) for _, one in found]
    await connection.execute(
        _UPDATE,
        [key for key, _ in found],
        [hop for hop, _ in kinds],
        [one.verdict.value for _, one in found],
        [cause for _, cause in kinds],
        [evidence_json(one) for _, one in found],
    )


# The verdict stays as it was: it is why the order was late.
_RETURNED: Final = """
UPDATE relay.overdue
   SET closed_at = clock_timestamp(), closed_as = 'returned', closed_by = 'watchdog'
 WHERE event_id = ANY ($1::text[]) AND closed_at IS NULL
RETURNING event_id
"""


async def close_returned(connection: asyncpg.Connection, keys: Sequence[str]) -> int:
    """Close the cases of orders that were returned after all; return how many."""
    return len(await connection.fetch(_RETURNED, keys)) if keys else 0


_STALE: Final = """
SELECT event_id, aggregate_id FROM relay.overdue
 WHERE closed_at IS NULL AND flow <> ALL ($5::text[])
   AND diagnosed_at < clock_timestamp() - least($1::interval, $2::interval)
   AND (diagnosed_at < clock_timestamp() - $1::interval OR cause = ANY ($3::text[])
        OR (SELECT count(*) FROM (SELECT FROM relay.overdue WHERE closed_at IS NULL LIMIT $6 + 1)
               AS open) <= $6)
 ORDER BY diagnosed_at LIMIT $4
"""
_PAGE: Final = """
SELECT event_id, aggregate_id, placed_at FROM relay.overdue
 WHERE closed_at IS NULL AND (placed_at, event_id) > ($1, $2) AND cause <> ALL ($4::text[])
   AND flow <> ALL ($5::text[])
 ORDER BY placed_at, event_id LIMIT $3
"""
_LONG_AGO: Final = datetime.fromisoformat("0001-01-02T00:00:00+00:00")


async def stale_cases(
    connection: asyncpg.Connection,
    flow: Flow,
    age: timedelta,
    provisional_age: timedelta,
    *,
    few: int,
    at_most: int,
) -> list[OpenCase]:
    """Return open cases that were last diagnosed longer ago, the longest first.

    Args:
        connection: in autocommit.
        flow: whose cases.
        age: of a diagnosis that may have changed.
        provisional_age: the same, where the cause is one that time alone makes certain, and of
            all when they are few.
        few: cases, of all flows.
        at_most: cases.
    """
    provisional = sorted(PROVISIONAL)
    others = list(flow.others.names)
    rows = await connection.fetch(_STALE, age, provisional_age, provisional, at_most, others, few)
    return [_open_case(row) for row in rows]


# These an order may have whose status is final.
_BESIDE_A_FINAL_STATUS: Final = (
    Cause.RETURN_CONFLICTS.value,
    Cause.RELEASE_PENDING.value,
    Cause.STATUS_OVERWRITTEN.value,
)


async def every_waiting_case(
    connection: asyncpg.Connection, flow: Flow, page: int
) -> list[OpenCase]:
    """Return all open cases that a final status ends, read `page` at a time."""
    found: list[OpenCase] = []
    after: tuple[datetime, str] = (_LONG_AGO, "")
    while True:
        rows = await connection.fetch(
            _PAGE, *after, page, _BESIDE_A_FINAL_STATUS, list(flow.others.names)
        )
        found += [_open_case(row) for row in rows]
        if len(rows) < page:
            return found
        after = (rows[-1]["placed_at"], rows[-1]["event_id"])


def _open_case(row: asyncpg.Record) -> OpenCase:
    key = row["event_id"]
    return OpenCase(key, row["aggregate_id"], event_of(key))


_COUNTS: Final = """
SELECT hop, verdict, count(*) AS orders FROM relay.overdue
 WHERE closed_at IS NULL AND flow <> ALL ($1::text[])
 GROUP BY hop, verdict
"""


async def open_counts(connection: asyncpg.Connection, flow: Flow) -> dict[tuple[str, str], int]:
    """Return how many cases are open, by hop and verdict."""
    rows = await connection.fetch(_COUNTS, list(flow.others.names))
    return {(row["hop"], row["verdict"]): row["orders"] for row in rows}
