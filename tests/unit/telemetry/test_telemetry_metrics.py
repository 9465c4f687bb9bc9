"""Metrics: a batch at a time, and the table of names tells the truth."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from relay.telemetry import metrics
from relay.telemetry.exporter import ExportCounts
from relay.telemetry.metrics import LATENCY_SECONDS, BatchHistogram, Metrics


def made() -> Metrics:
    return Metrics("relay", "1.2", lambda: ExportCounts(5, {"queue_full": 2}, 3, 440))


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@given(st.lists(st.lists(st.floats(0, 20_000) | st.sampled_from(LATENCY_SECONDS)), max_size=4))
def test_batches_count_as_one_by_one(batches: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batched = BatchHistogram("h_seconds", "h", ours, LATENCY_SECONDS)
    single = Histogram("h_seconds", "h", registry=theirs, buckets=LATENCY_SECONDS)
    for batch in batches:
        batched.observe(batch)
        for value in batch:
            single.observe(value)
    found, expected = samples(ours), samples(theirs)
    expected.pop(("h_seconds_created", ()), None)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert abs(found[key] - value) <= 1e-6 * max(1, value), key


def test_the_table_names_every_metric_with_its_labels() -> None:
    table = {
        name: tuple(part.strip() for part in labels.split(",") if part.strip())
        for name, labels in re.findall(
            r"^\| (relay_\w+) \| \w+ \| ([^|]*)\|", metrics.__doc__ or "", re.MULTILINE
        )
    }
    registered = {
        collector_name: labels
        for collector_name, labels in _registered(made()).items()
        if collector_name.startswith("relay_")
    }
    assert registered == table


def _registered(subject: Metrics) -> dict[str, tuple[str, ...]]:
    found = {}
    for collector in set(subject.registry._collector_to_names):
        labels = getattr(collector, "_labelnames", None)
        for family in collector.collect() if labels is None else collector.describe():
            suffix = "_total" if family.type == "counter" else ""
            own = (
                labels
                if labels is not None
                else tuple(family.samples[0].labels)
                if family.type != "histogram"
                else ()
            )
            found[family.name + suffix] = tuple(own)
    return found


def test_what_became_of_spans_is_shown() -> None:
    found = samples(made().registry)
    assert found["relay_spans_exported_total", ()] == 5
    assert found["relay_spans_dropped_total", (("reason", "queue_full"),)] == 2
    assert found["relay_spans_waiting", ()] == 3
    assert found["relay_spans_queue_bytes", ()] == 440
    assert found["relay_build_info", (("kind", "relay"), ("version", "1.2"))] == 1


def test_two_processes_metrics_do_not_meet() -> None:
    first, second = made(), made()
    first.events_published.labels("orders.events").inc(3)
    key = ("relay_events_published_total", (("topic", "orders.events"),))
    assert samples(first.registry)[key] == 3
    assert key not in samples(second.registry)
