"""Hop 1: an event becomes an outbox row, in the transaction of the order that it tells of.

Invariant: order and event commit together or not at all; nothing is written outside a transaction,
and nothing at all when the event is refused. A failure of the database aborts the caller's
transaction, order included.

Order within an order: events are published in the order of their outbox ids, and an id is drawn
when the row is inserted. So whoever changes an order must first lock its row (the UPDATE or INSERT
of the order does) and then append: two transactions on one order then draw their ids in the order
in which they changed it.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final, Protocol
from uuid import UUID

from opentelemetry.trace import Tracer

from relay.outbox.creation import DEFAULT_TOPIC, Creation, creation
from relay.outbox.errors import NotInTransactionError
from relay.outbox.event import Appended, Event, Row, checked
from relay.outbox.event_types import EventTypes
from relay.outbox.payload import DEFAULT_LIMITS, Limits

# Every parameter is text (or int) and cast here: a caller's own codecs for json or uuid, which
# asyncpg lets them set on the connection, must not touch what is stored.
_INSERT: Final = """
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type,
                              payload, headers, traceparent, tracestate)
    VALUES ($1::text, $2::text, $3::int, $4::text,
            $5::text::json, $6::text::json, $7::text, $8::text)
    RETURNING id, event_id::text
"""

# Bytes are sent as text, too; a JSON payload's INSERT is that of the versions before.
_INSERT_BYTES: Final = """
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type,
                              payload_bytes, headers, traceparent, tracestate, content_type)
    VALUES ($1::text, $2::text, $3::int, $4::text,
            decode($5::text, 'base64'), $6::text::json, $7::text, $8::text, $9::text)
    RETURNING id, event_id::text
"""


class AsyncpgConnection(Protocol):
    """The part of an asyncpg connection (or of a pool's proxy of one) that hop 1 uses."""

    def is_in_transaction(self) -> bool:
        """Whether a transaction block is open."""
        ...

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """Run one statement and return its first row."""
        ...


async def append(
    connection: AsyncpgConnection,
    event: Event,
    *,
    event_types: EventTypes | None = None,
    limits: Limits = DEFAULT_LIMITS,
    topic: str = DEFAULT_TOPIC,
    tracer: Tracer | None = None,
) -> Appended:
    """Write an event to the outbox in the transaction that is open on `connection`.

    Lock the order's row first (its INSERT or UPDATE does): see the module.

    Args:
        connection: the caller's own asyncpg connection, with the order's transaction open.
        event: what happened.
        event_types: the types that may be appended; None: the project's own.
        limits: how large the payload may be.
        topic: names the span; where the relay publishes is the relay's own setting.
        tracer: records the create span; None: the process's OpenTelemetry provider, if any.

    Raises:
        NotInTransactionError: no transaction is open.
        EventRefusedError: its subclass for the fault; nothing was written.
    """
    require_transaction(connection)
    row = checked(event, event_types, limits)
    with creation(row.aggregate_id, topic, tracer) as made:
        statement = _INSERT if row.payload_bytes is None else _INSERT_BYTES
        stored = await connection.fetchrow(statement, *values(row, made))
        return appended(stored, made)


def require_transaction(connection: AsyncpgConnection) -> None:
    """Refuse a connection on which the order could not be committed together with its event.

    Raises:
        NotInTransactionError: no transaction is open.
        TypeError: not an asyncpg connection.
    """
    if not hasattr(connection, "is_in_transaction"):
        raise TypeError(
            f"an asyncpg connection is needed here, not {type(connection).__name__}:"
            " see relay.outbox.sqlalchemy and relay.outbox.psycopg for others"
        )
    if not connection.is_in_transaction():
        raise NotInTransactionError(NOT_IN_TRANSACTION)


NOT_IN_TRANSACTION: Final = (
    "no transaction is open on this connection, so a crash could keep the order and lose its event,"
    " or the reverse: open one, write the order in it, then append its event, then commit"
)


def values(row: Row, made: Creation) -> tuple[str | int | None, ...]:
    """Return the row's columns in the order of every INSERT of this package.

    Of a payload of bytes, base64 stands in the payload's place, and its content type at the end.
    """
    payload = row.payload
    if row.payload_bytes is not None:
        payload = b64encode(row.payload_bytes).decode()
    columns = (
        row.aggregate_type,
        row.aggregate_id,
        row.aggregate_version,
        row.event_type,
        payload,
        row.headers,
        made.traceparent,
        made.tracestate,
    )
    return columns if row.payload_bytes is None else (*columns, row.content_type)


def appended(stored: Any, made: Creation) -> Appended:
    """Read what the INSERT returned, (id, event_id as text), and tell the span."""
    event_id = UUID(stored[1])
    made.identified(event_id)
    return Appended(stored[0], event_id, made.traceparent, made.tracestate)
