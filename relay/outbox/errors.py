"""Hop 1's refusals: each a type of its own, each raised before anything is written.

Invariant: whoever catches an `OutboxError` may go on with the transaction: no statement of ours has
changed anything in it. Errors of the database itself pass through as the driver raises them, and
leave the transaction aborted.
"""

from __future__ import annotations

from typing import ClassVar

_POINTER_LIMIT = 200


class OutboxError(Exception):
    """Whatever hop 1 refuses. `code` is stable and meant for programs."""

    code: ClassVar[str] = "outbox_error"


class NotInTransactionError(OutboxError):
    """No transaction is open, so order and event could not be committed together."""

    code = "not_in_transaction"


class IdempotencyConflictError(OutboxError):
    """The customer used this idempotency key before, for an order with another body."""

    code = "idempotency_conflict"

    def __init__(self, customer_id: str, idempotency_key: str, order_id: str) -> None:
        super().__init__(
            f"idempotency key {idempotency_key!r} of customer {customer_id!r} already belongs to"
            f" order {order_id}, which has another body: send the same body, or a new key"
        )
        self.customer_id = customer_id
        self.idempotency_key = idempotency_key
        self.order_id = order_id


class FirstOrderGoneError(OutboxError):
    """The order that held the idempotency key was deleted meanwhile: submit again."""

    code = "first_order_gone"


class EventRefusedError(OutboxError, ValueError):
    """An event that must not enter the outbox. `path` is a JSON Pointer (RFC 6901) to the fault.

    The pointer is "" for the whole payload; outside the payload it is the field's name.
    """

    code = "event_refused"

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason = reason
        self.path = _printable(path)
        super().__init__(f"{self.path or 'payload'}: {reason}")


class FieldRefusedError(EventRefusedError):
    """A field beside the payload (`aggregate_id`, `headers`, ...) cannot be stored or sent."""

    code = "field_refused"


class UnknownEventTypeError(EventRefusedError):
    """No schema is registered for the event's type."""

    code = "unknown_event_type"


class PayloadTooLargeError(EventRefusedError):
    """The payload has more bytes than the limit."""

    code = "payload_too_large"


class NotJsonError(EventRefusedError):
    """The payload is not JSON (RFC 8259) in UTF-8."""

    code = "payload_not_json"


class NotAnObjectError(EventRefusedError):
    """The payload is JSON, but not an object."""

    code = "payload_not_an_object"


class DuplicateKeyError(EventRefusedError):
    """An object of the payload has a key twice; which one counts would depend on the reader."""

    code = "duplicate_key"


class NotFiniteError(EventRefusedError):
    """NaN or an infinity, which JSON does not have."""

    code = "number_not_finite"


class NumberTooLargeError(EventRefusedError):
    """A number that other readers would silently change."""

    code = "number_too_large"


class LoneSurrogateError(EventRefusedError):
    """Half of a surrogate pair, which is no character and has no UTF-8."""

    code = "lone_surrogate"


class NullCharacterError(EventRefusedError):
    r"""The character U+0000, which PostgreSQL's text and `jsonb` cannot hold."""

    code = "null_character"


class TooDeepError(EventRefusedError):
    """Objects or arrays nested deeper than the limit."""

    code = "payload_too_deep"


class SchemaMismatchError(EventRefusedError):
    """The payload does not match its event type's schema."""

    code = "schema_mismatch"


def _printable(pointer: str) -> str:
    """Make a pointer safe to log: keys are the caller's, however long or broken."""
    text = pointer.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\u0000")
    return text if len(text) <= _POINTER_LIMIT else text[:_POINTER_LIMIT] + "..."
