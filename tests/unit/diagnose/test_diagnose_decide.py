"""One labelled case for every (verdict, cause) that exists; the table is complete by test."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relay.diagnose.causes import MEANINGS as CAUSES
from relay.diagnose.causes import Cause
from relay.diagnose.decide.decision import decide
from relay.diagnose.decide.delay import longest_delay
from relay.diagnose.decide.duty import cause_of_code
from relay.diagnose.decide.finding import Finding
from relay.diagnose.evidence.order import (
    ClosedByHand,
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
from relay.diagnose.evidence.publisher import ConnectorSeen, PublisherSeen, SlotSeen, TaskSeen
from relay.diagnose.evidence.system_state import (
    AnsweredPast,
    CheckpointSeen,
    ConsumerOffset,
    ConsumerSeen,
    Gap,
    GroupSeen,
    LeaseSeen,
    LogSeen,
    Missing,
    OutageSeen,
    ProcessSeen,
    Shrink,
    SystemState,
    TopicSeen,
)
from relay.diagnose.report.hops import place, returned
from relay.diagnose.verdicts import Hop, Verdict

NOW = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)
PLACED = NOW - timedelta(hours=1)
PUBLISHED = PLACED + timedelta(milliseconds=5)
EVENTS, RETURNS, GROUP = "orders.events", "orders.returns", "order-processor"
WHERE = (EVENTS, 3)
OFFSET = 118_902


def ago(**kwargs: float) -> datetime:
    return NOW - timedelta(**kwargs)


RUNNING = ProcessSeen("h1:1", ago(days=1), ago(seconds=1), connected=True)
KILLED = ProcessSeen("h1:1", ago(days=1), ago(minutes=70), connected=False)
PAUSED = ProcessSeen("h1:1", ago(days=1), ago(minutes=70), connected=True)
STANDBY = replace(RUNNING, state="standby")
STOPPED = ProcessSeen("h1:1", ago(days=1), ago(minutes=70), ago(minutes=70), "SIGTERM", False)
EVENTS_SEEN = TopicSeen(
    EVENTS, True, {3: LogSeen(100, 119_500, ago(days=6))}, retention_seconds=604_800
)
RETURNS_SEEN = TopicSeen(
    RETURNS, True, {1: LogSeen(0, 9_000, ago(days=6))}, retention_seconds=604_800
)
PASSED = GroupSeen(
    GROUP, True, "Stable", 3, frozenset({EVENTS}), frozenset({WHERE}), {WHERE: 119_400}
)
BEHIND = replace(PASSED, committed={WHERE: 118_000}, earlier={WHERE: 118_000})

AROUND = SystemState(
    now_at=NOW,
    watched_since=ago(days=30),
    returns_topic=RETURNS,
    processor_groups=(GROUP,),
    confirm_group="order-confirmation",
    keeps_orders=True,
    relays=(RUNNING,),
    consumers=(RUNNING,),
    outages=(),
    checkpoint=CheckpointSeen(ago(seconds=1)),
    lease=LeaseSeen("h1:1", NOW + timedelta(seconds=5)),
    topics={EVENTS: EVENTS_SEEN, RETURNS: RETURNS_SEEN},
    groups={GROUP: PASSED},
    consumer=ConsumerSeen({1: ConsumerOffset(9_000, ago(seconds=1))}),
    ledger_from_at=ago(days=20),
)
EVENT = EventSeen(8_841_220, "0190-e", "order.placed", EVENTS, PLACED, 900.0)
DELIVERY = Delivery(EVENTS, 3, OFFSET, PUBLISHED)
# An order whose event was published, passed by the processor, and never answered.
LOST = Evidence(
    order_id="0b9d",
    around=AROUND,
    order=OrderSeen("submitted", False, PLACED),
    event=EVENT,
    handed_over=True,
    deliveries=(DELIVERY,),
    readback=ReadBack(Found.SAME, "0190-e", PUBLISHED),
    scan=Scan(True, 205_118, 6, 6, ago(seconds=2)),
)
TERMINAL = ReturnSeen(Place.LOG, RETURNS, 1, 8_500, "confirmed", True, ago(minutes=50))
APPLIED = replace(TERMINAL, place=Place.INBOX, handled_at=ago(minutes=49), outcome="applied")
IN_TIME = replace(APPLIED, handled_at=PLACED + timedelta(seconds=1))
HELD = HeldEvent("too_large", "2 MB", "held", True, ago(minutes=59))
REFUSED = replace(TERMINAL, place=Place.QUARANTINE, state="held", reason="malformed")
UNSENT = replace(LOST, deliveries=(), readback=None, handed_over=False)
UNPASSED = replace(LOST, around=replace(AROUND, groups={GROUP: BEHIND}))
CROSSED = Crossing(GROUP, ago(minutes=59), 118_402, 3, ago(minutes=2), 118_971, 3)


SLOT = SlotSeen("relay_outbox", active=True)


def around(case: Evidence, **changes: Any) -> Evidence:
    return replace(case, around=replace(case.around, **changes))


def external(*, passed: bool = False, **changes: Any) -> Evidence:
    """Return a row without a record, where somebody else publishes."""
    seen = PublisherSeen(slot=SLOT, witnesses=(RUNNING,), last_record_at=ago(minutes=40))
    case = replace(UNSENT, passed=passed)
    return around(case, relays=(), lease=None, publisher=replace(seen, **changes))


def relay(**changes: Any) -> Evidence:
    return around(UNSENT, relays=(replace(RUNNING, **changes),))


def group(case: Evidence = UNPASSED, **changes: Any) -> Evidence:
    return around(case, groups={GROUP: replace(BEHIND, **changes)})


def topic(case: Evidence, name: str, **changes: Any) -> Evidence:
    topics = dict(case.around.topics)
    return around(case, topics=topics | {name: replace(topics[name], **changes)})


def gone(found: Found, case: Evidence = UNPASSED) -> Evidence:
    return replace(case, readback=ReadBack(found))


def held(**changes: Any) -> Evidence:
    return replace(UNSENT, held=(replace(HELD, **changes),), handed_over=True)


def refused(**changes: Any) -> Evidence:
    return replace(LOST, returns=(replace(REFUSED, **changes),))


def waiting_for_consumer(**changes: Any) -> Evidence:
    ends_at = {1: ConsumerOffset(8_000, ago(minutes=30))}
    case = replace(LOST, returns=(TERMINAL,))
    return around(case, **({"consumer": ConsumerSeen(ends_at)} | changes))


def missing(cause: Cause) -> Missing:
    return Missing("a part", cause, "detail", "how")


def young(case: Evidence) -> Evidence:
    assert isinstance(case.event, EventSeen)
    return replace(
        case,
        event=replace(case.event, created_at=ago(seconds=20)),
        order=OrderSeen("submitted", False, ago(seconds=20)),
    )


OUT = OutageSeen("relay", "broker", ago(minutes=40), None, "no broker answers")
SHRUNK = (Shrink(3, ago(minutes=30), 119_000, ago(minutes=29), 12),)

TABLE: dict[tuple[Verdict, Cause], Evidence] = {
    (Verdict.RETURNED, Cause.IN_TIME): replace(
        LOST, order=OrderSeen("confirmed", True, PLACED), returns=(IN_TIME,)
    ),
    (Verdict.RETURNED, Cause.LATE): replace(
        LOST,
        order=OrderSeen("confirmed", True, PLACED),
        returns=(replace(APPLIED, handled_at=NOW),),
    ),
    (Verdict.RETURNED, Cause.SET_BY_HAND): replace(LOST, order=OrderSeen("rejected", True, PLACED)),
    (Verdict.IN_FLIGHT, Cause.MOVING): young(LOST),
    (Verdict.CLOSED, Cause.CLOSED_BY_HAND): replace(
        LOST, closed=ClosedByHand("ana", "refunded", NOW)
    ),
    (Verdict.NO_SUCH_ORDER, Cause.NEVER_COMMITTED): replace(UNSENT, order=None, event=None),
    (Verdict.NO_SUCH_ORDER, Cause.DUPLICATE_SUBMISSION): replace(
        UNSENT, order=None, event=None, twin="first"
    ),
    (Verdict.NO_SUCH_ORDER, Cause.ORDER_DELETED): replace(LOST, order=None),
    (Verdict.NO_OUTBOX_ROW, Cause.OUTBOX_BYPASSED): replace(UNSENT, event=None),
    (Verdict.NO_OUTBOX_ROW, Cause.TRIGGER_DISABLED): around(
        replace(UNSENT, event=None), disabled_triggers=("orders_to_outbox",)
    ),
    (Verdict.NO_OUTBOX_ROW, Cause.WRONG_AGGREGATE_ID): replace(
        UNSENT, event=None, moment=Moment(strays=("customer-7",))
    ),
    (Verdict.NO_OUTBOX_ROW, Cause.EVENT_DELETED): replace(
        UNSENT, event=None, moment=Moment(vacant_count=1, deleted_count=1)
    ),
    (Verdict.NO_SUCH_ORDER, Cause.ROWS_LOST): replace(
        UNSENT, order=None, event=None, returns=(APPLIED,)
    ),
    (Verdict.UNKNOWN, Cause.EVENT_UNCLAIMED): replace(
        UNSENT, event=None, moment=Moment(unclaimed=("ORD-7",))
    ),
    (Verdict.UNKNOWN, Cause.BEFORE_EVENTS): around(
        replace(UNSENT, event=None), events_since=ago(minutes=59)
    ),
    (Verdict.UNKNOWN, Cause.NOT_AN_ORDER): replace(
        UNSENT, event=None, order=None, known_as="the id of an aggregate of type customer"
    ),
    (Verdict.UNKNOWN, Cause.WRITE_UNDECIDED): replace(
        UNSENT, event=None, order=None, searched=missing(Cause.WRITE_UNDECIDED)
    ),
    (Verdict.UNKNOWN, Cause.ORDERS_NOT_NAMED): around(
        replace(UNSENT, event=None, order=None), keeps_orders=False
    ),
    (Verdict.NO_OUTBOX_ROW, Cause.WRONG_EVENT_TYPE): replace(
        UNSENT, event=None, other_types=("order.created",)
    ),
    (Verdict.NOT_PUBLISHED, Cause.RELAY_DOWN): around(UNSENT, relays=(KILLED,)),
    (Verdict.NOT_PUBLISHED, Cause.RELAY_PAUSED): around(UNSENT, relays=(PAUSED,)),
    (Verdict.NOT_PUBLISHED, Cause.RELAY_BEHIND): UNSENT,
    (Verdict.NOT_PUBLISHED, Cause.RELAY_STUCK): around(
        UNSENT, checkpoint=CheckpointSeen(ago(minutes=50))
    ),
    (Verdict.NOT_PUBLISHED, Cause.LEASE_STUCK): around(
        UNSENT, relays=(STANDBY,), lease=LeaseSeen("h1:1", ago(seconds=3))
    ),
    (Verdict.NOT_PUBLISHED, Cause.REBASELINE_NEEDED): around(
        UNSENT, checkpoint=CheckpointSeen(NOW, rebaseline_needed=True)
    ),
    (Verdict.NOT_PUBLISHED, Cause.CHECKPOINT_SKIPPED): replace(UNSENT, handed_over=True),
    (Verdict.NOT_PUBLISHED, Cause.PUBLISHER_SKIPPED): external(passed=True),
    (Verdict.NOT_PUBLISHED, Cause.PUBLISHER_BEHIND): external(last_record_at=ago(seconds=5)),
    (Verdict.NOT_PUBLISHED, Cause.PUBLISHER_STUCK): external(),
    (Verdict.NOT_PUBLISHED, Cause.SLOT_LOST): external(slot=replace(SLOT, lost="wal_removed")),
    (Verdict.NOT_PUBLISHED, Cause.SLOT_MISSING): external(slot=SlotSeen("s", exists=False)),
    (Verdict.NOT_PUBLISHED, Cause.SLOT_INACTIVE): external(slot=SlotSeen("s")),
    (Verdict.NOT_PUBLISHED, Cause.CONNECTOR_FAILED): external(
        connector=ConnectorSeen("c", "FAILED")
    ),
    (Verdict.NOT_PUBLISHED, Cause.CONNECTOR_PAUSED): external(
        connector=ConnectorSeen("c", "STOPPED"), slot=SlotSeen("s")
    ),
    (Verdict.NOT_PUBLISHED, Cause.CONNECTOR_MISSING): external(
        connector=ConnectorSeen("c", "ABSENT")
    ),
    (Verdict.NOT_PUBLISHED, Cause.CONNECT_TASK_FAILED): external(
        connector=ConnectorSeen("c", "RUNNING", (TaskSeen(0, "FAILED", "no publication"),))
    ),
    (Verdict.UNKNOWN, Cause.WITNESS_DOWN): external(witnesses=(KILLED,), slot=SlotSeen("s")),
    (Verdict.UNKNOWN, Cause.WITNESS_BEHIND): external(unread={(EVENTS, 0): 7}, slot=SlotSeen("s")),
    (Verdict.NOT_PUBLISHED, Cause.SENT_TO_OTHER_TOPIC): replace(
        LOST, deliveries=(Delivery("orders.evnets", 3, OFFSET, PUBLISHED),), strayed=True
    ),
    (Verdict.NOT_PUBLISHED, Cause.TOPIC_MISSING): topic(
        relay(failure_code="kafka:UNKNOWN_TOPIC_OR_PARTITION"), EVENTS, exists=False
    ),
    (Verdict.NOT_PUBLISHED, Cause.PERMISSION_DENIED): relay(
        error="keine Berechtigung für Tabelle outbox", failure_code="sqlstate:42501"
    ),
    (Verdict.NOT_PUBLISHED, Cause.DATABASE_REFUSES): relay(failure_code="sqlstate:53100"),
    (Verdict.NOT_PUBLISHED, Cause.DATABASE_UNREACHABLE): around(
        UNSENT, outages=(replace(OUT, resource="database"),)
    ),
    (Verdict.NOT_PUBLISHED, Cause.BROKER_UNREACHABLE): around(UNSENT, outages=(OUT,)),
    (Verdict.PARKED, Cause.TOO_LARGE): held(),
    (Verdict.PARKED, Cause.NO_TOPIC_MAPPED): held(reason="no_topic"),
    (Verdict.PARKED, Cause.REFUSED_BY_BROKER): held(reason="refused_by_broker"),
    (Verdict.PARKED, Cause.PARKED_BEHIND): held(own=False),
    (Verdict.PARKED, Cause.RELEASE_PENDING): held(state="release_requested"),
    (Verdict.PARKED, Cause.DISCARDED_BY_HAND): held(state="discarded"),
    (Verdict.RECORD_MISSING, Cause.TOPIC_RECREATED): topic(
        gone(Found.GONE_AFTER), EVENTS, shrinks=SHRUNK
    ),
    (Verdict.RECORD_MISSING, Cause.TOPIC_MISSING): topic(
        gone(Found.NO_TOPIC), EVENTS, exists=False
    ),
    (Verdict.RECORD_MISSING, Cause.RECORDS_DELETED): gone(Found.GONE_BEFORE),
    (Verdict.RECORD_MISSING, Cause.RECORD_EXPIRED): topic(
        gone(Found.GONE_BEFORE), EVENTS, retention_seconds=60
    ),
    (Verdict.RECORD_MISSING, Cause.COMPACTED): topic(
        gone(Found.GONE_WITHIN), EVENTS, compacted=True
    ),
    (Verdict.RECORD_MISSING, Cause.LOG_TRUNCATED): gone(Found.GONE_AFTER),
    (Verdict.RECORD_MISSING, Cause.RECORD_ALTERED): gone(Found.OTHER, LOST),
    (Verdict.NOT_PROCESSED, Cause.PROCESSOR_DOWN): group(members=0, state="Empty"),
    (Verdict.NOT_PROCESSED, Cause.PROCESSOR_LAGGING): group(earlier={WHERE: 117_000}),
    (Verdict.NOT_PROCESSED, Cause.PROCESSOR_STUCK): UNPASSED,
    (Verdict.NOT_PROCESSED, Cause.PROCESSOR_REBALANCING): group(state="PreparingRebalance"),
    (Verdict.NOT_PROCESSED, Cause.TOPIC_NOT_CONSUMED): group(subscribed=frozenset({"orders"})),
    (Verdict.NOT_PROCESSED, Cause.PARTITION_UNASSIGNED): group(assigned=frozenset({(EVENTS, 1)})),
    (Verdict.NOT_PROCESSED, Cause.TRANSACTION_OPEN): group(before_transaction=frozenset({WHERE})),
    (Verdict.NOT_PROCESSED, Cause.TOPIC_MISSING): topic(UNPASSED, RETURNS, exists=False),
    (Verdict.NOT_PROCESSED, Cause.BROKER_UNREACHABLE): replace(
        around(LOST, groups=missing(Cause.BROKER_UNREACHABLE), outages=(OUT,)),
        waiting={GROUP: Waiting(ago(minutes=40), 118_000, 3)},
    ),
    (Verdict.NO_RETURN, Cause.OFFSETS_SKIPPED): replace(
        LOST,
        crossing={GROUP: replace(CROSSED, unattended_from_at=ago(minutes=58))},
        neighbours=Neighbours(tuple(range(118_850, 118_950))),
    ),
    (Verdict.NO_RETURN, Cause.PROCESSOR_CRASHED): replace(
        LOST,
        crossing={
            GROUP: replace(
                CROSSED, members_left_at=ago(minutes=1), left_offset=118_971, before_offset=118_880
            )
        },
        neighbours=Neighbours(tuple(range(118_900, 118_971)), (118_899, 118_971)),
    ),
    (Verdict.NO_RETURN, Cause.RETURN_NEVER_SENT): LOST,
    (Verdict.NO_RETURN, Cause.RETURNS_STOPPED): replace(
        LOST,
        neighbours=Neighbours(tuple(range(118_850, 118_950))),
        scan=Scan(True, 0, 6, 6, None),
    ),
    (Verdict.NO_RETURN, Cause.ANSWERED_ELSEWHERE): replace(
        LOST, returns=(replace(TERMINAL, place=Place.ELSEWHERE, topic="order.returns"),)
    ),
    (Verdict.NO_RETURN, Cause.TOPIC_MISSING): topic(LOST, RETURNS, exists=False),
    (Verdict.NO_RETURN, Cause.TOPIC_RECREATED): replace(
        LOST, scan=Scan(False, 10, 6, 6, None, Cause.TOPIC_RECREATED)
    ),
    (Verdict.NO_RETURN, Cause.RECORDS_DELETED): replace(
        LOST, scan=Scan(False, 10, 6, 6, None, Cause.RECORDS_DELETED)
    ),
    (Verdict.NO_RETURN, Cause.RECORD_EXPIRED): replace(
        LOST, scan=Scan(False, 10, 6, 6, None, Cause.RECORD_EXPIRED)
    ),
    (Verdict.RETURN_INCOMPLETE, Cause.FINAL_RETURN_MISSING): replace(
        LOST, returns=(replace(APPLIED, status="processing", terminal=False),)
    ),
    (Verdict.NOT_CONFIRMED, Cause.CONSUMER_DOWN): waiting_for_consumer(consumers=(STOPPED,)),
    (Verdict.NOT_CONFIRMED, Cause.CONSUMER_PAUSED): waiting_for_consumer(consumers=(PAUSED,)),
    (Verdict.NOT_CONFIRMED, Cause.CONSUMER_LAGGING): waiting_for_consumer(
        consumer=ConsumerSeen({1: ConsumerOffset(8_000, ago(seconds=2))})
    ),
    (Verdict.NOT_CONFIRMED, Cause.CONSUMER_STUCK): waiting_for_consumer(),
    (Verdict.NOT_CONFIRMED, Cause.TRANSACTION_OPEN): replace(
        waiting_for_consumer(), returns=(replace(TERMINAL, behind_transaction=True),)
    ),
    (Verdict.NOT_CONFIRMED, Cause.ORDER_ROW_LOCKED): replace(
        LOST, returns=(replace(TERMINAL, place=Place.PENDING),)
    ),
    (Verdict.NOT_CONFIRMED, Cause.PERMISSION_DENIED): waiting_for_consumer(
        consumers=(replace(RUNNING, failure_code="sqlstate:42501"),)
    ),
    (Verdict.NOT_CONFIRMED, Cause.DATABASE_REFUSES): waiting_for_consumer(
        consumers=(replace(RUNNING, failure_code="sqlstate:42P01"),)
    ),
    (Verdict.NOT_CONFIRMED, Cause.DATABASE_UNREACHABLE): waiting_for_consumer(
        outages=(replace(OUT, kind="confirm", resource="database"),)
    ),
    (Verdict.NOT_CONFIRMED, Cause.BROKER_UNREACHABLE): waiting_for_consumer(
        outages=(replace(OUT, kind="confirm"),)
    ),
    (Verdict.RETURN_QUARANTINED, Cause.RETURN_MALFORMED): refused(status=None, terminal=None),
    (Verdict.NOT_CONFIRMED, Cause.REGISTRY_UNREACHABLE): waiting_for_consumer(
        consumers=(replace(RUNNING, failure_code="registry:connection_refused"),)
    ),
    (Verdict.RETURN_QUARANTINED, Cause.RETURN_UNKNOWN_SCHEMA): refused(reason="unknown_schema"),
    (Verdict.RETURN_QUARANTINED, Cause.RETURN_UNKNOWN_ORDER): refused(reason="unknown_order"),
    (Verdict.RETURN_QUARANTINED, Cause.RETURN_UNKNOWN_STATUS): refused(reason="unknown_status"),
    (Verdict.RETURN_QUARANTINED, Cause.RETURN_CONFLICTS): refused(reason="conflict"),
    (Verdict.RETURN_QUARANTINED, Cause.RETURN_DISCARDED): refused(state="discarded"),
    (Verdict.RETURN_QUARANTINED, Cause.CODEC_MISSING): refused(reason="unreadable"),
    (Verdict.RETURN_QUARANTINED, Cause.APPLY_FAILED): refused(reason="apply_failed"),
    (Verdict.RETURN_QUARANTINED, Cause.STATUS_NOT_KEPT): refused(reason="status_not_kept"),
    (Verdict.RETURN_QUARANTINED, Cause.ORDER_STATUS_UNKNOWN): replace(
        refused(reason="conflict"), order=OrderSeen("on hold", False, PLACED, known=False)
    ),
    (Verdict.UNKNOWN, Cause.ORDER_STATUS_UNKNOWN): replace(
        LOST, order=OrderSeen("on hold", False, PLACED, known=False)
    ),
    (Verdict.RETURN_QUARANTINED, Cause.RETURN_NAMES_DIFFER): refused(reason="names_differ"),
    (Verdict.RETURN_QUARANTINED, Cause.ORDER_HIDDEN): refused(
        reason="unknown_order", names_order="0b9d"
    ),
    (Verdict.RETURN_QUARANTINED, Cause.RELEASE_PENDING): refused(state="release_requested"),
    (Verdict.RETURN_SKIPPED, Cause.OFFSET_GAP): around(
        replace(LOST, returns=(TERMINAL,)),
        consumer=ConsumerSeen(
            {1: ConsumerOffset(9_000, NOW)}, (Gap(1, 8_400, 8_600, "out_of_range", NOW),)
        ),
    ),
    (Verdict.RETURN_SKIPPED, Cause.OFFSET_MOVED): replace(LOST, returns=(TERMINAL,)),
    (Verdict.RETURN_SKIPPED, Cause.RETURN_MISNAMED): replace(
        LOST, returns=(replace(TERMINAL, names_order="another"),)
    ),
    (Verdict.RETURN_SKIPPED, Cause.STATUS_OVERWRITTEN): replace(LOST, returns=(APPLIED,)),
    (Verdict.NOT_PROCESSED, Cause.GROUP_REPLACED): around(
        UNPASSED,
        groups={GROUP: replace(BEHIND, members=0, state="Empty")},
        other_readers=(replace(PASSED, name="processor-v2"),),
        answered_past={WHERE: AnsweredPast(118_000, 119_000, ago(minutes=50))},
    ),
    (Verdict.UNKNOWN, Cause.GROUP_UNKNOWN): around(
        LOST, groups={GROUP: GroupSeen(GROUP, False)}, other_groups=("billing",)
    ),
    (Verdict.UNKNOWN, Cause.PERMISSION_DENIED): replace(
        LOST, returns=missing(Cause.PERMISSION_DENIED)
    ),
    (Verdict.UNKNOWN, Cause.DATABASE_REFUSES): replace(
        LOST, returns=missing(Cause.DATABASE_REFUSES)
    ),
    (Verdict.UNKNOWN, Cause.DATABASE_UNREACHABLE): replace(
        LOST,
        order=missing(Cause.DATABASE_UNREACHABLE),
        event=missing(Cause.DATABASE_UNREACHABLE),
        deliveries=missing(Cause.DATABASE_UNREACHABLE),
        returns=missing(Cause.DATABASE_UNREACHABLE),
    ),
    (Verdict.UNKNOWN, Cause.BROKER_UNREACHABLE): around(
        LOST, groups=missing(Cause.BROKER_UNREACHABLE)
    ),
    (Verdict.UNKNOWN, Cause.REGISTRY_UNREACHABLE): replace(
        LOST, scan=missing(Cause.REGISTRY_UNREACHABLE)
    ),
    (Verdict.UNKNOWN, Cause.PAST_RETENTION): replace(
        UNSENT, event=None, dropped_partition="outbox_20260101"
    ),
    (Verdict.UNKNOWN, Cause.SCAN_INCOMPLETE): replace(LOST, scan=Scan(False, 10, 2, 6)),
    (Verdict.UNKNOWN, Cause.RECORDS_DELETED): replace(
        LOST,
        scan=Scan(False, 10, 6, 6, unlooked="gone", unlooked_cause=Cause.RECORDS_DELETED),
    ),
    (Verdict.UNKNOWN, Cause.TOPIC_RECREATED): replace(
        LOST,
        scan=Scan(False, 10, 6, 6, unlooked="gone", unlooked_cause=Cause.TOPIC_RECREATED),
    ),
    (Verdict.UNKNOWN, Cause.COMPACTED): replace(
        LOST, scan=Scan(False, 10, 6, 6, unlooked="holes", unlooked_cause=Cause.COMPACTED)
    ),
    (Verdict.UNKNOWN, Cause.OFFSET_UNKNOWN): replace(
        LOST, deliveries=(replace(DELIVERY, offset=None),), readback=None
    ),
    (Verdict.UNKNOWN, Cause.TIMED_OUT): replace(LOST, deliveries=missing(Cause.TIMED_OUT)),
    (Verdict.UNKNOWN, Cause.CODEC_MISSING): replace(LOST, scan=missing(Cause.CODEC_MISSING)),
    (Verdict.UNKNOWN, Cause.NOT_WATCHED): around(LOST, watched_since=ago(minutes=10)),
}


@pytest.mark.parametrize(
    ("expected", "case"), TABLE.items(), ids=["-".join(pair) for pair in TABLE]
)
def test_each_case_is_named(expected: tuple[Verdict, Cause], case: Evidence) -> None:
    finding = decide(case)
    assert (finding.verdict, finding.cause) == expected


def test_the_table_has_every_pair_of_the_closed_lists() -> None:
    pairs = {(verdict, cause) for cause in Cause for verdict in CAUSES[cause].verdicts}
    assert set(TABLE) == pairs


def test_a_pair_that_does_not_fit_is_never_built() -> None:
    with pytest.raises(ValueError, match="does not explain"):
        Finding(Verdict.NO_RETURN, Cause.RELAY_DOWN)


def named(case: Evidence) -> tuple[Hop | None, Verdict, Cause]:
    finding = decide(case)
    return finding.hop, finding.verdict, finding.cause


def test_a_single_loss_after_an_orderly_restart_is_not_a_skipped_range() -> None:
    crossing = replace(CROSSED, unattended_from_at=ago(minutes=58))
    case = replace(
        LOST,
        crossing={GROUP: crossing},
        neighbours=Neighbours((OFFSET,), (OFFSET - 2, OFFSET - 1, OFFSET + 1)),
    )
    assert named(case) == (Hop.RETURN, Verdict.NO_RETURN, Cause.RETURN_NEVER_SENT)


def test_a_jump_over_a_single_record_is_a_skipped_range() -> None:
    crossing = replace(
        CROSSED,
        before_offset=OFFSET,
        after_offset=OFFSET + 1,
        unattended_from_at=ago(minutes=58),
    )
    case = replace(LOST, crossing={GROUP: crossing})
    assert named(case) == (Hop.RETURN, Verdict.NO_RETURN, Cause.OFFSETS_SKIPPED)


def test_records_deleted_before_the_group_came_past_them_are_the_topics_loss() -> None:
    crossing = replace(CROSSED, before_at=ago(minutes=3), log_start=OFFSET + 10)
    case = replace(gone(Found.GONE_BEFORE, LOST), crossing={GROUP: crossing})
    assert named(case) == (Hop.PUBLISH, Verdict.RECORD_MISSING, Cause.RECORDS_DELETED)


@pytest.mark.parametrize("before_at", [CROSSED.before_at, CROSSED.after_at])
def test_a_record_that_left_the_log_while_nobody_watched_may_have_been_read(
    before_at: datetime,
) -> None:
    crossing = replace(CROSSED, before_at=before_at, log_start=OFFSET + 10)
    case = replace(gone(Found.GONE_BEFORE, LOST), crossing={GROUP: crossing})
    assert named(case) == (Hop.PROCESS, Verdict.UNKNOWN, Cause.PAST_RETENTION)


def test_records_that_expired_after_the_group_passed_them_are_not_missing() -> None:
    case = replace(gone(Found.GONE_BEFORE, LOST), crossing={GROUP: replace(CROSSED, log_start=0)})
    assert named(case)[:2] == (Hop.RETURN, Verdict.NO_RETURN)


def test_a_group_that_passed_before_the_topic_was_recreated_clears_hop_2() -> None:
    early = replace(CROSSED, before_at=ago(minutes=50), after_at=ago(minutes=40))
    case = replace(gone(Found.GONE_AFTER, LOST), crossing={GROUP: early})
    assert named(topic(case, EVENTS, shrinks=SHRUNK))[:2] == (Hop.RETURN, Verdict.NO_RETURN)


def test_a_group_that_came_past_in_the_new_log_does_not_clear_it() -> None:
    case = replace(gone(Found.OTHER, LOST), crossing={GROUP: CROSSED})
    expected = (Hop.PUBLISH, Verdict.RECORD_MISSING, Cause.TOPIC_RECREATED)
    assert named(topic(case, EVENTS, shrinks=SHRUNK)) == expected


def test_offsets_committed_on_a_recreated_topic_prove_nothing_about_the_old_record() -> None:
    case = topic(gone(Found.OTHER, LOST), EVENTS, shrinks=SHRUNK)
    assert named(case) == (Hop.PUBLISH, Verdict.RECORD_MISSING, Cause.TOPIC_RECREATED)


def test_a_log_that_starts_at_0_with_a_younger_record_was_made_again() -> None:
    logs = {3: LogSeen(0, 50, ago(minutes=5))}
    case = topic(gone(Found.GONE_AFTER, LOST), EVENTS, logs=logs)
    assert named(case)[2] is Cause.TOPIC_RECREATED


@pytest.mark.parametrize(
    ("case", "hop"),
    [
        (young(LOST), Hop.RETURN),
        (young(UNSENT), Hop.PUBLISH),
        (young(group(earlier={WHERE: 1})), Hop.PROCESS),
        (young(replace(LOST, scan=Scan(False, 0, 0, 6))), Hop.RETURN),
    ],
)
def test_before_its_deadline_an_order_that_moves_is_in_flight_at_its_hop(
    case: Evidence, hop: Hop
) -> None:
    assert named(case) == (hop, Verdict.IN_FLIGHT, Cause.MOVING)


@pytest.mark.parametrize(
    "case",
    [young(around(UNSENT, relays=(KILLED,))), young(held()), young(group(members=0))],
)
def test_what_stands_still_is_said_before_the_deadline(case: Evidence) -> None:
    assert decide(case).verdict is not Verdict.IN_FLIGHT


def test_a_replay_starts_the_clock_anew() -> None:
    again = Delivery(EVENTS, 3, 119_000, ago(minutes=1), "replay-1")
    assert decide(replace(LOST, deliveries=(DELIVERY, again))).verdict is Verdict.IN_FLIGHT
    old = replace(again, published_at=ago(minutes=40))
    assert decide(replace(LOST, deliveries=(DELIVERY, old))).verdict is Verdict.NO_RETURN


def test_a_return_clears_every_earlier_hop_whatever_they_look_like() -> None:
    ruins = replace(around(UNSENT, relays=(KILLED,), groups={GROUP: GroupSeen(GROUP, False)}))
    case = replace(ruins, returns=(replace(TERMINAL, offset=9_100),))
    assert named(around(case, consumers=(KILLED,)))[:2] == (Hop.CONFIRM, Verdict.NOT_CONFIRMED)


def test_a_quarantined_conflict_does_not_undo_an_applied_return() -> None:
    conflict = replace(REFUSED, reason="conflict")
    case = replace(LOST, order=OrderSeen("confirmed", True, PLACED), returns=(IN_TIME, conflict))
    assert decide(case).verdict is Verdict.RETURNED


def test_a_return_that_still_comes_outweighs_one_in_quarantine() -> None:
    case = waiting_for_consumer(consumers=(KILLED,))
    both = replace(case, returns=(REFUSED, TERMINAL))
    assert named(both) == (Hop.CONFIRM, Verdict.NOT_CONFIRMED, Cause.CONSUMER_DOWN)


def test_where_orders_are_only_observed_the_inbox_is_the_proof() -> None:
    case = around(replace(LOST, order=None, returns=(IN_TIME,)), keeps_orders=False)
    assert decide(case).verdict is Verdict.RETURNED


def test_one_of_several_processor_groups_proves_hop_3() -> None:
    groups = {GROUP: GroupSeen(GROUP, False), "second": replace(PASSED, name="second")}
    case = around(LOST, processor_groups=(GROUP, "second"), groups=groups)
    assert decide(case).verdict is Verdict.NO_RETURN


def test_a_reader_without_members_is_not_down() -> None:
    """Who assigns partitions itself is in no group: its moving offsets say that it is there."""
    empty = replace(BEHIND, members=0, state="Empty", earlier={})
    reads = around(UNPASSED, groups={GROUP: empty}, lone_readers=frozenset({GROUP}))
    assert named(reads)[2] is Cause.PROCESSOR_STUCK
    held_up = replace(empty, before_transaction=frozenset(empty.committed))
    young = replace(UNPASSED, deliveries=(replace(UNPASSED.deliveries[0], published_at=NOW),))
    case = around(young, groups={GROUP: held_up}, lone_readers=frozenset({GROUP}))
    assert named(case)[2] is Cause.TRANSACTION_OPEN
    # Held up for longer than its last steps are remembered: the broker knows what kind it is.
    case = around(UNPASSED, groups={GROUP: replace(held_up, never_joined=True)})
    assert named(case)[2] is Cause.TRANSACTION_OPEN
    assert named(around(UNPASSED, groups={GROUP: held_up}))[2] is Cause.PROCESSOR_DOWN
    elsewhere = replace(empty, committed={(EVENTS, 1): 40})
    case = around(UNPASSED, groups={GROUP: elsewhere}, lone_readers=frozenset({GROUP}))
    assert named(case)[2] is Cause.PARTITION_UNASSIGNED
    assert named(group(members=0, state="Empty"))[2] is Cause.PROCESSOR_DOWN


def test_a_processor_that_cannot_answer_is_not_to_be_started_but_the_topic_made() -> None:
    """It fails at its first answer, leaves its group and comes again: between, nobody is seen."""
    failing = group(members=0, state="Empty")
    assert named(topic(failing, RETURNS, exists=False))[2] is Cause.TOPIC_MISSING


def test_nobody_reads_the_topic_at_all() -> None:
    case = around(LOST, groups={GROUP: GroupSeen(GROUP, False)})
    assert named(case) == (Hop.PROCESS, Verdict.NOT_PROCESSED, Cause.PROCESSOR_DOWN)


def test_a_trigger_that_was_disabled_after_the_order_was_written_is_not_the_reason() -> None:
    off = around(replace(UNSENT, event=None), disabled_triggers=("orders_to_outbox",))
    assert decide(off).cause is Cause.TRIGGER_DISABLED
    before = replace(off, moment=Moment(before_trigger=True))
    assert decide(before).cause is Cause.OUTBOX_BYPASSED
    deleted = Moment(before_trigger=True, vacant_count=1, deleted_count=1)
    assert decide(replace(off, moment=deleted)).cause is Cause.EVENT_DELETED


def test_an_order_that_vanished_with_a_dropped_day_is_not_accused() -> None:
    case = replace(UNSENT, event=None, dropped_partition="outbox_20260101")
    assert decide(case).verdict is Verdict.UNKNOWN


def test_a_broker_that_only_we_cannot_reach_proves_nothing() -> None:
    unreachable: Callable[..., Evidence] = lambda **more: replace(  # noqa: E731
        around(LOST, groups=missing(Cause.BROKER_UNREACHABLE), **more),
        waiting={GROUP: Waiting(ago(minutes=40), 118_000, 3)},
    )
    assert decide(unreachable()).verdict is Verdict.UNKNOWN
    stale = OutageSeen("relay", "broker", ago(minutes=2), None)
    assert decide(unreachable(outages=(stale,))).verdict is Verdict.UNKNOWN
    # A wrong address of ours says nothing of the processor.
    ours = replace(OUT, since_start=True)
    assert decide(unreachable(outages=(OUT,))).verdict is Verdict.NOT_PROCESSED
    assert decide(unreachable(outages=(ours,))).verdict is Verdict.UNKNOWN


def test_the_oldest_ledger_row_decides_between_skipped_and_forgotten() -> None:
    skipped = replace(UNSENT, handed_over=True)
    assert decide(skipped).cause is Cause.CHECKPOINT_SKIPPED
    assert decide(around(skipped, ledger_from_at=ago(minutes=5))).cause is Cause.PAST_RETENTION


FELL_SILENT = replace(RUNNING, heartbeat_at=ago(seconds=8))


def test_who_has_missed_a_heartbeat_and_has_no_connection_left_is_down() -> None:
    dead = replace(FELL_SILENT, connected=False)
    assert decide(around(UNSENT, relays=(dead,))).cause is Cause.RELAY_DOWN
    assert decide(around(UNSENT, relays=(FELL_SILENT,))).cause is not Cause.RELAY_DOWN
    assert decide(waiting_for_consumer(consumers=(dead,))).cause is Cause.CONSUMER_DOWN


@pytest.mark.parametrize(
    "sign",
    [
        {"lease": LeaseSeen("new", NOW + timedelta(seconds=9), connected=True)},
        {"newcomers": frozenset({"relay"})},
    ],
    ids=["lease", "connection"],
)
@pytest.mark.parametrize("before", [(), (KILLED,), (STOPPED,)], ids=["none", "killed", "stopped"])
def test_a_relay_that_has_just_started_is_not_down(sign: dict, before: tuple) -> None:
    case = around(UNSENT, relays=before, **sign)
    assert decide(case).cause is Cause.RELAY_BEHIND


def test_a_lease_that_a_killed_relay_left_behind_proves_nothing() -> None:
    left = LeaseSeen("old", NOW + timedelta(seconds=3), connected=False)
    assert decide(around(UNSENT, relays=(KILLED,), lease=left)).cause is Cause.RELAY_DOWN


def test_a_lease_that_somebody_took_by_hand_keeps_the_relay_standing_by() -> None:
    still, until = CheckpointSeen(ago(minutes=50)), NOW + timedelta(minutes=30)
    for connected, cause in (
        (False, Cause.LEASE_STUCK),
        (True, Cause.RELAY_STUCK),  # a relay's own connection has it
        (None, Cause.RELAY_STUCK),  # whose it is may not be seen
    ):
        lease = LeaseSeen("me", until, connected=connected)
        case = around(UNSENT, relays=(STANDBY,), lease=lease, checkpoint=still)
        assert decide(case).cause is cause


@pytest.mark.parametrize(
    ("relays", "lease"),
    [
        # Killed four seconds ago: its heartbeat is fresh still, its lease has lapsed.
        ((replace(RUNNING, heartbeat_at=ago(seconds=4)),), LeaseSeen("h1:1", ago(seconds=1))),
        ((replace(RUNNING, connected=False),), LeaseSeen("h1:1", ago(seconds=3))),
        # It lapsed, or was given back, a moment ago: the standby is about to take it.
        ((STANDBY,), LeaseSeen("h1:1", ago(seconds=1))),
        ((STANDBY,), LeaseSeen(None, ago(seconds=1))),
        # Who stood by is gone.
        ((replace(STANDBY, heartbeat_at=ago(seconds=20)), RUNNING), LeaseSeen(None, ago(hours=1))),
    ],
)
def test_a_lease_that_nobody_stands_by_for_is_not_stuck(
    relays: tuple[ProcessSeen, ...], lease: LeaseSeen
) -> None:
    case = around(UNSENT, relays=relays, lease=lease)
    assert decide(case).cause is Cause.RELAY_BEHIND


def test_a_consumer_that_has_just_started_is_not_down() -> None:
    case = waiting_for_consumer(consumers=(KILLED,), newcomers=frozenset({"confirm"}))
    assert decide(case).cause is Cause.CONSUMER_LAGGING


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("sqlstate:42501", Cause.PERMISSION_DENIED),
        ("sqlstate:28P01", Cause.PERMISSION_DENIED),
        ("sqlstate:28000", Cause.PERMISSION_DENIED),
        ("sqlstate:3D000", Cause.DATABASE_REFUSES),
        ("sqlstate:22003", Cause.DATABASE_REFUSES),
        ("sqlstate:25006", Cause.DATABASE_REFUSES),
        ("sqlstate:53100", Cause.DATABASE_REFUSES),
        ("sqlstate:53300", Cause.DATABASE_UNREACHABLE),
        ("sqlstate:57P03", Cause.DATABASE_UNREACHABLE),
        ("sqlstate:08006", Cause.DATABASE_UNREACHABLE),
        ("database:timed_out", Cause.DATABASE_UNREACHABLE),
        ("database:tls_refused", Cause.DATABASE_UNREACHABLE),
        ("database:settings_refused", Cause.DATABASE_REFUSES),
        ("kafka:TOPIC_AUTHORIZATION_FAILED", Cause.PERMISSION_DENIED),
        ("kafka:SASL_AUTHENTICATION_FAILED", Cause.PERMISSION_DENIED),
        ("kafka:NOT_ENOUGH_REPLICAS", Cause.BROKER_UNREACHABLE),
        ("broker:login_refused", Cause.PERMISSION_DENIED),
        ("broker:topic_forbidden", Cause.PERMISSION_DENIED),
        ("broker:connection_refused", Cause.BROKER_UNREACHABLE),
        ("relay:rebaseline_needed", Cause.REBASELINE_NEEDED),
        ("relay:unexpected", None),
        ("a word of a later version", None),
        (None, None),
    ],
)
def test_a_failures_code_alone_says_its_cause(code: str | None, cause: Cause | None) -> None:
    assert cause_of_code(code) is cause


def test_the_words_of_a_failure_decide_nothing() -> None:
    words = "permission denied for table outbox, rebaseline, no topic, kafka"
    assert decide(relay(error=words)).cause is decide(relay()).cause
    old = replace(OUT, resource="database", error=words)
    assert decide(around(UNSENT, outages=(old,))).cause is Cause.DATABASE_UNREACHABLE
    new = replace(old, error="keine Berechtigung", failure_code="sqlstate:42501")
    assert decide(around(UNSENT, outages=(new,))).cause is Cause.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("log_start", "seconds", "expected"),
    [
        (OFFSET + 10, 500, (Hop.PUBLISH, Verdict.RECORD_MISSING, Cause.RECORDS_DELETED)),
        # As the next position will say, so says a look that comes before it.
        (0, 5, (Hop.PUBLISH, Verdict.RECORD_MISSING, Cause.RECORDS_DELETED)),
        # Nobody watched: the group may have read it, and its time may have come afterwards.
        (0, 500, (Hop.PROCESS, Verdict.UNKNOWN, Cause.PAST_RETENTION)),
    ],
)
def test_a_group_that_passed_a_gone_record_since_its_last_position(
    log_start: int, seconds: float, expected: tuple[Hop, Verdict, Cause]
) -> None:
    waiting = Waiting(ago(seconds=seconds), OFFSET - 5, 0, log_start)
    case = replace(gone(Found.GONE_BEFORE, LOST), waiting={GROUP: waiting})
    assert named(case) == expected


def test_an_offset_left_over_from_an_older_log_is_no_proof_of_hop_3() -> None:
    # The topic was made again, and nobody has committed on the new log yet.
    left = Waiting(ago(seconds=5), 0, 0, 0, left_over=900_000)
    case = replace(group(committed={WHERE: 900_000}), waiting={GROUP: left})
    assert named(case)[:2] == (Hop.PROCESS, Verdict.NOT_PROCESSED)
    moved = replace(case, waiting={GROUP: replace(left, left_over=800_000)})
    assert named(moved)[:2] == (Hop.RETURN, Verdict.NO_RETURN)


def test_one_lost_record_of_a_group_that_had_just_begun_is_no_skipped_range() -> None:
    crossing = replace(
        CROSSED,
        before_offset=OFFSET,
        after_offset=OFFSET + 1,
        unattended_from_at=ago(minutes=60),
        unattended_before=True,
    )
    alone = replace(
        LOST, crossing={GROUP: crossing}, neighbours=Neighbours((OFFSET,), (OFFSET + 1,))
    )
    assert named(alone) == (Hop.RETURN, Verdict.NO_RETURN, Cause.RETURN_NEVER_SENT)
    many = tuple(range(OFFSET - 6, OFFSET + 1))
    wide = replace(crossing, before_offset=OFFSET - 6)
    range_lost = replace(LOST, crossing={GROUP: wide}, neighbours=Neighbours(many, (OFFSET + 1,)))
    assert named(range_lost) == (Hop.RETURN, Verdict.NO_RETURN, Cause.OFFSETS_SKIPPED)


def test_what_was_answered_before_the_group_left_belongs_to_no_resumption() -> None:
    """Answered and not committed; then somebody moved the offset over it and what came after."""
    crossing = replace(
        CROSSED,
        before_at=ago(minutes=50),
        before_offset=OFFSET - 4,
        before_members=0,
        after_offset=OFFSET + 3,
        unattended_from_at=ago(minutes=58),
    )
    answered = (OFFSET - 4, OFFSET - 3, OFFSET - 2, OFFSET + 2)
    lost = (OFFSET - 1, OFFSET, OFFSET + 1)
    soon = dict.fromkeys(answered[:3], ago(minutes=59)) | {OFFSET + 2: ago(minutes=40)}
    case = replace(LOST, crossing={GROUP: crossing}, neighbours=Neighbours(lost, answered, soon))
    assert named(case) == (Hop.RETURN, Verdict.NO_RETURN, Cause.OFFSETS_SKIPPED)
    later = dict.fromkeys(answered, ago(minutes=40))
    resumed = replace(case, neighbours=Neighbours(lost, answered, later))
    assert named(resumed) == (Hop.RETURN, Verdict.NO_RETURN, Cause.RETURN_NEVER_SENT)


def test_what_one_of_two_groups_did_alone_says_nothing_of_an_order_that_the_other_read() -> None:
    """One read it between two looks, closed, and answered nothing; the other goes on."""
    alone = replace(
        CROSSED,
        before_offset=OFFSET,
        before_members=0,
        after_offset=OFFSET + 1,
        after_members=0,
        unattended_from_at=ago(minutes=58),
    )
    neighbours = Neighbours((OFFSET,), (OFFSET - 1, OFFSET + 1))
    of_one = replace(LOST, crossing={GROUP: alone}, neighbours=neighbours)
    assert named(of_one) == (Hop.RETURN, Verdict.NO_RETURN, Cause.OFFSETS_SKIPPED)
    for crossing in ({GROUP: alone, "green": CROSSED}, {"green": CROSSED, GROUP: alone}):
        of_two = around(replace(of_one, crossing=crossing), processor_groups=(GROUP, "green"))
        assert named(of_two) == (Hop.RETURN, Verdict.NO_RETURN, Cause.RETURN_NEVER_SENT)
    # Six in a row, exactly what it moved over, among others that were answered, are no accident.
    many = tuple(range(OFFSET - 5, OFFSET + 1))
    wide = replace(alone, before_offset=OFFSET - 5)
    jumped = replace(
        of_one,
        crossing={GROUP: wide, "green": CROSSED},
        neighbours=Neighbours(many, (OFFSET - 6, OFFSET + 1)),
    )
    assert named(jumped)[2] == Cause.OFFSETS_SKIPPED


def test_an_empty_group_whose_offset_has_just_moved_was_moved_by_hand() -> None:
    case = replace(
        group(members=0, committed={WHERE: 118_971}),
        waiting={GROUP: Waiting(ago(seconds=5), OFFSET - 2, 0)},
        neighbours=Neighbours(tuple(range(OFFSET - 2, OFFSET + 4))),
        scan=Scan(True, 0, 6, 6, None),
    )
    assert named(case) == (Hop.RETURN, Verdict.NO_RETURN, Cause.OFFSETS_SKIPPED)
    staffed = replace(case, waiting={GROUP: Waiting(ago(seconds=5), OFFSET - 2, 1)})
    assert named(staffed)[2] is not Cause.OFFSETS_SKIPPED


def test_other_topics_that_were_not_all_read_are_named_beside_the_absence() -> None:
    _proven, _at, whole = returned(LOST)
    assert "not all was read" not in whole
    part = replace(LOST.scan, elsewhere_unread=("big.metrics", "logs", "x"))
    _proven, _at, said = returned(replace(LOST, scan=part))
    assert said.endswith("to log end; not all was read of big.metrics and 2 more topics")


def test_nothing_is_said_to_stand_around_an_order_that_has_no_row() -> None:
    unread = Missing("the rows around the order", Cause.TIMED_OUT, "too many at once", "alone")
    nobody = replace(UNSENT, order=None, event=None, moment=unread)
    assert place(nobody)[2] == "no order row; no outbox row that expects a return"
    assert "too many at once" in place(replace(UNSENT, event=None, moment=unread))[2]


def test_a_refused_return_does_not_prove_that_its_order_ever_was() -> None:
    stranger = replace(APPLIED, place=Place.QUARANTINE, reason="unknown_order", outcome=None)
    found = decide(replace(UNSENT, order=None, event=None, returns=(stranger,)))
    assert (found.verdict, found.cause) == (Verdict.NO_SUCH_ORDER, Cause.NEVER_COMMITTED)


REPLACED = TABLE[Verdict.NOT_PROCESSED, Cause.GROUP_REPLACED]


def test_what_the_new_group_began_with_or_has_to_come_to_was_not_left_out() -> None:
    at = {WHERE: AnsweredPast(118_000, OFFSET, ago(minutes=50))}
    assert named(around(REPLACED, answered_past=at))[:2] == (Hop.RETURN, Verdict.NO_RETURN)
    slow = replace(PASSED, name="processor-v2", committed={WHERE: OFFSET})
    began = {WHERE: AnsweredPast(118_000, OFFSET - 1, ago(minutes=50))}
    case = around(REPLACED, answered_past=began, other_readers=(slow,))
    assert named(case)[2] is Cause.PROCESSOR_LAGGING
    dead = around(case, other_readers=(replace(slow, members=0),))
    assert named(dead)[2] is Cause.PROCESSOR_DOWN


def test_a_reader_that_answers_nothing_is_no_processor() -> None:
    assert named(around(REPLACED, answered_past={}))[2] is Cause.PROCESSOR_DOWN


def test_answers_of_somebody_who_may_not_be_seen_accuse_nobody() -> None:
    for unseen in ((), missing(Cause.PERMISSION_DENIED)):
        case = around(REPLACED, other_readers=unseen)
        assert named(case)[1:] == (Verdict.UNKNOWN, Cause.GROUP_UNKNOWN)


def test_on_a_partition_without_answers_what_is_as_old_as_what_was_left_out_elsewhere() -> None:
    other = (EVENTS, 1)
    reader = replace(PASSED, name="processor-v2", committed={other: 50})
    left_out = {other: AnsweredPast(10, 20, PUBLISHED + timedelta(minutes=1))}
    case = around(REPLACED, answered_past=left_out, other_readers=(reader,))
    assert named(case)[2] is Cause.GROUP_REPLACED
    at_once = {other: AnsweredPast(20, 20, PUBLISHED + timedelta(minutes=1))}
    assert named(around(case, answered_past=at_once))[2] is Cause.PROCESSOR_LAGGING
    standing = replace(reader, committed={other: 50, WHERE: OFFSET})
    assert named(around(case, other_readers=(standing,)))[2] is Cause.PROCESSOR_LAGGING
    newer = {other: AnsweredPast(10, 20, PUBLISHED - timedelta(minutes=1))}
    assert named(around(case, answered_past=newer))[2] is Cause.PROCESSOR_LAGGING


@pytest.mark.parametrize("written_after_seconds", [-1, 0, 0.2, 9])
def test_the_ledger_may_write_a_replay_after_its_return_was_applied(
    written_after_seconds: float,
) -> None:
    returned_at = ago(minutes=1)
    published_at = returned_at + timedelta(seconds=written_after_seconds)
    found = longest_delay(
        replace(
            LOST,
            order=OrderSeen("confirmed", True, PLACED, returned_at),
            returns=(replace(APPLIED, recorded_at=returned_at, handled_at=returned_at),),
            deliveries=(DELIVERY, replace(DELIVERY, replay_id="r-1", published_at=published_at)),
            lost_kind=("return", "return_never_sent"),
        )
    )
    assert found is not None
    assert (found.hop, found.cause) == (Hop.RETURN, Cause.RETURN_NEVER_SENT)
