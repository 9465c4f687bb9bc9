"""Hop 4: which offsets of a partition have to be read before anybody may say "no return": pure.

Invariant: what is left out lies before the consumer's own next offset (inbox, quarantine and
recorded gaps vouch for it), or before where the log ended when the order did not exist yet. What
else cannot be read is named as deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from relay.diagnose.evidence.system_state import ConsumerOffset, Gap, SetAside, Shrink

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """A partition's log: its start, where the first open transaction begins, its high watermark."""

    start: int
    stable_end: int
    end: int


@dataclass(frozen=True, slots=True)
class Look:
    """What to read of a partition.

    Attributes:
        unhandled: what nobody vouches for, as far as it is still there.
        skipped: around what the consumer recorded as never seen, or set aside without order ids, as
            far as it is still there.
        handled: what the consumer has handled, from about the order's time on: a cross-check.
        log: behind its `stable_end` nothing is applied before a transaction ends.
        lost: the log begins behind the consumer's offset, or is another one.
        another: it is another one than that which the consumer had read, or recorded a gap of.
        deleted_at: the times at which records were found deleted unread; None: only now.
    """

    unhandled: Span
    skipped: Span
    handled: Span
    log: Bounds
    lost: bool
    another: bool = False
    deleted_at: tuple[datetime | None, ...] = ()


def look_at(
    log: Bounds,
    position: ConsumerOffset | None,
    gaps: Sequence[Gap],
    shrinks: Sequence[Shrink],
    *,
    floor: int | None,
    since: int,
    set_aside: Sequence[SetAside] = (),
) -> Look:
    """Decide what to read of one partition.

    Args:
        log: as it is now.
        position: the consumer's; None: it has handled nothing, or is not known.
        gaps: offsets that the consumer recorded as never seen.
        shrinks: when this log was seen to be made again, since the first order was placed.
        floor: where the log was recorded to end before the first order was placed.
        since: the first offset whose record claims to be young enough; a hint, and no bound.
        set_aside: what the consumer kept no order ids of.
    """
    handled_to = None if position is None else position.next_offset
    another = handled_to is not None and handled_to > log.end
    usable = floor is not None and floor <= log.end and not shrinks
    floor = floor if usable else None
    first = max(0 if handled_to is None or another else handled_to, floor or 0)
    start = max(first, log.start)
    edge = start if handled_to is None or another else min(max(handled_to, log.start), log.end)
    lost = handled_to is not None and (log.start > handled_to or another)
    deleted: list[datetime | None] = [
        gap.noticed_at for gap in gaps if _is_gone(gap, log, floor, shrinks)
    ]
    if another and handled_to is not None:
        deleted += [] if _all_handled(handled_to, shrinks) else [None]
    elif log.start > first:
        deleted.append(None)
    return Look(
        unhandled=(min(start, log.end), log.end),
        skipped=_skipped(log, [*gaps, *set_aside], edge),
        handled=(min(max(since, log.start), edge), edge),
        log=log,
        lost=lost,
        another=another or any(gap.of_another_log for gap in gaps),
        deleted_at=tuple(deleted),
    )


def _skipped(log: Bounds, passed: Sequence[Gap | SetAside], edge: int) -> Span:
    """Return the offsets that the consumer went past, and that still are in this log."""
    there = [
        one
        for one in passed
        if one.to_offset > log.start and not (isinstance(one, Gap) and one.of_another_log)
    ]
    return (
        max(log.start, min((one.from_offset for one in there), default=edge)),
        min(edge, max((one.to_offset for one in there), default=0)),
    )


def _is_gone(gap: Gap, log: Bounds, floor: int | None, shrinks: Sequence[Shrink]) -> bool:
    """Tell whether what a gap covers may have been a return of an order, and is gone."""
    if gap.of_another_log:
        return not _all_handled(gap.from_offset, shrinks)
    return gap.from_offset < log.start and gap.to_offset > (floor or 0)


def _all_handled(handled_to: int, shrinks: Sequence[Shrink]) -> bool:
    """Tell whether the consumer had come to the end of the log that was made again."""
    return any(shrink.before_end <= handled_to for shrink in shrinks)
