"""Hops 1, 2, 4 and 5: what the database holds of many orders, before it is joined; values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from relay.diagnose.evidence.order import (
    ClosedByHand,
    Delivery,
    HeldEvent,
    Moment,
    OrderSeen,
    ReturnSeen,
)
from relay.diagnose.evidence.system_state import Missing


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of the outbox, or of relay.kept.

    Attributes:
        handed_over: the checkpoint is past it; Missing: nobody could look whether Kafka has it.
        passed: the other publisher's slot confirmed its commit.
        deleted: it is gone from the outbox, and its record on Kafka proves that it was there.
    """

    outbox_id: int
    event_id: str
    event_type: str
    created_at: datetime
    traceparent: str | None
    kept: bool
    handed_over: bool | Missing
    passed: bool = False
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A quarantined event of an order."""

    outbox_id: int
    held: HeldEvent


@dataclass(frozen=True, slots=True)
class ReturnRow:
    """A return, with the event that it says it answers."""

    seen: ReturnSeen
    causation_id: str | None = None


@dataclass(frozen=True, slots=True)
class CaseRow:
    """What relay.overdue knows of an order.

    Attributes:
        kind: hop and cause as last recorded.
        lost_kind: the same before the order was sent again.
        reported: the watchdog wrote it into the order's trace.
    """

    incident_id: int | None
    closed: ClosedByHand | None
    kind: tuple[str, str] | None = None
    lost_kind: tuple[str, str] | None = None
    reported: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Everything by order id, but deliveries (by outbox id) and returns by trace (by trace id).

    Attributes:
        hidden: why an order may have a row that is not among `orders`; None: it has none.
        moments: what stands around orders that have a row and no event, and Missing where nobody
            could look; an order that is absent was not looked at.
        vacant: ids around each of those orders that no row has.
        vanished: deliveries of those ids, by outbox id.
        unsearched: why Kafka was not searched to its end for ids of which no row knows.
        dropped: name of the dropped partition that covers an order's time, for those without event.
    """

    orders: Mapping[str, OrderSeen] | Missing
    events: Mapping[str, list[EventRow]] | Missing
    deliveries: Mapping[int, list[Delivery]] | Missing
    held: Mapping[str, list[HeldRow]] | Missing
    returns: Mapping[str, list[ReturnRow]] | Missing
    hidden: Missing | None = None
    returns_by_trace: Mapping[str, list[ReturnRow]] | Missing = field(default_factory=dict)
    cases: Mapping[str, CaseRow] = field(default_factory=dict)
    moments: Mapping[str, Moment | Missing] | Missing = field(default_factory=dict)
    vacant: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    vanished: Mapping[int, list[Delivery]] | Missing = field(default_factory=dict)
    unsearched: Missing | None = None
    dropped: Mapping[str, str] | Missing = field(default_factory=dict)
