"""Hops 2 and 5: histograms that take a batch of values at once, with exemplars.

Invariant: a value costs 30 ns (`prometheus_client.Histogram.observe` costs over a microsecond), an
exemplar costs a batch. Exemplars leave in the OpenMetrics format only, one a bucket, the newest:
https://prometheus.io/docs/specs/om/open_metrics_spec/#exemplars
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

# From one millisecond (the goal is 3 at the median) to the night that a relay was down.
LATENCY_SECONDS: Final = (
    *(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0),
)


class BatchHistogram(Collector):
    """A histogram that takes a batch of values at once.

    Args:
        name: with its unit.
        says: the HELP text, a sentence.
        registry: it registers itself there.
        edges: upper ends of the buckets, without infinity.
    """

    def __init__(
        self,
        name: str,
        says: str,
        registry: CollectorRegistry,
        edges: Sequence[float] = LATENCY_SECONDS,
    ) -> None:
        self._name = name
        self._says = says
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) + 1)
        self._exemplars: list[Exemplar | None] = [None] * (len(self._edges) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: Iterable[float]) -> None:
        """Count the values, in any order."""
        ordered = sorted(values)
        below = 0
        for index, edge in enumerate(self._edges):
            up_to = bisect_right(ordered, edge, below)
            self._counts[index] += up_to - below
            below = up_to
        self._counts[-1] += len(ordered) - below
        self._sum += sum(ordered)

    def exemplar(self, value: float, trace_id: str) -> None:
        """Show one of the values that were counted as an example, by the trace that it is of.

        Args:
            value: one that `observe` was given.
            trace_id: 32 hexadecimal digits, of a sampled trace: a link to nothing helps nobody.
        """
        bucket = bisect_left(self._edges, value)
        self._exemplars[bucket] = Exemplar({"trace_id": trace_id}, value, time.time())

    def collect(self) -> Iterable[Metric]:
        """Yield the histogram as Prometheus wants it: counts of everything up to each edge."""
        total = 0
        buckets: list[Any] = []  # the library's own type knows no None in the exemplar's place
        edges = (*map(repr, self._edges), "+Inf")
        for edge, count, shown in zip(edges, self._counts, self._exemplars, strict=True):
            total += count
            buckets.append((edge, total, shown))
        yield HistogramMetricFamily(self._name, self._says, buckets=buckets, sum_value=self._sum)
