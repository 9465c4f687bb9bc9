"""The active watchdog measures how every hop stands, for Prometheus.

Invariant: what `relay status` says and what is exported are one reading of the same records. What
cannot be read has no value; a measurement that fails as a whole leaves none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, get_args

import asyncpg
import structlog

from relay.diagnose.status.counts import read_counts
from relay.diagnose.status.evidence import Counts, ProcessRow, Waiting
from relay.diagnose.status.hops import HopName, HopStatus, Status, decide, is_alive
from relay.diagnose.status.lags import read_lags
from relay.diagnose.watch.completeness import Completeness
from relay.runtime.database import is_connection_loss
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.telemetry.watch_metrics import Values, WatchMetrics

_LOG: Final = structlog.get_logger("relay.watchdog")
_KINDS: Final = ("relay", "confirm", "watchdog")
_HELD: Final = ("event", "return")
HOPS: Final[tuple[str, ...]] = get_args(HopName)


@dataclass(slots=True)
class Measuring:
    """Measures over one database connection.

    Attributes:
        failing: the last measurement failed; said once.
    """

    connection: asyncpg.Connection
    kafka: KafkaConnection
    flow: Flow
    metrics: WatchMetrics
    failing: bool = False
    _completeness: Completeness = field(init=False)

    def __post_init__(self) -> None:
        self._completeness = Completeness(self.flow)

    async def measure(self) -> None:
        """Measure once and show it.

        Raises:
            asyncpg's errors: the connection is lost.
        """
        try:
            counts = await read_counts(self.connection, self.flow)
            offsets = counts.next_offsets if isinstance(counts.next_offsets, Mapping) else None
            canaries = counts.canaries if isinstance(counts.canaries, tuple) else ()
            lags = await read_lags(self.kafka, self.flow, offsets, canaries=canaries)
            status = decide(counts, lags, self.flow, counts.now)
            completeness = await self._completeness.look(self.connection)
        except Exception as error:
            self.metrics.show(self.flow.name, **dict.fromkeys(_SHOWN))
            if is_connection_loss(error) or self.connection.is_closed():
                raise
            if not self.failing:
                _LOG.warning(
                    "hops_not_measured", flow=self.flow.name, error=str(error) or repr(error)
                )
            self.failing = True
            return
        self.failing = False
        self.metrics.show(
            self.flow.name,
            completeness_orders=completeness,
            **shown(counts, status),
        )


def shown(counts: Counts, status: Status) -> dict[str, Values | float | None]:
    """Return what the gauges show of a status; what is not known is None, or has no value."""
    hops = {hop.name: hop for hop in status.hops}
    without = counts.without_event
    return {
        "hop_waiting": {
            (name,): float(hop.waiting) for name, hop in hops.items() if hop.waiting is not None
        },
        "hop_oldest_age_seconds": {
            (name,): age for name, hop in hops.items() if (age := _oldest(hop)) is not None
        },
        "hop_served": {
            (name,): float(hop.healthy)
            for name, hop in hops.items()
            if name in ("publish", "process", "confirm") and hop.run_by != "not known"
        },
        "outbox_lag_seconds": _oldest(hops["publish"]),
        "orders_without_event": float(without.count) if isinstance(without, Waiting) else None,
        "processes": _processes(status.processes) if isinstance(counts.processes, tuple) else None,
        "quarantine_rows": None
        if status.held is None
        else {(kind,): float(status.held.get(kind, 0)) for kind in _HELD},
    }


def _oldest(hop: HopStatus) -> float | None:
    """Return the age of the oldest that waits, 0 when nothing does; None: not known."""
    if hop.waiting is None:
        return None
    return hop.oldest_age_seconds if hop.waiting else 0.0


def _processes(seen: tuple[ProcessRow, ...]) -> dict[tuple[str, ...], float]:
    alive = Counter(one.kind for one in seen if is_alive(one))
    return {(kind,): float(alive[kind]) for kind in {*_KINDS, *alive}}


_SHOWN: Final = (
    "hop_waiting",
    "hop_oldest_age_seconds",
    "hop_served",
    "outbox_lag_seconds",
    "orders_without_event",
    "processes",
    "quarantine_rows",
    "completeness_orders",
)
