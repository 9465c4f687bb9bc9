"""A diagnosis as people and programs read it; values, and how they become JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from relay.diagnose.causes import Cause
from relay.diagnose.decide.delay import Delay
from relay.diagnose.fate import fate_of
from relay.diagnose.verdicts import MEANINGS, Fate, Hop, Verdict, page
from relay.runtime.trace_link import trace_link
from relay.telemetry.traceparent import parse


class Mark(StrEnum):
    """How a hop stands."""

    OK = "ok"
    NO = "NO"
    UNSURE = "?"
    NOT_REACHED = "-"


@dataclass(frozen=True, slots=True)
class HopLine:
    """One hop of one order: how it stands, since when, and what says so.

    Attributes:
        theirs: what other programs wrote in it (statuses, errors): in no language of ours.
    """

    hop: Hop
    mark: Mark
    at: datetime | None
    text: str
    theirs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is said of one order.

    Attributes:
        hop: the first one that is missing; None: none is, or it cannot be told.
        lines: the five hops, in order.
        next: commands, the first to be run now.
        fix: what to do beside them; "" where nothing is.
        missing: what could not be had, with `unknown`.
        overwritten: the status that its return gave it, and the one that somebody put in its place.
        mend_sql: the statement that makes a missing outbox row, or sets the status again.
        asked: the id that was given, where it was not the order's own.
        found_as: what that id is: `order_number`, `event id`.
        trace_told: the watchdog wrote into its trace, sampled or not.
        event_deleted: the event's row is gone from the outbox, and its record proves it.
    """

    order_id: str
    verdict: Verdict
    cause: Cause
    hop: Hop | None
    lines: tuple[HopLine, ...]
    next: tuple[str, ...]
    meaning: str
    fix: str
    placed_at: datetime | None = None
    due_at: datetime | None = None
    event_id: str | None = None
    event_type: str | None = None
    outbox_id: int | None = None
    traceparent: str | None = None
    trace_id: str | None = None
    incident_id: int | None = None
    delay: Delay | None = None
    missing: str | None = None
    overwritten: tuple[str, str] | None = None
    mend_sql: str | None = None
    event_deleted: bool = False
    trace_told: bool = False
    asked: str | None = None
    found_as: str | None = None

    @property
    def fate(self) -> Fate:
        """What it means for the customer who waits."""
        return fate_of(self.verdict, self.cause)

    @property
    def page(self) -> str:
        """The verdict's page of documentation."""
        return page(self.verdict)

    @property
    def trace_sampled(self) -> bool | None:
        """Whether the order's trace is recorded, by its caller's word; None: it has no trace."""
        if self.trace_id is None:
            return None
        context = parse(self.traceparent)
        return True if context is None else context.sampled

    def trace_link(self, trace_url: str | None) -> str | None:
        """Return where its trace can be looked at; None: nowhere, or it holds nothing."""
        if not self.trace_sampled and not self.trace_told:
            return None
        overdue = MEANINGS[self.verdict].fate is not Fate.FINE
        return trace_link(trace_url, self.trace_id, overdue=overdue)

    def as_json(self, trace_url: str | None = None) -> dict[str, Any]:
        """Return the contract's object; `trace_url` is the trace viewer's address."""
        facts = [{"what": str(line.hop), "found": line.text} for line in self.lines]
        if self.missing is not None:
            facts.append({"what": "missing", "found": self.missing})
        if self.fix:
            facts.append({"what": "fix", "found": self.fix})
        if self.mend_sql is not None:
            facts.append({"what": "mend", "found": self.mend_sql})
        return {
            "order_id": self.order_id,
            "verdict": str(self.verdict),
            "hop": None if self.hop is None else str(self.hop),
            "cause": str(self.cause),
            "evidence": facts,
            "next": list(self.next),
            "trace_id": self.trace_id,
            "trace_url": self.trace_link(trace_url),
            "trace_sampled": self.trace_sampled,
            "meaning": self.meaning,
            "event_id": self.event_id,
            "placed_at": _iso(self.placed_at),
            "due_at": _iso(self.due_at),
            "incident": None if self.incident_id is None else f"I-{self.incident_id}",
            "delay": _delay(self.delay),
            "docs": self.page,
            "asked": self.asked,
            "found_as": self.found_as,
        }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _delay(delay: Delay | None) -> dict[str, Any] | None:
    if delay is None:
        return None
    return {
        "hop": str(delay.hop),
        "seconds": round(delay.seconds, 3),
        "cause": None if delay.cause is None else str(delay.cause),
    }
