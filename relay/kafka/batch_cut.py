"""Hops 2 and 4: leaves out the records of a batch that nobody asked for, without decoding them.

Invariant: pure; what is left decodes to the same records, at the same offsets, and tells where the
wanted ones end. A batch that cannot be cut safely (compressed, compacted, of an old format, with a
checksum that is not its own) stays whole. A large batch is decoded in milliseconds, and ten
thousand wanted records stand in as many batches: hopping over the others takes a tenth of that.

Source: org.apache.kafka.common.record.DefaultRecordBatch, format v2.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from aiokafka.record.util import calc_crc32c

# base offset, length, leader epoch, magic, crc, attributes, last offset delta, ...
_HEAD: Final = Struct(">qiibIhi")
_COUNT: Final = Struct(">i")
_LENGTH: Final = Struct(">i")
_HEADER_BYTES: Final = 61
_CRC: Final = Struct(">I")
_LENGTH_AT, _CRC_AT, _CHECKED_FROM, _COUNT_AT = 8, 17, 21, 57
# The length of a batch counts from behind itself.
_BEFORE_LENGTH: Final = 12
_CODEC: Final = 0x07
_V2: Final = 2
_WORTH: Final = 20


def cut(data: bytes, start: int, stop: int) -> bytes:
    """Return `data`, whole batches, without most records outside of `[start, stop)`.

    Args:
        data: what a fetch brought; its last batch may be incomplete.
        start: the first offset that is wanted.
        stop: the first one that is not; it is kept, so that a reader sees that it is there.
    """
    if len(data) < _HEADER_BYTES:
        return data
    base, length, _epoch, magic, crc, attributes, last_delta = _HEAD.unpack_from(data)
    end = _BEFORE_LENGTH + length
    count = _COUNT.unpack_from(data, _COUNT_AT)[0]
    whole = (
        magic == _V2 and not attributes & _CODEC and count == last_delta + 1 and end <= len(data)
    )
    skipped = min(start - base, count)
    if not whole or skipped < _WORTH or calc_crc32c(data[_CHECKED_FROM:end]) != crc:
        return data
    at = _behind(data, _HEADER_BYTES, skipped)
    kept = min(count, max(skipped, stop + 1 - base)) - skipped
    # Only the first batch is begun in its middle; what comes behind `stop` is not read anyway.
    until = end if kept == count - skipped else _behind(data, at, kept)
    header = bytearray(data[:_HEADER_BYTES])
    _LENGTH.pack_into(header, _LENGTH_AT, _HEADER_BYTES - _BEFORE_LENGTH + until - at)
    _COUNT.pack_into(header, _COUNT_AT, kept)
    left = data[at:until]
    _CRC.pack_into(header, _CRC_AT, calc_crc32c(bytes(header[_CHECKED_FROM:]) + left))
    return bytes(header) + left + data[end:]


def _behind(data: bytes, at: int, records: int) -> int:
    """Return where so many records end that begin at `at`: each begins with its length, zigzag."""
    for _ in range(records):
        byte = data[at]
        at += 1
        length, shift = byte & 0x7F, 7
        while byte & 0x80:
            byte = data[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
        at += length >> 1
    return at
