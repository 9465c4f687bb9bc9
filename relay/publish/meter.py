"""Hop 2's numbers for Prometheus; without a registry nothing is counted.

Invariant: an update costs a page or a batch, never an event, and nothing here raises.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter

from relay.publish.sending.in_flight_pages import InFlightPage
from relay.publish.sending.record import microseconds
from relay.runtime.canary import count_canaries
from relay.runtime.outage import Resource
from relay.telemetry.metrics import Metrics

_2000: Final = 946_684_800
_MICRO: Final = 1e-6


@dataclass(slots=True)
class Meter:
    """Updates the metrics that belong to hop 2."""

    metrics: Metrics | None = None
    _lagged: bool = True
    _counters: dict[tuple[Counter, str], Counter] = field(default_factory=dict)

    def read(self, created_at: Sequence[bytes]) -> None:
        """Count a read of the outbox and how old its oldest row is."""
        if self.metrics is None:
            return
        self._count(self.metrics.polls, "rows" if created_at else "empty", 1)
        if created_at:
            (oldest,) = microseconds(created_at[:1])
            self.metrics.outbox_lag_seconds.set(_age_seconds(time.time(), oldest))
            self._lagged = True
        elif self._lagged:
            self.metrics.outbox_lag_seconds.set(0)
            self._lagged = False

    def written(self, pages: Sequence[InFlightPage]) -> None:
        """Count the events of pages that the checkpoint covers now; canaries are no business."""
        metrics = self.metrics
        if metrics is None:
            return
        ages: list[float] = []
        for page in pages:
            replayed = page.replay is not None
            counter = metrics.events_replayed if replayed else metrics.events_published
            for topic, count in _events(page).items():
                self._count(counter, topic, count)
            if not replayed:
                ages += _ages_seconds(page)
            for row in page.parked:
                self._count(metrics.events_parked, row.reason, 1)
        metrics.publish_latency_seconds.observe(ages)

    def _count(self, counter: Counter, label: str, count: int) -> None:
        """Add to a counter; prometheus_client takes longer to find it than to add."""
        key = counter, label
        found = self._counters.get(key)
        if found is None:
            found = self._counters[key] = counter.labels(label)
        found.inc(count)

    def rebuilt(self) -> None:
        """Count a producer that was thrown away."""
        if self.metrics is not None:
            self.metrics.producer_rebuilds.inc()

    def holds(self, shard: int, epoch: int, *, active: bool) -> None:
        """Say whether this relay is the active one."""
        if self.metrics is not None:
            self.metrics.active.labels(str(shard)).set(1 if active else 0)
            self.metrics.epoch.labels(str(shard)).set(epoch)

    def away(self, resource: Resource) -> None:
        """Say that database or broker do not answer."""
        if self.metrics is not None:
            self.metrics.dependency_up.labels(resource).set(0)

    def back(self, resource: Resource, seconds: float | None) -> None:
        """Say that it answers, after so long."""
        if self.metrics is not None:
            self.metrics.dependency_up.labels(resource).set(1)
            self.metrics.outage_seconds.labels(resource).inc(seconds or 0)


def _events(page: InFlightPage) -> dict[str, int]:
    """Return how many events of a page each topic has; of first occurrences without canaries."""
    keys = page.sent.keys
    canaries = page.replay is None and count_canaries(keys) > 0
    counts: dict[str, int] = {}
    for batch, _ in page.acknowledged:
        count = len(batch.places)
        if canaries:
            count -= count_canaries([keys[place] for place in batch.places])
        counts[batch.topic] = counts.get(batch.topic, 0) + count
    return counts


def _ages_seconds(page: InFlightPage) -> list[float]:
    """Return how old each of a page's events was when the broker had the last of them."""
    created_at = page.sent.created_at
    if page.parked:
        sent = [place for batch, _ in page.acknowledged for place in batch.places]
        created_at = [created_at[place] for place in sent]
    at = page.acknowledged_at
    return [_age_seconds(at, created) for created in microseconds(created_at)]


def _age_seconds(at: float, created: int) -> float:
    return max(0.0, at - _2000 - created * _MICRO)
