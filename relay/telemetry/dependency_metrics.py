"""Hops 2 and 5: whether database and broker answer, and for how long they did not.

Invariant: nothing is said of a dependency that was never asked for; an outage counts while it
lasts, and not once it is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class DependencyMetrics(Collector):
    """`relay_dependency_up` and `relay_outage_seconds_total` of one process."""

    def __init__(
        self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._away_since: dict[str, float | None] = {}
        self._seconds: dict[str, float] = {}
        registry.register(self)

    def away(self, dependency: str) -> None:
        """Note that it does not answer."""
        if self._away_since.get(dependency) is None:
            self._away_since[dependency] = self._clock()
        self._seconds.setdefault(dependency, 0.0)

    def back(self, dependency: str) -> None:
        """Note that it answers."""
        since = self._away_since.get(dependency)
        before = self._seconds.get(dependency, 0.0)
        self._seconds[dependency] = before if since is None else before + self._clock() - since
        self._away_since[dependency] = None

    def collect(self) -> Iterable[Metric]:
        """Yield both metrics."""
        up = GaugeMetricFamily(
            "relay_dependency_up",
            "Whether the dependency answers this process: 1 when it does, 0 when it does not.",
            labels=["dependency"],
        )
        seconds = CounterMetricFamily(
            "relay_outage_seconds",
            "Time in seconds for which this process could not use the dependency.",
            labels=["dependency"],
        )
        now = self._clock()
        for dependency, since in self._away_since.items():
            up.add_metric([dependency], float(since is None))
            lasting = 0.0 if since is None else now - since
            seconds.add_metric([dependency], self._seconds[dependency] + lasting)
        yield up
        yield seconds
