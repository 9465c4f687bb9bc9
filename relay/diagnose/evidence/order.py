"""Everything gathered about one order, each part either known or `Missing`.

Invariant: values only; nothing here decides, reads or writes. `None` means "looked, and there is
none"; `Missing` means "could not look".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.system_state import Missing, SystemState


@dataclass(frozen=True, slots=True)
class OrderSeen:
    """The order's row, in the order service's table.

    Attributes:
        terminal: it waits for no return any more.
        known: its status is one of the flow's.
        later: it has gone on from what its return gave it.
    """

    status: str
    terminal: bool
    submitted_at: datetime | None
    returned_at: datetime | None = None
    known: bool = True
    later: bool = False


@dataclass(frozen=True, slots=True)
class EventSeen:
    """The outbox row that expects a return.

    Attributes:
        kept: its partition was dropped and the row stands in relay.kept.
        deadline_seconds: its return is overdue after that long.
        deleted: the row is gone from the outbox; its record on Kafka proves that it was there.
    """

    outbox_id: int
    event_id: str
    event_type: str
    topic: str | None
    created_at: datetime
    deadline_seconds: float
    traceparent: str | None = None
    kept: bool = False
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One publication of the event; `offset` is None when the broker gave none."""

    topic: str
    partition: int
    offset: int | None
    published_at: datetime
    replay_id: str | None = None


class Found(StrEnum):
    """What stands at the offset that the ledger names."""

    SAME = "same"
    OTHER = "other"
    GONE_BEFORE = "gone_before"  # before the log's start: deleted
    GONE_AFTER = "gone_after"  # at or after the log's end
    GONE_WITHIN = "gone_within"  # a hole between them: compacted
    NO_TOPIC = "no_topic"


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What was read at the newest delivery's offset."""

    found: Found
    event_id: str | None = None
    recorded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class HeldEvent:
    """A row of the quarantine that holds this event, or an earlier one of the same order."""

    reason: str
    detail: str
    state: str
    own: bool
    first_seen_at: datetime
    resolved_by: str | None = None
    resolved_why: str | None = None


class Place(StrEnum):
    """Where a return was found."""

    INBOX = "inbox"
    QUARANTINE = "quarantine"
    PENDING = "pending"
    LOG = "log"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class ReturnSeen:
    """A return of this order, or bytes that can only be one.

    Attributes:
        status: as it says; None when that cannot be read.
        terminal: None when the status cannot be read or is not known to the flow.
        handled_at: when the consumer applied, refused or set it aside.
        outcome: the inbox's word for what was done.
        became: the status that it gave the order; None: it changed nothing, or is not applied.
        names_order: the order that it says it is for.
        behind_transaction: it stands in or behind a transaction that is still open: nothing is
            applied before that one ends.
    """

    place: Place
    topic: str
    partition: int
    offset: int
    status: str | None
    terminal: bool | None
    recorded_at: datetime | None = None
    handled_at: datetime | None = None
    outcome: str | None = None
    names_order: str | None = None
    reason: str | None = None
    detail: str | None = None
    state: str | None = None
    resolved_by: str | None = None
    resolved_why: str | None = None
    behind_transaction: bool = False
    became: str | None = None

    @property
    def ends(self) -> bool:
        """Whether it is, or may be, the final answer: only a known `processing` is not."""
        return self.terminal is not False


@dataclass(frozen=True, slots=True)
class Scan:
    """How much of the returns topic was read for this order, from its publication to the end.

    Attributes:
        unread_lost: why records that nobody had read are gone from it (a cause), when recorded.
        newest_return_at: time of the newest return of any order that was read.
        vouched: some were not read because the consumer had handled them: inbox and quarantine
            would have them.
        unlooked: what could not be looked at, in words; "" when it is complete.
        unlooked_cause: why: `scan_incomplete`, `records_deleted` or `compacted`.
    """

    complete: bool
    records: int
    partitions_read: int
    partitions: int
    newest_return_at: datetime | None = None
    unread_lost: Cause | None = None
    vouched: bool = False
    elsewhere_unread: tuple[str, ...] = ()
    unlooked: str = ""
    unlooked_cause: Cause = Cause.SCAN_INCOMPLETE


@dataclass(frozen=True, slots=True)
class Crossing:
    """How the group's committed offset came past the record, from the recorded positions.

    Attributes:
        before_offset: the last position at or before the record, and its members.
        after_offset: the first position past it, and its members.
        unattended_from_at: when the group lost its last member while the record waited; None:
            it had members all the time.
        unattended_before: that is only known of the moment before the record came: whether it had
            members again by then was not recorded.
        members_left_at: when it lost a member at most a minute after passing the record.
        left_offset: the committed offset at that moment.
        log_start: the log's start when it was passed, when recorded.
    """

    group: str
    before_at: datetime
    before_offset: int
    before_members: int | None
    after_at: datetime
    after_offset: int
    after_members: int | None
    unattended_from_at: datetime | None = None
    unattended_before: bool = False
    members_left_at: datetime | None = None
    left_offset: int | None = None
    log_start: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The last recorded position of a group that is still at or before the record.

    Attributes:
        log_start: the log's start then, when recorded.
        left_over: the offset committed then, when it was one of an older log.
    """

    at: datetime
    offset: int
    members: int | None
    log_start: int | None = None
    left_over: int | None = None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the records around this one on its partition got, as far as it was looked at.

    Attributes:
        unanswered: offsets of those without any return, in order; this one's own is among them.
        answered: offsets of those with one, in order.
        handled_at: when the first return of one was handled, where it was.
    """

    unanswered: tuple[int, ...]
    answered: tuple[int, ...] = ()
    handled_at: Mapping[int, datetime] = field(default_factory=lambda: MappingProxyType({}))

    def answered_by(self, at: datetime) -> frozenset[int]:
        """Return the offsets whose return had been handled at a time."""
        return frozenset(one for one, handled_at in self.handled_at.items() if handled_at <= at)

    def run(self, offset: int) -> tuple[int, int]:
        """Return first and last offset of the unanswered run that an offset stands in."""
        below = max((one for one in self.answered if one < offset), default=-1)
        above = min((one for one in self.answered if one > offset), default=None)
        inside = [one for one in self.unanswered if one > below and (above is None or one < above)]
        return min(inside, default=offset), max(inside, default=offset)


@dataclass(frozen=True, slots=True)
class Moment:
    """What the outbox holds around the moment at which an order without an event was written.

    Attributes:
        strays: aggregate ids of rows that its own transaction wrote, or whose payload names it.
        unclaimed: aggregate ids of rows that belong to no order, and may be this one's.
        payloads_unread: their payloads could not be looked into.
        vacant_count: ids around it that no row has: rolled back, or deleted.
        deleted_count: rows that somebody deleted from the outbox, as PostgreSQL counts them.
        sent_count: how many of the vacant ids the ledger knows: rows that were there, were
            published, and of which no record could be read back.
        before_events: its row was last written before the first event was.
        before_trigger: before the triggers that are disabled now were, too.
    """

    strays: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    payloads_unread: bool = False
    vacant_count: int = 0
    deleted_count: int = 0
    sent_count: int = 0
    before_events: bool = False
    before_trigger: bool = False


@dataclass(frozen=True, slots=True)
class ClosedByHand:
    """Who closed the order's overdue case, and why."""

    by: str
    why: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known about one order.

    Attributes:
        order: its row; None: there is none.
        twin: the id under which the same submission is already known.
        known_as: what its id is, where it is known and no order's.
        event: the row that expects a return: the oldest unanswered, else the newest answered.
        other_types: event types of the order's further rows.
        moment: what stands around an order without an event; Missing: nobody could look.
        searched: whether Kafka was searched to its end for an id of which no row knows.
        dropped_partition: the partition that would have held the row and was dropped.
        handed_over: the checkpoint is past the row.
        passed: another publisher's slot confirmed its commit.
        deliveries: publications of the event on the flow's topics, oldest first; where there are
            none, those on topics that the flow does not name (any more).
        strayed: those are all that there is.
        readback: what stands at the newest delivery's offset; None: nothing was delivered.
        copy: where a copy stands that a processor group reads instead (a mirror, a re-partitioned
            one); None: none of the groups reads another topic, or there is none.
        held: quarantined events that hold this one back.
        returns: its returns, wherever they are; those of the log only as far as `scan` reached.
        crossing: by processor group that was recorded past the newest delivery.
        waiting: by processor group that was last recorded at or before it.
        positions: why it is not known what was recorded of the groups; None: both are all.
        neighbours: what became of the records around it; Missing: nobody could look.
        case_kind: hop and cause that the watchdog recorded while the order was overdue.
        lost_kind: the same before it was sent again.
        default_deadline_seconds: for an order without an event.
    """

    order_id: str
    around: SystemState
    order: OrderSeen | Missing | None
    event: EventSeen | Missing | None
    handed_over: bool | Missing = False
    passed: bool = False
    deliveries: tuple[Delivery, ...] | Missing = ()
    strayed: bool = False
    readback: ReadBack | Missing | None = None
    copy: Delivery | Missing | None = None
    held: tuple[HeldEvent, ...] | Missing = ()
    returns: tuple[ReturnSeen, ...] | Missing = ()
    scan: Scan | Missing = field(
        default_factory=lambda: Scan(complete=True, records=0, partitions_read=0, partitions=0)
    )
    crossing: Mapping[str, Crossing] = field(default_factory=lambda: MappingProxyType({}))
    waiting: Mapping[str, Waiting] = field(default_factory=lambda: MappingProxyType({}))
    positions: Missing | None = None
    neighbours: Neighbours | Missing | None = None
    closed: ClosedByHand | None = None
    twin: str | None = None
    known_as: str | None = None
    other_types: tuple[str, ...] = ()
    moment: Moment | Missing = field(default_factory=Moment)
    searched: Missing | None = None
    dropped_partition: str | Missing | None = None
    incident_id: int | None = None
    trace_told: bool = False
    case_kind: tuple[str, str] | None = None
    lost_kind: tuple[str, str] | None = None
    default_deadline_seconds: float = 900.0
