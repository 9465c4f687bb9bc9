"""Hop 1: from what a person has in hand (an order id, an event id, a customer's key) to order ids.

Invariant: reads only; an id that cannot be one stays as it was given, so that it is answered for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from relay.orders.catalog import orders_table
from relay.orders.keys import canonical_order_id
from relay.runtime.flow import Flow


class NotLookedUpError(Exception):
    """What was asked for cannot be looked up; the message says why."""


def canonical(flow: Flow, order_ids: Sequence[str]) -> list[str]:
    """Write order ids as the database writes them."""
    clean = canonical_order_id(flow)
    return [clean(one) or one for one in order_ids if one.strip()]


_OF_EVENTS: Final = """
SELECT aggregate_id, event_id::text FROM relay.outbox_summary WHERE event_id = ANY ($1::uuid[])
 UNION ALL
SELECT aggregate_id, event_id::text FROM relay.kept_summary WHERE event_id = ANY ($1::uuid[])
"""


async def orders_of_events(
    connection: asyncpg.Connection, event_ids: Sequence[str]
) -> dict[str, str]:
    """Return order id -> event id.

    Raises:
        NotLookedUpError: one of them is no UUID, or no row has it.
    """
    try:
        rows = await connection.fetch(_OF_EVENTS, list(event_ids))
    except (asyncpg.DataError, ValueError) as error:
        raise NotLookedUpError(f"an event id is a UUID: {error}") from error
    found = {row["aggregate_id"]: row["event_id"] for row in rows}
    missing = sorted({one.lower() for one in event_ids} - set(found.values()))
    if missing:
        raise NotLookedUpError(
            f"no outbox row has event id {', '.join(missing)}: it was never committed, or its day's"
            " partition was dropped"
        )
    return found


_HAS_KEYS: Final = """
SELECT count(*) = 2 FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attname IN ('customer_id', 'idempotency_key')
   AND NOT attisdropped
"""


async def order_of_submission(
    connection: asyncpg.Connection, flow: Flow, customer: str, key: str
) -> str | None:
    """Return the order that a customer's idempotency key belongs to; None: it was never committed.

    Raises:
        NotLookedUpError: the orders table has no such columns, or they may not be read.
    """
    columns = flow.orders_columns
    if columns is None:
        raise NotLookedUpError("--customer and --key need the orders' table: [flow.NAME.columns]")
    if not await connection.fetchval(_HAS_KEYS, columns.table):
        raise NotLookedUpError(
            f"{columns.table} has no columns customer_id and idempotency_key: give the order id"
        )
    table = await orders_table(connection, flow)
    query = (
        f"SELECT {table.id_of()} FROM {table.table} o "  # noqa: S608 - from the catalog
        "WHERE o.customer_id::text = $1 AND o.idempotency_key::text = $2"
    )
    try:
        found: str | None = await connection.fetchval(query, customer, key)
    except asyncpg.InsufficientPrivilegeError as error:
        raise NotLookedUpError(f"{error}: ask as relay_operator") from error
    return found
