"""Hop 1 for psycopg2: `append` on the caller's own connection and transaction.

Invariant and failure as in `relay.outbox.append`. A connection that is not in autocommit opens its
transaction with its first statement; that must be the order's own, so an idle one is refused.
"""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.trace import Tracer
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, cursor

from relay.outbox.append import NOT_IN_TRANSACTION, appended, values
from relay.outbox.creation import DEFAULT_TOPIC, creation
from relay.outbox.errors import NotInTransactionError
from relay.outbox.event import Appended, Event, checked
from relay.outbox.event_types import EventTypes
from relay.outbox.payload import DEFAULT_LIMITS, Limits
from relay.outbox.psycopg_statement import statement

# The caller's own cursor factory may return rows of another shape.
_PLAIN: Final = cursor


def append(
    connection: Any,
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
    if connection.info.transaction_status == TRANSACTION_STATUS_IDLE:
        raise NotInTransactionError(NOT_IN_TRANSACTION)
    row = checked(event, event_types, limits)
    with (
        creation(row.aggregate_id, topic, tracer) as made,
        connection.cursor(cursor_factory=_PLAIN) as opened,
    ):
        opened.execute(statement(row), values(row, made))
        return appended(opened.fetchone(), made)
