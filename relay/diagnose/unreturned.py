"""The orders that wait past their deadline, with what is known of each already.

Invariant: one look at the database for those that the watchdog has diagnosed; the few that it has
not come to are diagnosed here, without reading Kafka for long. Nothing is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.fate import fate_of
from relay.diagnose.gather.logs import LogReading
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.session import Session
from relay.diagnose.verdicts import Fate, found_something, page
from relay.diagnose.watch.cases import NO_HOP
from relay.diagnose.watch.odd_statuses import count_unknown
from relay.diagnose.watch.overdue_spans import context_of, report_of
from relay.runtime.command_line import command
from relay.runtime.trace_link import trace_link

# Of those that no watchdog has seen, so many are diagnosed at once: some tenths of a second.
DIAGNOSED_AT_ONCE: Final = 100
QUICK: Final = LogReading(
    scan_seconds=0.3,
    recheck_seconds=0.1,
    readback_seconds=0.2,
    neighbours_at_most=2000,
    elsewhere_seconds=0.0,
)
NOT_LOOKED_AT: Final = "not_diagnosed"


@dataclass(frozen=True, slots=True)
class Unreturned:
    """An overdue order.

    Attributes:
        hop: None where it cannot be told.
        verdict: None when nobody has diagnosed it yet.
        recorded: the watchdog's word, and not this moment's.
        traced: something of it is in its trace.
    """

    order_id: str
    placed_at: datetime
    hop: str | None = None
    verdict: str | None = None
    cause: str | None = None
    event_id: str | None = None
    trace_id: str | None = None
    incident_id: int | None = None
    evidence: Sequence[Mapping[str, str]] = ()
    next: tuple[str, ...] = ()
    recorded: bool = False
    traced: bool = True

    def as_json(self, trace_url: str | None) -> dict[str, Any]:
        """Return the contract's object."""
        return {
            "order_id": self.order_id,
            "verdict": self.verdict or NOT_LOOKED_AT,
            "hop": self.hop,
            "cause": self.cause,
            "evidence": list(self.evidence),
            "next": list(self.next),
            "trace_id": self.trace_id,
            "trace_url": self.trace_link(trace_url),
            "event_id": self.event_id,
            "placed_at": self.placed_at.isoformat(),
            "incident": None if self.incident_id is None else f"I-{self.incident_id}",
            "docs": None if self.verdict is None else page(self.verdict),
        }

    def trace_link(self, trace_url: str | None) -> str | None:
        """Return where its trace can be looked at, the missing return highlighted."""
        return trace_link(trace_url, self.trace_id, overdue=True) if self.traced else None

    @property
    def fate(self) -> Fate:
        """What it means for the customer."""
        return Fate.UNKNOWN if self.verdict is None else fate_of(self.verdict, self.cause)


@dataclass(slots=True)
class UnreturnedList:
    """All of them, oldest first.

    Attributes:
        cut: there are more than were asked for.
        unknown_statuses: how many orders have each status that the flow does not know; None: it
            was not looked at, no index serves.
    """

    orders: list[Unreturned] = field(default_factory=list)
    cut: bool = False
    unknown_statuses: Mapping[str, int] | None = None

    def by_hop(self) -> dict[str, int]:
        """Return how many wait at each hop; `unknown` for those whose hop cannot be told."""
        return dict(Counter(one.hop or "unknown" for one in self.orders))


_CASES: Final = """
SELECT DISTINCT ON (aggregate_id) aggregate_id, event_id, event_type, hop, verdict, cause,
       incident_id, placed_at, deadline_at, traceparent, evidence::text AS evidence, reported_at
  FROM relay.overdue
 WHERE aggregate_id = ANY ($1::text[]) AND closed_at IS NULL AND flow <> ALL ($2::text[])
 ORDER BY aggregate_id, opened_at DESC
"""


async def list_unreturned(opened: Session, since: datetime | None, at_most: int) -> UnreturnedList:
    """Return the overdue orders.

    Raises:
        UnreachableError, asyncpg.PostgresError, FlowTableError: they cannot be read.
    """
    found = await opened.open_orders(since, at_most + 1)
    ids = [one.order_id for one in found[:at_most]]
    assert isinstance(opened.connection, asyncpg.Connection)
    rows = await opened.connection.fetch(_CASES, ids, list(opened.flow.others.names))
    known = {row["aggregate_id"]: _of_case(row) for row in rows}
    others = [one for one in ids if one not in known][:DIAGNOSED_AT_ONCE]
    for diagnosis in await opened.diagnose(others) if others else []:
        if found_something(diagnosis.verdict) and diagnosis.placed_at is not None:
            known[diagnosis.order_id] = _of_diagnosis(diagnosis, diagnosis.placed_at)
    settled = set(others) - set(known)
    orders = [
        known.get(one.order_id) or Unreturned(one.order_id, one.placed_at)
        for one in found[:at_most]
        if one.order_id not in settled
    ]
    words = await count_unknown(opened.connection, opened.flow)
    return UnreturnedList(orders, cut=len(found) > at_most, unknown_statuses=words)


def _of_case(row: asyncpg.Record) -> Unreturned:
    report = report_of(row)
    return Unreturned(
        order_id=row["aggregate_id"],
        placed_at=row["placed_at"],
        hop=None if row["hop"] == NO_HOP else row["hop"],
        verdict=row["verdict"],
        cause=row["cause"],
        event_id=report.event_id,
        trace_id=context_of(report).trace_id,
        incident_id=row["incident_id"],
        evidence=[
            {"what": one["hop"], "found": one["found"]} for one in report.evidence.get("lines", ())
        ],
        next=tuple(report.evidence.get("next", ())),
        recorded=True,
        traced=report.reported_at is not None or context_of(report).sampled,
    )


def _of_diagnosis(found: Diagnosis, placed_at: datetime) -> Unreturned:
    # Kafka was hardly read: "not yet scanned" is no evidence that is missing.
    unread = found.cause is Cause.SCAN_INCOMPLETE
    return Unreturned(
        order_id=found.order_id,
        placed_at=placed_at,
        hop=None if found.hop is None else found.hop.value,
        verdict=None if unread else found.verdict.value,
        cause=None if unread else found.cause.value,
        event_id=found.event_id,
        trace_id=found.trace_id,
        traced=found.trace_told or bool(found.trace_sampled),
        incident_id=found.incident_id,
        evidence=[{"what": line.hop.value, "found": line.text} for line in found.lines],
        next=found.next
        if not unread
        else (command("relay diagnose {order}", order=found.order_id),),
    )
