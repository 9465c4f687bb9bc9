"""Hops 3 to 5: takes a large batch apart a piece at a time, and looks before it decodes.

Invariant: each record comes, or one `StandIn` for it. Two bytes make a header and eighty bytes an
object, so that a batch within its limit could still take gigabytes: a record's headers are counted
before aiokafka's parser sees it. It costs 3 us a record, so that only those are looked at whose
length has room for so many.

Source: org.apache.kafka.common.record.DefaultRecord (varints are zigzag).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from aiokafka.errors import CorruptRecordException

from relay.kafka.unreadable import Fault, PartialBytes, StandIn

# Some 1.5 MB of objects.
MAX_HEADERS: Final = 10_000
_LEAST_HEADER_BYTES: Final = 2
_PIECE_BYTES: Final = 256 * 1024
_HEADER_BYTES: Final = 61
_COUNT_AT: Final = 57
_INT: Final = struct.Struct(">i")
_BASE: Final = struct.Struct(">q")
_LONGEST_VARINT_BITS: Final = 70


class _Place(NamedTuple):
    """Where a record stands in its batch.

    Attributes:
        start, end: of all its bytes.
        offset: in the log.
        headers: how many it says that it has.
    """

    start: int
    end: int
    offset: int
    headers: int


def may_have_too_many_headers(whole: memoryview) -> bool:
    """Tell whether a record of a batch is long enough for it; also when it cannot be told."""
    (count,) = _INT.unpack_from(whole, _COUNT_AT)
    at = _HEADER_BYTES
    try:
        for _ in range(count):
            length, at = _varint(whole, at)
            if not 0 < length <= _LEAST_HEADER_BYTES * MAX_HEADERS:
                return True
            at += length
    except (IndexError, CorruptRecordException):
        return True
    return False


def pieces(whole: memoryview) -> Iterator[memoryview | StandIn]:
    """Return a batch that is not compressed as several, and what stands for records left out.

    Raises:
        CorruptRecordException: a record's bytes do not say where it ends.
    """
    (count,) = _INT.unpack_from(whole, _COUNT_AT)
    start = at = _HEADER_BYTES
    held = 0
    for _ in range(count):
        place = _place(whole, at)
        at = place.end
        bomb = place.headers > MAX_HEADERS
        if bomb or at - start > _PIECE_BYTES:
            if held:
                yield _piece(whole, start, place.start, held)
            start, held = place.start, 0
        if bomb:
            why = f"{place.headers} headers; {MAX_HEADERS} are read"
            value = PartialBytes.of(whole[place.start : at], Fault.HEADERS, why, place.offset)
            yield StandIn(place.offset, 0, value)
            start = at
            continue
        held += 1
    if held:
        yield _piece(whole, start, at, held)


def _piece(whole: memoryview, start: int, end: int, count: int) -> memoryview:
    """Return some records as a batch."""
    head = bytearray(whole[:_HEADER_BYTES])
    _INT.pack_into(head, _COUNT_AT, count)
    return memoryview(bytes(head) + whole[start:end])


def _place(whole: memoryview, start: int) -> _Place:
    try:
        length, at = _varint(whole, start)
        end = at + length
        _delta_ms, at = _varint(whole, at + 1)  # behind the attributes
        delta, at = _varint(whole, at)
        key, at = _varint(whole, at)
        value, at = _varint(whole, at + max(key, 0))
        headers, _ = _varint(whole, at + max(value, 0))
    except IndexError:
        raise CorruptRecordException("a record ends behind its batch") from None
    if length <= 0 or end > len(whole):
        raise CorruptRecordException("a record ends behind its batch")
    return _Place(start, end, _BASE.unpack_from(whole)[0] + delta, headers)


def _varint(data: Any, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    found, shift = byte & 0x7F, 7
    while byte & 0x80:
        if shift >= _LONGEST_VARINT_BITS:
            raise CorruptRecordException("a number of more than ten bytes")
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        shift += 7
    return found >> 1 ^ -(found & 1), at
