"""The ids by which canaries (`relay probe`) are told from orders at no cost.

Invariant: pure. A canary's id has the type of the flow's keys, so that every program that handles
orders can carry it; it only looks like a canary's, `relay.probe_run` says whether it is one. No
sequence counts down there, and a random UUID begins like this once in four billion.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from relay.runtime.flow import KeyType

_UUID_START: Final = "ca9a41ee-"
_UUID_TOP: Final = 0xCA9A41EE << 96
# Version 8, variant 1: free to use, RFC 9562 section 5.8.
_VERSION_8: Final = (0xF << 76, 0x8 << 76)
_VARIANT_1: Final = (0x3 << 62, 0x2 << 62)
_BIGINT_START: Final = "-9"
_BIGINT_LENGTH: Final = 20
_BIGINT_FIRST: Final = -9_200_000_000_000_000_000
_BIGINT_COUNT: Final = 100_000_000_000_000_000


def new_canary_id(key_type: KeyType) -> str:
    """Make the id of a canary, as the text of a key of that type."""
    if key_type == "bigint":
        return str(_BIGINT_FIRST + secrets.randbelow(_BIGINT_COUNT))
    number = secrets.randbits(96)
    for mask, bits in (_VERSION_8, _VARIANT_1):
        number = number & ~mask | bits
    return str(UUID(int=_UUID_TOP | number))


def looks_like_canary(order_id: str) -> bool:
    """Tell whether an id may be a canary's: whether it is worth looking up."""
    if order_id.startswith(_UUID_START):
        return True
    return order_id.startswith(_BIGINT_START) and len(order_id) == _BIGINT_LENGTH


_MARKS: Final = (b"\n" + _UUID_START.encode(), b"\n" + _BIGINT_START.encode())


def count_canaries(keys: Sequence[bytes]) -> int:
    """Count the keys of a batch that look like canaries'; some ns a key where none does."""
    joined = b"\n" + b"\n".join(keys)
    if not any(mark in joined for mark in _MARKS):
        return 0
    return sum(looks_like_canary(key.decode("utf-8", "replace")) for key in keys)
