"""Hop 2: which partition a key belongs to: the one that Java's default partitioner picks.

Invariant: pure, and equal to `toPositive(murmur2(key)) % partitions` of Kafka's Java client, so
that every client finds an order's records in one place.

Source: org.apache.kafka.common.utils.Utils.murmur2 (MurmurHash2, Austin Appleby, seed 0x9747b28c).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import unpack_from
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF
_KNOWN_LIMIT: Final = 65_536


def murmur2(key: bytes) -> int:
    """Return the unsigned 32-bit hash of a key."""
    length = len(key)
    words = length // 4
    value = _SEED ^ length
    for word in unpack_from(f"<{words}I", key):
        mixed = word * _M & _MASK
        mixed = (mixed ^ mixed >> 24) * _M & _MASK
        value = value * _M & _MASK ^ mixed
    tail = key[words * 4 :]
    if tail:
        value = (value ^ int.from_bytes(tail, "little")) * _M & _MASK
    value = (value ^ value >> 13) * _M & _MASK
    return value ^ value >> 15


class Partitioner:
    """Remembers the hashes of the keys it saw last: an order's events share one key."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def partitions(self, keys: Sequence[bytes], count: int) -> list[int]:
        """Return the partition of each key in a topic of `count` partitions."""
        known = self._known
        if len(known) > _KNOWN_LIMIT:
            known.clear()
        for key in set(keys).difference(known):
            known[key] = murmur2(key) & _POSITIVE
        return [known[key] % count for key in keys]
