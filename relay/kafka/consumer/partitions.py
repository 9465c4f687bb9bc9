"""Hop 5: where in a partition reading starts, and whether what came continues what was handled.

Invariant: pure. A position never moves over records in silence: each move that is not "the next
record" comes with a `Gap` that says from where to where, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Protocol, TypeVar

from relay.kafka.partition import Partition
from relay.kafka.unreadable import PartialBytes, first_offset, unreadable


class Record(Protocol):
    """What is needed of a Kafka record; aiokafka's ConsumerRecord is one."""

    @property
    def topic(self) -> str:
        """Where it stands."""

    @property
    def partition(self) -> int:
        """Where it stands."""

    @property
    def offset(self) -> int:
        """Where it stands."""

    @property
    def timestamp(self) -> int:
        """Unix time in milliseconds, as the producer or the broker says."""

    @property
    def key(self) -> bytes | None:
        """Its key."""

    @property
    def value(self) -> bytes | None:
        """Its value."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Its headers, in order; a name may come twice."""


RecordT = TypeVar("RecordT", bound=Record)


class GapReason(StrEnum):
    """Why records were not seen."""

    OUT_OF_RANGE = "out_of_range"
    """Retention or DeleteRecords took them before they were read."""
    TOPIC_RECREATED = "topic_recreated"
    """The topic was deleted and made anew: everything in the new one is read."""
    LOG_TRUNCATED = "log_truncated"
    """Same topic, other records: an unclean leader election. The log is read again."""
    NOT_READABLE = "not_readable"
    """Offsets without a readable record: transaction markers, aborted ones, or compaction."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets of one partition that were not seen.

    Attributes:
        from_offset: the first one not seen.
        to_offset: the first one seen again.
        missed_count: how many offsets in between had no record for us.
    """

    reason: GapReason
    from_offset: int
    to_offset: int
    missed_count: int


@dataclass(frozen=True, slots=True)
class LogBounds:
    """What the broker says of a partition.

    Attributes:
        start: the first offset still there.
        end: the offset after the last readable record.
        topic_id: Kafka's own id of the topic; None when the broker is older than 2.8.
    """

    start: int
    end: int
    topic_id: str | None


@dataclass(frozen=True, slots=True)
class LastRecord:
    """The last record that was handled: it must still be there, and be the same."""

    offset: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition was handled, as its keeper says."""

    next_offset: int
    topic_id: str | None = None
    last: LastRecord | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading starts.

    Attributes:
        offset: the first record to handle.
        verify: read first, compared and dropped; None when there is nothing to compare with.
    """

    offset: int
    verify: LastRecord | None = None

    @property
    def seek_offset(self) -> int:
        """The offset to seek to."""
        return self.offset if self.verify is None else self.verify.offset


class LogBehindError(Exception):
    """The log ends before what was handled: a leader that lags, or a log that was truncated."""


def lane_of(partition: Partition, lanes: int) -> int:
    """Return which of several lanes handles a partition: always the same one."""
    return partition.partition % lanes


def starting_point(
    progress: Progress | None, log: LogBounds, *, truncated: bool = False
) -> tuple[Start, Gap | None]:
    """Decide where to start a partition.

    A new leader may for a moment know less than was already read (KIP-207): only when that lasts
    does the caller say `truncated`, and only then is the log read again from its start. The inbox
    makes what is read twice harmless.

    Raises:
        LogBehindError: the log ends before `progress`, and the caller has not waited yet.
    """
    if progress is None:
        return Start(log.start), None
    if None not in (progress.topic_id, log.topic_id) and progress.topic_id != log.topic_id:
        return restart_point(progress, log, GapReason.TOPIC_RECREATED)
    if log.end < progress.next_offset:
        if not truncated:
            raise LogBehindError(
                f"the log ends at {log.end}, but records up to {progress.next_offset} were handled"
            )
        return restart_point(progress, log, GapReason.LOG_TRUNCATED)
    if log.start > progress.next_offset:
        missed = log.start - progress.next_offset
        gap = Gap(GapReason.OUT_OF_RANGE, progress.next_offset, log.start, missed)
        return Start(log.start), gap
    readable = progress.last is not None and progress.last.offset >= log.start
    return Start(progress.next_offset, progress.last if readable else None), None


def restart_point(progress: Progress, log: LogBounds, reason: GapReason) -> tuple[Start, Gap]:
    """Start a log anew whose records are not those that were handled.

    How many records of the old one were never seen is unknown: `missed_count` is 0.
    """
    return Start(log.start), Gap(reason, progress.next_offset, log.start, 0)


def other_log_reason(progress: Progress, log: LogBounds) -> GapReason:
    """Say why the last record handled is not what the log has there now."""
    same = progress.topic_id is not None and progress.topic_id == log.topic_id
    return GapReason.LOG_TRUNCATED if same else GapReason.TOPIC_RECREATED


def record_digest(record: Record) -> bytes:
    """Return 16 bytes that tell a record from any other that could stand at its offset."""
    digest = blake2b(record.timestamp.to_bytes(8, "big", signed=True), digest_size=16)
    for part in (record.key, record.value):
        # None and b"" differ, and a key cannot run into the value.
        digest.update(b"-" if part is None else b"%d:" % len(part))
        digest.update(part or b"")
    return digest.digest()


def last_record(records: Sequence[Record]) -> LastRecord | None:
    """Return what is kept of the last record, to be compared later; None: it is not whole.

    What stands for a batch that cannot be read may be readable to the next version of this program.
    """
    last = records[-1]
    if isinstance(last.value, PartialBytes) or isinstance(last.key, PartialBytes):
        return None
    return LastRecord(last.offset, record_digest(last))


class OtherLogError(Exception):
    """The record that was handled last is not what stands at its offset now."""

    def __init__(self, partition: Partition, expected: LastRecord) -> None:
        super().__init__(f"{partition.topic}-{partition.partition} at {expected.offset} is another")
        self.partition = partition


class DiscontinuityError(Exception):
    """Records came that do not continue what was handled; none of them was handled."""


def continuing(partition: Partition, start: Start, records: Sequence[RecordT]) -> Sequence[RecordT]:
    """Return the records that come after what was handled, without the one read to verify.

    Args:
        partition: whose records these are.
        start: where this partition stands now.
        records: what the broker gave, by offset.

    Raises:
        OtherLogError: the record to verify is another.
        DiscontinuityError: a record from before the position came: nothing may be handled.
    """
    if not records or records[0].offset >= start.offset:
        return records
    first, verify = records[0], start.verify
    if unreadable(first) and first_offset(first) <= start.seek_offset:
        # The batch of the record to verify is broken by now: there is nothing to compare with.
        return records[1:] if first.offset < start.offset else records
    if verify is None or first.offset < verify.offset:
        raise DiscontinuityError(
            f"{partition.topic}-{partition.partition}: asked for {start.seek_offset}, "
            f"got {first.offset}"
        )
    if first.offset == verify.offset and record_digest(first) != verify.digest:
        raise OtherLogError(partition, verify)
    return [record for record in records if record.offset >= start.offset]


def gap_between(start: Start, records: Sequence[Record], next_offset: int) -> Gap | None:
    """Return the offsets between the position and `next_offset` that held no readable record.

    Their places inside are not kept: transactions leave one offset each, for ever.
    """
    # What stands for records that cannot be read is in quarantine, with all of its offsets.
    seen = sum(record.offset + 1 - max(first_offset(record), start.offset) for record in records)
    missed = next_offset - start.offset - seen
    if missed <= 0:
        return None
    expected = start.offset
    for record in records:
        if first_offset(record) > expected:
            break
        expected = record.offset + 1
    return Gap(GapReason.NOT_READABLE, expected, next_offset, missed)
