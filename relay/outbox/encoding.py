"""Hop 1's payload check: which value of a mapping JSON has no form for, and what to write instead.

Invariant: pure; asked only once a mapping could not be written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

_HINTS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (Decimal, "money is a string of decimal digits: str(value)"),
    ((datetime, date, time), "a time is RFC 3339 text: value.isoformat()"),
    (timedelta, "a duration is a number of seconds: value.total_seconds()"),
    (UUID, "an id is text: str(value)"),
    ((bytes, bytearray, memoryview), "bytes are text: base64.b64encode(value).decode()"),
    ((set, frozenset), "JSON has lists: sorted(value)"),
)
_LAZY: Final = "__proxy__"
_DEEPEST: Final = 100


def fault_of(payload: Mapping[str, Any], encoder: type[json.JSONEncoder]) -> tuple[str, str]:
    """Return the JSON Pointer of the first value that cannot be written, and why, with a hint.

    Both are "" where no single value is at fault (a structure that contains itself).
    """
    return next(_faults(payload, "", encoder, 0), ("", ""))


def _faults(
    value: Any, path: str, encoder: type[json.JSONEncoder], depth: int
) -> Iterator[tuple[str, str]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, inside in value.items():
            if not isinstance(key, (str, int, float, bool, type(None))):
                yield path, f"a key is text, not {type(key).__name__}: str(key)"
                return
            step = str(key).replace("~", "~0").replace("/", "~1")
            yield from _faults(inside, f"{path}/{step}", encoder, depth + 1)
        if not isinstance(value, dict):
            yield path, f"JSON has no form for {type(value).__name__}: dict(value)"
    elif isinstance(value, (list, tuple)):
        for at, inside in enumerate(value):
            yield from _faults(inside, f"{path}/{at}", encoder, depth + 1)
    else:
        try:
            json.dumps(value, cls=encoder)
        except (TypeError, ValueError):
            yield path, f"JSON has no form for {type(value).__name__}: {_hint(value)}"


def _hint(value: Any) -> str:
    if type(value).__name__ == _LAZY:
        return "a lazy string is read first: str(value)"
    for kinds, hint in _HINTS:
        if isinstance(value, kinds):
            return hint
    return "give text, numbers, lists and objects"
