"""Hop 3: reads a group's recorded positions: how it came past a record, or that it did not.

Invariant: pure. What was not recorded is not guessed: without a position from before, there is a
crossing without a story.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from relay.diagnose.evidence.order import Crossing, Waiting

# A member that leaves later than this after the commit had time to answer.
LEFT_SOON_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class PositionSample:
    """One recorded position of a group on a partition.

    Attributes:
        committed: None when the group had committed nothing there.
        members: of the whole group; None when they could not be read.
    """

    at: datetime
    committed: int | None
    members: int | None
    log_start: int | None = None


def crossing(
    group: str, samples: Sequence[PositionSample], offset: int, published_at: datetime
) -> Crossing | None:
    """Return how a group came past an offset, or None when no position past it was recorded.

    Args:
        group: its name.
        samples: of one partition, by time, from shortly before the record was published.
        offset: the record's.
        published_at: when the record was acknowledged.
    """
    past = next((n for n, one in enumerate(samples) if _is_past(one, offset)), None)
    if past is None:
        return None
    after = samples[past]
    before = samples[past - 1] if past else after
    left = _member_left(samples[past:], after.at)
    return Crossing(
        group=group,
        before_at=before.at,
        before_offset=_standing(before, offset) if past else offset,
        before_members=before.members,
        after_at=after.at,
        after_offset=after.committed or 0,
        after_members=after.members,
        unattended_from_at=_unattended_from(samples[:past], published_at) or _moved_alone(after),
        members_left_at=left.at if left else None,
        left_offset=left.committed if left else None,
        log_start=after.log_start,
    )


def waiting(samples: Sequence[PositionSample], offset: int) -> Waiting | None:
    """Return the last recorded position, when no position past the offset was ever recorded."""
    ever = any(one.committed is not None or one.members for one in samples)
    if not ever or any(_is_past(one, offset) for one in samples):
        return None  # nothing was recorded of it, or there was no such group
    last = samples[-1]
    return Waiting(last.at, _standing(last, offset), last.members)


def _is_past(sample: PositionSample, offset: int) -> bool:
    return sample.committed is not None and sample.committed > offset


def _standing(sample: PositionSample, offset: int) -> int:
    if sample.committed is not None:
        return sample.committed
    return min(sample.log_start if sample.log_start is not None else 0, offset)


def _unattended_from(samples: Sequence[PositionSample], published_at: datetime) -> datetime | None:
    """Return since when the group had no members, if it had none while the record waited."""
    since: datetime | None = None
    found: datetime | None = None
    for one in samples:
        if one.members == 0:
            since = since or one.at
            if one.at >= published_at:
                found = since
        elif one.members is not None:
            since = None
    # It had none at the last position before the publication, and nothing was recorded since.
    return found or since


def _moved_alone(after: PositionSample) -> datetime | None:
    """Return when the offset stood past the record with nobody in the group: moved by hand."""
    return after.at if after.members == 0 else None


def _member_left(samples: Sequence[PositionSample], after_at: datetime) -> PositionSample | None:
    latest = after_at + timedelta(seconds=LEFT_SOON_SECONDS)
    members = samples[0].members
    for one in samples[1:]:
        if one.at > latest:
            return None
        if one.members is not None and members is not None and one.members < members:
            return one
        members = one.members if one.members is not None else members
    return None
