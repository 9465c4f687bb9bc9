"""All hops: one order's way, hop by hop, and the gap in it, told from what was gathered.

Invariant: pure, and it says no more than the facts do: a hop is `done` by its own proof, `passed`
when only a later hop proves it, `waiting` or, past its deadline, `missing` when there is none, and
`unknown` when nobody could look. Whose fault a gap is, `relay diagnose` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from relay.diagnose.timeline_facts import EventRow, OrderFacts, ReturnFact
from relay.diagnose.timeline_hops import (
    HOPS,
    Hop,
    State,
    confirm_hop,
    is_terminal,
    place_hop,
    process_hop,
    publish_hop,
    return_hop,
)
from relay.runtime.flow import Flow
from relay.telemetry import traceparent
from relay.telemetry.traceparent import TraceContext

_PROVEN: Final = ("done", "passed")


@dataclass(frozen=True, slots=True)
class EventTimeline:
    """The five hops of one event that expects a return.

    Attributes:
        event_id: None for an order whose event was never written.
        returned: a terminal return was applied.
        deadline_at: its return is overdue after that.
        gap: the first hop that is not proven; None when all are.
    """

    event_id: str | None
    event_type: str | None
    hops: tuple[Hop, ...]
    returned: bool
    deadline_at: datetime | None
    context: TraceContext | None

    @property
    def gap(self) -> Hop | None:
        """The first hop that is not proven by itself or by a later one."""
        return next((hop for hop in self.hops if hop.state not in _PROVEN), None)


@dataclass(frozen=True, slots=True)
class Timeline:
    """An order's way. `exists` is False when neither its row nor an event of it is there."""

    order_id: str
    exists: bool
    status: str | None
    now: datetime
    events: tuple[EventTimeline, ...]

    @property
    def returned(self) -> bool:
        """Whether every event that expects a return has a terminal one."""
        return bool(self.events) and all(event.returned for event in self.events)

    @property
    def overdue(self) -> bool:
        """Whether an event is past its deadline and not returned."""
        return any(
            not event.returned and event.deadline_at is not None and event.deadline_at < self.now
            for event in self.events
        )


def tell(facts: OrderFacts, flow: Flow) -> Timeline:
    """Tell an order's way from the facts."""
    exists = facts.order is not None or bool(facts.events)
    expecting = [row for row in facts.events if flow.deadline_seconds(row.event_type) is not None]
    events = tuple(
        _event(row, facts, flow, answers)
        for row, answers in _answers(expecting, facts.returns, flow)
    )
    if facts.order is not None and not facts.events:
        events = (_without_event(facts),)
    status = None if facts.order is None else facts.order.status
    return Timeline(facts.order_id, exists, status, facts.now, events)


def _answers(
    events: Sequence[EventRow], returns: Sequence[ReturnFact], flow: Flow
) -> list[tuple[EventRow, list[ReturnFact]]]:
    """Give each event its returns: by `ce_causationid`, else the oldest one unanswered."""
    given: dict[str, list[ReturnFact]] = {row.event_id: [] for row in events}
    for one in returns:
        if one.causation_id in given:
            given[one.causation_id].append(one)
            continue
        unanswered = (
            row for row in events if not any(is_terminal(r, flow) for r in given[row.event_id])
        )
        row = next(unanswered, events[-1] if events else None)
        if row is not None:
            given[row.event_id].append(one)
    return [(row, given[row.event_id]) for row in events]


def _event(
    row: EventRow, facts: OrderFacts, flow: Flow, returns: list[ReturnFact]
) -> EventTimeline:
    deliveries = [one for one in facts.deliveries if one.outbox_id == row.outbox_id]
    applied = [one for one in returns if one.place == "inbox" and is_terminal(one, flow)]
    deadline = row.created_at + timedelta(seconds=flow.deadline_seconds(row.event_type) or 0)
    hops = (
        place_hop(row, facts),
        publish_hop(row, deliveries, facts),
        process_hop(deliveries, facts, flow),
        return_hop(returns, facts, flow),
        confirm_hop(returns, facts, flow),
    )
    return EventTimeline(
        row.event_id,
        row.event_type,
        _timed(_proven_backwards(hops, overdue=deadline < facts.now)),
        bool(applied),
        deadline,
        _context(row),
    )


def _without_event(facts: OrderFacts) -> EventTimeline:
    """Tell of an order whose event was never written: nothing after it can have happened."""
    assert facts.order is not None
    place = Hop(
        "place",
        "missing",
        (f"order is {facts.order.status}, and has no row in relay.outbox",),
        facts.order.submitted_at,
    )
    later = tuple(Hop(name, "missing", ("nothing was ever sent",)) for name in HOPS[1:])
    return EventTimeline(
        None, None, (place, *later), returned=False, deadline_at=None, context=None
    )


def _context(row: EventRow) -> TraceContext:
    own = traceparent.parse(row.traceparent)
    event_id = bytes.fromhex(row.event_id.replace("-", ""))
    return own or traceparent.of_event(event_id, sampled=True)


def _proven_backwards(hops: Sequence[Hop], *, overdue: bool) -> tuple[Hop, ...]:
    """Judge each hop by the later ones too: behind the last one done, all are passed."""
    last_done = max(index for index, hop in enumerate(hops) if hop.state == "done")
    told = []
    for index, hop in enumerate(hops):
        if hop.state == "done" or index > last_done + 1:
            state: State = hop.state if hop.state == "done" else "waiting"
        elif index < last_done:
            state = "passed"
        else:
            state = hop.state if overdue or hop.state == "unknown" else "waiting"
        told.append(hop if hop.state == state else replace(hop, state=state))
    return tuple(told)


def _timed(hops: Sequence[Hop]) -> tuple[Hop, ...]:
    """Add how long each hop took, where it and one before it have a time.

    A proof is written a moment after the fact: a hop that seems to end too early took nothing.
    """
    timed = [hop for hop in hops if hop.at is not None]
    took = {
        after.name: max(0.0, (after.at - before.at).total_seconds())
        for before, after in pairwise(timed)
        if before.at is not None and after.at is not None
    }
    return tuple(
        replace(hop, took_seconds=took[hop.name]) if hop.name in took else hop for hop in hops
    )
