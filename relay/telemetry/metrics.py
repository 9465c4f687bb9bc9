"""Every hop's numbers, for Prometheus: one registry a process, names in one place.

Invariant: an update costs a batch, not an event; labels come from closed lists or settings, never
from data, so the number of series is bounded. Nothing here raises in a hop.

| metric | kind | labels | says |
| --- | --- | --- | --- |
| relay_build_info | gauge | version, kind | 1; which program this is |
| relay_active | gauge | shard | 1 while this relay holds the shard's lease |
| relay_epoch | gauge | shard | the lease's epoch |
| relay_events_published_total | counter | topic | events the broker acknowledged |
| relay_events_replayed_total | counter | topic | events sent again by a replay |
| relay_events_parked_total | counter | reason | events put into quarantine before Kafka |
| relay_publish_latency_seconds | histogram | | an event's append to its acknowledgement |
| relay_outbox_lag_seconds | gauge | | age of the oldest row not yet published; 0: none |
| relay_polls_total | counter | result | reads of the outbox: rows, empty |
| relay_producer_rebuilds_total | counter | | producers thrown away after an error |
| relay_returns_total | counter | outcome | returns handled, by what became of them |
| relay_return_latency_seconds | histogram | | an order's submission to its applied return |
| relay_trace_continuity_total | counter | result | a sample of returns, by how their trace agrees |
| relay_returns_pending | gauge | | returns waiting for a locked order |
| relay_offset_gaps_total | counter | | gaps in the records seen, each one recorded |
| relay_partitions_blocked | gauge | | partitions of the returns topic that wait: see the log |
| relay_hop_waiting | gauge | hop | events that wait for this hop |
| relay_hop_oldest_age_seconds | gauge | hop | age of the oldest of them; 0: none |
| relay_quarantine_rows | gauge | | rows in quarantine, open |
| relay_quarantine_full | gauge | | 1 while of refused returns only the places are kept |
| relay_overdue_orders | gauge | flow, hop, verdict | orders past their deadline, not closed |
| relay_incidents_open | gauge | flow | open incidents |
| relay_incident_alerts_total | counter | flow, event | incidents opened, grown tenfold, closed |
| relay_duty_failures_total | counter | duty | runs of a duty (rounds, upkeep, ...) that failed |
| relay_duty_completed_timestamp_seconds | gauge | duty | when it was last completed, Unix time |
| relay_orders_set_aside | gauge | | orders that the watchdog could not judge |
| relay_dependency_up | gauge | dependency | 1 while database or broker answer |
| relay_outage_seconds_total | counter | dependency | time without it |
| relay_probe_runs_total | counter | result | canaries: ok, or the hop where they stopped |
| relay_probe_seconds | gauge | hop | the last canary's time for each hop, and in total |
| relay_probe_last_ok_timestamp_seconds | gauge | | when a canary last came through, Unix time |
| relay_spans_exported_total | counter | | spans the collector took |
| relay_spans_dropped_total | counter | reason | spans lost, by reason |
| relay_spans_waiting | gauge | | spans not yet decided |
| relay_spans_queue_bytes | gauge | | memory they hold |
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.registry import Collector

from relay.telemetry.exporter import ExportCounts

# From one millisecond (the goal is 3 at the median) to the night that a relay was down.
LATENCY_SECONDS: Final = (
    *(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0),
)


class BatchHistogram(Collector):
    """A histogram that takes a batch of values at once.

    `prometheus_client.Histogram.observe` costs over a microsecond a value; this costs 30 ns.
    """

    def __init__(
        self, name: str, says: str, registry: CollectorRegistry, edges: Sequence[float]
    ) -> None:
        self._name = name
        self._says = says
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) + 1)
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

    def collect(self) -> Iterable[Metric]:
        """Yield the histogram as Prometheus wants it: counts of everything up to each edge."""
        total = 0
        buckets = []
        for edge, count in zip((*map(repr, self._edges), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((edge, total))
        yield HistogramMetricFamily(self._name, self._says, buckets=buckets, sum_value=self._sum)


class _SpanCollector(Collector):
    """Reads the exporter's counts when somebody asks."""

    def __init__(self, counts: Callable[[], ExportCounts], registry: CollectorRegistry) -> None:
        self._counts = counts
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        counts = self._counts()
        yield CounterMetricFamily(
            "relay_spans_exported", "spans the collector took", counts.exported
        )
        dropped = CounterMetricFamily("relay_spans_dropped", "spans lost", labels=["reason"])
        for reason, spans in counts.dropped.items():
            dropped.add_metric([reason], spans)
        yield dropped
        yield GaugeMetricFamily("relay_spans_waiting", "spans not yet decided", counts.waiting)
        yield GaugeMetricFamily("relay_spans_queue_bytes", "memory they hold", counts.queued_bytes)


class Metrics:
    """A process's metrics; whoever serves a hop updates those of its hop.

    Args:
        kind: of this process: `relay`, `confirm`, `watchdog`, ...
        version: of this program.
        span_counts: `Tracing.counts`.
    """

    def __init__(self, kind: str, version: str, span_counts: Callable[[], ExportCounts]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        _SpanCollector(span_counts, self.registry)
        self._gauge("build_info", "which program this is", "version", "kind").labels(
            version, kind
        ).set(1)
        self.active = self._gauge("active", "1 while the shard's lease is held", "shard")
        self.epoch = self._gauge("epoch", "the lease's epoch", "shard")
        self.events_published = self._counter("events_published", "events acknowledged", "topic")
        self.events_replayed = self._counter("events_replayed", "events sent again", "topic")
        self.events_parked = self._counter("events_parked", "events put in quarantine", "reason")
        self.publish_latency_seconds = self._histogram(
            "publish_latency_seconds", "an event's append to its acknowledgement"
        )
        self.outbox_lag_seconds = self._gauge("outbox_lag_seconds", "age of the oldest waiting row")
        self.polls = self._counter("polls", "reads of the outbox", "result")
        self.producer_rebuilds = self._counter("producer_rebuilds", "producers thrown away")
        self.returns = self._counter("returns", "returns handled", "outcome")
        self.return_latency_seconds = self._histogram(
            "return_latency_seconds", "an order's submission to its applied return"
        )
        self.trace_continuity = self._counter(
            "trace_continuity", "returns compared with their event's trace", "result"
        )
        self.returns_pending = self._gauge("returns_pending", "returns that wait for an order")
        self.offset_gaps = self._counter("offset_gaps", "gaps in the records seen")
        self.partitions_blocked = self._gauge(
            "partitions_blocked",
            "partitions whose next record can neither be handled nor set aside",
        )
        self.hop_waiting = self._gauge("hop_waiting", "events that wait for this hop", "hop")
        self.hop_oldest_age_seconds = self._gauge(
            "hop_oldest_age_seconds", "age of the oldest of them", "hop"
        )
        self.quarantine_rows = self._gauge("quarantine_rows", "open rows in quarantine")
        self.quarantine_full = self._gauge(
            "quarantine_full", "1 while of refused returns only the places are kept"
        )
        self.overdue_orders = self._gauge(
            "overdue_orders", "orders past their deadline", "flow", "hop", "verdict"
        )
        self.incidents_open = self._gauge("incidents_open", "open incidents", "flow")
        self.incident_alerts = self._counter(
            "incident_alerts", "what happened to one", "flow", "event"
        )
        self.duty_failures = self._counter("duty_failures", "runs that failed", "duty")
        self.duty_completed_at = self._gauge(
            "duty_completed_timestamp_seconds", "when it was last completed", "duty"
        )
        self.orders_set_aside = self._gauge("orders_set_aside", "orders that cannot be judged")
        self.dependency_up = self._gauge("dependency_up", "1 while it answers", "dependency")
        self.outage_seconds = self._counter("outage_seconds", "time without it", "dependency")
        self.probe_runs = self._counter("probe_runs", "canaries, by where they stopped", "result")
        self.probe_seconds = self._gauge("probe_seconds", "of the last canary", "hop")
        self.probe_last_ok_at = self._gauge(
            "probe_last_ok_timestamp_seconds", "when a canary last came through"
        )

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"relay_{name}", says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"relay_{name}", says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str) -> BatchHistogram:
        return BatchHistogram(f"relay_{name}", says, self.registry, LATENCY_SECONDS)
