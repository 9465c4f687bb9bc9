"""Hop 3: reads a group's recorded positions: how it came past a record, or that it did not.

Invariant: pure. What was not recorded is not guessed: without a position from before, there is a
crossing without a story.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from relay.diagnose.evidence.order import Crossing, Waiting

# A member that leaves later than this after the commit had time to answer.
LEFT_SOON_SECONDS = 120.0
# What of a group's positions belongs to a record: from so long before it was published, to so long
# after it was passed.
BEFORE_SECONDS = 120.0
AFTER_SECONDS = LEFT_SOON_SECONDS + 30.0
# So often a group without members has moved before it is said to be a reader: once may have been a
# hand, and once a processor that came and went between two looks.
STEPS_OF_A_READER = 3
# A record may be read, and that recorded, so long before its acknowledgement is.
ACKNOWLEDGED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PositionSample:
    """One recorded position of a group on a partition.

    Attributes:
        committed: None when the group had committed nothing there.
        members: of the whole group; None when they could not be read.
        log_end: of the log that was there then; an offset beyond it was committed on an older one.
    """

    at: datetime
    committed: int | None
    members: int | None
    log_start: int | None = None
    log_end: int | None = None


def crossing(
    group: str,
    samples: Sequence[PositionSample],
    offset: int,
    published_at: datetime,
    *,
    never_joined: bool = False,
) -> Crossing | None:
    """Return how a group came past an offset, or None when no position past it was recorded.

    Args:
        group: its name.
        samples: of one partition, by time; those from shortly before the record was published
            until shortly after it was passed are asked.
        offset: the record's.
        published_at: when the record was acknowledged.
        never_joined: the broker says that the group never had a member.
    """
    start = _start(samples, offset, published_at)
    past = next((n for n in range(start, len(samples)) if _is_past(samples[n], offset)), None)
    if past is None:
        return None
    after = samples[past]
    before = samples[past - 1] if past > start else after
    left = _member_left(samples, past)
    seen, before_it = _unattended_from(samples[start:past], published_at)
    seen = seen or _moved_alone(after)
    if never_joined or reads_alone(samples[start : _until(samples, past)]):
        seen = before_it = None
    return Crossing(
        group=group,
        before_at=before.at,
        before_offset=_standing(before, offset) if past > start else offset,
        before_members=before.members,
        after_at=after.at,
        after_offset=after.committed or 0,
        after_members=after.members,
        unattended_from_at=seen or before_it,
        unattended_before=seen is None and before_it is not None,
        members_left_at=left.at if left else None,
        left_offset=left.committed if left else None,
        log_start=after.log_start,
    )


def waiting(
    samples: Sequence[PositionSample], offset: int, published_at: datetime
) -> Waiting | None:
    """Return the last recorded position, when no position past the offset was ever recorded."""
    ever = False
    for one in _from(samples, _start(samples, offset, published_at)):
        if _is_past(one, offset):
            return None
        ever = ever or one.committed is not None or bool(one.members)
    if not ever:
        return None  # nothing was recorded of it, or there was no such group
    last = samples[-1]
    left_over = last.committed if _foreign(last) else None
    return Waiting(last.at, _standing(last, offset), last.members, last.log_start, left_over)


def _start(samples: Sequence[PositionSample], offset: int, published_at: datetime) -> int:
    """Return where the samples begin that tell of a record.

    Others of the page are older; and who was past the record before there was one was so on a log
    that was there before the topic was made again.
    """
    since = published_at - timedelta(seconds=BEFORE_SECONDS)
    start = bisect_left(samples, since, key=lambda one: one.at)
    there = published_at - timedelta(seconds=ACKNOWLEDGED_SECONDS)
    for number in range(bisect_left(samples, there, key=lambda one: one.at) - 1, start - 1, -1):
        if _is_past(samples[number], offset):
            return number + 1
    return start


def _from(samples: Sequence[PositionSample], start: int) -> Iterator[PositionSample]:
    return (samples[number] for number in range(start, len(samples)))


def _is_past(sample: PositionSample, offset: int) -> bool:
    return sample.committed is not None and sample.committed > offset and not _foreign(sample)


def _foreign(sample: PositionSample) -> bool:
    """Tell whether the offset was committed on a log that is no longer there."""
    beyond = sample.log_end is not None and sample.committed is not None
    return beyond and sample.committed > sample.log_end  # type: ignore[operator]


def _standing(sample: PositionSample, offset: int) -> int:
    if sample.committed is not None and not _foreign(sample):
        return sample.committed
    return min(sample.log_start if sample.log_start is not None else 0, offset)


def _unattended_from(
    samples: Sequence[PositionSample], published_at: datetime
) -> tuple[datetime | None, datetime | None]:
    """Return since when the group had no members while the record waited, and when it came."""
    since: datetime | None = None
    found: datetime | None = None
    for one in samples:
        if one.members == 0:
            since = since or one.at
            if one.at >= published_at:
                found = since
        elif one.members is not None:
            since = None
    # It may have had none at the last position before the publication, and none was recorded since.
    return found, since


def reads_alone(samples: Sequence[PositionSample]) -> bool:
    """Tell whether a group moves on though it never has members: its reader assigns partitions.

    A look every second misses a member that stays for less: where one was seen, others may have
    been there.
    """
    if any(one.members for one in samples):
        return False
    steps = sum(
        before.members == 0 == after.members
        and before.committed is not None
        and after.committed is not None
        and after.committed > before.committed
        for before, after in pairwise(samples)
    )
    return steps >= STEPS_OF_A_READER


def _moved_alone(after: PositionSample) -> datetime | None:
    """Return when the offset stood past the record with nobody in the group: moved by hand."""
    return after.at if after.members == 0 else None


def _until(samples: Sequence[PositionSample], past: int) -> int:
    """Return where the samples end that tell of a record."""
    latest = samples[past].at + timedelta(seconds=AFTER_SECONDS)
    return bisect_left(samples, latest, key=lambda one: one.at)


def _member_left(samples: Sequence[PositionSample], past: int) -> PositionSample | None:
    latest = samples[past].at + timedelta(seconds=LEFT_SOON_SECONDS)
    members = samples[past].members
    for one in _from(samples, past + 1):
        if one.at > latest:
            return None
        if one.members is not None and members is not None and one.members < members:
            return one
        members = one.members if one.members is not None else members
    return None
