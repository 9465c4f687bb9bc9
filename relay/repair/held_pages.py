"""Hops 2 and 5: what is in quarantine, a page at a time, with counts that end somewhere.

Invariant: reads only; a page costs a page. It begins behind the last row of the one before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.repair.held import Group, Held, read_held
from relay.runtime.flow import Flow

COUNTED: Final = 100_000


@dataclass(frozen=True, slots=True)
class HeldWanted:
    """Which rows are meant; None: no such condition; `after`: the last id of the page before."""

    states: tuple[str, ...]
    reason: str | None = None
    kind: str | None = None
    after: int = 0


_PAGE: Final = """
SELECT quarantine_id FROM relay.quarantine_summary
 WHERE state = ANY ($1::text[]) AND ($2::text IS NULL OR reason = $2)
   AND ($3::text IS NULL OR kind = $3) AND quarantine_id > $4
   AND (consumer_group IS NULL OR consumer_group <> ALL ($6::text[]))
   AND (aggregate_type IS NULL OR aggregate_type <> ALL ($7::text[]))
 ORDER BY quarantine_id LIMIT $5
"""
_COUNTS: Final = """
SELECT kind, reason, state, count(*), min(first_seen_at) AS oldest_at
  FROM (SELECT kind, reason, state, first_seen_at FROM relay.quarantine_summary
         WHERE state IN ('held', 'release_requested')
           AND (consumer_group IS NULL OR consumer_group <> ALL ($2::text[]))
           AND (aggregate_type IS NULL OR aggregate_type <> ALL ($3::text[]))
         LIMIT $1) AS q
 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3
"""


def _others(flow: Flow) -> tuple[list[str], list[str]]:
    return list(flow.others.groups), list(flow.others.aggregate_types)


async def read_held_page(
    connection: asyncpg.Connection, flow: Flow, wanted: HeldWanted, at_most: int
) -> tuple[list[Held], bool]:
    """Return a page of rows, and whether there are more."""
    rows = await connection.fetch(
        _PAGE, list(wanted.states), wanted.reason, wanted.kind, wanted.after, at_most + 1,
        *_others(flow),
    )  # fmt: skip
    ids = [row["quarantine_id"] for row in rows[:at_most]]
    return await read_held(connection, ids), len(rows) > at_most


async def count_open(connection: asyncpg.Connection, flow: Flow) -> tuple[list[Group], bool]:
    """Count what waits, by kind, reason and state; and say whether all was counted."""
    groups = [
        Group(**dict(row)) for row in await connection.fetch(_COUNTS, COUNTED, *_others(flow))
    ]
    return groups, sum(one.count for one in groups) < COUNTED
