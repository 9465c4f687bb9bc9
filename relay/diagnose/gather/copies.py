"""Hop 3: finds the copies of events that a processor group reads instead of the flow's own topics.

Invariant: reads only, and only where a group of the flow reads another topic: a mirror, a
re-partitioned copy, a topic's former name. A copy is known by its event's id, else by its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.order import Delivery
from relay.diagnose.evidence.system_state import GroupSeen, Missing
from relay.kafka.broker import EARLIEST, LATEST, Broker
from relay.kafka.event_headers import event_id_text
from relay.kafka.partition import Partition
from relay.kafka.ranges import RangeReader, seen
from relay.orders.keys import canonical_event_id
from relay.runtime.flow import Flow
from relay.runtime.times import later, to_milliseconds

# A copy has its record's time, or that of whoever copied it.
_CLOCK_SLACK_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Copies:
    """Where copies stand, by event id.

    Attributes:
        missing: why those that are not among them may be there all the same; None: they are not.
    """

    found: Mapping[str, Delivery] = field(default_factory=dict)
    missing: Missing | None = None

    def of(self, event_id: str) -> Delivery | Missing | None:
        """Return where an event's copy stands; None: there is none."""
        return self.found.get(canonical_event_id(event_id)) or self.missing


def read_instead(flow: Flow, groups: Mapping[str, GroupSeen]) -> list[str]:
    """Return the topics that its processor groups read in place of the flow's own.

    A group that reads one of the flow's reads others beside it, and no copies.
    """
    topics: set[str] = set()
    for group in groups.values():
        topics |= other_topics(flow, group.subscribed, group.committed)
    return sorted(topics)


def other_topics(
    flow: Flow, subscribed: frozenset[str] | None, committed: Iterable[Partition]
) -> set[str]:
    """Return the topics that one group reads in place of the flow's own, as far as is known."""
    passed = {topic for topic, _number in committed}
    read = subscribed if subscribed is not None else passed
    return set() if flow.topics & read else passed.union(read) - flow.topics - {flow.returns_topic}


async def find_copies(
    broker: Broker,
    topics: Sequence[str],
    wanted: Mapping[str, str],
    *,
    since: datetime,
    deadline: float,
) -> Copies:
    """Search topics for copies.

    Args:
        broker: connected.
        topics: that are read instead.
        wanted: event id -> order id.
        since: when the first of the events was written.
        deadline: by the event loop's clock.
    """
    partitions = [one for topic in topics for one in broker.partitions(topic)]
    ends = await broker.offsets(partitions, LATEST)
    starts = await broker.offsets(partitions, EARLIEST)
    young = to_milliseconds(later(since, -_CLOCK_SLACK_SECONDS))
    times = await broker.offsets(partitions, young)
    spans = {one: (max(times.get(one, end), starts.get(one, 0)), end) for one, end in ends.items()}
    by_event = {canonical_event_id(event): event for event in wanted}
    by_order = {order: canonical_event_id(event) for event, order in wanted.items()}
    reader = RangeReader(broker, spans, committed=False, pass_over=True)
    found: dict[str, Delivery] = {}
    async for where, records in reader.rounds(deadline):
        for record in records:
            event = _event_of(record, by_order)
            if event in by_event:
                found[event] = Delivery(*where, record.offset, seen(where, record).recorded_at)
        await asyncio.sleep(0)
    if not reader.left and not reader.lost and not reader.unreadable:
        return Copies(found)
    missing = Missing(
        f"the copies of events on {', '.join(topics)}",
        Cause.SCAN_INCOMPLETE,
        f"{reader.count} records were read, not to the end",
        "relay diagnose ORDER --scan-seconds 600",
    )
    return Copies(found, missing)


def _event_of(record: Any, by_order: Mapping[str, str]) -> str | None:
    """Return the event that a record is a copy of; without its id, its order's."""
    text = event_id_text(record.headers)
    if text is not None:
        return canonical_event_id(text)
    return None if record.key is None else by_order.get(record.key.decode("utf-8", "replace"))
