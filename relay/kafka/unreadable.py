"""Hops 3 to 5: what stands for bytes that are not kept whole: a prefix, their size and their hash.

Invariant: whoever reads Kafka sees every offset: what a batch holds that cannot be read is one
record in its place, whose value is `PartialBytes` with a fault. Such a value is never a return and
never an event, whatever its prefix looks like: ask `unreadable`, or whether the type is `bytes`.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, NamedTuple, Self

PREFIX_BYTES: Final = 64 * 1024


class Fault(StrEnum):
    """Why records cannot be read."""

    CHECKSUM = "checksum"
    """The batch's CRC is not that of its bytes: they changed after they were written."""
    CODEC = "codec"
    """Compressed in a way that this program does not know."""
    DECOMPRESSION = "decompression"
    """The compressed bytes are broken."""
    TOO_LARGE = "too_large"
    """The batch is larger than what is read, decompressed."""
    FORMAT = "format"
    """No batch of a version that this program knows."""
    RECORD = "record"
    """A record inside of the batch is no record; those behind it cannot be found."""
    NOT_KEPT = "not_kept"
    """They could be read, were refused, and the quarantine was full."""
    HEADERS = "headers"
    """A record has more headers than are read."""


class PartialBytes(bytes):
    """The first bytes of a value, and what tells the whole one.

    Attributes:
        size: bytes of the whole.
        sha256: of the whole, hexadecimal.
        fault: why nothing of it can be read; None: it is one record's value, longer than wanted.
        why: the fault in words, without any of the bytes.
        from_offset: the first offset that it stands for; None for one record's value.
    """

    size: int
    sha256: str
    fault: Fault | None
    why: str
    from_offset: int | None

    @classmethod
    def of(
        cls,
        whole: bytes | memoryview,
        fault: Fault | None = None,
        why: str = "",
        from_offset: int | None = None,
    ) -> Self:
        """Keep a prefix of these bytes."""
        partial = cls(whole[:PREFIX_BYTES])
        partial.size, partial.sha256 = len(whole), sha256(whole).hexdigest()
        partial.fault, partial.why, partial.from_offset = fault, why, from_offset
        return partial

    def without_prefix(self) -> PartialBytes:
        """Return what tells the whole one, and none of its bytes."""
        bare = PartialBytes()
        bare.size, bare.sha256, bare.fault = self.size, self.sha256, self.fault
        bare.why, bare.from_offset = self.why, self.from_offset
        return bare


class StandIn(NamedTuple):
    """A record, as aiokafka's batches give them, in the place of those that cannot be read.

    Attributes:
        offset: the last one that it stands for; the first is `value.from_offset`.
    """

    offset: int
    timestamp: int
    value: PartialBytes
    timestamp_type: int = 0
    key: None = None
    headers: tuple[()] = ()
    checksum: None = None


def unreadable(record: Any) -> PartialBytes | None:
    """Return what is known of records that cannot be read; None for a record that can.

    Args:
        record: aiokafka's, or anything with a `value`.
    """
    value = record.value
    return value if isinstance(value, PartialBytes) and value.fault is not None else None


def first_offset(record: Any) -> int:
    """Return the first offset that a record stands for: its own, but for a stand-in."""
    value = record.value
    if type(value) is bytes or not isinstance(value, PartialBytes) or value.from_offset is None:
        return int(record.offset)
    return value.from_offset
