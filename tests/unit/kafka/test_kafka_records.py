"""What stands in Kafka is read in bounded memory, and every offset is accounted for."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from relay.kafka.inflate import MAX_BATCH_BYTES
from relay.kafka.record_guard import MAX_HEADERS
from relay.kafka.records import AnyRecords
from relay.kafka.unreadable import PREFIX_BYTES, Fault, unreadable

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
HEADER_BYTES = 61


def with_checksum(whole: bytes) -> bytes:
    sized = whole[:8] + struct.pack(">i", len(whole) - 12) + whole[12:]
    return sized[:17] + struct.pack(">I", calc_crc32c(sized[21:])) + sized[21:]


def batch(
    codec: int = NONE,
    values: tuple[bytes, ...] = (b"v0", b"v1", b"v2"),
    base: int = 0,
    headers: list[tuple[str, bytes | None]] | None = None,
) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 2**31 - 1)
    for at, value in enumerate(values):
        builder.append(at, 1000, b"k", value, headers or [])
    whole = bytes(builder.build())
    return struct.pack(">q", base) + whole[8:]


def compressed(codec: int, payload: bytes, like: bytes) -> bytes:
    head = bytearray(like[:HEADER_BYTES])
    struct.pack_into(">h", head, 21, codec)
    return with_checksum(bytes(head) + payload)


def read(data: bytes) -> list[Any]:
    found: list[Any] = []
    records = AnyRecords(data)
    while records.has_next():
        found += list(records.next_batch())
    return found


def offsets(records: list[Any]) -> list[tuple[int, Fault | None]]:
    return [(one.offset, gone.fault if (gone := unreadable(one)) else None) for one in records]


GOOD = batch(base=3)
AFTER = [(3, None), (4, None), (5, None)]


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
def test_every_codec_is_read(codec: int) -> None:
    values = (b"first", b"x" * 3000, b"last")
    assert [one.value for one in read(batch(codec, values) + GOOD)][:3] == list(values)


def test_snappy_without_framing_is_read() -> None:
    plain = batch()
    raw = bytes(cramjam.snappy.compress_raw(plain[HEADER_BYTES:]))
    assert [one.value for one in read(compressed(SNAPPY, raw, plain))] == [b"v0", b"v1", b"v2"]


def test_several_gzip_members_are_read() -> None:
    plain = batch()
    body = plain[HEADER_BYTES:]
    members = gzip.compress(body[:7]) + gzip.compress(body[7:]) + b"\0\0"
    assert [one.value for one in read(compressed(GZIP, members, plain))] == [b"v0", b"v1", b"v2"]


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY])
def test_old_formats_are_read(magic: Any, codec: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, codec, 100_000)
    for at in range(3):
        builder.append(at, 1000, b"k", b"v%d" % at)
    assert [one.value for one in read(bytes(builder.build()))] == [b"v0", b"v1", b"v2"]


@pytest.mark.parametrize(
    ("codec", "compress"),
    [
        (GZIP, gzip.compress),
        (SNAPPY, cramjam.snappy.compress_raw),
        (LZ4, cramjam.lz4.compress),
        (ZSTD, cramjam.zstd.compress),
    ],
)
def test_a_bomb_is_one_stand_in_and_what_follows_is_read(
    codec: int, compress: Callable[[bytes], Any]
) -> None:
    bomb = compressed(codec, bytes(compress(bytes(MAX_BATCH_BYTES + 1))), batch())
    tracemalloc.start()
    records = read(bomb + GOOD)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert offsets(records) == [(2, Fault.TOO_LARGE), *AFTER]
    assert peak < 2 * MAX_BATCH_BYTES
    value = unreadable(records[0])
    assert value is not None
    assert (value.from_offset, value.size) == (0, len(bomb))
    assert bytes(value) == bomb[:PREFIX_BYTES]


def test_a_codec_that_nobody_knows() -> None:
    assert offsets(read(compressed(7, b"anything", batch()) + GOOD)) == [(2, Fault.CODEC), *AFTER]


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_broken_compressed_bytes(codec: int) -> None:
    whole = batch(codec, (bytes(range(256)) * 20,) * 3)
    half = HEADER_BYTES + (len(whole) - HEADER_BYTES) // 2
    records = read(with_checksum(whole[:half]) + GOOD)
    assert offsets(records) == [(2, Fault.DECOMPRESSION), *AFTER]


def test_a_checksum_that_is_not_its_own_ends_before_the_next_batch_and_is_asked_anew() -> None:
    whole = batch(values=(b"value",) * 3).replace(b"value", b"VALUE", 1)
    records = AnyRecords(whole + GOOD)
    broken = records.next_batch()
    assert offsets(list(broken)) == [(2, Fault.CHECKSUM)]
    assert broken.next_offset == 3
    assert not records.has_next()


def test_a_broken_header_moves_no_position_far() -> None:
    whole = bytearray(batch())
    struct.pack_into(">i", whole, 23, 2_000_000_000)  # the last record's place, of three
    broken = AnyRecords(bytes(whole)).next_batch()
    assert not broken.is_control_batch
    assert broken.next_offset == 1


def test_a_format_that_nobody_knows() -> None:
    whole = bytearray(batch())
    whole[16] = 9
    assert offsets(read(bytes(whole))) == [(0, Fault.FORMAT)]


def test_the_records_before_a_broken_one_are_read() -> None:
    whole = batch(values=(b"first", b"second", b"third"))
    body = bytearray(whole)
    at = whole.index(b"second") - 1  # the value's length
    body[at] = 0x7E
    assert offsets(read(with_checksum(bytes(body)) + GOOD))[:2] == [(0, None), (2, Fault.RECORD)]


def test_more_headers_than_are_read_cost_that_record_alone() -> None:
    bomb = batch(GZIP, (b"v",), headers=[("ab", b"cd")] * (MAX_HEADERS + 1_000_000))
    assert offsets(read(bomb + GOOD)) == [(0, Fault.HEADERS), *AFTER]


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=9), st.sampled_from([NONE, ZSTD]))
def test_a_large_batch_is_read_as_a_small_one(sizes: list[int], codec: int) -> None:
    values = tuple(b"%d" % at + bytes(size) for at, size in enumerate(sizes))
    found = read(batch(codec, values, headers=[("h", b"x")]))
    assert [(one.offset, one.value, one.headers) for one in found] == [
        (at, value, [("h", b"x")]) for at, value in enumerate(values)
    ]


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("length", [-1000, -2, 2**31 - 1])
def test_a_message_of_the_old_formats_whose_lengths_lie_is_set_aside(
    magic: int, length: int
) -> None:
    """The lengths inside are read before any checksum: by one changed byte a v2 batch gets here."""
    body = struct.pack(">bbq", magic, 0, 5)[: 2 + 8 * magic] + struct.pack(">i", length) + b"x" * 60
    message = struct.pack(">I", zlib.crc32(body)) + body
    found = read(struct.pack(">qi", 7, len(message)) + message + GOOD)
    assert offsets(found)[0] == (7, Fault.FORMAT)
    assert offsets(found)[1:] in ([], AFTER)


@given(st.data())
def test_whatever_bytes_come_nothing_is_raised(data: st.DataObject) -> None:
    codec = data.draw(st.sampled_from([NONE, GZIP, SNAPPY, LZ4, ZSTD]))
    whole = bytearray(batch(codec, (b"a" * 50, b"b" * 50, b"c")) + GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(whole)
    if data.draw(st.booleans()) and struct.unpack_from(">i", changed, 8)[0] > HEADER_BYTES:
        end = min(len(changed), 12 + struct.unpack_from(">i", changed, 8)[0])
        changed = with_checksum(changed[:end])
    read(changed)
