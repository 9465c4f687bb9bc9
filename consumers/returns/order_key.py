"""Hop 5: order ids as a foreign processor writes them, brought to the one text of the database.

Invariant: pure. Two spellings of one key (a UUID in capitals, a bigint with zeros before it) become
the same text, and a text that no key can be is refused before any statement sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from uuid import UUID

from consumers.returns.packing import storable
from relay.runtime.flow import KeyType

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_BIGINT: Final = re.compile(r"-?[0-9]{1,19}")
_BIGINT_MAX: Final = 2**63 - 1
# A btree entry holds 2,704 bytes.
_TEXT_BYTES: Final = 1024


def _uuid(text: str) -> str | None:
    if _UUID.fullmatch(text):
        return text
    try:
        return str(UUID(text)) if text.isascii() else None
    except ValueError:
        return None


def _bigint(text: str) -> str | None:
    if not _BIGINT.fullmatch(text):
        return None
    number = int(text)
    return str(number) if -_BIGINT_MAX - 1 <= number <= _BIGINT_MAX else None


def _text(text: str) -> str | None:
    if not storable(text):
        return None
    try:
        return text if len(text.encode()) <= _TEXT_BYTES else None
    except UnicodeEncodeError:
        return None


_CANONICAL: Final[dict[KeyType, Callable[[str], str | None]]] = {
    "uuid": _uuid,
    "bigint": _bigint,
    "text": _text,
}


def canonical_key(key_type: KeyType) -> Callable[[str], str | None]:
    """Return the function that makes a key's text canonical; it returns None for what is no key."""
    return _CANONICAL[key_type]
