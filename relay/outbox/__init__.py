"""Hop 1, place: an order and its event become one commit, or none.

What an order service imports; nothing heavier than the OpenTelemetry API comes with it. `append`
and `place_order` work on the caller's own asyncpg connection and transaction;
`relay.outbox.sqlalchemy` and `relay.outbox.psycopg` hold the same `append` for theirs. Services in
other languages write the row themselves: docs/order-service.md.
"""

from relay.outbox.append import append
from relay.outbox.errors import (
    DuplicateKeyError,
    EventRefusedError,
    FieldRefusedError,
    FirstOrderGoneError,
    IdempotencyConflictError,
    LoneSurrogateError,
    NotAnObjectError,
    NotFiniteError,
    NotInTransactionError,
    NotJsonError,
    NullCharacterError,
    NumberTooLargeError,
    OutboxError,
    PayloadTooLargeError,
    SchemaMismatchError,
    TooDeepError,
    UnknownEventTypeError,
)
from relay.outbox.event import Appended, Event
from relay.outbox.event_types import EventType, EventTypes, standard
from relay.outbox.payload import Limits
from relay.outbox.place import Item, NewOrder, PlacedOrder, place_order

__all__ = [
    "Appended",
    "DuplicateKeyError",
    "Event",
    "EventRefusedError",
    "EventType",
    "EventTypes",
    "FieldRefusedError",
    "FirstOrderGoneError",
    "IdempotencyConflictError",
    "Item",
    "Limits",
    "LoneSurrogateError",
    "NewOrder",
    "NotAnObjectError",
    "NotFiniteError",
    "NotInTransactionError",
    "NotJsonError",
    "NullCharacterError",
    "NumberTooLargeError",
    "OutboxError",
    "PayloadTooLargeError",
    "PlacedOrder",
    "SchemaMismatchError",
    "TooDeepError",
    "UnknownEventTypeError",
    "append",
    "place_order",
    "standard",
]
