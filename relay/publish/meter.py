"""Hop 2's numbers for Prometheus; without a registry nothing is counted.

Invariant: an update costs a page or a batch, never an event, and nothing here raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter

from relay.publish.sending.dispatch import PARKED_FOR
from relay.publish.sending.in_flight_pages import InFlightPage
from relay.publish.sending.record import microseconds
from relay.runtime.canary import count_canaries
from relay.runtime.progress_mark import ProgressMark
from relay.telemetry.batch_histogram import BatchHistogram
from relay.telemetry.metrics import Metrics, known

_2000: Final = 946_684_800
_MICRO: Final = 1e-6
# Among so many of a page a sampled event is looked for, to show its trace.
_LOOKED_AT: Final = 8


@dataclass(slots=True)
class Meter:
    """Updates the metrics that belong to hop 2, and marks the turns of its loops."""

    metrics: Metrics | None = None
    mark: ProgressMark = field(default_factory=ProgressMark)
    _counters: dict[tuple[Counter, str], Counter] = field(default_factory=dict)

    def begin(self, shard: int, topics: Iterable[str]) -> None:
        """Let the counters begin at 0, and say that this relay is not active yet."""
        if self.metrics is not None:
            publish = self.metrics.publish
            publish.active.labels(str(shard)).set(0)
            known(publish.events_published, topics)
            known(publish.events_replayed, topics)
            known(publish.events_parked, PARKED_FOR)

    def read(self, rows: int) -> None:
        """Count a read of the outbox."""
        if self.metrics is not None:
            self._count(self.metrics.publish.polls, "rows" if rows else "empty", 1)

    def written(self, pages: Sequence[InFlightPage]) -> None:
        """Count the events of pages that the checkpoint covers now; canaries are no business."""
        if self.metrics is None:
            return
        metrics, ages = self.metrics.publish, list[float]()
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
        for page in pages[:1]:
            _show_example(metrics.publish_latency_seconds, page)

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
            self.metrics.publish.producer_rebuilds.inc()

    def unproven(self, transactions: int) -> None:
        """Say how many transactions have a row that nobody's record proves."""
        if self.metrics is not None:
            self.metrics.witness.unproven.set(transactions)

    def holds(self, shard: int, epoch: int, *, active: bool) -> None:
        """Say whether this relay is the active one."""
        if self.metrics is not None:
            publish = self.metrics.publish
            publish.active.labels(str(shard)).set(1 if active else 0)
            if active:
                publish.epoch.labels(str(shard)).set(epoch)
            else:
                publish.epoch.clear()


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


def _show_example(latency: BatchHistogram, page: InFlightPage) -> None:
    """Show the trace of one of a page's oldest events, the slowest, where it is sampled."""
    if page.replay is not None or page.parked:
        return
    sent = page.sent
    for place, identity in enumerate(sent.identities[:_LOOKED_AT]):
        if identity is not None:
            (created,) = microseconds(sent.created_at[place : place + 1])
            latency.exemplar(_age_seconds(page.acknowledged_at, created), identity[:16].hex())
            return


def _age_seconds(at: float, created: int) -> float:
    return max(0.0, at - _2000 - created * _MICRO)
