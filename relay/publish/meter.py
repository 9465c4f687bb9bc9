"""Hop 2's numbers for Prometheus; without a registry nothing is counted.

Invariant: an update costs a page or a batch, never an event, and nothing here raises.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.publish.record import microseconds
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
    _ages: list[float] = field(default_factory=list)

    def read(self, created_at: Sequence[bytes]) -> None:
        """Count a read of the outbox and how old its oldest row is."""
        if self.metrics is None:
            return
        if created_at:
            self.metrics.polls.labels("rows").inc()
            self.metrics.outbox_lag_seconds.set(_age_seconds(created_at[:1])[0])
            self._lagged = True
            return
        self.metrics.polls.labels("empty").inc()
        if self._lagged:
            self.metrics.outbox_lag_seconds.set(0)
            self._lagged = False

    def acknowledged(self, topic: str, keys: Sequence[bytes], created_at: Sequence[bytes]) -> None:
        """Count a batch that the broker has; canaries are no business."""
        if self.metrics is not None:
            self.metrics.events_published.labels(topic).inc(len(keys) - count_canaries(keys))
            self._ages += _age_seconds(created_at)

    def replayed(self, topic: str, count: int) -> None:
        """Count events that the broker has once more."""
        if self.metrics is not None:
            self.metrics.events_replayed.labels(topic).inc(count)

    def written(self, reasons: Sequence[str]) -> None:
        """Count what the checkpoint covers now, and the reasons of rows put in quarantine."""
        if self.metrics is not None:
            self.metrics.publish_latency_seconds.observe(self._ages)
            self._ages.clear()
            for reason in reasons:
                self.metrics.events_parked.labels(reason).inc()

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


def _age_seconds(created_at: Sequence[bytes]) -> list[float]:
    now = (time.time() - _2000) / _MICRO
    return [max(0.0, (now - created) * _MICRO) for created in microseconds(created_at)]
