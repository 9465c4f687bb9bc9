r"""Hops 3 to 5: reads what stands in Kafka, whoever wrote it and whatever became of the bytes.

Invariant: reading never fails for what the bytes hold, takes bounded memory, and accounts for each
offset: a batch, or the rest of one, that cannot be read is one `StandIn` at its last offset. A
header's name that is no UTF-8 is written out (`\xff`). The broker takes all of these, and
aiokafka 0.14 raises for the whole fetch, for ever: one record of anybody's would stop all of them.

aiokafka's own parsers, in C, take the records apart. What is done here, once a batch, is to find
its bytes, to check them, and to decompress them within a limit (`inflate`).

Source: org.apache.kafka.common.record.DefaultRecordBatch, format v2; LegacyRecord for v0 and v1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch, _LegacyRecordBatchPy

from relay.kafka.header_names import decoded
from relay.kafka.inflate import (
    MAX_BATCH_BYTES,
    InflateError,
    TooLargeError,
    UnknownCodecError,
    inflated,
)
from relay.kafka.poll_limit import BoundedResult
from relay.kafka.record_guard import may_have_too_many_headers, pieces
from relay.kafka.unreadable import Fault, PartialBytes, StandIn

# Base offset, length of what follows, leader epoch (v0, v1: CRC), magic.
_FRAME: Final = struct.Struct(">qiib")
_BEFORE_LENGTH: Final = 12
_ATTRIBUTES: Final = struct.Struct(">h")
_ATTRIBUTES_AT, _HEADER_BYTES = 21, 61
_LAST_DELTA_AND_TIMES: Final = struct.Struct(">iqq")
_LAST_DELTA_AT, _COUNT_AT = 23, 57
_PRODUCER: Final = struct.Struct(">q")
_PRODUCER_AT: Final = 43
_TRANSACTIONAL: Final = 0x10
_INT: Final = struct.Struct(">i")
_CODEC: Final = 0x07
_V2: Final = 2
_LEGACY_HEADER_BYTES: Final = (26, 34)  # v0, v1
_LEGACY_ATTRIBUTES_AT: Final = 17
# A set of old messages is taken apart at once, at some ten times its size.
_LEGACY_MAX_BYTES: Final = 2 * 1024 * 1024
# Beyond this a batch is not kept while its records wait to be taken (see `poll_limit`), and its
# records are looked at before they are decoded.
_LARGE_BYTES: Final = 1024 * 1024

# A batch as clients write them, mostly: it is taken apart at once, without a look at each record.
_SMALL_BYTES: Final = 64 * 1024

_BROKEN: Final = (
    CorruptRecordException,
    ValueError,
    IndexError,
    OverflowError,
    AssertionError,
    TypeError,
    struct.error,
    SystemError,  # a length below zero, which the parser in C does not look at
)


def read_hostile_records() -> None:
    """Let aiokafka's consumers read as `AnyRecords` does; once is enough, more does no harm."""
    fetcher.MemoryRecords = AnyRecords
    fetcher.FetchResult = BoundedResult


class AnyRecords:
    """As aiokafka's MemoryRecords: the batches of one fetched partition.

    Attributes:
        held_bytes: of the batch whose records are being taken, if it is a large one.
    """

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0
        self.held_bytes = 0

    def size_in_bytes(self) -> int:
        """Return the size of all."""
        return len(self._data)

    def has_next(self) -> bool:
        """Tell whether another batch is there, whole."""
        return self._end(self._at) is not None

    def next_batch(self) -> Any:
        """Return the next batch."""
        self.held_bytes = 0
        end = self._end(self._at)
        if end is None:
            return None
        raw = self._data[self._at : end]
        self._at = end
        try:
            return self._checked(raw)
        except _UnreadableError as error:
            # Not the error itself: its traceback holds what was decompressed so far.
            unreadable = _UnreadableBatch(raw, self._next_base(), error.fault, str(error))
            if not unreadable.is_trusted:
                # What it says of its producer's transaction is no more to be trusted than the
                # rest: the broker is asked anew for what follows.
                self._at = len(self._data)
            return unreadable

    def _end(self, at: int) -> int | None:
        """Return where the batch ends that begins at `at`; None when it is not whole."""
        if len(self._data) - at < _FRAME.size:
            return None
        length: int = _INT.unpack_from(self._data, at + 8)[0]
        if length < _FRAME.size - _BEFORE_LENGTH:
            return len(self._data)  # no length that a batch has: where the next begins is unknown
        end = at + _BEFORE_LENGTH + length
        return end if end <= len(self._data) else None

    def _next_base(self) -> int | None:
        if len(self._data) - self._at < _FRAME.size:
            return None
        return int(_FRAME.unpack_from(self._data, self._at)[0])

    def _checked(self, raw: memoryview) -> Any:
        _base, _length, _, magic = _FRAME.unpack_from(raw)
        if magic in (0, 1):
            return _legacy(raw, magic)
        if magic != _V2 or len(raw) < _HEADER_BYTES:
            raise _UnreadableError(Fault.FORMAT, f"{len(raw)} bytes of record format {magic}")
        batch = DefaultRecordBatch(raw)
        if not batch.validate_crc():
            raise _UnreadableError(Fault.CHECKSUM, "the batch's CRC is not that of its bytes")
        whole = _decompressed(raw)
        if len(whole) > _LARGE_BYTES:
            self.held_bytes = len(whole)
        return _Batch(batch if whole is raw else DefaultRecordBatch(whole), raw, whole)


class _UnreadableError(Exception):
    """A batch cannot be read."""

    def __init__(self, fault: Fault, why: str) -> None:
        super().__init__(why)
        self.fault = fault


def _decompressed(raw: memoryview) -> memoryview:
    """Return a batch of format v2 as one that is not compressed."""
    (attributes,) = _ATTRIBUTES.unpack_from(raw, _ATTRIBUTES_AT)
    if not attributes & _CODEC:
        if len(raw) > MAX_BATCH_BYTES:
            raise _UnreadableError(Fault.TOO_LARGE, f"{len(raw)} bytes")
        return raw
    head = bytearray(raw[:_HEADER_BYTES])
    _ATTRIBUTES.pack_into(head, _ATTRIBUTES_AT, attributes & ~_CODEC)
    return _inflated(attributes & _CODEC, raw[_HEADER_BYTES:], bytes(head))


def _inflated(codec: int, data: memoryview, head: bytes = b"") -> memoryview:
    try:
        return inflated(codec, data, head)
    except UnknownCodecError as error:
        raise _UnreadableError(Fault.CODEC, str(error)) from None
    except TooLargeError as error:
        raise _UnreadableError(Fault.TOO_LARGE, str(error)) from None
    except InflateError as error:
        raise _UnreadableError(Fault.DECOMPRESSION, str(error)) from None


def _legacy(raw: memoryview, magic: int) -> Any:
    if len(raw) < _LEGACY_HEADER_BYTES[magic]:
        raise _UnreadableError(Fault.FORMAT, f"{len(raw)} bytes of record format {magic}")
    try:
        batch = LegacyRecordBatch(bytes(raw), magic)  # reads the message at once, unchecked
    except _BROKEN as error:
        raise _UnreadableError(Fault.FORMAT, f"record format {magic}: {error}") from None
    if not batch.validate_crc():
        raise _UnreadableError(Fault.CHECKSUM, "the message's CRC is not that of its bytes")
    codec = raw[_LEGACY_ATTRIBUTES_AT] & _CODEC
    if codec:
        # Its parser in Python can be handed what is inside of the wrapper.
        batch = _LegacyRecordBatchPy(raw, magic)
        batch._buffer = _messages(raw, magic, codec)  # noqa: SLF001
        batch._decompressed = True  # noqa: SLF001
    return _LegacyBatch(batch, raw)


def _messages(raw: memoryview, magic: int, codec: int) -> memoryview:
    """Return the set of messages that is the value of a compressed one."""
    at = _LEGACY_HEADER_BYTES[magic] - 8  # key and value, each behind its length
    try:
        (key,) = _INT.unpack_from(raw, at)
        at += _INT.size + max(key, 0)
        (size,) = _INT.unpack_from(raw, at)
    except struct.error as error:
        raise _UnreadableError(Fault.RECORD, str(error)) from None
    at += _INT.size
    if size < 0 or at + size > len(raw):
        raise _UnreadableError(Fault.RECORD, "a compressed message without a value")
    found = _inflated(codec, raw[at : at + size])
    if len(found) > _LEGACY_MAX_BYTES:
        raise _UnreadableError(Fault.TOO_LARGE, f"{len(found)} bytes of old messages")
    return found


class _Batch:
    """A batch whose bytes are right; a record inside may be broken all the same."""

    __slots__ = ("_batch", "_raw", "_whole")

    def __init__(self, batch: Any, raw: memoryview, whole: memoryview) -> None:
        self._batch, self._raw, self._whole = batch, raw, whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Say yes: it was looked at."""
        return True

    def __next__(self) -> Any:
        # How aiokafka takes the one record of a transaction's marker.
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        if len(self._whole) <= _SMALL_BYTES:
            try:
                return iter(list(self._batch))
            except _BROKEN:
                self._batch = DefaultRecordBatch(self._whole)
        return self._guarded()

    def _guarded(self) -> Iterator[Any]:
        last = self._batch.base_offset - 1
        try:
            for record in self._records():
                last = record.offset
                yield record
        except _BROKEN as error:
            yield from self._rest(last, error)

    def _records(self) -> Iterator[Any]:
        if len(self._whole) > _LARGE_BYTES or may_have_too_many_headers(self._whole):
            return self._by_pieces()
        return decoded(self._batch, self._whole)

    def _by_pieces(self) -> Iterator[Any]:
        for piece in pieces(self._whole):
            if isinstance(piece, StandIn):
                yield piece
            else:
                yield from decoded(DefaultRecordBatch(piece), piece)

    def _rest(self, last: int, error: Exception) -> Iterator[StandIn]:
        """Stand in for the records behind the last one that could be read."""
        end = self._batch.next_offset
        if last + 1 < end:
            # What is wrong, and not with which bytes.
            why = f"{type(error).__name__} behind offset {last}"
            value = PartialBytes.of(self._raw, Fault.RECORD, why, last + 1)
            yield StandIn(end - 1, self._batch.max_timestamp, value)


class _LegacyBatch:
    """A message of an old format, or a compressed set of them."""

    __slots__ = ("_batch", "_raw")

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch, self._raw = batch, raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def validate_crc(self) -> bool:
        """Say yes: it was looked at."""
        return True

    @property
    def base_offset(self) -> int:
        """The wrapper's offset, which is that of the last message in it."""
        return int(self._batch.next_offset) - 1

    def __iter__(self) -> Iterator[Any]:
        last = None
        try:
            for record in self._batch:
                last = record.offset
                yield record
        except _BROKEN as error:
            end = self._batch.next_offset
            first = end - 1 if last is None else last + 1
            if first < end:
                why = f"{type(error).__name__} in a set of old messages"
                yield StandIn(end - 1, 0, PartialBytes.of(self._raw, Fault.RECORD, why, first))


@dataclass(slots=True)
class _UnreadableBatch:
    """Stands for a batch that cannot be read; what aiokafka asks of a batch."""

    raw: memoryview
    next_base: int | None
    fault: Fault
    why: str

    @property
    def is_trusted(self) -> bool:
        """Whether its header is what was written."""
        return self.fault not in (Fault.CHECKSUM, Fault.FORMAT)

    @property
    def is_control_batch(self) -> bool:
        return False

    @property
    def is_transactional(self) -> bool:
        """Whether it may have been aborted."""
        return self._is_v2 and bool(self._attributes & _TRANSACTIONAL)

    @property
    def producer_id(self) -> int | None:
        return int(_PRODUCER.unpack_from(self.raw, _PRODUCER_AT)[0]) if self._is_v2 else None

    @property
    def _is_v2(self) -> bool:
        return self.is_trusted and self.raw[_FRAME.size - 1] == _V2

    @property
    def _attributes(self) -> int:
        return int(_ATTRIBUTES.unpack_from(self.raw, _ATTRIBUTES_AT)[0])

    @property
    def base_offset(self) -> int:
        return int(_FRAME.unpack_from(self.raw)[0])

    @property
    def next_offset(self) -> int:
        """Where the next batch begins.

        What the batch says of itself counts if its checksum does; otherwise what the next one
        says, or what two of its fields agree on, or only that it has one record.
        """
        base, magic = self.base_offset, self.raw[_FRAME.size - 1]
        if self.next_base is not None and self.next_base > base:
            return self.next_base
        if magic != _V2 or len(self.raw) < _HEADER_BYTES:
            return base + 1
        delta, _first, _newest = _LAST_DELTA_AND_TIMES.unpack_from(self.raw, _LAST_DELTA_AT)
        (count,) = _INT.unpack_from(self.raw, _COUNT_AT)
        agreed = self.is_trusted or delta == count - 1
        return base + int(delta) + 1 if agreed and delta >= 0 else base + 1

    def validate_crc(self) -> bool:
        return True

    def __iter__(self) -> Iterator[StandIn]:
        value = PartialBytes.of(self.raw, self.fault, self.why, self.base_offset)
        yield StandIn(self.next_offset - 1, 0, value)
