"""Hop 5: a column of a batch as one text, which PostgreSQL takes apart with `string_to_array`.

Invariant: what is packed comes apart into the same values, in the same order, NULLs included. The
two characters that make this possible are kept out of every value where it is read.

asyncpg's own arrays cost 0.4-0.6 us an element here, most of it isinstance() of abstract classes;
this costs 0.05 us, and a return has some twenty elements (benchmarks/returns.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SEPARATOR: Final = "\x1f"
NULL: Final = "\x1e"
# The same in SQL: unnest(string_to_array($1, E'\x1f', E'\x1e')).


def storable(text: str) -> bool:
    """Tell whether a value can be packed, and stored as text."""
    return bool(text) and SEPARATOR not in text and NULL not in text and "\0" not in text


def packed(values: Iterable[str]) -> str:
    """Pack values that are `storable`; the batch must not be empty."""
    return SEPARATOR.join(values)


def packed_nullable(values: Iterable[str | None]) -> str:
    """Pack values of which some may be None."""
    return SEPARATOR.join([NULL if value is None else value for value in values])


def packed_numbers(values: Iterable[int]) -> str:
    """Pack numbers."""
    return SEPARATOR.join(map(str, values))
