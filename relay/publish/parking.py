"""Hop 2: orders that wait in quarantine because one of their events cannot be sent.

Invariant: while an order has an event waiting, its later events wait behind it; other orders flow.
"""

from __future__ import annotations

from typing import Final

import asyncpg

PARKED_ORDERS: Final = """
SELECT DISTINCT aggregate_id FROM relay.quarantine
 WHERE kind = 'event' AND state IN ('held', 'release_requested') AND aggregate_id IS NOT NULL
"""


async def parked_orders(connection: asyncpg.Connection) -> set[bytes]:
    """Return the orders that are parked, as keys."""
    return {row["aggregate_id"].encode() for row in await connection.fetch(PARKED_ORDERS)}
