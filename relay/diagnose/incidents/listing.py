"""Incidents as people read them: counted, told, with some of their orders.

Invariant: reads only.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.diagnose.fate import fate_of
from relay.diagnose.incidents.clusters import Kind
from relay.runtime.flow import Flow


@dataclass(frozen=True, slots=True)
class IncidentSeen:
    """An incident as people read it.

    Attributes:
        breakdown: how many of its orders are what: lost, delayed, unknown, late, closed.
        story: what was recorded that explains it.
    """

    incident_id: int
    kind: Kind
    from_at: datetime
    to_at: datetime
    orders: int
    opened_at: datetime
    closed_at: datetime | None
    closed_by: str | None
    closed_why: str | None
    breakdown: dict[str, int]
    story: dict[str, Any]
    examples: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What people call it."""
        return f"I-{self.incident_id}"


_LIST: Final = """
SELECT * FROM relay.incident
 WHERE (closed_at IS NULL OR $1) AND ($2::timestamptz IS NULL OR to_at >= $2)
   AND ($3::bigint IS NULL OR incident_id = $3) AND flow <> ALL ($5::text[])
 ORDER BY closed_at IS NULL DESC, from_at DESC LIMIT $4
"""
_BREAKDOWN: Final = """
SELECT incident_id, closed_as, verdict, cause, count(*) AS orders FROM relay.overdue
 WHERE incident_id = ANY ($1::bigint[])
 GROUP BY incident_id, closed_as, verdict, cause
"""


async def list_incidents(
    connection: asyncpg.Connection,
    flow: Flow,
    *,
    closed: bool,
    since: datetime | None = None,
    incident_id: int | None = None,
    at_most: int = 100,
) -> list[IncidentSeen]:
    """Return incidents, open ones first, the newest first.

    Args:
        connection: any role that may read them.
        flow: whose orders they are of.
        closed: the closed ones, too.
        since: only those with an order placed since then.
        incident_id: only this one.
        at_most: how many.
    """
    rows = await connection.fetch(
        _LIST, closed, since, incident_id, at_most, list(flow.others.names)
    )
    parts: defaultdict[int, list[asyncpg.Record]] = defaultdict(list)
    for part in await connection.fetch(_BREAKDOWN, [row["incident_id"] for row in rows]):
        parts[part["incident_id"]].append(part)
    return [
        _seen(row, parts[row["incident_id"]], await _examples(connection, row["incident_id"]))
        for row in rows
    ]


_EXAMPLES: Final = """
SELECT aggregate_id FROM relay.overdue WHERE incident_id = $1
 ORDER BY closed_at IS NULL DESC, placed_at LIMIT 5
"""


async def _examples(connection: asyncpg.Connection, incident_id: int) -> tuple[str, ...]:
    rows = await connection.fetch(_EXAMPLES, incident_id)
    return tuple(row["aggregate_id"] for row in rows)


_SINGLE: Final = """
SELECT count(*) FROM relay.overdue
 WHERE closed_at IS NULL AND incident_id IS NULL AND flow <> ALL ($1::text[])
"""


async def single_orders(connection: asyncpg.Connection, flow: Flow) -> int:
    """Return how many open cases belong to no incident."""
    count: int = await connection.fetchval(_SINGLE, list(flow.others.names))
    return count


def _seen(
    row: asyncpg.Record, parts: Sequence[asyncpg.Record], examples: tuple[str, ...]
) -> IncidentSeen:
    return IncidentSeen(
        incident_id=row["incident_id"],
        kind=(row["hop"], row["verdict"], row["cause"]),
        from_at=row["from_at"],
        to_at=row["to_at"],
        orders=row["order_count"],
        opened_at=row["opened_at"],
        closed_at=row["closed_at"],
        closed_by=row["closed_by"],
        closed_why=row["closed_why"],
        breakdown=_breakdown(parts),
        story=json.loads(row["story"]),
        examples=examples,
    )


def _breakdown(parts: Sequence[asyncpg.Record]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for part in parts:
        if part["closed_as"] == "returned":
            name = "returned late"
        elif part["closed_as"] == "closed":
            name = "closed by hand"
        else:
            name = fate_of(part["verdict"], part["cause"]).value
        found[name] += part["orders"]
    return dict(found)
