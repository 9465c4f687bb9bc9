"""Closes overdue cases and incidents by hand, with who and why.

Invariant: one transaction with its row in relay.audit_log, which the database writes; an order that
is not overdue is not closed, and what was closed stays closed whatever the watchdog finds later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.watch.cases import open_cases
from relay.orders.catalog import as_far_as_known, orders_table
from relay.orders.keys import canonical_order_id
from relay.runtime.audit import announce
from relay.runtime.flow import Flow


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
 WHERE aggregate_id = ANY ($1::text[]) AND closed_at IS NULL AND flow <> ALL ($4::text[])
RETURNING aggregate_id
"""


async def close_orders(
    connection: asyncpg.Connection, flow: Flow, found: Sequence[Diagnosis], *, who: str, why: str
) -> Closed:
    """Close the cases of overdue orders; those that no watchdog has seen get one first.

    Raises:
        NothingToCloseError: one of them is not overdue; nothing was closed.
        asyncpg.InsufficientPrivilegeError: closing is relay_operator's.
    """
    ids = [one.order_id for one in found]
    async with connection.transaction():
        await open_cases(connection, flow, found)
        await announce(connection, who, why)
        rows = await connection.fetch(_CLOSE_ORDERS, ids, who, why, list(flow.others.names))
        done = {row["aggregate_id"] for row in rows}
        left = [one for one in ids if one not in done]
        if left:
            raise NothingToCloseError(f"not overdue, or closed already: {', '.join(left[:5])}")
    return Closed(tuple(ids))


_HAS_EVENT: Final = """
SELECT EXISTS (SELECT FROM relay.outbox_summary WHERE aggregate_id = $1)
    OR EXISTS (SELECT FROM relay.kept_summary WHERE aggregate_id = $1)
    OR EXISTS (SELECT FROM relay.overdue WHERE aggregate_id = $1)
"""
_IS_OPEN: Final = """
SELECT EXISTS (SELECT FROM relay.incident WHERE incident_id = $1 AND closed_at IS NULL)
"""


async def is_order(connection: asyncpg.Connection, flow: Flow, named: str) -> bool:
    """Return whether there is an order of that id: in the orders' table, or with an event."""
    flow = await as_far_as_known(connection, flow)
    order_id = canonical_order_id(flow)(named)
    if order_id is None:
        return False
    if await connection.fetchval(_HAS_EVENT, order_id):
        return True
    if flow.orders_columns is None:
        return False
    table = await orders_table(connection, flow)
    query = (
        f"SELECT EXISTS (SELECT FROM {table.table} o "  # noqa: S608 - from the catalog
        f"WHERE o.{table.key} = {table.as_key('$1')})"
    )
    found: bool = await connection.fetchval(query, order_id)
    return found


async def is_open_incident(connection: asyncpg.Connection, incident_id: int) -> bool:
    """Return whether an incident of that number is open."""
    found: bool = await connection.fetchval(_IS_OPEN, incident_id)
    return found


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
        await announce(connection, who, why)
        if await connection.fetchval(_CLOSE_INCIDENT, incident_id, who, why) is None:
            raise NothingToCloseError(f"there is no open incident I-{incident_id}")
        rows = await connection.fetch(_CLOSE_ITS_CASES, incident_id, who, why)
        orders = tuple(row["aggregate_id"] for row in rows)
    return Closed(orders, (incident_id,))
