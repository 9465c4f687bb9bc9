"""Hops 3 to 5: decompresses a record batch, up to a limit that is kept while it inflates.

Invariant: never more than `MAX_BATCH_BYTES` is written, whatever the compressed bytes say of
themselves: a megabyte of gzip, zstd, lz4 or snappy can hold a gigabyte. What does not fit, or
cannot be decompressed, raises `InflateError`.

Source: Kafka's `CompressionType`; xerial's framing of snappy, as Kafka's Java clients write it.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import cramjam

# Largest batch that is read, decompressed. Producers fill batches to at most max.message.bytes,
# 1 MiB unless somebody raised it, as they go over the wire; JSON shrinks to a tenth.
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
# An honest batch inflates to some ten times its size; larger ones get the whole limit.
_FIRST_GUESS_BYTES: Final = 128 * 1024
_FIRST_GUESS_TIMES: Final = 12
_NO_ROOM: Final = "failed to write whole buffer"

# Magic, version and lowest compatible version; then blocks: length (big-endian), snappy.
_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16
_BLOCK_LENGTH: Final = struct.Struct(">i")
_GZIP_WINDOW_BITS: Final = 31
_CHUNK_BYTES: Final = 256 * 1024


class InflateError(Exception):
    """The bytes cannot be decompressed; the message says why, and holds none of them."""


class UnknownCodecError(InflateError):
    """Kafka has no such codec, or none that this program knows."""


class TooLargeError(InflateError):
    """More than `MAX_BATCH_BYTES` come out."""

    def __init__(self) -> None:
        super().__init__(f"more than {MAX_BATCH_BYTES} bytes come out")


def inflated(codec: int, data: memoryview, head: bytes = b"") -> memoryview:
    """Return `head` and, behind it, what the data decompress to.

    Args:
        codec: Kafka's number: 1 gzip, 2 snappy, 3 lz4, 4 zstd.
        data: compressed.
        head: put in front, so that nobody has to copy.

    Raises:
        InflateError: not decompressed, or larger than `MAX_BATCH_BYTES`.
    """
    inflate = _CODECS.get(codec)
    if inflate is None:
        raise UnknownCodecError(f"codec {codec} is none of gzip, snappy, lz4, zstd")
    guess = max(_FIRST_GUESS_BYTES, _FIRST_GUESS_TIMES * len(data))
    if guess < MAX_BATCH_BYTES:
        try:
            return _into(inflate, data, head, guess)
        except TooLargeError:
            pass
    return _into(inflate, data, head, MAX_BATCH_BYTES)


def _into(
    inflate: Callable[[memoryview, memoryview], int], data: memoryview, head: bytes, room: int
) -> memoryview:
    size = len(head) + room
    # A mapping of its own: untouched pages cost nothing, and all go back when it is freed.
    buffer = memoryview(bytearray(size) if room < MAX_BATCH_BYTES else mmap.mmap(-1, size))
    buffer[: len(head)] = head
    try:
        written = inflate(data, buffer[len(head) :])
    except (cramjam.DecompressionError, zlib.error, struct.error, EOFError, ValueError) as error:
        if _NO_ROOM in str(error):
            raise TooLargeError from None
        raise InflateError(f"{type(error).__name__}: {error}") from None
    return buffer[: len(head) + written]


def _gzip(data: memoryview, out: memoryview) -> int:
    """Inflate all members; zeros may stand behind the last one."""
    written, rest = 0, bytes(data)
    while rest:
        member = zlib.decompressobj(_GZIP_WINDOW_BITS)
        while not member.eof:
            chunk = member.decompress(rest, _CHUNK_BYTES)
            if written + len(chunk) > len(out):
                raise TooLargeError
            out[written : written + len(chunk)] = chunk
            written += len(chunk)
            rest = member.unconsumed_tail
            if not chunk and not rest and not member.eof:
                raise EOFError("the gzip stream ends early")
        rest = member.unused_data.lstrip(b"\0")
    return written


def _snappy(data: memoryview, out: memoryview) -> int:
    if bytes(data[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        return _snappy_block(data, out)
    at, written = _XERIAL_HEADER_BYTES, 0
    while at < len(data):
        (length,) = _BLOCK_LENGTH.unpack_from(data, at)
        at += _BLOCK_LENGTH.size
        if not 0 < length <= len(data) - at:
            raise ValueError(f"a snappy block of {length} bytes where {len(data) - at} are left")
        written += _snappy_block(data[at : at + length], out[written:])
        at += length
    return written


def _snappy_block(block: memoryview, out: memoryview) -> int:
    if cramjam.snappy.decompress_raw_len(block) > len(out):
        raise TooLargeError
    return int(cramjam.snappy.decompress_raw_into(block, out))


def _lz4(data: memoryview, out: memoryview) -> int:
    return int(cramjam.lz4.decompress_into(data, out))


def _zstd(data: memoryview, out: memoryview) -> int:
    return int(cramjam.zstd.decompress_into(data, out))


_CODECS: Final[Mapping[int, Callable[[memoryview, memoryview], int]]] = {
    1: _gzip,
    2: _snappy,
    3: _lz4,
    4: _zstd,
}
