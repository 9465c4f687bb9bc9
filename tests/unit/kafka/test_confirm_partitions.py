"""Hop 5: where reading starts, what continues it, and what is a gap: tables."""

from typing import NamedTuple

import pytest

from relay.consumers.confirm.halves import halves, split
from relay.kafka.consumer.fetch_watch import FetchWatch
from relay.kafka.consumer.handler import Part
from relay.kafka.consumer.partitions import (
    DiscontinuityError,
    Gap,
    GapReason,
    LastRecord,
    LogBehindError,
    LogBounds,
    OtherLogError,
    Progress,
    Start,
    continuing,
    gap_between,
    other_log_reason,
    record_digest,
    starting_point,
)
from relay.kafka.partition import Partition

P = Partition("t", 0)


class Record(NamedTuple):
    offset: int
    value: bytes | None = b"v"
    key: bytes | None = b"k"
    timestamp: int = 5
    topic: str = "t"
    partition: int = 0
    headers: tuple = ()


LAST = LastRecord(9, record_digest(Record(9)))

STARTS = [
    # progress, log, truncated -> start, gap
    (None, LogBounds(0, 0, "a"), False, Start(0), None),
    (None, LogBounds(40, 90, "a"), False, Start(40), None),
    (Progress(10, "a", LAST), LogBounds(0, 10, "a"), False, Start(10, LAST), None),
    (Progress(10, "a", LAST), LogBounds(0, 99, None), False, Start(10, LAST), None),
    (Progress(10, None, LAST), LogBounds(0, 99, "a"), False, Start(10, LAST), None),
    (Progress(10, "a", None), LogBounds(0, 99, "a"), False, Start(10), None),
    # The last record is gone, but nothing was missed.
    (Progress(10, "a", LAST), LogBounds(10, 99, "a"), False, Start(10), None),
    (Progress(12, "a", LAST), LogBounds(10, 99, "a"), False, Start(12), None),
    (
        Progress(10, "a", LAST),
        LogBounds(15, 99, "a"),
        False,
        Start(15),
        Gap(GapReason.OUT_OF_RANGE, 10, 15, 5),
    ),
    (
        Progress(10, "a", LAST),
        LogBounds(0, 99, "b"),
        False,
        Start(0),
        Gap(GapReason.TOPIC_RECREATED, 10, 0, 0),
    ),
    (
        Progress(10, "a", LAST),
        LogBounds(0, 3, "b"),
        False,
        Start(0),
        Gap(GapReason.TOPIC_RECREATED, 10, 0, 0),
    ),
    (
        Progress(10, "a", LAST),
        LogBounds(2, 3, "a"),
        True,
        Start(2),
        Gap(GapReason.LOG_TRUNCATED, 10, 2, 0),
    ),
]


@pytest.mark.parametrize(("progress", "log", "truncated", "start", "gap"), STARTS)
def test_where_reading_starts(progress, log, truncated, start, gap):
    assert starting_point(progress, log, truncated=truncated) == (start, gap)


def test_a_log_that_ends_too_early_is_first_waited_for():
    with pytest.raises(LogBehindError, match="ends at 3"):
        starting_point(Progress(10, "a", LAST), LogBounds(0, 3, "a"))


@pytest.mark.parametrize(
    ("known", "asked", "reason"),
    [
        ("a", "a", GapReason.LOG_TRUNCATED),
        ("a", "b", GapReason.TOPIC_RECREATED),
        (None, "b", GapReason.TOPIC_RECREATED),
        (None, None, GapReason.TOPIC_RECREATED),
    ],
)
def test_why_a_log_is_another(known, asked, reason):
    assert other_log_reason(Progress(10, known), LogBounds(0, 99, asked)) is reason


def offsets(records):
    return [record.offset for record in records]


def test_the_record_read_to_verify_is_dropped():
    records = [Record(9), Record(10), Record(11)]
    assert offsets(continuing(P, Start(10, LAST), records)) == [10, 11]
    assert offsets(continuing(P, Start(10, LAST), [Record(9)])) == []


def test_a_record_before_the_position_handles_nothing():
    with pytest.raises(DiscontinuityError, match="asked for 10, got 9"):
        continuing(P, Start(10), [Record(9), Record(10)])
    with pytest.raises(DiscontinuityError):
        continuing(P, Start(10, LAST), [Record(8), Record(9), Record(10)])


@pytest.mark.parametrize(
    "other",
    [Record(9, b"w"), Record(9, None), Record(9, b"v", None), Record(9, b"v", b"k", 6)],
)
def test_another_record_in_the_last_ones_place_is_another_log(other):
    with pytest.raises(OtherLogError):
        continuing(P, Start(10, LAST), [other, Record(10)])


def test_markers_behind_the_last_record_are_no_reason_to_doubt():
    assert offsets(continuing(P, Start(12, LAST), [Record(9), Record(12)])) == [12]
    assert offsets(continuing(P, Start(12, LAST), [Record(14)])) == [14]


@pytest.mark.parametrize(
    ("start", "found", "next_offset", "gap"),
    [
        (10, [10, 11], 12, None),
        (10, [12, 13], 14, Gap(GapReason.NOT_READABLE, 10, 14, 2)),
        (10, [10, 12], 13, Gap(GapReason.NOT_READABLE, 11, 13, 1)),
        (10, [10, 11], 15, Gap(GapReason.NOT_READABLE, 12, 15, 3)),
    ],
)
def test_offsets_without_a_record_are_counted(start, found, next_offset, gap):
    assert gap_between(Start(start), [Record(offset) for offset in found], next_offset) == gap


def test_a_part_is_split_where_its_records_are():
    gap = Gap(GapReason.NOT_READABLE, 3, 9, 1)
    part = Part(P, 1, [Record(1), Record(2), Record(4), Record(7)], 9, gap, "a")
    first, second = split(part, 2)
    assert (first.start_offset, offsets(first.records), first.next_offset) == (1, [1, 2], 3)
    assert (second.start_offset, offsets(second.records), second.next_offset) == (3, [4, 7], 9)
    assert (first.gap, second.gap) == (None, gap)


def test_halves_are_the_whole_in_order():
    parts = [
        Part(Partition("t", n), 0, [Record(i, partition=n) for i in range(count)], count, None, "a")
        for n, count in enumerate((1, 4, 2))
    ]
    todo, seen = [parts], []
    while todo:
        one = todo.pop()
        if sum(len(part.records) for part in one) == 1:
            assert one[0].next_offset == one[0].records[0].offset + 1
            seen.append((one[0].partition.partition, one[0].records[0].offset))
        else:
            first, second = halves(one)
            assert first
            assert second
            todo += [second, first]
    assert seen == [(n, i) for n, count in enumerate((1, 4, 2)) for i in range(count)]


def test_a_fetch_without_an_answer_is_noticed_and_an_idle_topic_is_not():
    watch = FetchWatch()
    one, two = Partition("t", 0), Partition("t", 1)
    assert watch.observe({one: None, two: None}, 100.0) == 0
    assert watch.observe({one: 1, two: 1}, 101.0) == 0
    assert watch.observe({one: 2, two: 1}, 105.0) == 4
    watch.answered([two], 106.0)
    assert watch.observe({one: 3, two: 1}, 107.0) == 1
    assert watch.observe({one: 4}, 200.0) == 0
