"""Hops 1 to 5: what an order id may be, and its one text: that of the database.

Invariant: pure. Two spellings of one key (a UUID in capitals, a number with zeros before it, a
`char(n)` with its blanks) become the same text, the one that `key::text` gives; a text that no key
can be is None, before any statement sees it. Whoever reads an id that others wrote (a return, a row
of the outbox, a command line) asks here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from uuid import UUID

from relay.runtime.flow import ApplyColumns, Flow

Canonical = Callable[[str], str | None]

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# As PostgreSQL reads them (a dash after any four digits), and as a URN.
_HEX: Final = "(?:[0-9a-f]{4}-?){7}[0-9a-f]{4}"
_OTHER_UUID: Final = re.compile(
    rf"(?:urn:uuid:)?(?:({_HEX})|\{{({_HEX})\}})", re.IGNORECASE | re.ASCII
)
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,1000}", re.ASCII)
_BIGINT_MAX: Final = 2**63 - 1
# A btree entry holds 2,704 bytes.
_TEXT_BYTES: Final = 1024
# NUL cannot be stored; the other two take columns of a batch apart (`consumers/returns`).
_UNSTORABLE: Final = re.compile("[\0\x1e\x1f]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BLANKS: Final = " \t\n\r\f\v"


def canonical_order_id(flow: Flow) -> Canonical:
    """Return the function that makes an order's id canonical; it returns None for what is none.

    By the key column's type, where the flow has met it (`relay.orders.table.with_key_column`).
    Where the orders' table is only looked at, any text may be an order's id: no row has that one.
    """
    key = order_key(flow)
    if isinstance(flow.apply, ApplyColumns):
        return key
    return lambda text: key(text) or _text(text)


def order_key(flow: Flow) -> Canonical:
    """Return the same for what the key column of the orders' table can hold, and nothing else."""
    columns = flow.orders_columns
    if columns is None:
        return _text
    if columns.key_type == "uuid":
        return _uuid
    if columns.key_type == "bigint":
        return _numeric if columns.key_storage == "numeric" else _bigint
    return _char if columns.key_storage == "bpchar" else _text


def can_be_asked_for(text: str) -> bool:
    """Tell whether a statement can take a text at all; no row holds one that it cannot."""
    return "\0" not in text and not _SURROGATE.search(text)


def spellings(flow: Flow, order_id: str) -> tuple[str, ...]:
    """Return how programs commonly write a canonical order id, itself first.

    To find rows that name an order in other words by an index; what is found is made canonical.
    """
    columns = flow.orders_columns
    if columns is None:
        return (order_id,)
    if columns.key_type == "uuid" and _UUID.fullmatch(order_id):
        plain = order_id.replace("-", "")
        return (order_id, order_id.upper(), plain, plain.upper(), f"{{{order_id}}}")
    if columns.key_storage == "bpchar" and columns.key_length is not None:
        return tuple(dict.fromkeys((order_id, order_id.ljust(columns.key_length))))
    return (order_id,)


def canonical_event_id(text: str) -> str:
    """Return an event's id as the database writes it; what is no UUID stays as it is."""
    return _uuid(text) or text


def is_uuid(text: str) -> bool:
    """Tell whether a text is a UUID as the database writes it."""
    return _UUID.fullmatch(text) is not None


def _uuid(text: str) -> str | None:
    if _UUID.fullmatch(text):
        return text
    other = _OTHER_UUID.fullmatch(text.strip(_BLANKS))
    return None if other is None else str(UUID(other[1] or other[2]))


def _numeric(text: str) -> str | None:
    stripped = text.strip(_BLANKS)
    return str(int(stripped)) if _NUMBER.fullmatch(stripped) else None


def _bigint(text: str) -> str | None:
    number = _numeric(text)
    if number is None or -_BIGINT_MAX - 1 <= int(number) <= _BIGINT_MAX:
        return number
    return None


def _text(text: str) -> str | None:
    if not text or _UNSTORABLE.search(text):
        return None
    try:
        return text if len(text.encode()) <= _TEXT_BYTES else None
    except UnicodeEncodeError:
        return None


def _char(text: str) -> str | None:
    """Trailing blanks of a `char(n)` mean nothing; its text has none."""
    return _text(text.rstrip(" "))
