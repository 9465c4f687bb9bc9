"""Hop 1 for psycopg 3: `append` and `append_async` on the caller's own connection and transaction.

Invariant and failure as in `relay.outbox.append`. A connection that is not in autocommit opens its
transaction with its first statement; that must be the order's own, so an idle one is refused.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.trace import Tracer
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from relay.outbox.append import NOT_IN_TRANSACTION, appended, values
from relay.outbox.creation import DEFAULT_TOPIC, creation
from relay.outbox.errors import NotInTransactionError
from relay.outbox.event import Appended, Event, checked
from relay.outbox.event_types import EventTypes
from relay.outbox.payload import DEFAULT_LIMITS, Limits
from relay.outbox.psycopg_statement import statement


def append(
    connection: Connection[Any],
    event: Event,
    *,
    event_types: EventTypes | None = None,
    limits: Limits = DEFAULT_LIMITS,
    topic: str = DEFAULT_TOPIC,
    tracer: Tracer | None = None,
) -> Appended:
    """Write an event to the outbox in the transaction that is open on `connection`.

    Arguments and errors as in `relay.outbox.append`.
    """
    _require_transaction(connection)
    row = checked(event, event_types, limits)
    with (
        creation(row.aggregate_id, topic, tracer) as made,
        connection.cursor(row_factory=tuple_row) as cursor,
    ):
        return appended(cursor.execute(statement(row), values(row, made)).fetchone(), made)


async def append_async(
    connection: AsyncConnection[Any],
    event: Event,
    *,
    event_types: EventTypes | None = None,
    limits: Limits = DEFAULT_LIMITS,
    topic: str = DEFAULT_TOPIC,
    tracer: Tracer | None = None,
) -> Appended:
    """Write an event to the outbox in the transaction that is open on `connection`.

    Arguments and errors as in `relay.outbox.append`.
    """
    _require_transaction(connection)
    row = checked(event, event_types, limits)
    with creation(row.aggregate_id, topic, tracer) as made:
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(statement(row), values(row, made))
            return appended(await cursor.fetchone(), made)


def _require_transaction(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    if connection.info.transaction_status == TransactionStatus.IDLE:
        raise NotInTransactionError(NOT_IN_TRANSACTION)
