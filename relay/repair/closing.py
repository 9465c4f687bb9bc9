"""All hops: closes overdue cases and incidents by hand, with who and why.

Invariant: one transaction with its row in relay.audit_log; an order that is not overdue is not
closed, and what was closed stays closed whatever the watchdog finds later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.diagnose.tell.diagnosis import Diagnosis
from relay.diagnose.watch.cases import open_cases
from relay.runtime.audit import Action, note_action


class NothingToCloseError(Exception):
    """There is no open case of that order, or no open incident of that number."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What was closed."""

    orders: tuple[str, ...]
    incidents: tuple[int, ...] = ()


_CLOSE_ORDERS: Final = """
UPDATE relay.overdue
   SET closed_at = clock_timestamp(), closed_as = 'closed', closed_by = $2, closed_why = $3
 WHERE aggregate_id = ANY ($1::text[]) AND closed_at IS NULL
RETURNING aggregate_id
"""


async def close_orders(
    connection: asyncpg.Connection, found: Sequence[Diagnosis], *, who: str, why: str
) -> Closed:
    """Close the cases of overdue orders; those that no watchdog has seen get one first.

    Raises:
        NothingToCloseError: one of them is not overdue; nothing was closed.
        asyncpg.InsufficientPrivilegeError: closing is relay_operator's.
    """
    ids = [one.order_id for one in found]
    async with connection.transaction():
        await open_cases(connection, found, "order.placed")
        rows = await connection.fetch(_CLOSE_ORDERS, ids, who, why)
        done = {row["aggregate_id"] for row in rows}
        left = [one for one in ids if one not in done]
        if left:
            raise NothingToCloseError(f"not overdue, or closed already: {', '.join(left[:5])}")
        for order_id in ids:
            await note_action(connection, Action(who, "close", order_id, why))
    return Closed(tuple(ids))


_CLOSE_INCIDENT: Final = """
UPDATE relay.incident
   SET closed_at = clock_timestamp(), closed_by = $2, closed_why = $3
 WHERE incident_id = $1 AND closed_at IS NULL
RETURNING incident_id
"""
_CLOSE_ITS_CASES: Final = """
UPDATE relay.overdue
   SET closed_at = clock_timestamp(), closed_as = 'closed', closed_by = $2, closed_why = $3
 WHERE incident_id = $1 AND closed_at IS NULL
RETURNING aggregate_id
"""


async def close_incident(
    connection: asyncpg.Connection, incident_id: int, *, who: str, why: str
) -> Closed:
    """Close an incident with all its open cases.

    Raises:
        NothingToCloseError: there is no such incident, or it is closed.
        asyncpg.InsufficientPrivilegeError: closing is relay_operator's.
    """
    async with connection.transaction():
        if await connection.fetchval(_CLOSE_INCIDENT, incident_id, who, why) is None:
            raise NothingToCloseError(f"there is no open incident I-{incident_id}")
        rows = await connection.fetch(_CLOSE_ITS_CASES, incident_id, who, why)
        orders = tuple(row["aggregate_id"] for row in rows)
        done = Action(who, "close", f"I-{incident_id}", why, detail={"orders": len(orders)})
        await note_action(connection, done)
    return Closed(orders, (incident_id,))
