"""Hop 2: orders that wait in quarantine because one of their events cannot be sent.

Invariant: while an order has an event waiting, its later events wait behind it; other orders flow.
An order leaves in the order in which its events came in: first what an operator released, then what
only waited behind it, before anything newer; it stops at an event that is held for its own sake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

PARKED_ORDERS: Final = """
SELECT DISTINCT aggregate_id FROM relay.quarantine
 WHERE kind = 'event' AND state IN ('held', 'release_requested') AND aggregate_id IS NOT NULL
"""

STILL_PARKED: Final = """
SELECT DISTINCT aggregate_id FROM relay.quarantine
 WHERE kind = 'event' AND state IN ('held', 'release_requested')
   AND aggregate_id = ANY ($1::text[])
"""

ASKED_FOR: Final = """
SELECT DISTINCT aggregate_id FROM relay.quarantine
 WHERE kind = 'event' AND state = 'release_requested' AND consumer_group IS NULL
   AND aggregate_id IS NOT NULL
 LIMIT 100
"""

# What only waited behind an event that now leaves goes with it.
RELEASE_FOLLOWERS: Final = """
UPDATE relay.quarantine AS q SET state = 'release_requested', resolved_by = 'relay',
       resolved_why = 'waited behind an event that was released'
 WHERE q.kind = 'event' AND q.state = 'held' AND q.reason = 'order_parked'
   AND q.aggregate_id = ANY ($1::text[])
   AND EXISTS (SELECT FROM relay.quarantine AS before
                WHERE before.aggregate_id = q.aggregate_id AND before.kind = 'event'
                  AND before.state = 'release_requested'
                  AND before.quarantine_id < q.quarantine_id)
   AND NOT EXISTS (SELECT FROM relay.quarantine AS before
                    WHERE before.aggregate_id = q.aggregate_id AND before.kind = 'event'
                      AND before.state = 'held' AND before.reason <> 'order_parked'
                      AND before.quarantine_id < q.quarantine_id)
"""

# By quarantine_id: the order in which they were read, not the ids' own.
WAITING: Final = """
SELECT aggregate_id, outbox_id, state FROM relay.quarantine
 WHERE kind = 'event' AND state IN ('held', 'release_requested')
   AND aggregate_id = ANY ($1::text[])
 ORDER BY quarantine_id LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A parked event, as the decision needs it."""

    order: str
    outbox_id: int
    release_requested: bool


def releasable(waiting: Sequence[Waiting]) -> list[int]:
    """Return which rows may leave now, as outbox ids: of each order those before the first held.

    Args:
        waiting: of any number of orders, each one's in the order in which they came in.
    """
    stopped: set[str] = set()
    released: list[int] = []
    for event in waiting:
        if event.release_requested and event.order not in stopped:
            released.append(event.outbox_id)
        else:
            stopped.add(event.order)
    return released


async def parked_orders(connection: asyncpg.Connection) -> set[bytes]:
    """Return the orders that are parked, as keys."""
    return {row["aggregate_id"].encode() for row in await connection.fetch(PARKED_ORDERS)}


async def still_parked(connection: asyncpg.Connection, orders: Sequence[bytes]) -> set[bytes]:
    """Return which of these orders are parked: an operator may have discarded what held one."""
    rows = await connection.fetch(STILL_PARKED, [order.decode() for order in orders])
    return {row["aggregate_id"].encode() for row in rows}


async def asked_for(connection: asyncpg.Connection) -> list[str]:
    """Return some of the orders of which an operator asked to release an event."""
    return [row["aggregate_id"] for row in await connection.fetch(ASKED_FOR)]


async def leaving(connection: asyncpg.Connection, orders: Sequence[str], most: int) -> list[int]:
    """Return which rows of these orders leave next, in order, as outbox ids; at most `most`."""
    await connection.execute(RELEASE_FOLLOWERS, orders)
    rows = await connection.fetch(WAITING, orders, most)
    return releasable(
        [
            Waiting(row["aggregate_id"], row["outbox_id"], row["state"] == "release_requested")
            for row in rows
        ]
    )
