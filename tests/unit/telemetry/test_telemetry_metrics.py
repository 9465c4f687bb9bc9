"""Metrics: a batch at a time, and the table of names tells the truth."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from relay.telemetry import metrics
from relay.telemetry.batch_histogram import LATENCY_SECONDS, BatchHistogram
from relay.telemetry.dependency_metrics import DependencyMetrics
from relay.telemetry.exporter import ExportCounts
from relay.telemetry.metrics import Metrics
from relay.telemetry.watch_metrics import GAUGES
from tests.every_metric import every_metric


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
        for collector_name, labels in _registered(every_metric().registry).items()
        if collector_name.startswith("relay_")
    }
    assert registered == table


def _registered(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    found = {}
    for collector in set(registry._collector_to_names):
        if isinstance(collector, metrics._OfFlow):
            own = _registered(collector.registry)
            found |= {name: ("flow", *labels) for name, labels in own.items()}
            continue
        labels = getattr(collector, "_labelnames", None)
        for family in collector.collect() if labels is None else collector.describe():
            suffix = "_total" if family.type == "counter" else ""
            own = labels if labels is not None else tuple(family._labelnames)
            found[family.name + suffix] = tuple(own)
    return found


def test_every_metric_of_a_consumer_says_whose_flow_it_is_of() -> None:
    """Two consumers of two flows in one job are told apart: no sum hides one behind the other."""
    found = made()
    found.confirm.begin("payments", {"payment.taken": 60.0})
    found.confirm.returns.labels("applied").inc(3)
    found.confirm.process_latency_seconds.observe([0.5])
    found.confirm.process_latency_seconds.exemplar(0.5, "ab" * 16)
    shown = samples(found.registry)
    assert shown["relay_returns_total", (("flow", "payments"), ("outcome", "applied"))] == 3
    names = {name for name, _ in shown if "_spans_" not in name and "build_info" not in name}
    of_flow = {name for name, labels in shown if ("flow", "payments") in labels}
    assert {name for name in names if name.startswith("relay_")} == of_flow
    # What else a sample says stays.
    text = openmetrics.generate_latest(found.registry).decode()
    bucket = 'relay_process_latency_seconds_bucket{flow="payments",le="0.5"} 1.0'
    assert f'{bucket} # {{trace_id="{"ab" * 16}"}}' in text
    assert shown.keys() == samples(found.registry).keys(), "and once only"


def test_what_became_of_spans_is_shown() -> None:
    found = samples(made().registry)
    assert found["relay_spans_exported_total", ()] == 5
    assert found["relay_spans_dropped_total", (("reason", "queue_full"),)] == 2
    assert found["relay_spans_waiting", ()] == 3
    assert found["relay_spans_queue_bytes", ()] == 440
    assert found["relay_build_info", (("kind", "relay"), ("version", "1.2"))] == 1


def test_two_processes_metrics_do_not_meet() -> None:
    first, second = made(), made()
    first.publish.events_published.labels("orders.events").inc(3)
    key = ("relay_events_published_total", (("topic", "orders.events"),))
    assert samples(first.registry)[key] == 3
    assert second.publish is not None
    assert key not in samples(second.registry)


def test_a_process_has_the_metrics_of_what_it_does_and_no_others() -> None:
    subject = made()
    assert subject.publish is not None
    names = {name for name, _ in samples(subject.registry)}
    assert not [
        one for one in names if one.startswith(("relay_returns", "relay_hop", "relay_probe"))
    ]
    assert not [one for one in names if one.endswith("_created")]


def test_every_help_is_a_sentence() -> None:
    for family in every_metric().registry.collect():
        if family.name.startswith("relay_"):
            assert re.fullmatch(r"[A-Z].{15,}\.", family.documentation), family.name


def test_counters_begin_at_0_before_the_first_event() -> None:
    found = samples(every_metric().registry)
    for at in (
        ("relay_polls_total", (("result", "empty"),)),
        ("relay_incident_alerts_total", (("event", "opened"), ("flow", "orders"))),
        ("relay_probe_runs_total", (("result", "process"),)),
        ("relay_spans_dropped_total", (("reason", "unreachable"),)),
    ):
        assert found[at] == 0, at


def test_the_watchdogs_gauges_have_one_owner_at_a_time() -> None:
    subject, holds = made(), [True]
    key = (
        "relay_overdue_orders",
        (("flow", "orders"), ("hop", "publish"), ("verdict", "not_published")),
    )
    subject.watch.show("orders", overdue_orders={("publish", "not_published"): 7.0})
    assert key not in samples(subject.registry), "nobody holds the lease"

    subject.watch.hold(lambda: holds[0])
    subject.watch.show(
        "orders", overdue_orders={("publish", "not_published"): 7.0}, incidents_open=0.0
    )
    found = samples(subject.registry)
    assert (found[key], found["relay_watchdog_active", ()]) == (7, 1)
    assert found["relay_incidents_open", (("flow", "orders"),)] == 0
    assert not [one for one in found if one[0] == "relay_outbox_lag_seconds"], "it was not measured"

    holds[0] = False  # it hangs, and its lease has lapsed
    found = samples(subject.registry)
    assert (found.get(key), found["relay_watchdog_active", ()]) == (None, 0)

    subject.watch.lose()
    subject.watch.hold(lambda: True)
    assert key not in samples(subject.registry), "what an earlier lease measured is forgotten"


def test_a_gauge_without_its_labels_is_refused() -> None:
    subject = made()
    subject.watch.hold(lambda: True)
    for name, labels, _ in GAUGES:
        wrong = {("a", "b", "c"): 1.0}
        with pytest.raises(ValueError, match=name):
            subject.watch.show("orders", **{name: wrong})
        subject.watch.show("orders", **{name: {tuple("x" for _ in labels): 1.0}})


def test_an_outage_counts_while_it_lasts() -> None:
    now = [100.0]
    registry = CollectorRegistry()
    subject = DependencyMetrics(registry, clock=lambda: now[0])
    assert samples(registry) == {}, "nobody has asked for anything yet"
    broker = (("dependency", "broker"),)
    subject.away("broker")
    now[0] += 30
    subject.away("broker")
    found = samples(registry)
    assert found["relay_dependency_up", broker] == 0
    assert found["relay_outage_seconds_total", broker] == 30
    subject.back("broker")
    now[0] += 30
    subject.back("broker")
    found = samples(registry)
    assert found["relay_dependency_up", broker] == 1
    assert found["relay_outage_seconds_total", broker] == 30


def test_an_exemplar_is_of_the_bucket_of_its_value() -> None:
    registry = CollectorRegistry()
    subject = BatchHistogram("h_seconds", "Some time in seconds.", registry)
    subject.observe([0.03, 20_000.0])
    subject.exemplar(0.03, "ab" * 16)
    subject.exemplar(20_000.0, "cd" * 16)
    text = openmetrics.generate_latest(registry).decode()
    assert re.search(r'_bucket\{le="0.032"\} 1.0 # \{trace_id="(ab){16}"\} 0.03 \d+', text)
    assert re.search(r'_bucket\{le="\+Inf"\} 2.0 # \{trace_id="(cd){16}"\} 20000.0 \d+', text)
    assert text.count("# {") == 2
