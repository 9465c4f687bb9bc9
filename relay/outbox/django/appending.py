"""Hop 1 for Django: an event becomes an outbox row, in the transaction of the order it tells of.

Invariant and failure as in `relay.outbox.append`. Inside `atomic` the event may be the first
statement; a savepoint that is rolled back takes it along. A mapping is written by Django's own JSON
encoder: dates, UUIDs and lazy strings as Django writes them, a Decimal as its digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from django.core.serializers.json import DjangoJSONEncoder
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from opentelemetry.trace import Tracer

from relay.outbox.append import NOT_IN_TRANSACTION, appended, values
from relay.outbox.creation import DEFAULT_TOPIC, creation
from relay.outbox.errors import NotInTransactionError
from relay.outbox.event import Appended, Event, checked
from relay.outbox.event_types import EventTypes
from relay.outbox.payload import DEFAULT_LIMITS, Limits, encode
from relay.outbox.psycopg_statement import statement


def append(
    event: Event,
    *,
    using: str | None = None,
    event_types: EventTypes | None = None,
    limits: Limits = DEFAULT_LIMITS,
    topic: str = DEFAULT_TOPIC,
    tracer: Tracer | None = None,
) -> Appended:
    """Write an event to the outbox in the transaction of the connection `using`.

    Args:
        event: what happened.
        using: the database's alias, the one that the order is saved with; None: `default`.
        event_types: the types that may be appended; None: the project's own.
        limits: how large the payload may be.
        topic: names the span; where the relay publishes is the relay's own setting.
        tracer: records the create span; None: the process's OpenTelemetry provider, if any.

    Raises:
        NotInTransactionError: not inside `atomic` on this connection.
        EventRefusedError: its subclass for the fault; nothing was written.
    """
    connection = connections[using or DEFAULT_DB_ALIAS]
    _require_transaction(connection)
    if isinstance(event.payload, Mapping):
        event = replace(event, payload=encode(event.payload, DjangoJSONEncoder))
    row = checked(event, event_types, limits)
    with creation(row.aggregate_id, topic, tracer) as made, connection.cursor() as cursor:
        cursor.execute(statement(row), values(row, made))
        return appended(cursor.fetchone(), made)


def _require_transaction(connection: BaseDatabaseWrapper) -> None:
    if connection.vendor != "postgresql":
        raise TypeError(
            f"the outbox is in PostgreSQL, and the database {connection.alias!r} is"
            f" {connection.vendor}: name the right one with using="
        )
    if not connection.in_atomic_block and connection.get_autocommit():
        raise NotInTransactionError(f"{NOT_IN_TRANSACTION} (here: inside transaction.atomic())")
