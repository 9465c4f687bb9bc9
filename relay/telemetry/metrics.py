"""Every hop's numbers, for Prometheus: one registry a process, names in one place.

Invariant: a process has the metrics of what it does and no others, and none has a sample before it
was measured. An update costs a batch, not an event; labels come from closed lists or settings,
never from data, so the number of series is bounded, and each is there, at 0, before the first
event: the first burst of an unknown series is invisible to `increase`. Nothing raises in a hop.

The watchdog's are in `watch_metrics.py`; only the one that holds the lease has samples of them.

| metric | kind | labels | says |
| --- | --- | --- | --- |
| relay_build_info | gauge | version, kind | 1; which program this is |
| relay_active | gauge | shard | 1 while this relay holds the shard's lease and publishes |
| relay_epoch | gauge | shard | the lease's epoch; only of an active relay |
| relay_events_published_total | counter | topic | events the broker acknowledged |
| relay_events_replayed_total | counter | topic | events sent again by a replay |
| relay_events_parked_total | counter | reason | events put into quarantine before Kafka |
| relay_publish_latency_seconds | histogram | | an event's append to its acknowledgement |
| relay_polls_total | counter | result | reads of the outbox: rows, empty |
| relay_producer_rebuilds_total | counter | | producers thrown away after an error |
| relay_witness_records_total | counter | outcome | records witnessed, by what they were |
| relay_witness_gaps_total | counter | | gaps in the records seen, each one recorded |
| relay_witness_unproven_transactions | gauge | | transactions without a record, at the last look |
| relay_consumer_active | gauge | flow | 1 while this consumer handles returns |
| relay_returns_total | counter | flow, outcome | returns handled, by what became of them |
| relay_process_latency_seconds | histogram | flow | ack to return's record; a sample |
| relay_return_latency_seconds | histogram | flow | an order's submission to its return's record |
| relay_confirm_latency_seconds | histogram | flow | a return's record to its applied status |
| relay_end_to_end_latency_seconds | histogram | flow | submission to its applied return |
| relay_return_deadline_seconds | gauge | flow, event_type | the return's deadline, as set |
| relay_trace_continuity_total | counter | flow, result | sampled returns: how their trace agrees |
| relay_returns_pending | gauge | flow | returns of this consumer's that wait for a locked order |
| relay_offset_gaps_total | counter | flow | gaps in the records seen, each one recorded |
| relay_partitions_blocked | gauge | flow | partitions of the returns topic that wait: see the log |
| relay_quarantine_full | gauge | flow | 1 while of refused returns only the places are kept |
| relay_watchdog_active | gauge | | 1 while the watchdog in this process holds the lease |
| relay_hop_waiting | gauge | flow, hop | what waits for the hop |
| relay_hop_oldest_age_seconds | gauge | flow, hop | age of the oldest of them; 0: nothing waits |
| relay_hop_served | gauge | flow, hop | 1 while somebody does the hop's work |
| relay_outbox_lag_seconds | gauge | flow | age of the oldest row not yet published; 0: none |
| relay_completeness_orders | gauge | flow, age, stage | orders of one minute that reached a stage |
| relay_orders_without_event | gauge | flow | open orders whose writer bypassed the outbox |
| relay_processes | gauge | flow, kind | processes that live, by their heartbeats |
| relay_quarantine_rows | gauge | flow, kind | rows in quarantine, open: event, return |
| relay_overdue_orders | gauge | flow, hop, verdict | orders past their deadline, not closed |
| relay_incidents_open | gauge | flow | open incidents |
| relay_incident_alerts_total | counter | flow, event | incidents opened, grown tenfold, closed |
| relay_orders_set_aside | gauge | flow | orders that the watchdog could not judge |
| relay_measured_timestamp_seconds | gauge | what | last round or measurement, Unix time |
| relay_duty_failures_total | counter | duty | runs of a duty (rounds, upkeep, ...) that failed |
| relay_duty_completed_timestamp_seconds | gauge | duty | when it was last completed, Unix time |
| relay_dependency_up | gauge | dependency | 1 while database or broker answer |
| relay_outage_seconds_total | counter | dependency | time without it |
| relay_probe_runs_total | counter | result | canaries: ok, or the hop where they stopped |
| relay_probe_seconds | gauge | hop | the last canary's time for each hop, and in total |
| relay_probe_interval_seconds | gauge | | between two canaries |
| relay_probe_last_ok_timestamp_seconds | gauge | | when a canary last came through, Unix time |
| relay_spans_exported_total | counter | | spans the collector took |
| relay_spans_dropped_total | counter | reason | spans lost, by reason |
| relay_spans_waiting | gauge | | spans not yet decided |
| relay_spans_queue_bytes | gauge | | memory they hold |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.registry import Collector

from relay.telemetry.batch_histogram import BatchHistogram
from relay.telemetry.dependency_metrics import DependencyMetrics
from relay.telemetry.exporter import DropReason, ExportCounts
from relay.telemetry.watch_metrics import WatchMetrics

# A second series for each counter and histogram, that no rule of ours reads.
disable_created_metrics()  # type: ignore[no-untyped-call]

_HOPS: Final = ("publish", "process", "return", "confirm")


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
            "relay_spans_exported", "Spans that the collector has taken.", counts.exported
        )
        dropped = CounterMetricFamily(
            "relay_spans_dropped", "Spans that were lost, by the reason.", labels=["reason"]
        )
        for reason in get_args(DropReason):
            dropped.add_metric([reason], counts.dropped.get(reason, 0))
        yield dropped
        yield GaugeMetricFamily(
            "relay_spans_waiting", "Spans that are neither exported nor lost yet.", counts.waiting
        )
        yield GaugeMetricFamily(
            "relay_spans_queue_bytes",
            "Memory in bytes that the waiting spans hold.",
            counts.queued_bytes,
        )


class _OfFlow(Collector):
    """The metrics of a process that serves one flow: `flow` is a label of each.

    It is added as they are read, so that no update pays for it, and none of them can lack it.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.flow = ""
        self.registry = CollectorRegistry()
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for metric in self.registry.collect():
            labelled = [
                sample._replace(labels={"flow": self.flow, **sample.labels})
                for sample in metric.samples
            ]
            metric.samples = labelled
            yield metric


class _Section:
    """The metrics of one job; they are registered when the job is begun."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"relay_{name}", says, labels, registry=self._registry)

    def _gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"relay_{name}", says, labels, registry=self._registry)

    def _histogram(self, name: str, says: str) -> BatchHistogram:
        return BatchHistogram(f"relay_{name}", says, self._registry)


def known(counter: Counter, labels: Iterable[str]) -> None:
    """Let a counter begin at 0 for each value that its label can have."""
    for one in labels:
        counter.labels(one)


class PublishMetrics(_Section):
    """Hop 2's, of a relay."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.active = self._gauge(
            "active", "Whether this relay publishes: 1 while it holds the shard's lease.", "shard"
        )
        self.epoch = self._gauge("epoch", "The epoch of the lease that this relay holds.", "shard")
        self.events_published = self._counter(
            "events_published", "Events that the broker has acknowledged.", "topic"
        )
        self.events_replayed = self._counter(
            "events_replayed", "Events that were sent again by a replay.", "topic"
        )
        self.events_parked = self._counter(
            "events_parked", "Events that went to quarantine instead of Kafka.", "reason"
        )
        self.publish_latency_seconds = self._histogram(
            "publish_latency_seconds",
            "Time in seconds from an event's append to its acknowledgement by the broker.",
        )
        self.polls = self._counter(
            "polls", "Reads of the outbox, by whether they found rows.", "result"
        )
        self.producer_rebuilds = self._counter(
            "producer_rebuilds", "Producers that were thrown away after an error."
        )
        known(self.polls, ("rows", "empty"))


class WitnessMetrics(_Section):
    """Hop 2's, where somebody else publishes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.records = self._counter(
            "witness_records", "Records that were witnessed, by what they were.", "outcome"
        )
        self.gaps = self._counter(
            "witness_gaps", "Gaps in the records of the events' topics that were seen."
        )

    @cached_property
    def unproven(self) -> Gauge:
        """Of the witness that keeps the checkpoint."""
        return self._gauge(
            "witness_unproven_transactions",
            "Transactions with a row that has no record, at the last look.",
        )


class ConfirmMetrics(_Section):
    """Hop 5's, of a flow's confirmation consumer; and what only a return tells of hops 3 and 4."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._of_flow = _OfFlow(registry)
        super().__init__(self._of_flow.registry)
        self.active = self._gauge(
            "consumer_active", "Whether this consumer handles returns: 1 while it does."
        )
        self.returns = self._counter(
            "returns", "Returns that were handled, by what became of them.", "outcome"
        )
        self.process_latency_seconds = self._histogram(
            "process_latency_seconds",
            "Time in seconds from an event's acknowledgement to its return's record, of a sample.",
        )
        self.return_latency_seconds = self._histogram(
            "return_latency_seconds",
            "Time in seconds from an order's submission to its return's record on Kafka.",
        )
        self.confirm_latency_seconds = self._histogram(
            "confirm_latency_seconds",
            "Time in seconds from a return's record on Kafka to its applied status.",
        )
        self.end_to_end_latency_seconds = self._histogram(
            "end_to_end_latency_seconds",
            "Time in seconds from an order's submission to its applied return.",
        )
        self.return_deadline_seconds = self._gauge(
            "return_deadline_seconds",
            "Time in seconds within which the settings expect the return.",
            "event_type",
        )
        self.trace_continuity = self._counter(
            "trace_continuity",
            "Returns of a sample, by how their trace agrees with their event's.",
            "result",
        )
        self.returns_pending = self._gauge(
            "returns_pending", "Returns of this consumer that wait for a locked order."
        )
        self.offset_gaps = self._counter(
            "offset_gaps", "Gaps in the records of the returns topic that were seen."
        )
        self.partitions_blocked = self._gauge(
            "partitions_blocked",
            "Partitions whose next record can neither be handled nor set aside.",
        )
        self.quarantine_full = self._gauge(
            "quarantine_full",
            "Whether the quarantine is full: 1 while of refused returns only the places are kept.",
        )

    def begin(self, flow: str, deadlines: Mapping[str, float]) -> None:
        """Say whose they are, and show the deadlines of the settings, by event type."""
        self._of_flow.flow = flow
        for event_type, deadline in deadlines.items():
            self.return_deadline_seconds.labels(event_type).set(deadline)


class ProbeMetrics(_Section):
    """A canary's, of `relay probe --every`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.runs = self._counter(
            "probe_runs", "Canaries that were sent: ok, or the hop where they stopped.", "result"
        )
        self.seconds = self._gauge(
            "probe_seconds",
            "Time in seconds that the last canary took, by hop.",
            "hop",
        )
        self.interval_seconds = self._gauge(
            "probe_interval_seconds", "Time in seconds between two canaries."
        )
        known(self.runs, ("ok", *_HOPS))

    @cached_property
    def last_ok_at(self) -> Gauge:
        """When a canary last came through; there is none before the first did."""
        return self._gauge(
            "probe_last_ok_timestamp_seconds",
            "When a canary last came through, as Unix time in seconds.",
        )


class DutyMetrics(_Section):
    """Of duties that are done again and again: upkeep, the watchdog's rounds and positions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.failures = self._counter("duty_failures", "Runs of the duty that have failed.", "duty")
        self.completed_at = self._gauge(
            "duty_completed_timestamp_seconds",
            "When this process last completed the duty, as Unix time in seconds.",
            "duty",
        )


class Metrics:
    """A process's metrics: whoever begins a job asks for its section, and updates it.

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
        info = Gauge(
            "relay_build_info",
            "Always 1; the labels say which program this is.",
            ("version", "kind"),
            registry=self.registry,
        )
        info.labels(version, kind).set(1)

    @cached_property
    def publish(self) -> PublishMetrics:
        """Hop 2's."""
        return PublishMetrics(self.registry)

    @cached_property
    def witness(self) -> WitnessMetrics:
        """Hop 2's, where somebody else publishes."""
        return WitnessMetrics(self.registry)

    @cached_property
    def confirm(self) -> ConfirmMetrics:
        """Hop 5's."""
        return ConfirmMetrics(self.registry)

    @cached_property
    def watch(self) -> WatchMetrics:
        """The watchdog's."""
        return WatchMetrics(self.registry)

    @cached_property
    def duties(self) -> DutyMetrics:
        """Those of what is done again and again."""
        return DutyMetrics(self.registry)

    @cached_property
    def dependencies(self) -> DependencyMetrics:
        """Those of database and broker."""
        return DependencyMetrics(self.registry)

    @cached_property
    def probe(self) -> ProbeMetrics:
        """A canary's."""
        return ProbeMetrics(self.registry)
