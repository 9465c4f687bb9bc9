"""Hop 2: what an event's record says of itself, whichever wire preset it was published with.

Invariant: pure, and never raises, whatever the headers hold. CloudEvents' headers are asked first,
then those of the `debezium` preset and of Debezium's own outbox event router: on the day of a move
a topic holds records of both. Debezium Server writes header values as JSON strings: quotes around a
text are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from uuid import UUID

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
    texts = (header_text(known, name) for name in names)
    return next((unquoted(text) for text in texts if text), None)


def unquoted(text: str) -> str:
    """Return a header's text without the quotes of a JSON string around it."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    return text


_UUID_TEXT: Final = 36
_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")


def event_id_of(headers: Headers) -> str | None:
    """Return the event's id as PostgreSQL writes it; None: there is none, or it is no UUID."""
    text = event_id_text(headers)
    if text is None or not text.isascii():  # other alphabets have digits, too
        return None
    if len(text) == _UUID_TEXT and _has_form(text):
        return text.lower()
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _has_form(text: str) -> bool:
    """Tell whether it is a UUID in its usual form: parsing takes four times as long."""
    if not (text[8] == text[13] == text[18] == text[23] == "-"):
        return False
    digits = text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:]
    return _HEXADECIMAL.issuperset(digits)
