"""The overdue orders as the watchdog recorded them, a page at a time.

Invariant: reads only; a page costs a page, however many there are, and the counts stop at COUNTED.
A page begins behind the last order of the one before it, so that none is left out or shown twice
when orders come and go meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from relay.diagnose.fate import fate_of
from relay.diagnose.verdicts import Fate
from relay.runtime.flow import Flow

COUNTED: Final = 100_000


@dataclass(frozen=True, slots=True)
class CaseWanted:
    """Which cases are meant; None: no such condition.

    Attributes:
        after: the time and event id of the last one of the page before.
    """

    hop: str | None = None
    cause: str | None = None
    incident_id: int | None = None
    after: tuple[datetime, str] | None = None


@dataclass(frozen=True, slots=True)
class CaseSeen:
    """An overdue order, as recorded."""

    event_id: str
    order_id: str
    placed_at: datetime
    deadline_at: datetime
    hop: str
    verdict: str
    cause: str
    incident_id: int | None
    diagnosed_at: datetime
    closed_as: str | None = None

    @property
    def fate(self) -> Fate:
        """What it means for the customer."""
        return fate_of(self.verdict, self.cause)


@dataclass(frozen=True, slots=True)
class CaseKind:
    """So many open cases of one hop, verdict and cause."""

    hop: str
    verdict: str
    cause: str
    count: int
    oldest_at: datetime
    newest_at: datetime

    @property
    def fate(self) -> Fate:
        """What it means for the customers."""
        return fate_of(self.verdict, self.cause)


_PAGE: Final = """
SELECT event_id, aggregate_id AS order_id, placed_at, deadline_at, hop, verdict, cause,
       incident_id, diagnosed_at, closed_as
  FROM relay.overdue
 WHERE closed_at IS NULL
   AND ($1::text IS NULL OR hop = $1) AND ($2::text IS NULL OR cause = $2)
   AND ($3::bigint IS NULL OR incident_id = $3)
   AND ($4::timestamptz IS NULL OR placed_at >= $4 AND (placed_at, event_id) > ($4, $5))
   AND flow <> ALL ($7::text[])
 ORDER BY placed_at, event_id LIMIT $6
"""


async def read_cases(
    connection: asyncpg.Connection, flow: Flow, wanted: CaseWanted, at_most: int
) -> tuple[list[CaseSeen], bool]:
    """Return a page of open cases, the oldest first, and whether there are more."""
    at, event_id = wanted.after or (None, None)
    rows = await connection.fetch(
        _PAGE, wanted.hop, wanted.cause, wanted.incident_id, at, event_id, at_most + 1,
        list(flow.others.names),
    )  # fmt: skip
    return [CaseSeen(**dict(row)) for row in rows[:at_most]], len(rows) > at_most


_KINDS: Final = """
SELECT hop, verdict, cause, count(*), min(placed_at) AS oldest_at, max(placed_at) AS newest_at
  FROM (SELECT hop, verdict, cause, placed_at FROM relay.overdue
         WHERE closed_at IS NULL AND flow <> ALL ($2::text[]) LIMIT $1) AS o
 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3
"""


async def count_cases(connection: asyncpg.Connection, flow: Flow) -> tuple[list[CaseKind], bool]:
    """Count the open cases by hop, verdict and cause; and say whether all were counted."""
    rows = await connection.fetch(_KINDS, COUNTED, list(flow.others.names))
    kinds = [CaseKind(**dict(row)) for row in rows]
    return kinds, sum(one.count for one in kinds) < COUNTED


_MARKS: Final = """
SELECT event_id, aggregate_id AS order_id, placed_at, deadline_at, hop, verdict, cause,
       incident_id, diagnosed_at, closed_as
  FROM relay.overdue
 WHERE placed_at >= $1 AND placed_at < $2 AND (incident_id = $3 OR closed_at IS NULL)
   AND flow <> ALL ($5::text[])
 ORDER BY incident_id IS NOT DISTINCT FROM $3 DESC, md5(event_id) LIMIT $4
"""


async def read_marks(
    connection: asyncpg.Connection,
    flow: Flow,
    incident_id: int,
    between: tuple[datetime, datetime],
    at_most: int,
) -> tuple[Sequence[CaseSeen], bool]:
    """Return cases of a stretch of time to be drawn, the incident's first; whether all came.

    Where there are more, those that are returned are drawn by lot, the same ones every time.
    """
    rows = await connection.fetch(
        _MARKS, *between, incident_id, at_most + 1, list(flow.others.names)
    )
    return [CaseSeen(**dict(row)) for row in rows[:at_most]], len(rows) <= at_most
