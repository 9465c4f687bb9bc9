"""Hop 2: what an event's record says of itself, whichever wire preset it was published with.

Invariant: pure. CloudEvents' headers are asked first, then those of the `debezium` preset: on the
day of a move a topic holds records of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from relay.kafka.ranges import header_text

DEBEZIUM_ID: Final = "id"
DEBEZIUM_TYPE: Final = "relay_event_type"
DEBEZIUM_CREATED_AT: Final = "relay_created_at"

Headers = Iterable[tuple[str, bytes | None]]


def event_id_text(headers: Headers) -> str | None:
    """Return the event's id, as it is written there; None: the record names none."""
    return _first(headers, "ce_id", DEBEZIUM_ID)


def event_type_text(headers: Headers) -> str | None:
    """Return the event's type; None: the record names none."""
    return _first(headers, "ce_type", DEBEZIUM_TYPE)


def created_at_text(headers: Headers) -> str | None:
    """Return when the event's row was created, RFC 3339; None: the record does not say."""
    return _first(headers, "ce_time", DEBEZIUM_CREATED_AT)


def _first(headers: Headers, *names: str) -> str | None:
    known = list(headers)
    return next((text for name in names if (text := header_text(known, name)) is not None), None)
