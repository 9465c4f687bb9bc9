r"""Hops 3 to 5: reads records whose headers have names that are no UTF-8.

Invariant: whatever bytes a foreign producer gave a header's name, the record is read: such a name
is written out (`\xff`). The broker takes them, and aiokafka 0.14 raises UnicodeDecodeError for the
whole fetch, for ever: one record of anybody's would have stopped every return behind it.

aiokafka's own parser, in C, does the work; only a batch in which it failed is read again, by its
parser in Python with a lenient buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record import MemoryRecords
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


def read_any_header_name() -> None:
    """Let aiokafka's consumers read with `AnyRecords`; once is enough, more does no harm."""
    fetcher.MemoryRecords = AnyRecords


class AnyRecords:
    """As aiokafka's MemoryRecords: the batches of one fetched partition."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> Any:
        """Return the next batch."""
        return _Batch(self._records.next_batch(), self._data)


class _Batch:
    __slots__ = ("_batch", "_data")

    def __init__(self, batch: Any, data: bytes) -> None:
        self._batch, self._data = batch, data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        # How aiokafka takes the one record of a transaction's marker.
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        last = -1
        try:
            for record in self._batch:
                last = record.offset
                yield record
        except (UnicodeDecodeError, CorruptRecordException) as error:
            if not _about_text(error):
                raise
            again = _again(self._data, self._batch.base_offset)
            yield from (one for one in again if one.offset > last)


def _about_text(error: BaseException) -> bool:
    return isinstance(error, UnicodeDecodeError) or isinstance(error.__cause__, UnicodeDecodeError)


def _again(data: bytes, base_offset: int) -> Iterator[Any]:
    """Read one batch of the fetched bytes leniently."""
    records = _MemoryRecordsPy(data)
    while (part := records._next_slice) is not None:  # noqa: SLF001 - the seam that there is
        if records.next_batch().base_offset == base_offset:
            batch = _DefaultRecordBatchPy(part)
            lenient: Iterator[Any] = iter(batch)  # decompresses
            batch._buffer = _Lenient(batch._buffer)  # noqa: SLF001
            return lenient
    raise CorruptRecordException(f"the batch at offset {base_offset} is not in what was fetched")


class _Lenient(bytearray):
    """A buffer whose slices decode whatever they hold."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Name(found) if isinstance(key, slice) else found


class _Name(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        """Decode; bytes that are no text are written out."""
        return super().decode(encoding, errors)
