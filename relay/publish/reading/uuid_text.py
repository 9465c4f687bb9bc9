"""Hop 2: event ids as text, a page at a time: records and spans carry them so.

Invariant: pure; 36 bytes each, lower case, as RFC 9562 writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Where the 32 hexadecimal digits of a UUID stand in its text.
_DIGIT_PLACES: Final = [place for place in range(36) if place not in (8, 13, 18, 23)]


def uuid_texts(values: Sequence[bytes]) -> list[bytes]:
    """Write 16-byte UUIDs as text, a digit's column at a time."""
    count = len(values)
    digits = b"".join(values).hex().encode()
    text = bytearray(b"-" * (36 * count))
    for digit, place in enumerate(_DIGIT_PLACES):
        text[place::36] = digits[digit::32]
    whole = bytes(text)
    return [whole[start : start + 36] for start in range(0, 36 * count, 36)]
