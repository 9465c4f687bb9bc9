"""Setup: what `relay trigger` prints, from one look at the database.

Invariant: the database is read, and never changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from relay.runtime.database import connect
from relay.runtime.flow import Flow
from relay.setup.mirror_trigger import CutOver, mirror_back_sql, mirror_trigger_sql
from relay.setup.order_trigger import OrderTrigger, order_trigger_sql

_APPLICATION_NAME: Final = "relay-trigger"


@asynccontextmanager
async def _connected(dsn: str | None) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(dsn, _APPLICATION_NAME, require_primary=False)
    try:
        yield connection
    finally:
        await connection.close()


async def print_order_trigger(dsn: str | None, flow: Flow, wanted: OrderTrigger) -> str:
    """Return the statements of the orders table's trigger.

    Raises:
        FlowTableError, TriggerError: as `order_trigger_sql`.
        DatabaseError: no connection.
    """
    async with _connected(dsn) as connection:
        return await order_trigger_sql(connection, flow, wanted)


async def print_mirror_back(dsn: str | None, table: str, publication: str) -> str:
    """Return the statements that end the copying, from the row on that the publication takes.

    Raises:
        TriggerError: as `mirror_back_sql`.
        DatabaseError: no connection.
    """
    async with _connected(dsn) as connection:
        return await mirror_back_sql(connection, table, publication)


async def print_mirror_trigger(
    dsn: str | None,
    table: str,
    columns: Mapping[str, str],
    cut_over: CutOver,
    content_type: str | None = None,
) -> str:
    """Return the statements of the trigger that copies an existing outbox table.

    Raises:
        TriggerError: as `mirror_trigger_sql`.
        DatabaseError: no connection.
    """
    async with _connected(dsn) as connection:
        return await mirror_trigger_sql(connection, table, columns, cut_over, content_type)
