"""Joins what was gathered into one `Evidence` for each order: pure functions.

Invariant: nothing is asked here and nothing is decided; an order whose parts are Missing keeps them
Missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from relay.consumers.returns.refusals import Reason
from relay.diagnose.causes import Cause
from relay.diagnose.evidence.history import crossing, waiting
from relay.diagnose.evidence.order import (
    Crossing,
    Delivery,
    EventSeen,
    Evidence,
    Found,
    HeldEvent,
    Moment,
    Neighbours,
    OrderSeen,
    Place,
    ReadBack,
    ReturnSeen,
    Scan,
    Waiting,
)
from relay.diagnose.evidence.rows import EventRow, ReturnRow, Rows
from relay.diagnose.evidence.system_state import Missing, SystemState
from relay.diagnose.gather.answers import in_question, share_out
from relay.diagnose.gather.copies import Copies
from relay.diagnose.gather.database import trace_id
from relay.diagnose.gather.lost_unread import unread_lost
from relay.diagnose.gather.positions import Series
from relay.diagnose.gather.readback import ReadBacks
from relay.diagnose.gather.scan import ScanResult
from relay.diagnose.gather.unlooked import unlooked_returns
from relay.kafka.partition import Partition
from relay.runtime.flow import Flow, default_deadline_seconds

_NOT_LOOKED_AT = Missing(
    "the rows around the order",
    Cause.TIMED_OUT,
    "there are more orders without an event than are looked at together",
    "relay diagnose for this order alone",
)


@dataclass(slots=True)
class LogFacts:
    """What was read from Kafka's logs for these orders.

    Attributes:
        scan: None when there was no need to look.
        elsewhere: returns on other topics, by order.
        elsewhere_unread: other topics of which not all was read.
        answered: orders in the neighbourhood that have a return, and when it was handled; None: it
            was not yet.
        refused: what was quarantined from where returns were found, by partition and offset.
        positions_missing: why recorded positions are not known; None: they are.
        home: the partition of the returns topic where an order's key belongs; None: unknown.
    """

    readbacks: ReadBacks = field(default_factory=ReadBacks)
    copies: Copies = field(default_factory=Copies)
    scan: ScanResult | Missing | None = None
    elsewhere: Mapping[str, list[ReturnRow]] = field(default_factory=dict)
    elsewhere_unread: Sequence[str] = ()
    answered: Mapping[str, datetime | None] | Missing = field(default_factory=dict)
    refused: Mapping[tuple[int, int], ReturnRow] | Missing = field(default_factory=dict)
    positions: Series = field(default_factory=dict)
    positions_missing: Missing | None = None
    home: Callable[[str], int | None] = lambda _order_id: None

    def found_orders(self) -> frozenset[str]:
        """Return the orders that have a return on the part of Kafka that was read."""
        return frozenset(self.scan.found) if isinstance(self.scan, ScanResult) else frozenset()

    def found_positions(self) -> set[tuple[int, int]]:
        """Return partition and offset of every return that was found on Kafka."""
        if not isinstance(self.scan, ScanResult):
            return set()
        found = (row.seen for rows in self.scan.found.values() for row in rows)
        return {(one.partition, one.offset) for one in found}


@dataclass(frozen=True, slots=True)
class Joiner:
    """Joins the parts for one order at a time."""

    flow: Flow
    around: SystemState
    rows: Rows
    log: LogFacts

    def evidence(self, order_id: str, asked_event: str | None = None) -> Evidence:
        """Return everything known about one order."""
        events = self._events(order_id)
        waiting_events = [] if isinstance(events, Missing) else self._expecting(events)
        returns = self._returns(order_id, waiting_events)
        given = {} if isinstance(returns, Missing) else share_out(waiting_events, returns)
        chosen = in_question(waiting_events, given, asked_event) if given else None
        if chosen is None and waiting_events:
            chosen = waiting_events[0]
        case = self.rows.cases.get(order_id)
        base = Evidence(
            order_id=order_id,
            around=self.around,
            order=self._order(order_id),
            event=events if isinstance(events, Missing) else self._event(chosen),
            handed_over=chosen.handed_over if chosen else False,
            passed=chosen.passed if chosen else False,
            held=self._held(order_id, chosen),
            returns=_seen(returns, given, chosen),
            scan=self._scan(order_id, (), None),
            closed=case.closed if case else None,
            incident_id=case.incident_id if case else None,
            trace_told=case.reported if case else False,
            case_kind=case.kind if case else None,
            lost_kind=case.lost_kind if case else None,
            other_types=() if isinstance(events, Missing) else _other_types(events, chosen),
            moment=self._moment(order_id),
            searched=self.rows.unsearched,
            dropped_partition=self._dropped(order_id),
            positions=self.log.positions_missing,
            default_deadline_seconds=default_deadline_seconds(self.flow),
        )
        return base if chosen is None else self._with_deliveries(base, chosen)

    def _order(self, order_id: str) -> OrderSeen | Missing | None:
        orders = self.rows.orders
        return orders if isinstance(orders, Missing) else orders.get(order_id) or self.rows.hidden

    def _dropped(self, order_id: str) -> str | Missing | None:
        dropped = self.rows.dropped
        return dropped if isinstance(dropped, Missing) else dropped.get(order_id)

    def _moment(self, order_id: str) -> Moment | Missing:
        moments = self.rows.moments
        if isinstance(moments, Missing):
            return moments
        return moments.get(order_id, _NOT_LOOKED_AT)

    def _events(self, order_id: str) -> list[EventRow] | Missing:
        events = self.rows.events
        return events if isinstance(events, Missing) else events.get(order_id, [])

    def _expecting(self, events: Sequence[EventRow]) -> list[EventRow]:
        """Return the rows that expect a return, or whose type nobody has mapped."""
        due = [one for one in events if self.flow.deadline_seconds(one.event_type) is not None]
        return due or [one for one in events if self.flow.route(one.event_type) is None]

    def _event(self, row: EventRow | None) -> EventSeen | None:
        if row is None:
            return None
        route = self.flow.route(row.event_type)
        own = None if route is None else route.deadline_seconds
        return EventSeen(
            outbox_id=row.outbox_id,
            event_id=row.event_id,
            event_type=row.event_type,
            topic=None if route is None else route.topic,
            created_at=row.created_at,
            deadline_seconds=default_deadline_seconds(self.flow) if own is None else own,
            traceparent=row.traceparent,
            kept=row.kept,
            deleted=row.deleted,
        )

    def _held(self, order_id: str, chosen: EventRow | None) -> tuple[HeldEvent, ...] | Missing:
        held = self.rows.held
        if isinstance(held, Missing) or chosen is None:
            return held if isinstance(held, Missing) else ()
        return tuple(
            replace(one.held, own=one.outbox_id == chosen.outbox_id)
            for one in held.get(order_id, [])
            if one.outbox_id <= chosen.outbox_id
        )

    def _returns(self, order_id: str, events: Sequence[EventRow]) -> list[ReturnRow] | Missing:
        stored = self.rows.returns
        if isinstance(stored, Missing):
            return stored
        rows = list(stored.get(order_id, []))
        by_trace, refused = self.rows.returns_by_trace, self.log.refused
        if not isinstance(by_trace, Missing):
            for event in events:
                found = by_trace.get(trace_id(event), [])
                rows += [one for one in found if _may_be_of(order_id, one.seen)]
        elif events and not rows:
            return by_trace
        if isinstance(self.log.scan, ScanResult):
            found = self.log.scan.found.get(order_id, [])
            if found and isinstance(refused, Missing) and not _has_ended(rows):
                return refused  # what became of them, nobody could look
            rows += [self._as_held(one) for one in found]
        rows += self.log.elsewhere.get(order_id, [])
        return _once_each(rows)

    def _as_held(self, found: ReturnRow) -> ReturnRow:
        """Return the quarantine's row for a return on Kafka, with what only its bytes say."""
        refused = {} if isinstance(self.log.refused, Missing) else self.log.refused
        held = refused.get((found.seen.partition, found.seen.offset))
        if held is None:
            return found
        names = held.seen.names_order or found.seen.names_order
        # Several reasons may share a range: what it is refused for by its bytes alone is certain.
        reason = found.seen.reason or held.seen.reason
        return replace(held, seen=replace(held.seen, names_order=names, reason=reason))

    def _with_deliveries(self, base: Evidence, chosen: EventRow) -> Evidence:
        deliveries = self.rows.deliveries
        if isinstance(deliveries, Missing):
            return replace(base, deliveries=deliveries)
        sent = tuple(deliveries.get(chosen.outbox_id, []))
        if not sent:
            return base
        own = tuple(one for one in sent if one.topic in self.flow.topics) or sent
        newest = own[-1]
        return replace(
            base,
            deliveries=own,
            strayed=newest.topic not in self.flow.topics,
            readback=self._readback(newest, chosen.event_id),
            copy=self.log.copies.of(chosen.event_id),
            scan=self._scan(base.order_id, own, chosen),
            crossing=self._crossings(newest),
            waiting=self._waiting(newest),
            neighbours=self._neighbours(base.order_id, newest, chosen),
        )

    def _readback(self, newest: Delivery, event_id: str) -> ReadBack | Missing | None:
        if newest.offset is None:
            return None
        topics = self.around.topics
        if isinstance(topics, Missing):
            return topics
        where = Partition(newest.topic, newest.partition)
        unread = Missing("the record", Cause.TIMED_OUT, "not read back in time", "again")
        read = self.log.readbacks.at(where, newest.offset, event_id)
        if read is None and newest.topic not in self.flow.topics:
            return None  # no setting names it: the ledger and the group's offset are the proof
        return unread if read is None else read

    def _crossings(self, newest: Delivery) -> dict[str, Crossing]:
        if newest.offset is None:
            return {}
        found = {}
        for group in self.flow.processor_groups:
            samples = self.log.positions.get((group, Partition(newest.topic, newest.partition)), [])
            came = crossing(
                group,
                samples,
                newest.offset,
                newest.published_at,
                never_joined=self._never_joined(group),
            )
            if came is not None:
                found[group] = came
        return found

    def _never_joined(self, group: str) -> bool:
        groups = self.around.groups
        if isinstance(groups, Missing) or group not in groups:
            return False
        return groups[group].never_joined

    def _waiting(self, newest: Delivery) -> dict[str, Waiting]:
        if newest.offset is None:
            return {}
        found = {}
        for group in self.flow.processor_groups:
            samples = self.log.positions.get((group, Partition(newest.topic, newest.partition)), [])
            still = waiting(samples, newest.offset, newest.published_at)
            if still is not None:
                found[group] = still
        return found

    def _neighbours(
        self, order_id: str, newest: Delivery, chosen: EventRow
    ) -> Neighbours | Missing | None:
        if newest.offset is None:
            return None
        known, read = self.log.answered, self._readback(newest, chosen.event_id)
        if isinstance(known, Missing):
            return known
        if isinstance(read, Missing):
            return read
        where = Partition(newest.topic, newest.partition)
        answered: dict[int, datetime | None] = {}
        unanswered = [newest.offset]
        # Where another record has its place, those around are of another log, too.
        another = read is not None and read.found in (Found.OTHER, Found.GONE_AFTER)
        around = [] if another else self.log.readbacks.around(where, newest.offset)
        for offset, key in around:
            other = key.decode("utf-8", "replace")
            if other == order_id:
                continue
            if other in known:
                answered[offset] = known[other]
            else:
                unanswered.append(offset)
        handled = {offset: at for offset, at in answered.items() if at is not None}
        return Neighbours(tuple(sorted(unanswered)), tuple(sorted(answered)), handled)

    def _scan(
        self, order_id: str, deliveries: Sequence[Delivery], chosen: EventRow | None
    ) -> Scan | Missing:
        scan = self.log.scan
        if isinstance(scan, Missing):
            return scan
        if scan is None:
            return Scan(complete=False, records=0, partitions_read=0, partitions=0)
        unlooked, why = unlooked_returns(self.flow, self.around, scan, deliveries, chosen)
        return Scan(
            complete=not unlooked,
            records=scan.records,
            partitions_read=scan.partitions - len(scan.unread),
            partitions=scan.partitions,
            newest_return_at=scan.newest_return_at,
            unread_lost=self._unread_lost(order_id, deliveries[0].published_at, scan)
            if deliveries
            else None,
            vouched=scan.vouched,
            elsewhere_unread=tuple(self.log.elsewhere_unread),
            unlooked=unlooked,
            unlooked_cause=why,
        )

    def _unread_lost(self, order_id: str, published_at: datetime, scan: ScanResult) -> Cause | None:
        """Say why returns that nobody had read are gone from the partition of the order's key."""
        topics, home = self.around.topics, self.log.home(order_id)
        if isinstance(topics, Missing) or home is None:
            return None
        topic = topics[self.flow.returns_topic]
        return unread_lost(
            self.around,
            topic,
            home,
            published_at,
            lost=home in scan.lost_partitions,
            made_again=home in scan.made_again,
        )


def _may_be_of(order_id: str, refused: ReturnSeen) -> bool:
    """Tell whether a refused return of an order's trace may be the order's own.

    Several orders may have been placed in one trace: one that names another order is that one's,
    unless there is no such order.
    """
    strangers = refused.reason == Reason.UNKNOWN_ORDER
    return strangers or refused.names_order in (None, order_id)


def _has_ended(rows: Sequence[ReturnRow]) -> bool:
    return any(row.seen.place is Place.INBOX and row.seen.terminal for row in rows)


def _once_each(rows: Sequence[ReturnRow]) -> list[ReturnRow]:
    """Drop the copy on Kafka of what is in inbox, quarantine or pending."""
    seen: dict[tuple[str, int, int], ReturnSeen] = {}
    kept = []
    for row in rows:
        where = (row.seen.topic, row.seen.partition, row.seen.offset)
        known = seen.get(where)
        if known is not None and _same_record(known, row.seen):
            continue
        seen[where] = row.seen
        kept.append(row)
    return kept


def _same_record(one: ReturnSeen, other: ReturnSeen) -> bool:
    """Tell a record from another at the same offset of a topic that was made again."""
    times = one.recorded_at, other.recorded_at
    return None in times or times[0] == times[1]


def _seen(
    returns: Sequence[ReturnRow] | Missing,
    given: Mapping[str, Sequence[ReturnRow]],
    chosen: EventRow | None,
) -> tuple[ReturnSeen, ...] | Missing:
    if isinstance(returns, Missing):
        return returns
    own = returns if chosen is None else given.get(chosen.event_id, [])
    return tuple(row.seen for row in own)


def _other_types(events: Sequence[EventRow], chosen: EventRow | None) -> tuple[str, ...]:
    own = None if chosen is None else chosen.event_id
    return tuple(sorted({one.event_type for one in events if one.event_id != own}))
