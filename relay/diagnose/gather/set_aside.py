"""Hops 4 and 5: which returns were set aside without order ids, and are not seen on Kafka: pure.

Invariant: what stands in such a range may be any order's return that was placed before the record
was there, and no order's that was placed later. A range that was read again on Kafka hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from relay.diagnose.evidence.system_state import ConsumerSeen, Shrink
from relay.diagnose.gather.looks import Look, Span


@dataclass(frozen=True, slots=True)
class Unseen:
    """Offsets of a partition, from and to (excluded), whose returns nobody can look at.

    Attributes:
        there_at: a time at which the records were there already; None: only now.
        unreadable: they cannot be read; otherwise they were refused, and only their place is known.
    """

    partition: int
    from_offset: int
    to_offset: int
    there_at: datetime | None
    unreadable: bool

    def may_hide_since(self, at: datetime) -> bool:
        """Tell whether a return of an order that was placed then may be among them."""
        return self.there_at is None or self.there_at >= at

    def text(self, topic: str) -> str:
        """Return it in words."""
        where = f"{topic}[{self.partition}], offsets {self.from_offset} to {self.to_offset - 1}"
        why = (
            "cannot be read"
            if self.unreadable
            else "were refused without being kept, and are no longer on Kafka"
        )
        return f"{where}: {why}"


def unseen(
    number: int,
    look: Look | None,
    on_kafka: Sequence[Span],
    consumer: ConsumerSeen,
    shrinks: Sequence[Shrink],
) -> Iterator[Unseen]:
    """Return what nobody can look at of one partition.

    Args:
        number: the partition's.
        look: what was decided to be read; None: the partition is not there.
        on_kafka: what could not be read, among what the consumer has not handled and around gaps.
        consumer: what it set aside, and what it recorded as never seen.
        shrinks: when a log was seen to be made again.
    """
    recorded = [one for one in consumer.set_aside if one.partition == number]
    shrinks = [shrink for shrink in shrinks if shrink.partition == number]
    for one in recorded:
        again = any(shrink.after_at >= one.first_seen_at for shrink in shrinks)
        span = one.from_offset, one.to_offset
        gone = look is None or one.from_offset < look.log.start or one.to_offset > look.log.end
        still = any(_overlap(span, other) for other in on_kafka)
        if gone or again or still:
            # A row that was raised again may stand for a record of the log that was made again.
            there_at = one.last_seen_at if again else one.first_seen_at
            yield Unseen(number, *span, there_at, one.unreadable or (still and not gone))
    known = [(one.from_offset, one.to_offset) for one in recorded]
    unknown = [] if look is None else [look.unhandled]
    unknown += [
        (gap.from_offset, gap.to_offset)
        for gap in consumer.gaps
        if gap.partition == number and not gap.of_another_log
    ]
    for span in on_kafka:
        if any(_overlap(span, one) for one in unknown) and not any(
            one[0] <= span[0] and span[1] <= one[1] for one in known
        ):
            yield Unseen(number, *span, None, unreadable=True)


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
