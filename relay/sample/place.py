"""Hop 1 of the sample: places one order, and follows it until its return was applied.

Invariant: an order is reported as placed only after its commit. Following reads; it never writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import asyncpg
from opentelemetry.trace import Tracer

from relay.outbox import Item, NewOrder, PlacedOrder, place_order
from relay.runtime.database import connect
from relay.sample.installation import require_sample
from relay.sample.place_http import Answer, OrderClient
from relay.telemetry import traceparent

TERMINAL: Final = frozenset({"confirmed", "rejected"})
_CREATED: Final = 201
_OK: Final = 200

_STATUS: Final = "SELECT status FROM public.orders WHERE order_id = $1"


@dataclass(frozen=True, slots=True)
class Placement:
    """An order that was placed. `created` is False when its idempotency key was known.

    `trace_id` is None when nobody knows it yet: a repeated order without a trace of its own.
    """

    order_id: str
    trace_id: str | None
    created: bool
    status: str


class OrderRefusedError(Exception):
    """The order service refuses the order; the message is its own."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.code = str(answer.body.get("code", answer.status))
        where = answer.body.get("path")
        detail = answer.body.get("detail", "no detail")
        super().__init__(f"{self.status} {self.code}{f' at {where}' if where else ''}: {detail}")


class Placing(Protocol):
    """A way to place orders and to look at them."""

    async def place(self, order: NewOrder) -> Placement:
        """Place an order; its idempotency key decides whether it is a new one."""
        ...

    async def status(self, order_id: str) -> str:
        """Return the order's status now."""
        ...


class DirectPlacing:
    """Straight into the database, as an order service does it; connects again after a loss."""

    def __init__(self, dsn: str | None, tracer: Tracer) -> None:
        self._dsn = dsn
        self._tracer = tracer
        self._open: asyncpg.Connection | None = None

    async def place(self, order: NewOrder) -> Placement:
        """Place an order and its event in one transaction."""
        connection = await self._connected()
        async with connection.transaction():
            placed = await place_order(connection, order, tracer=self._tracer)
        return Placement(str(placed.order_id), trace_id(placed), placed.created, placed.status)

    async def status(self, order_id: str) -> str:
        """Return the order's status now."""
        status: str = await (await self._connected()).fetchval(_STATUS, UUID(order_id))
        return status

    async def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            await self._open.close()

    async def _connected(self) -> asyncpg.Connection:
        if self._open is None or self._open.is_closed():
            self._open = await connect(self._dsn, "relay sample place")
            await require_sample(self._open)
        return self._open


class HttpPlacing:
    """Through the order service."""

    def __init__(self, client: OrderClient) -> None:
        self._client = client

    async def place(self, order: NewOrder) -> Placement:
        """Submit an order; raises OrderRefusedError for any answer but 200 and 201."""
        answer = await self._client.submit(_body(order), order.idempotency_key or "")
        if answer.status not in (_OK, _CREATED):
            raise OrderRefusedError(answer)
        placed = answer.body
        return Placement(
            placed["order_id"], placed["trace_id"], answer.status == _CREATED, placed["status"]
        )

    async def status(self, order_id: str) -> str:
        """Ask the order service for the order's status now."""
        answer = await self._client.get(order_id)
        if answer.status != _OK:
            raise OrderRefusedError(answer)
        return str(answer.body["status"])


@asynccontextmanager
async def direct(dsn: str | None, tracer: Tracer) -> AsyncIterator[DirectPlacing]:
    """Place straight into a sample installation's database.

    Every call raises DatabaseError when it cannot be reached, NotSampleError when it is no sample.
    """
    placing = DirectPlacing(dsn, tracer)
    try:
        yield placing
    finally:
        await placing.close()


@asynccontextmanager
async def over_http(url: str, timeout_seconds: float) -> AsyncIterator[HttpPlacing]:
    """Connect to an order service, which refuses by itself what is no sample.

    Raises:
        ServiceUrlError: the URL cannot be used.
    """
    client = OrderClient(url, timeout_seconds)
    try:
        yield HttpPlacing(client)
    finally:
        await client.close()


async def follow(
    look: Callable[[], Awaitable[str]],
    changed: Callable[[str], None],
    timeout_seconds: float,
    poll_seconds: float = 0.05,
) -> str:
    """Look at an order until its status is terminal or the time is over; return the last status.

    Args:
        look: returns the status now.
        changed: called with each status that differs from the one before.
        timeout_seconds: how long to follow.
        poll_seconds: between two looks.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    last = ""
    while True:
        status = await look()
        if status != last:
            changed(status)
            last = status
        if status in TERMINAL or loop.time() >= deadline:
            return status
        await asyncio.sleep(poll_seconds)


def trace_id(placed: PlacedOrder) -> str | None:
    """Return the trace that the order has, or will get from the relay; None when not known."""
    context = traceparent.parse(placed.traceparent)
    if context is None and placed.event_id is not None:
        context = traceparent.of_event(placed.event_id.bytes, sampled=False)
    return None if context is None else context.trace_id


def _body(order: NewOrder) -> dict[str, Any]:
    return {
        "customer_id": order.customer_id,
        "items": [_line(item) for item in order.items],
        "currency": order.currency,
    }


def _line(item: Item) -> dict[str, Any]:
    return {"sku": item.sku, "quantity": item.quantity, "price": item.price}
