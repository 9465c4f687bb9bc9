"""Hop 1: makes the event that an order was committed without, out of the order's own row.

Invariant: through `append`, in one transaction with the look that there is none yet; two at once
make one event (a row that only operators and services may lock). What the order's row does not hold
is not invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from relay.orders.catalog import orders_table
from relay.orders.payload import order_payload
from relay.outbox import Event, append
from relay.outbox.errors import EventRefusedError
from relay.outbox.event_types import EventTypes, standard
from relay.runtime.flow import Flow

_LOCK: Final = "SELECT FROM relay.lease WHERE duty = 'write_missing' FOR NO KEY UPDATE"
_THERE: Final = """
SELECT EXISTS (SELECT FROM relay.outbox_summary
                WHERE aggregate_id = $1 AND event_type = $2 AND (aggregate_type = $3 OR $4))
    OR EXISTS (SELECT FROM relay.kept_summary
                WHERE aggregate_id = $1 AND event_type = $2 AND (aggregate_type = $3 OR $4))
"""


NO_PAYLOAD: Final = (
    "what such an event says is not known, and a raw row is never sent: name the shop's function"
    " (text) that returns json as [flow.NAME] payload_function"
)


class NotWrittenError(Exception):
    """An order's missing event cannot be made; the message says why."""


async def write_missing(
    connection: asyncpg.Connection, flow: Flow, orders: Sequence[str]
) -> dict[str, str]:
    """Write the events of orders that have none; return those that could not be, and why.

    Raises:
        NotWrittenError: the flow has no orders table, or nobody says what the event holds.
        asyncpg.InsufficientPrivilegeError: this login may not write events.
    """
    refused: dict[str, str] = {}
    if not orders:
        return refused
    maker = await _maker(connection, flow)
    for order_id in orders:
        try:
            async with connection.transaction():
                await connection.execute(_LOCK)
                alone = maker.kind in flow.own_event_types
                whose = order_id, maker.kind, flow.aggregate_type, alone
                if not await connection.fetchval(_THERE, *whose):
                    await _write(connection, flow, maker, order_id)
        except (EventRefusedError, NotWrittenError) as error:
            refused[order_id] = str(error)
    return refused


async def require_payload(connection: asyncpg.Connection, flow: Flow) -> None:
    """Refuse to plan what could not be written.

    Raises:
        NotWrittenError: the flow has no orders table, or nobody says what the event holds.
    """
    await _maker(connection, flow)


@dataclass(frozen=True, slots=True)
class _Maker:
    kind: str
    query: str
    event_types: EventTypes | None


async def _write(connection: asyncpg.Connection, flow: Flow, maker: _Maker, order_id: str) -> None:
    payload: Any = await connection.fetchval(maker.query, order_id)
    if payload is None:
        raise NotWrittenError(f"order {order_id} is gone: `relay diagnose {order_id}`")
    event = Event(maker.kind, order_id, payload, aggregate_type=flow.aggregate_type)
    topic = flow.events[maker.kind].topic
    await append(connection, event, event_types=maker.event_types, topic=topic)


async def _maker(connection: asyncpg.Connection, flow: Flow) -> _Maker:
    columns = flow.orders_columns
    if columns is None:
        raise NotWrittenError("--write-missing needs the orders' table: [flow.NAME.columns]")
    table = await orders_table(connection, flow)
    payload = await order_payload(connection, flow, table)
    if payload is None:
        raise NotWrittenError(NO_PAYLOAD)
    kind = next(iter(flow.deadlines or flow.events))
    # An order table of the user's own shape makes an event of that shape.
    ours = payload.by_contract and kind in standard().known
    query = (
        f"SELECT ({payload.sql})::text FROM {table.table} o "  # noqa: S608 - from the catalog
        f"WHERE o.{table.key} = {table.as_key('$1')}"
    )
    return _Maker(kind, query, None if ours else EventTypes().with_type(kind, None))
