"""Hop 2: turns a page into batches and parked rows.

Invariant: pure but for the clock; every row of a page ends up in exactly one batch or is parked. An
order whose row is parked has all its later rows parked too, so that nothing overtakes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.publish.batch import Batch, Limit, batches
from relay.publish.checkpoint import Parked
from relay.publish.page import Page
from relay.publish.partitioner import Partitioner
from relay.publish.publisher import EncodedBatch
from relay.publish.record import RecordEncoder, record_sizes, records_of
from relay.runtime.flow import EventRoute
from relay.telemetry.identities import Identities, TraceColumns

NO_TOPIC: Final = "no_topic"
TOO_LARGE: Final = "too_large"
ORDER_PARKED: Final = "order_parked"


@dataclass(slots=True)
class Sizing:
    """What topics take: known from the broker, or learned from its refusals."""

    default: Limit
    by_topic: dict[str, Limit] = field(default_factory=dict)
    too_large: set[int] = field(default_factory=set)

    def limit(self, topic: str) -> Limit:
        """Return what a topic takes in one batch."""
        return self.by_topic.get(topic, self.default)

    def refused(self, topic: str, outbox_ids: Sequence[int], size_bytes: int) -> None:
        """Learn from a refused batch: its only record is too large, or batches must be smaller."""
        if len(outbox_ids) == 1:
            self.too_large.add(outbox_ids[0])
        else:
            self.by_topic[topic] = self.limit(topic).halved(size_bytes, len(outbox_ids))


@dataclass(slots=True)
class Prepared:
    """A page, ready to go."""

    batches: list[tuple[Batch, EncodedBatch]]
    parked: list[Parked]
    trace: TraceColumns


@dataclass(slots=True)
class Dispatcher:
    """Knows routes, partitions, limits and the parked orders."""

    routes: Mapping[str, EventRoute]
    encoder: RecordEncoder
    identities: Identities
    sizing: Sizing
    parked_orders: set[bytes]
    partitioner: Partitioner = field(default_factory=Partitioner)

    def topics(self, page: Page) -> set[str]:
        """Return the topics that a page's rows go to."""
        routes = self.routes
        return {routes[event_type].topic for event_type in set(page.event_types) & routes.keys()}

    def prepare(self, page: Page, partition_counts: Mapping[str, int]) -> Prepared:
        """Encode a page and divide it."""
        trace = self.identities.of_rows(page.traceparents, page.tracestates, page.event_ids)
        tails = self.encoder.tails(page, trace.traceparents, trace.tracestates)
        sizes = record_sizes(tails)
        parked, held = self._park(page, sizes)
        now_ms = time.time_ns() // 1_000_000
        ready: list[tuple[Batch, EncodedBatch]] = []
        for topic, places in self._places_by_topic(page, held).items():
            keys = page.keys if len(places) == len(page.keys) else [page.keys[n] for n in places]
            numbers = self.partitioner.partitions(keys, partition_counts[topic])
            for batch in batches(
                topic=topic,
                places=places,
                partitions=numbers,
                sizes=sizes,
                outbox_ids=page.ids,
                limit=self.sizing.limit(topic),
            ):
                records = records_of([tails[place] for place in batch.places])
                ready.append((batch, EncodedBatch(records, len(batch.places), now_ms)))
        return Prepared(ready, parked, trace)

    def _places_by_topic(self, page: Page, held: set[int]) -> dict[str, Sequence[int]]:
        topics = self.topics(page)
        if len(topics) == 1 and not held:
            return {topics.pop(): range(len(page.ids))}
        by_topic: dict[str, list[int]] = {}
        for place, event_type in enumerate(page.event_types):
            if place not in held:
                by_topic.setdefault(self.routes[event_type].topic, []).append(place)
        return dict(by_topic)

    def _park(self, page: Page, sizes: Sequence[int]) -> tuple[list[Parked], set[int]]:
        """Return the rows that must wait, and their places."""
        if not self._suspicious(page):
            return [], set()
        parked: list[Parked] = []
        held: set[int] = set()
        for place, key in enumerate(page.keys):
            reason = ORDER_PARKED if key in self.parked_orders else self._reason(page, place)
            if reason is None:
                continue
            self.parked_orders.add(key)
            held.add(place)
            parked.append(self._parked_row(page, place, reason, sizes[place]))
        return parked, held

    def _suspicious(self, page: Page) -> bool:
        """Tell cheaply whether any row may have to wait."""
        return bool(
            not self.routes.keys() >= set(page.event_types)
            or (self.parked_orders and not self.parked_orders.isdisjoint(page.keys))
            or (self.sizing.too_large and not self.sizing.too_large.isdisjoint(page.ids))
        )

    def _reason(self, page: Page, place: int) -> str | None:
        if page.event_types[place] not in self.routes:
            return NO_TOPIC
        return TOO_LARGE if page.ids[place] in self.sizing.too_large else None

    def _parked_row(self, page: Page, place: int, reason: str, size_bytes: int) -> Parked:
        event_type = page.event_types[place]
        route = self.routes.get(event_type)
        topic = None if route is None else route.topic
        details = {
            NO_TOPIC: f"no topic is mapped to event type {event_type[:200]!r}",
            TOO_LARGE: f"{size_bytes} bytes is more than {topic} takes",
            ORDER_PARKED: "an earlier event of this order waits",
        }
        return Parked(
            outbox_id=page.ids[place],
            event_id=page.event_ids[place],
            aggregate_id=page.keys[place].decode(),
            reason=reason,
            detail=details[reason],
            topic=topic,
            traceparent=page.traceparents[place],
        )
