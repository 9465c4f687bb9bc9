"""Hop 4: what could not be looked at of what may hold an order's return: pure functions.

Invariant: "" only where nothing is left out; what is not known of the topic was not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.order import Delivery
from relay.diagnose.evidence.rows import EventRow
from relay.diagnose.evidence.system_state import Missing, SystemState, TopicSeen
from relay.diagnose.gather.scan import ScanResult
from relay.runtime.flow import Flow

_RANGES_NAMED: Final = 5


def unlooked_returns(
    flow: Flow,
    around: SystemState,
    scan: ScanResult,
    deliveries: Sequence[Delivery],
    chosen: EventRow | None,
) -> tuple[str, Cause]:
    """Say in words what could not be looked at, and why.

    Args:
        flow: names the returns topic.
        around: what is known of that topic, and of the consumer.
        scan: what reading it came to.
        deliveries: of the order's event; none: it was never published.
        chosen: that event.
    """
    topic = flow.returns_topic
    parts = []
    if scan.unread:
        left = ", ".join(f"{topic}[{number}]" for number in sorted(scan.unread))
        parts.append(f"{left}: not read to the end")
    gone = scan.deleted_since(deliveries[0].published_at) if deliveries else []
    parts += [f"{topic}[{number}]: {_gone(number, scan)}" for number in gone]
    parts += [
        f"{topic}[{number}]: {count} offsets hold no record (compaction)"
        for number, count in sorted(scan.holes.items())
    ]
    cause = Cause.RECORDS_DELETED if gone else Cause.COMPACTED
    if gone and scan.made_again.issuperset(gone):
        cause = Cause.TOPIC_RECREATED
    for what, why in _unknown_of_topic(topic, around, scan, deliveries, chosen):
        cause = cause if parts else why
        parts.append(what)
    return "; ".join(parts), Cause.SCAN_INCOMPLETE if scan.unread else cause


def _gone(number: int, scan: ScanResult) -> str:
    if number in scan.made_again:
        return "the topic was made again, and records went with it before they were read"
    return "records were deleted before they were read"


def _unknown_of_topic(
    topic: str,
    around: SystemState,
    scan: ScanResult,
    deliveries: Sequence[Delivery],
    chosen: EventRow | None,
) -> list[tuple[str, Cause]]:
    """Return what else may have held a return, in words, and why nobody can look there."""
    if not deliveries:
        return []
    found: list[tuple[str, Cause]] = []
    topics = around.topics
    compacted = None if isinstance(topics, Missing) else _compacted(topics.get(topic))
    if compacted is not None and _came_over_empty(around, deliveries):
        found.append(compacted)
    # Ranges that may hold a return to this event and that nobody can look at.
    hidden = [
        one for one in scan.unseen if chosen is not None and one.may_hide_since(chosen.created_at)
    ]
    unreadable = any(one.unreadable for one in hidden)
    why = Cause.CODEC_MISSING if unreadable else Cause.PAST_RETENTION
    found += [(one.text(topic), why) for one in hidden[:_RANGES_NAMED]]
    if len(hidden) > _RANGES_NAMED:
        found.append((f"{len(hidden) - _RANGES_NAMED} more such ranges", why))
    consumer = around.consumer
    if not isinstance(consumer, Missing) and (consumer.set_aside_cut or consumer.gaps_cut):
        aside = "ranges were set aside without order ids"
        what = aside if consumer.set_aside_cut else "gaps were recorded"
        found.append((f"more {what} than are looked at", Cause.PAST_RETENTION))
    return found


def _compacted(topic: TopicSeen | None) -> tuple[str, Cause] | None:
    """Say that records may have been compacted away, or that nobody knows; None: they were not."""
    if topic is None:
        return None
    if topic.settings is not None:
        said = f"whether {topic.name} is compacted is not known ({topic.settings.detail})"
        return said, topic.settings.cause
    if not topic.compacted:
        return None
    said = f"{topic.name} is compacted: returns may be gone that nobody had read"
    return said, Cause.COMPACTED


def _came_over_empty(around: SystemState, deliveries: Sequence[Delivery]) -> bool:
    """Tell whether the consumer came over offsets without a record since the publication."""
    consumer = around.consumer
    if isinstance(consumer, Missing):
        return True
    since = deliveries[0].published_at
    return any(at >= since for at in consumer.empty_offsets_at)
