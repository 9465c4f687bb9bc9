"""Hop 1 for SQLAlchemy 2: `append` on a Connection or Session, `append_async` on their async forms.

Invariant and failure as in `relay.outbox.append`. A session is flushed first, so that the order's
row is written, and locked, before its event. Any PostgreSQL driver that SQLAlchemy knows will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.trace import Tracer
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from relay.outbox.append import NOT_IN_TRANSACTION, appended, values
from relay.outbox.creation import DEFAULT_TOPIC, creation
from relay.outbox.errors import NotInTransactionError
from relay.outbox.event import Appended, Event, checked
from relay.outbox.event_types import EventTypes
from relay.outbox.payload import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:  # their module needs greenlet, which the synchronous forms do without
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

# CAST, because `::` and `:name` do not go together in SQLAlchemy's text.
_INSERT: Final = text("""
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type,
                              payload, headers, traceparent, tracestate)
    VALUES (CAST(:p0 AS text), CAST(:p1 AS text), CAST(:p2 AS int), CAST(:p3 AS text),
            CAST(CAST(:p4 AS text) AS json), CAST(CAST(:p5 AS text) AS json),
            CAST(:p6 AS text), CAST(:p7 AS text))
    RETURNING id, CAST(event_id AS text)
""")
_INSERT_BYTES: Final = text("""
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type,
                              payload_bytes, headers, traceparent, tracestate, content_type)
    VALUES (CAST(:p0 AS text), CAST(:p1 AS text), CAST(:p2 AS int), CAST(:p3 AS text),
            decode(CAST(:p4 AS text), 'base64'), CAST(CAST(:p5 AS text) AS json),
            CAST(:p6 AS text), CAST(:p7 AS text), CAST(:p8 AS text))
    RETURNING id, CAST(event_id AS text)
""")


def append(
    connection: Connection | Session,
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
    row = checked(event, event_types, limits)
    if isinstance(connection, Session):
        connection.flush()
    if not connection.in_transaction():
        raise NotInTransactionError(NOT_IN_TRANSACTION)
    within = connection.connection() if isinstance(connection, Session) else connection
    _refuse_autocommit(within)
    with creation(row.aggregate_id, topic, tracer) as made:
        named = {f"p{at}": value for at, value in enumerate(values(row, made))}
        return appended(
            within.execute(_INSERT if row.payload_bytes is None else _INSERT_BYTES, named).one(),
            made,
        )


async def append_async(
    connection: AsyncConnection | AsyncSession,
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
    return await connection.run_sync(
        append, event, event_types=event_types, limits=limits, topic=topic, tracer=tracer
    )


def _refuse_autocommit(connection: Connection) -> None:
    # In autocommit SQLAlchemy says `in_transaction()` all the same; the driver's flag does not lie.
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise NotInTransactionError(NOT_IN_TRANSACTION)
