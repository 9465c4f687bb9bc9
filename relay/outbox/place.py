"""Hop 1: an order and its event `order.placed` in one statement of the caller's transaction.

Invariant: there is never an order without its event nor an event without its order, and at most one
order for a customer's idempotency key, however many submit it at once: the second one waits for the
first one's transaction and gets its order. A refused order has written nothing. The tables are the
sample domain's; a service with tables of its own writes its order and then calls `append`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact
from typing import Any, Final
from uuid import UUID, uuid4

from opentelemetry.trace import Tracer

from relay.outbox.append import AsyncpgConnection, require_transaction
from relay.outbox.creation import DEFAULT_TOPIC, Creation, creation
from relay.outbox.errors import FirstOrderGoneError, IdempotencyConflictError, SchemaMismatchError
from relay.outbox.event import Event, check_text, checked

# One statement, so that not even a cancelled caller who goes on to commit can part the two. The
# event's INSERT reads the order's, so the order row is written, and locked, first. submitted_at is
# this database's clock, in the row and in the payload alike.
# The second submission of a key waits here for the first one's transaction to end.
_PLACE: Final = """
    WITH placed AS (
        INSERT INTO public.orders (order_id, customer_id, idempotency_key, items, total, currency,
                                   traceparent)
        VALUES ($1::text::uuid, $2::text, $3::text, $4::text::json, $5::text::numeric, $6::text,
                $7::text)
        ON CONFLICT (customer_id, idempotency_key) DO NOTHING
        RETURNING order_id, status, traceparent,
                  to_char(submitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                      AS submitted_at
    ), event AS (
        INSERT INTO relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type,
                                  payload, traceparent, tracestate)
        SELECT 'order', order_id::text, 1, 'order.placed',
               ($8::text || submitted_at || $9::text)::json, traceparent, $10::text
        FROM placed
        RETURNING id, event_id
    )
    SELECT placed.order_id::text, placed.status, placed.submitted_at, placed.traceparent,
           event.id, event.event_id::text
    FROM placed CROSS JOIN event
"""

_FIRST: Final = """
    SELECT order_id::text, status,
           to_char(submitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), traceparent,
           items::text, total::text, currency
    FROM public.orders
    WHERE customer_id = $1::text AND idempotency_key = $2::text
"""

_SOME_TIME: Final = "1970-01-01T00:00:00.000000Z"
# A price has 18 digits and 6 decimals at most: no sum of a payload's items is ever rounded.
_PRICE_LIMIT: Final = 25
_EXACT: Final = Context(prec=64, traps=[Inexact])


@dataclass(frozen=True, slots=True)
class Item:
    """One line of an order. `price` is of one piece, a string of decimal digits."""

    sku: str
    quantity: int
    price: str


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order as it is submitted.

    `order_id` None: a new one is made. Without an `idempotency_key` every submission is an order.
    """

    customer_id: str
    items: Sequence[Item]
    currency: str
    idempotency_key: str | None = None
    order_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """The order as it stands. `created` is False when the idempotency key was known.

    `submitted_at` is RFC 3339 in UTC. `outbox_id` and `event_id` are those of this submission's
    event, None for a repeated one.
    """

    order_id: UUID
    status: str
    submitted_at: str
    traceparent: str | None
    created: bool
    outbox_id: int | None = None
    event_id: UUID | None = None


async def place_order(
    connection: AsyncpgConnection,
    order: NewOrder,
    *,
    topic: str = DEFAULT_TOPIC,
    tracer: Tracer | None = None,
) -> PlacedOrder:
    """Place an order and its event in the transaction that is open on `connection`.

    Args:
        connection: the caller's own asyncpg connection, with a transaction open.
        order: what the customer submitted.
        topic: names the span.
        tracer: records the create span; None: the process's OpenTelemetry provider, if any.

    Raises:
        NotInTransactionError: no transaction is open.
        EventRefusedError: its subclass for the fault; nothing was written.
        IdempotencyConflictError: the key belongs to an order with another body.
        FirstOrderGoneError: the order that held the key was deleted meanwhile.
    """
    require_transaction(connection)
    submission = _submission(order)
    with creation(submission.order_id, topic, tracer) as made:
        stored = await connection.fetchrow(_PLACE, *submission.values(made))
        if stored is not None:
            made.identified(UUID(stored[5]))
            return _placed(stored, created=True, outbox_id=stored[4], event_id=UUID(stored[5]))
        made.abandon()
    first = await connection.fetchrow(_FIRST, order.customer_id, order.idempotency_key)
    return _repeated(first, order, submission)


@dataclass(frozen=True, slots=True)
class _Submission:
    """The texts that the statement sends; `before` and `after` enclose submitted_at."""

    order: NewOrder
    order_id: str
    items: str
    total: str
    before: str
    after: str

    def values(self, made: Creation) -> tuple[str | None, ...]:
        order = self.order
        return (
            self.order_id,
            order.customer_id,
            order.idempotency_key,
            self.items,
            self.total,
            order.currency,
            made.traceparent,
            self.before,
            self.after,
            made.tracestate,
        )


def _submission(order: NewOrder) -> _Submission:
    """Check the order by the event that it will be, before anything is written."""
    check_text("customer_id", order.customer_id)
    if order.idempotency_key is not None:
        check_text("idempotency_key", order.idempotency_key)
    order_id = str(order.order_id or uuid4())
    items = [{"sku": i.sku, "quantity": i.quantity, "price": i.price} for i in order.items]
    total = total_of(order.items)
    payload = {
        "order_id": order_id,
        "customer_id": order.customer_id,
        "items": items,
        "total": total,
        "currency": order.currency,
        "submitted_at": _SOME_TIME,
    }
    text = checked(Event("order.placed", order_id, payload), None).payload
    assert text is not None  # it is JSON
    before, _, after = text.rpartition(_SOME_TIME)
    return _Submission(order, order_id, _compact(items), total, before, after)


def total_of(items: Sequence[Item]) -> str:
    """Return the sum of quantity times price, exactly, as decimal digits.

    Raises:
        SchemaMismatchError: a price is not a string of decimal digits, or a quantity no integer.
    """
    total = Decimal(0)
    try:
        for at, item in enumerate(items):
            price = _EXACT.multiply(_amount(item.price, f"/items/{at}/price"), _count(item, at))
            total = _EXACT.add(total, price)
    except Inexact as error:
        raise SchemaMismatchError("too large", "/total") from error
    return f"{total:f}"


def _amount(price: object, path: str) -> Decimal:
    if not isinstance(price, str) or len(price) > _PRICE_LIMIT:
        raise SchemaMismatchError(f"money is a string of at most {_PRICE_LIMIT} characters", path)
    if price.isascii() and price.replace(".", "", 1).isdigit():
        return Decimal(price)
    raise SchemaMismatchError("money is a string of decimal digits", path)


def _count(item: Item, at: int) -> int:
    if isinstance(item.quantity, bool) or not isinstance(item.quantity, int):
        raise SchemaMismatchError("a quantity is an integer", f"/items/{at}/quantity")
    return item.quantity


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _repeated(first: Any, order: NewOrder, submission: _Submission) -> PlacedOrder:
    if first is None:
        raise FirstOrderGoneError("the order of this idempotency key was deleted: submit again")
    same = (
        json.loads(first[4]) == json.loads(submission.items)
        and Decimal(first[5]) == Decimal(submission.total)
        and first[6] == order.currency
    )
    if not same:
        raise IdempotencyConflictError(order.customer_id, order.idempotency_key or "", first[0])
    return _placed(first, created=False)


def _placed(
    row: Any, *, created: bool, outbox_id: int | None = None, event_id: UUID | None = None
) -> PlacedOrder:
    return PlacedOrder(UUID(row[0]), row[1], row[2], row[3], created, outbox_id, event_id)
