"""Hop 2: turns a page into batches and parked rows.

Invariant: no I/O; every row of a page ends up in exactly one batch or is parked. An order whose row
is parked has all its later rows parked too, so that nothing overtakes it: which orders those are is
remembered here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from relay.publish.reading.checkpoint import Parked
from relay.publish.reading.page import ERASED, Page
from relay.publish.reading.parked_orders import ParkedOrders
from relay.publish.reading.replays import Refused, Replayed
from relay.publish.sending.batch import Batch, batches
from relay.publish.sending.compression import Codec
from relay.publish.sending.partitioner import partitions
from relay.publish.sending.record import record_sizes, records_of
from relay.publish.sending.sizing import Sizing
from relay.publish.sending.wire_form import WireEncoder
from relay.runtime.flows import Routes
from relay.telemetry.identities import Identities, TraceColumns

NO_TOPIC: Final = "no_topic"
TOO_LARGE: Final = "too_large"
ORDER_PARKED: Final = "order_parked"
PARKED_FOR: Final = (NO_TOPIC, TOO_LARGE, ORDER_PARKED)
WAS_ERASED: Final = "erased"


@dataclass(slots=True)
class Prepared:
    """A page, ready to go."""

    batches: list[Batch]
    parked: list[Parked]
    trace: TraceColumns
    refused: tuple[Refused, ...] = ()


@dataclass(slots=True)
class Dispatcher:
    """Knows routes, partitions, limits and the parked orders."""

    routes: Routes
    encoder: WireEncoder
    identities: Identities
    sizing: Sizing
    codec: Codec
    parked_orders: ParkedOrders

    def topics(self, page: Page, replay: Replayed | None = None) -> set[str]:
        """Return the topics that a page's rows go to."""
        if replay is not None and replay.topic is not None:
            return {replay.topic}
        return self._topics(self._kinds(page))

    def _topics(self, kinds: Sequence[str]) -> set[str]:
        found = map(self.routes.topic, set(kinds))
        return {topic for topic in found if topic is not None}

    def _kinds(self, page: Page) -> Sequence[str]:
        return self.routes.kinds(page.aggregate_types, page.event_types)

    def doubtful_topics(self, page: Page, replay: Replayed | None = None) -> set[str]:
        """Return the topics that, as far as is known, may not take the page's largest rows."""
        if not page.ids:
            return set()
        largest, topics = max(page.sizes), self.topics(page, replay)
        if None in page.payloads:
            return topics
        return {topic for topic in topics if self.sizing.doubtful(topic, largest)}

    def prepare(self, page: Page, partition_counts: Mapping[str, int]) -> Prepared:
        """Encode a page and divide it."""
        trace = self.identities.of_rows(page.traceparents, page.tracestates, page.event_ids)
        kinds = self._kinds(page)
        tails = self.encoder.tails(page, kinds, trace.traceparents, trace.tracestates)
        sizes = record_sizes(tails)
        parked, held = self._park(page, kinds, sizes)
        by_topic = self._places_by_topic(kinds, held)
        return Prepared(
            self._batches(page, by_topic, tails, sizes, partition_counts), parked, trace
        )

    def prepare_replay(
        self, page: Page, partition_counts: Mapping[str, int], replay: Replayed
    ) -> Prepared:
        """Encode and divide rows that are sent again; what cannot go is refused, not parked."""
        if not page.ids:
            return Prepared([], [], TraceColumns([], [], []))
        trace = self.identities.of_rows(page.traceparents, page.tracestates, page.event_ids)
        kinds = self._kinds(page)
        tails = self.encoder.tails(
            page, kinds, trace.traceparents, trace.tracestates, replay.header
        )
        sizes = record_sizes(tails)
        by_topic: dict[str, list[int]] = {}
        refused: list[Refused] = []
        for place, outbox_id in enumerate(page.ids):
            topic = self._topic(kinds[place], replay)
            reason = self._reason_at(page, place, sizes, topic)
            if page.content_types[place] == ERASED:
                reason = WAS_ERASED
            if reason is None and topic is not None:
                by_topic.setdefault(topic, []).append(place)
            else:
                refused.append(Refused(outbox_id, reason or NO_TOPIC))
        ready = self._batches(page, by_topic, tails, sizes, partition_counts)
        return Prepared(ready, [], trace, tuple(refused))

    def _topic(self, kind: str, replay: Replayed | None = None) -> str | None:
        if replay is not None and replay.topic is not None:
            return replay.topic
        return self.routes.topic(kind)

    def _batches(
        self,
        page: Page,
        by_topic: Mapping[str, Sequence[int]],
        tails: Sequence[bytes],
        sizes: Sequence[int],
        partition_counts: Mapping[str, int],
    ) -> list[Batch]:
        now_ms = time.time_ns() // 1_000_000
        ready: list[Batch] = []
        for topic, places in by_topic.items():
            keys = page.keys if len(places) == len(page.keys) else [page.keys[n] for n in places]
            for batch in batches(
                topic=topic,
                places=places,
                partitions=partitions(keys, partition_counts[topic]),
                sizes=sizes,
                outbox_ids=page.ids,
                limit=self.sizing.limit(topic),
            ):
                batch.timestamp_ms = now_ms
                batch.records, batch.codec = self.codec.compressed(
                    records_of([tails[place] for place in batch.places])
                )
                ready.append(batch)
        return ready

    def _places_by_topic(self, kinds: Sequence[str], held: set[int]) -> dict[str, Sequence[int]]:
        topics = self._topics(kinds)
        if len(topics) == 1 and not held:
            return {topics.pop(): range(len(kinds))}
        topic_of = {kind: self.routes.topic(kind) for kind in set(kinds)}
        by_topic: dict[str, list[int]] = {}
        for place, kind in enumerate(kinds):
            topic = topic_of[kind]
            if topic is not None and place not in held:
                by_topic.setdefault(topic, []).append(place)
        return dict(by_topic)

    def _park(
        self, page: Page, kinds: Sequence[str], sizes: Sequence[int]
    ) -> tuple[list[Parked], set[int]]:
        """Return the rows that must wait, and their places."""
        if not self._suspicious(page, kinds, sizes):
            return [], set()
        parked: list[Parked] = []
        held: set[int] = set()
        for place, order in enumerate(zip(page.aggregate_types, page.names, strict=True)):
            waits = self.parked_orders.holds(*order)
            reason = ORDER_PARKED if waits else self._reason(page, kinds, place, sizes)
            if reason is None:
                continue
            self.parked_orders.add([order])
            held.add(place)
            parked.append(self._parked_row(page, place, kinds[place], reason))
        return parked, held

    def _suspicious(self, page: Page, kinds: Sequence[str], sizes: Sequence[int]) -> bool:
        """Tell cheaply whether any row may have to wait."""
        return bool(
            None in map(self.routes.topic, set(kinds))
            or not self.parked_orders.disjoint(page.names)
            or None in page.payloads
            or (self.sizing.too_large and not self.sizing.too_large.isdisjoint(page.ids))
            or any(self.sizing.refuses(topic, 0, max(sizes)) for topic in self._topics(kinds))
        )

    def _reason(
        self, page: Page, kinds: Sequence[str], place: int, sizes: Sequence[int]
    ) -> str | None:
        return self._reason_at(page, place, sizes, self._topic(kinds[place]))

    def _reason_at(
        self, page: Page, place: int, sizes: Sequence[int], topic: str | None
    ) -> str | None:
        if topic is None:
            return NO_TOPIC
        if page.payloads[place] is None:
            return TOO_LARGE
        refused = self.sizing.refuses(topic, page.ids[place], sizes[place])
        return TOO_LARGE if refused else None

    def _parked_row(self, page: Page, place: int, kind: str, reason: str) -> Parked:
        event_type, topic = page.event_types[place], self._topic(kind)
        whose = f" of {page.aggregate_types[place][:200]!r}" if kind != event_type else ""
        details = {
            NO_TOPIC: f"no topic is mapped to event type {event_type[:200]!r}{whose}",
            TOO_LARGE: f"an event of {page.sizes[place]} bytes is more than {topic} takes",
            ORDER_PARKED: "an earlier event of this order waits",
        }
        return Parked(
            outbox_id=page.ids[place],
            event_id=page.event_ids[place],
            aggregate_type=page.aggregate_types[place],
            aggregate_id=page.names[place].decode(),
            reason=reason,
            detail=details[reason],
            topic=topic,
            traceparent=page.traceparents[place],
        )
