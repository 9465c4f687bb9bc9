"""Hops 1 and 2: what left with its retention and can no longer be replayed, by range.

Invariant: what upkeep wrote down when it dropped a day, or let go of kept rows; days that follow
one another are told as one range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import asyncpg

_DROPPED: Final = """
SELECT partition_name = 'kept' AS from_kept, from_at, to_at, lower(id_range) AS first_id,
       upper(id_range) - 1 AS last_id, row_count AS rows, kept_count AS kept
  FROM relay.dropped_partition
 ORDER BY 1, from_at
"""


@dataclass(frozen=True, slots=True)
class Gone:
    """Rows created in [from_at, to_at) that are no longer here.

    Attributes:
        from_kept: they had been kept beyond their day, for orders that were stuck.
        first_id: lowest outbox id; None: the days were empty.
        rows: that left, with those that were kept.
        kept: of them in relay.kept, when their day was dropped: these can still be replayed.
    """

    from_kept: bool
    from_at: datetime
    to_at: datetime
    first_id: int | None
    last_id: int | None
    rows: int
    kept: int


async def read_gone(connection: asyncpg.Connection) -> list[Gone]:
    """Return the ranges, oldest first."""
    return joined([Gone(**dict(row)) for row in await connection.fetch(_DROPPED)])


def joined(days: Sequence[Gone]) -> list[Gone]:
    """Join days that follow one another; they are given in order."""
    ranges: list[Gone] = []
    for day in days:
        last = ranges[-1] if ranges else None
        if last is None or last.from_kept != day.from_kept or last.to_at != day.from_at:
            ranges.append(day)
            continue
        ids = [one for one in (last.first_id, day.first_id) if one is not None]
        ends = [one for one in (last.last_id, day.last_id) if one is not None]
        ranges[-1] = replace(
            last,
            to_at=day.to_at,
            first_id=min(ids, default=None),
            last_id=max(ends, default=None),
            rows=last.rows + day.rows,
            kept=last.kept + day.kept,
        )
    return ranges
