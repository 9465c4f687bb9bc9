"""Hop 2: optional compression of a batch's records.

Invariant: pure; a batch that does not get smaller is sent as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from aiokafka import codec

from relay.runtime.settings_model import Compression

# Kafka's numbers, and which optional library it takes.
_CODECS: Final[dict[str, tuple[int, Callable[[], bool], Callable[[Any], Any]]]] = {
    "gzip": (1, codec.has_gzip, codec.gzip_encode),
    "snappy": (2, codec.has_snappy, codec.snappy_encode),
    "lz4": (3, codec.has_lz4, codec.lz4_encode),
    "zstd": (4, codec.has_zstd, codec.zstd_encode),
}


class CompressionMissingError(Exception):
    """The library for the chosen compression is not installed: install it, or choose another."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How batches are compressed; `number` 0: they are not."""

    number: int
    encode: Callable[[Any], Any]

    @classmethod
    def named(cls, name: Compression) -> Self:
        """Return the codec of that name.

        Raises:
            CompressionMissingError: its library is missing.
        """
        if name == "none":
            return cls(0, bytes)
        number, available, encode = _CODECS[name]
        if not available():
            raise CompressionMissingError(f"publish.compression is {name}: pip install cramjam")
        return cls(number, encode)

    def compressed(self, records: bytes) -> tuple[bytes, int]:
        """Return the records as they are to be sent, and Kafka's number for that."""
        if self.number == 0:
            return records, 0
        encoded: bytes = self.encode(records)
        return (encoded, self.number) if len(encoded) < len(records) else (records, 0)
