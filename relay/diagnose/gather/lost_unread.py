"""Hop 5: why records of the returns topic are gone that the consumer had not applied.

Invariant: pure; None where nothing proves that any is.
"""

from __future__ import annotations

from datetime import datetime

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.system_state import Missing, SystemState, TopicSeen


def unread_lost(
    around: SystemState,
    topic: TopicSeen,
    home: int,
    published_at: datetime,
    *,
    lost: bool,
    made_again: bool,
) -> Cause | None:
    """Say why records are gone from a partition of the returns topic before they were applied.

    Args:
        around: the consumer's position and gaps.
        topic: the returns topic.
        home: the partition.
        published_at: what was lost before then does not matter.
        lost: the log lies beyond the consumer's position now.
        made_again: it is another one than that which the consumer had read.
    """
    if isinstance(around.consumer, Missing):
        return None
    gaps = [
        gap
        for gap in around.consumer.gaps
        if gap.partition == home and gap.noticed_at >= published_at
    ]
    position = around.consumer.offsets.get(home)
    handled = [gap.from_offset for gap in gaps]
    handled += [position.next_offset] if lost and position is not None else []
    for shrink in topic.shrinks:
        if shrink.partition == home and shrink.after_at >= published_at:
            if any(shrink.before_end > offset for offset in handled):
                return Cause.TOPIC_RECREATED
            return None
    if lost and made_again:
        return Cause.TOPIC_RECREATED
    if any(gap.reason == "out_of_range" for gap in gaps) or lost:
        return _deleted(around, topic, published_at)
    return None


def _deleted(around: SystemState, topic: TopicSeen, published_at: datetime) -> Cause | None:
    if topic.settings is not None:
        return None  # by retention, or by a hand: nobody can say
    age = (around.now_at - published_at).total_seconds()
    kept = topic.retention_seconds
    return Cause.RECORDS_DELETED if kept is None or age < kept else Cause.RECORD_EXPIRED
