"""What the active watchdog measured, for Prometheus: one owner of these at a time.

Invariant: without a measurement there is no sample, and a measurement is shown only while its
watchdog holds the lease by its own clock: one that lost it, or hangs, shows nothing, so that no
count stands for ever beside the next owner's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]
Values = Mapping[Labels, float]

# Name, labels beside `flow`, HELP.
GAUGES: Final[tuple[tuple[str, Labels, str], ...]] = (
    ("hop_waiting", ("hop",), "Events or orders that wait for the hop, counted in the database."),
    (
        "hop_oldest_age_seconds",
        ("hop",),
        "Age in seconds of the oldest that waits for the hop; 0 when nothing waits.",
    ),
    ("hop_served", ("hop",), "Whether somebody does the hop's work: 1 when, 0 when nobody does."),
    (
        "outbox_lag_seconds",
        (),
        "Age in seconds of the oldest row that is not published; 0 when every row is.",
    ),
    (
        "completeness_orders",
        ("age", "stage"),
        "Orders placed in one minute, which ended so long ago, that have reached the stage.",
    ),
    (
        "orders_without_event",
        (),
        "Open orders that have no event in the outbox.",
    ),
    ("processes", ("kind",), "Processes of the kind that have sent a heartbeat lately."),
    ("quarantine_rows", ("kind",), "Open rows in quarantine, events or returns."),
    ("overdue_orders", ("hop", "verdict"), "Orders past their deadline that are not closed."),
    ("incidents_open", (), "Incidents that are open."),
    ("orders_set_aside", (), "Orders that the watchdog could not judge and has set aside."),
)
_BY_NAME: Final = {name: (labels, says) for name, labels, says in GAUGES}


class WatchMetrics(Collector):
    """The watchdog's gauges and counters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown: dict[tuple[str, str], Values] = {}
        self._measured: dict[str, float] = {}
        self._valid: Callable[[], bool] = _never
        registry.register(self)
        self.incident_alerts = Counter(
            "relay_incident_alerts",
            "Incidents that were opened, have grown tenfold, or were closed.",
            ["flow", "event"],
            registry=registry,
        )

    def begin(self, flows: Iterable[str]) -> None:
        """Let the counters of each flow begin at 0."""
        for flow in flows:
            for event in ("opened", "grown", "closed"):
                self.incident_alerts.labels(flow, event)

    def hold(self, valid: Callable[[], bool]) -> None:
        """Begin to own the gauges.

        Args:
            valid: whether the lease still holds by its owner's own clock; asked at each scrape.
        """
        self.lose()
        self._valid = valid

    def lose(self) -> None:
        """Show nothing any more."""
        self._shown, self._measured, self._valid = {}, {}, _never

    def show(self, flow: str, **values: Values | float | None) -> None:
        """Replace what some gauges show of a flow, by labels; None: it could not be measured."""
        for name, value in values.items():
            labels, _ = _BY_NAME[name]
            if value is None:
                self._shown.pop((name, flow), None)
                continue
            by_labels: Values = value if isinstance(value, Mapping) else {(): value}
            if any(len(one) != len(labels) for one in by_labels):
                raise ValueError(f"{name} has the labels {labels}")
            self._shown[name, flow] = by_labels

    def measured(self, what: str) -> None:
        """Note that a round, or a measurement, of all flows was completed now."""
        self._measured[what] = time.time()

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges that were measured, and whether this process's watchdog is active."""
        held = self._valid()
        yield GaugeMetricFamily(
            "relay_watchdog_active",
            "Whether the watchdog in this process holds the lease: 1 when it does, 0 when not.",
            float(held),
        )
        at = GaugeMetricFamily(
            "relay_measured_timestamp_seconds",
            "When the watchdog last completed a round, or a measurement, as Unix time in seconds.",
            labels=["what"],
        )
        for what, when in dict(self._measured).items() if held else ():
            at.add_metric([what], when)
        yield at
        shown = dict(self._shown) if held else {}
        for gauge, labels, says in GAUGES:
            family = GaugeMetricFamily(f"relay_{gauge}", says, labels=("flow", *labels))
            for (name, flow), values in shown.items():
                for where, value in values.items() if name == gauge else ():
                    family.add_metric((flow, *where), value)
            yield family


def _never() -> bool:
    return False
