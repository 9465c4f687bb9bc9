"""Hops 3-4 of the sample: its counts for Prometheus, read when somebody asks.

Invariant: costs the work nothing; labels are faults, a closed list.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.sample.processor.report import ProcessorReport


class ProcessorCollector(Collector):
    """Reads a report that the processor keeps up to date."""

    def __init__(self, report: ProcessorReport) -> None:
        self._report = report

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: nobody else uses these names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the counts as they are now."""
        report = self._report
        yield CounterMetricFamily(
            "sample_processor_events", "events processed", value=report.processed
        )
        yield CounterMetricFamily(
            "sample_processor_returns", "returns acknowledged", value=report.returns
        )
        faults = CounterMetricFamily(
            "sample_processor_faults", "orders done wrong by, on purpose", labels=["fault"]
        )
        for fault, orders in report.faults.items():
            faults.add_metric([fault.value], orders)
        yield faults
