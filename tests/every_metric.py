"""Every metric that any process has, in one registry: `python -m tests.every_metric` prints it."""

from __future__ import annotations

from prometheus_client import generate_latest

from relay.telemetry.exporter import ExportCounts
from relay.telemetry.metrics import Metrics
from relay.telemetry.watch_metrics import GAUGES


def every_metric() -> Metrics:
    """Begin every job, and show a sample of each gauge that has none before it is measured."""
    found = Metrics("relay", "1.2", lambda: ExportCounts(5, {"queue_full": 2}, 3, 440))
    for section in ("publish", "confirm", "watch", "duties"):
        getattr(found, section)  # it begins when it is asked for
    found.confirm.begin("orders", {"order.placed": 900.0})
    found.dependencies.back("broker")
    found.probe.last_ok_at.set(1)
    found.witness.unproven.set(1)
    found.watch.hold(lambda: True)
    for name, labels, _ in GAUGES:
        found.watch.show("orders", **{name: {labels: 1.0}})
    found.watch.begin(["orders"])
    found.watch.measured("hops")
    return found


if __name__ == "__main__":
    print(generate_latest(every_metric().registry).decode(), end="")  # noqa: T201 - what it is for
