r"""Hops 3 to 5: headers whose names are no UTF-8 are read, too, and written out (`\xff`).

Invariant: each record comes once. The broker takes such names; aiokafka 0.14 raises for the fetch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy


def decoded(batch: Any, whole: memoryview) -> Iterator[Any]:
    """Take a batch's records apart; once more, leniently, if a header's name is no text.

    Args:
        batch: by aiokafka's parser in C.
        whole: its bytes, not compressed.
    """
    last = -1
    try:
        for record in batch:
            last = record.offset
            yield record
    except (UnicodeDecodeError, CorruptRecordException) as error:
        if not _about_text(error):
            raise
        yield from (one for one in _leniently(whole) if one.offset > last)


def _about_text(error: BaseException) -> bool:
    return isinstance(error, UnicodeDecodeError) or isinstance(error.__cause__, UnicodeDecodeError)


def _leniently(whole: memoryview) -> Iterator[Any]:
    """Read a batch that is not compressed by aiokafka's parser in Python, with a lenient buffer."""
    batch = _DefaultRecordBatchPy(whole)
    lenient: Iterator[Any] = iter(batch)
    batch._buffer = _Lenient(batch._buffer)  # noqa: SLF001 - the seam that there is
    return lenient


class _Lenient(bytearray):
    """A buffer whose slices decode whatever they hold."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Name(found) if isinstance(key, slice) else found


class _Name(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        """Decode; bytes that are no text are written out."""
        return super().decode(encoding, errors)
