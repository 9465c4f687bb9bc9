"""The orders of a stretch of time, by when they were placed, and how far they came.

Invariant: reads only, at a cost that does not grow with what is retained: a stretch with many rows
is counted by the ids at its borders, and said to be an estimate. What waits past its deadline is
read from the watchdog's cases, at most CASES of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from relay.diagnose.fate import fate_of
from relay.diagnose.verdicts import HOPS, Fate
from relay.runtime.flow import Flow

COUNTED: Final = 20_000
CASES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """The orders that were placed in one part of a stretch.

    Attributes:
        placed: events that expect a return.
        stuck: hop -> how many of them wait there past their deadline.
        lost: hop -> how many of those will not move by themselves.
    """

    from_at: datetime
    placed: int
    stuck: Mapping[str, int]
    lost: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Minutes:
    """A stretch of time, part by part.

    Attributes:
        exact: False: `placed` is estimated by ids.
        whole: False: there are more overdue orders than were counted.
    """

    from_at: datetime
    to_at: datetime
    buckets: tuple[Bucket, ...]
    exact: bool
    whole: bool

    def stuck_before(self, hop: str, bucket: Bucket) -> int:
        """Return how many orders of a bucket have not got past a hop."""
        names = [one.value for one in HOPS]
        return sum(bucket.stuck.get(name, 0) for name in names[: names.index(hop) + 1])


_ENDS: Final = "SELECT min(id), max(id) + 1 FROM relay.outbox_summary"
_FIRST_FROM: Final = """
SELECT id, created_at FROM relay.outbox_summary WHERE id >= $1 AND id < $2 ORDER BY id LIMIT 1
"""
_COUNTED: Final = """
SELECT width_bucket(created_at, $3::timestamptz[]) AS bucket, count(*) AS placed
  FROM relay.outbox_summary
 WHERE id >= $1 AND id < $2 AND event_type = ANY ($4::text[])
   AND aggregate_type <> ALL ($5::text[])
 GROUP BY 1
"""
_CASES: Final = """
SELECT width_bucket(placed_at, $1::timestamptz[]) AS bucket, hop, verdict, cause, count(*) AS orders
  FROM (SELECT placed_at, hop, verdict, cause FROM relay.overdue
         WHERE closed_at IS NULL AND placed_at >= $2 AND placed_at < $3
           AND flow <> ALL ($5::text[])
         ORDER BY placed_at LIMIT $4) AS c
 GROUP BY 1, 2, 3, 4
"""


async def read_minutes(
    connection: asyncpg.Connection,
    flow: Flow,
    from_at: datetime,
    to_at: datetime,
    parts: int = 60,
) -> Minutes:
    """Return the orders placed from `from_at` to before `to_at`, in so many equal parts.

    Raises:
        asyncpg.PostgresError: they cannot be read.
    """
    step = (to_at - from_at) / parts
    borders = [from_at + number * step for number in range(parts + 1)]
    placed, exact = await _placed(connection, flow, borders)
    names = list(flow.others.names)
    rows = await connection.fetch(_CASES, borders[:-1], from_at, to_at, CASES, names)
    return _made(borders, placed, rows, exact=exact)


async def _placed(
    connection: asyncpg.Connection, flow: Flow, borders: Sequence[datetime]
) -> tuple[Mapping[int, int], bool]:
    low, high = await connection.fetchrow(_ENDS)
    if low is None:
        return {}, True
    first = await _first_id(connection, borders[0], low, high)
    last = await _first_id(connection, borders[-1], first, high)
    if last - first <= COUNTED:
        kinds = [name for name, route in flow.events.items() if route.deadline_seconds]
        others = list(flow.others.aggregate_types)
        rows = await connection.fetch(_COUNTED, first, last, list(borders[:-1]), kinds, others)
        return {row["bucket"]: row["placed"] for row in rows}, True
    ids = [first]
    for border in borders[1:-1]:
        ids.append(await _first_id(connection, border, ids[-1], last))
    ids.append(last)
    return {number: ids[number] - ids[number - 1] for number in range(1, len(ids))}, False


async def _first_id(connection: asyncpg.Connection, border: datetime, low: int, high: int) -> int:
    """Return the first id that was written at a time or later; ids rise with time, nearly."""
    while low < high:
        middle = (low + high) // 2
        row = await connection.fetchrow(_FIRST_FROM, middle, high)
        if row is None or row["created_at"] >= border:
            high = middle
        else:
            low = row["id"] + 1
    return low


def _made(
    borders: Sequence[datetime],
    placed: Mapping[int, int],
    rows: Sequence[Mapping[str, Any]],
    *,
    exact: bool,
) -> Minutes:
    stuck: list[dict[str, int]] = [{} for _ in borders]
    lost: list[dict[str, int]] = [{} for _ in borders]
    for row in rows:
        for counts, counted in (
            (stuck, True),
            (lost, fate_of(row["verdict"], row["cause"]) is Fate.LOST),
        ):
            of = counts[row["bucket"]]
            of[row["hop"]] = of.get(row["hop"], 0) + (row["orders"] if counted else 0)
    buckets = tuple(
        Bucket(
            at,
            max(placed.get(number, 0), sum(stuck[number].values())),
            stuck[number],
            lost[number],
        )
        for number, at in enumerate(borders[:-1], 1)
    )
    whole = sum(row["orders"] for row in rows) < CASES
    return Minutes(borders[0], borders[-1], buckets, exact=exact, whole=whole)


HOUR: Final = timedelta(hours=1)
