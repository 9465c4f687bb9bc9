"""Incidents that turned out to be one: joined into the oldest of them.

Invariant: the older one keeps its id and gets all orders; the other says which it is the same as,
and takes no order in any more. Of one event the first orders may have been taken for another loss
than the later ones, until more was recorded.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from relay.diagnose.incidents.clusters import GAP, Kind

_TWINS: Final = """
SELECT DISTINCT ON (b.incident_id) b.incident_id, a.incident_id AS into_id, b.hop, b.verdict,
       b.cause, b.order_count
  FROM relay.incident AS a
  JOIN relay.incident AS b
    ON (a.hop, a.verdict, a.cause) = (b.hop, b.verdict, b.cause) AND a.incident_id < b.incident_id
   AND a.from_at <= b.to_at + $1 AND b.from_at <= a.to_at + $1
 WHERE a.closed_at IS NULL AND b.closed_at IS NULL
   AND a.flow <> ALL ($2::text[]) AND b.flow <> ALL ($2::text[])
 ORDER BY b.incident_id, a.incident_id
"""
_HAND_OVER: Final = "UPDATE relay.overdue SET incident_id = $2 WHERE incident_id = $1"
# Not by `watchdog`: cases may join what it closed.
_CLOSE: Final = """
UPDATE relay.incident
   SET closed_at = clock_timestamp(), closed_by = 'joined',
       closed_why = 'the same as I-' || $2::text
 WHERE incident_id = $1 AND closed_at IS NULL
"""


async def join_twins(
    connection: asyncpg.Connection, others: list[str]
) -> list[tuple[int, Kind, int]]:
    """Join open incidents of one kind and time; return id, kind and orders of those that ended.

    Those of `others`, the other flows' names, are left alone.
    """
    ended = []
    for row in await connection.fetch(_TWINS, GAP, others):
        into_id: int = row["into_id"]
        async with connection.transaction():
            await connection.execute(_HAND_OVER, row["incident_id"], into_id)
            await connection.execute(_CLOSE, row["incident_id"], str(into_id))
        kind = row["hop"], row["verdict"], row["cause"]
        ended.append((row["incident_id"], kind, row["order_count"]))
    return ended
