"""Hops 1, 2, 4 and 5: what a reconciliation can find, and how the counts add up.

Invariant: pure; every row or record looked at is in exactly one count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Difference(StrEnum):
    """A closed list."""

    RECORD_MISSING = "record_missing"
    RECORD_WITHOUT_ROW = "record_without_row"
    DUPLICATE_EVENT_ID = "duplicate_event_id"
    RETURN_WITHOUT_STATUS = "return_without_status"
    STATUS_WITHOUT_RETURN = "status_without_return"
    STATUS_OVERWRITTEN = "status_overwritten"
    ORDER_WITHOUT_EVENT = "order_without_event"
    STATUS_UNKNOWN = "status_unknown"
    ORDER_GONE = "order_gone"
    NAMES_DIFFER = "names_differ"


MEANINGS: Mapping[Difference, str] = {
    Difference.RECORD_MISSING: "rows that were handed over and whose record is not there",
    Difference.RECORD_WITHOUT_ROW: "records without a row in the outbox (ghosts of a failover?)",
    Difference.DUPLICATE_EVENT_ID: "rows that share an event_id",
    Difference.RETURN_WITHOUT_STATUS: "returns that the consumer is past and never decided on",
    Difference.STATUS_WITHOUT_RETURN: "terminal statuses that no return set",
    Difference.ORDER_WITHOUT_EVENT: "orders that wait and have no event",
    Difference.STATUS_OVERWRITTEN: "orders whose return was applied and is not their status",
    Difference.STATUS_UNKNOWN: "orders with a status that the flow does not know",
    Difference.ORDER_GONE: "orders that have no row, though an event or a return names them",
    Difference.NAMES_DIFFER: "returns that were applied to one order and name another one, too",
}

NEXT: Mapping[Difference, str] = {
    Difference.RECORD_MISSING: "relay diagnose ORDER, then relay replay --order ORDER",
    Difference.RECORD_WITHOUT_ROW: "compare with the order service's log: the order was taken back",
    Difference.DUPLICATE_EVENT_ID: "correct the writer: event_id is made anew for each event",
    Difference.RETURN_WITHOUT_STATUS: "relay diagnose ORDER names the offset that was skipped",
    Difference.STATUS_WITHOUT_RETURN: "ask who else writes the status column",
    Difference.ORDER_WITHOUT_EVENT: "relay diagnose ORDER, then what it says",
    Difference.STATUS_OVERWRITTEN: "relay diagnose ORDER; ask who else writes the status column",
    Difference.STATUS_UNKNOWN: "name it in the flow's status_ranks, then relay diagnose ORDER",
    Difference.ORDER_GONE: "relay diagnose ORDER; ask who deletes orders",
    Difference.NAMES_DIFFER: "ask the processor which order it decided on (names_differ)",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One row or record that does not fit.

    Attributes:
        subject: the order, when known.
        where: outbox id, or topic[partition]@offset.
        detail: what was expected and what is there.
    """

    difference: Difference
    subject: str | None
    where: str
    detail: str


@dataclass(slots=True)
class Tally:
    """Counts by what was proven or not; `few` findings are kept, all are counted."""

    few: int = 1000
    counts: dict[str, int] = field(default_factory=dict)
    found: dict[Difference, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        """Add to one of the counts that are no findings."""
        if number:
            self.counts[what] = self.counts.get(what, 0) + number

    def add(self, finding: Finding) -> None:
        """Add a finding."""
        self.found[finding.difference] = self.found.get(finding.difference, 0) + 1
        if self.found[finding.difference] <= self.few:
            self.findings.append(finding)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add several."""
        for finding in findings:
            self.add(finding)

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.found
