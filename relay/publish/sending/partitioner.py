"""Hop 2: which partition a key belongs to: the one that Java's default partitioner picks.

Invariant: pure, and equal to `toPositive(murmur2(key)) % partitions` of Kafka's Java client, so
that every client finds an order's records in one place.

A page's keys are hashed together: 32-bit words stand 64 bits apart in one large integer, so that a
multiplication is one for all of them and no product reaches its neighbour. That is 0.4 us for a
UUID; word by word in Python it is 5 us, more than all the rest of a record (benchmarks/drain).

Source: org.apache.kafka.common.utils.Utils.murmur2 (MurmurHash2, Austin Appleby, seed 0x9747b28c).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_POSITIVE: Final = 0x7FFFFFFF
_WORD: Final = 4
_LANE: Final = 8


def partitions(keys: Sequence[bytes], count: int) -> list[int]:
    """Return the partition of each key in a topic of `count` partitions."""
    lengths = set(map(len, keys))
    if len(lengths) == 1:
        return [(value & _POSITIVE) % count for value in _hashes(keys, lengths.pop())]
    by_length: dict[int, list[int]] = {length: [] for length in lengths}
    for place, key in enumerate(keys):
        by_length[len(key)].append(place)
    found = [0] * len(keys)
    for length, places in by_length.items():
        hashes = _hashes([keys[place] for place in places], length)
        for place, value in zip(places, hashes, strict=True):
            found[place] = (value & _POSITIVE) % count
    return found


def murmur2(key: bytes) -> int:
    """Return the unsigned 32-bit hash of one key."""
    return _hashes([key], len(key))[0]


def _hashes(keys: Sequence[bytes], length: int) -> list[int]:
    """Hash keys of one length."""
    count = len(keys)
    ones, low_halves = _lanes(count)
    value = (_SEED ^ length) * ones
    words, tail = _words(keys, length)
    for word in words:
        value = value * _M & low_halves ^ word
    if tail is not None:
        value = (value ^ tail) * _M & low_halves
    # What a shift brings in from the next lane lies above the low half, and is masked away.
    value = ((value ^ value >> 13) & low_halves) * _M & low_halves
    value = (value ^ value >> 15) & low_halves
    return _as_lanes(value, _LANE * count).tolist()


def _words(keys: Sequence[bytes], length: int) -> tuple[Iterable[int], int | None]:
    """Return the keys' words, mixed, and what is left over of them: a lane for each key."""
    whole, rest = divmod(length, _WORD)
    lanes = -(-length // _LANE)
    padding = lanes * _LANE - length
    joined = (bytes(padding)).join(keys) + bytes(padding)
    all_lanes = _lanes(len(keys) * lanes)[1]
    pairs = int.from_bytes(joined, "little")
    halves = (pairs & all_lanes, pairs >> 32 & all_lanes)
    size = len(joined)
    mixed = [_as_lanes(_mix(half, all_lanes), size) for half in halves]
    words = [
        int.from_bytes(mixed[place % 2][place // 2 :: lanes].tobytes(), "little")
        for place in range(whole)
    ]
    if not rest:
        return words, None
    raw = _as_lanes(halves[whole % 2], size)
    return words, int.from_bytes(raw[whole // 2 :: lanes].tobytes(), "little")


def _as_lanes(number: int, size: int) -> memoryview[int]:
    return memoryview(number.to_bytes(size, "little")).cast("Q")


def _mix(words: int, low_halves: int) -> int:
    words = words * _M & low_halves
    return ((words ^ words >> 24) & low_halves) * _M & low_halves


@lru_cache(maxsize=16)
def _lanes(count: int) -> tuple[int, int]:
    """Return numbers with a 1, and with all low bits set, in each of so many lanes."""
    ones = int.from_bytes(b"\x01".ljust(_LANE, b"\0") * count, "little")
    return ones, ones * 0xFFFFFFFF
