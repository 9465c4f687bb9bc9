"""Cutting a batch leaves the wanted records as they are, whatever stands around them."""

import pytest
from aiokafka.record import MemoryRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from relay.kafka.batch_cut import cut


def batch(base: int, sizes: list[int], codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=10_000_000,
    )  # fmt: skip
    for offset, size in enumerate(sizes):
        builder.append(offset, 1000 + offset, b"k%d" % offset, b"v" * size, [("h", b"%d" % offset)])
    data = builder.build()
    data[:8] = base.to_bytes(8, "big")
    return bytes(data)


def read(data: bytes) -> dict[int, tuple[object, ...]]:
    found, records = {}, MemoryRecords(data)
    while records.has_next():
        cut_out = records.next_batch()
        assert cut_out.validate_crc()
        for one in cut_out:
            found[one.offset] = (one.timestamp, one.key, one.value, tuple(one.headers))
    return found


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=120),
    st.lists(st.integers(0, 300), min_size=1, max_size=40),
    st.data(),
)
def test_what_is_wanted_is_read_as_from_the_whole(first, second, data) -> None:
    whole = batch(1000, first) + batch(1000 + len(first), second)
    end = 1000 + len(first) + len(second)
    start = data.draw(st.integers(990, end + 5))
    stop = data.draw(st.integers(start, end + 10))
    expected = {offset: one for offset, one in read(whole).items() if start <= offset < stop}
    found = read(cut(whole, start, stop))
    assert {offset: one for offset, one in found.items() if start <= offset < stop} == expected
    if max(1000, start) <= stop < end:
        assert stop in found


def test_what_comes_before_is_left_out() -> None:
    whole = batch(0, [100] * 1000)
    assert len(cut(whole, 500, 510)) < len(whole) / 50
    assert list(read(cut(whole, 500, 510))) == list(range(500, 511))


def test_a_stop_within_the_first_batch_keeps_those_behind_it() -> None:
    whole = batch(0, [10] * 100) + batch(100, [10] * 5)
    assert list(read(cut(whole, 50, 60))) == [*range(50, 61), *range(100, 105)]


def test_a_compressed_batch_stays_whole() -> None:
    whole = batch(0, [100] * 100, codec=1)
    assert cut(whole, 50, 60) == whole


def test_a_compacted_batch_stays_whole() -> None:
    whole = bytearray(batch(0, [100] * 100))
    whole[23:27] = (150).to_bytes(4, "big")  # its last record stands further on
    assert cut(bytes(whole), 50, 60) == bytes(whole)


@pytest.mark.parametrize("length", [0, 10, 60, 61, 500])
def test_what_is_incomplete_stays_as_it_is(length: int) -> None:
    whole = batch(0, [100] * 100)[:length]
    assert cut(whole, 50, 60) == whole
