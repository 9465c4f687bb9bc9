"""Nobody is accused where something was not looked at that might have cleared him."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta

import pytest

from relay.diagnose.causes import Cause
from relay.diagnose.decide.decision import decide
from relay.diagnose.decide.delay import longest_delay
from relay.diagnose.evidence.order import (
    Delivery,
    Evidence,
    Found,
    Moment,
    OrderSeen,
    Place,
    ReadBack,
    ReturnSeen,
)
from relay.diagnose.evidence.publisher import PublisherSeen
from relay.diagnose.evidence.rows import EventRow, ReturnRow, Rows
from relay.diagnose.evidence.system_state import (
    PROCESSES_AT_MOST,
    AnsweredPast,
    ConsumerSeen,
    GroupSeen,
    Missing,
    OutageSeen,
    TopicSeen,
)
from relay.diagnose.gather.assemble import Joiner, LogFacts
from relay.diagnose.gather.cut_over import clock_behind
from relay.diagnose.gather.deleted_rows import _without_ledger
from relay.diagnose.gather.logs import _answerable
from relay.diagnose.gather.lost_unread import unread_lost
from relay.diagnose.gather.readback import ReadBacks
from relay.diagnose.gather.recognise import WantedReturns
from relay.diagnose.gather.scan import ScanResult
from relay.diagnose.gather.succession import _of_others
from relay.diagnose.gather.unlooked import unlooked_returns
from relay.diagnose.verdicts import Hop, Verdict
from relay.runtime.flow import Flow
from tests.unit.diagnose.test_diagnose_decide import (
    APPLIED,
    AROUND,
    DELIVERY,
    EVENTS,
    GROUP,
    LOST,
    NOW,
    OFFSET,
    PASSED,
    PUBLISHED,
    REPLACED,
    RETURNS,
    RETURNS_SEEN,
    STOPPED,
    UNPASSED,
    UNSENT,
    WHERE,
    ago,
    around,
    gone,
    topic,
)

UNREAD = Missing("a part", Cause.TIMED_OUT, "no answer in time", "again")
NOT_ALLOWED = Missing("how the topics are set", Cause.PERMISSION_DENIED, "not permitted", "allow")
FLOW = Flow()
EMPTY = replace(PASSED, members=0, committed={WHERE: OFFSET - 1}, subscribed=None, assigned=None)
BARE = replace(UNSENT, event=None, moment=Moment())
DOWN = around(UNPASSED, groups={GROUP: EMPTY})


@pytest.mark.parametrize(
    ("accused", "unread", "hop"),
    [
        (BARE, lambda case: replace(case, dropped_partition=UNREAD), Hop.PLACE),
        (BARE, lambda case: around(case, disabled_triggers=UNREAD), Hop.PLACE),
        (LOST, lambda case: around(case, watched_since=UNREAD), None),
        (DOWN, lambda case: around(case, answered_past=UNREAD), Hop.PROCESS),
        (DOWN, lambda case: around(case, lone_readers=UNREAD), Hop.PROCESS),
        (LOST, lambda case: replace(case, positions=UNREAD), Hop.RETURN),
        (LOST, lambda case: replace(case, neighbours=UNREAD), Hop.RETURN),
        (
            gone(Found.GONE_BEFORE, topic(UNPASSED, EVENTS, retention_seconds=None)),
            lambda case: topic(case, EVENTS, settings=UNREAD),
            Hop.PUBLISH,
        ),
    ],
)
def test_what_was_not_looked_at_is_unknown(
    accused: Evidence, unread: Callable[[Evidence], Evidence], hop: Hop | None
) -> None:
    assert decide(accused).verdict is not Verdict.UNKNOWN
    finding = decide(unread(accused))
    assert (finding.verdict, finding.cause, finding.hop) == (Verdict.UNKNOWN, Cause.TIMED_OUT, hop)


def test_where_a_successor_began_is_not_guessed() -> None:
    assert decide(REPLACED).cause is Cause.GROUP_REPLACED
    half = {WHERE: AnsweredPast(118_000, OFFSET + 50, ago(minutes=50), looked_to=OFFSET)}
    finding = decide(around(REPLACED, answered_past=half))
    assert (finding.verdict, finding.hop) == (Verdict.UNKNOWN, Hop.PROCESS)
    before = {WHERE: AnsweredPast(118_000, OFFSET + 50, ago(minutes=50), looked_to=OFFSET + 1)}
    assert decide(around(REPLACED, answered_past=before)).cause is Cause.GROUP_REPLACED


def test_who_reads_alone_may_have_answered_what_comes_next_to_it_himself() -> None:
    next_to_it = {WHERE: AnsweredPast(100, 100, PUBLISHED)}
    left_out = {WHERE: AnsweredPast(100, 124, PUBLISHED)}
    green = GroupSeen("green", exists=True, members=2, committed={WHERE: 200})
    state = replace(AROUND, other_readers=(green,))
    assert _of_others(next_to_it, state) == {}
    assert _of_others(left_out, state) == left_out
    assert _of_others(left_out, replace(state, other_readers=())) == {}
    behind = replace(green, committed={WHERE: 50})
    assert _of_others(left_out, replace(state, other_readers=(behind,))) == {}


EVENT = EventRow(
    7,
    "01900000-0000-7000-8000-000000000007",
    "order.placed",
    PUBLISHED,
    None,
    kept=False,
    handed_over=True,
)
SENT = Delivery(EVENTS, 3, OFFSET, PUBLISHED)
ON_KAFKA = ReturnRow(ReturnSeen(Place.LOG, RETURNS, 1, 5, "confirmed", terminal=True))
ROWS = Rows({}, {"o": [EVENT]}, {7: [SENT]}, {}, {})


def joined(rows: Rows = ROWS, log: LogFacts | None = None) -> Evidence:
    state = replace(AROUND, topics={EVENTS: AROUND.topics[EVENTS], "orders.returns": RETURNS_SEEN})
    return Joiner(FLOW, state, rows, log or LogFacts()).evidence("o")


def test_a_return_of_which_nobody_could_look_what_became_was_not_skipped() -> None:
    scan = ScanResult()
    scan.found["o"].append(ON_KAFKA)
    assert joined(log=LogFacts(scan=scan)).returns == (ON_KAFKA.seen,)
    assert joined(log=LogFacts(scan=scan, refused=UNREAD)).returns is UNREAD
    inbox = replace(ON_KAFKA, seen=replace(APPLIED, topic=RETURNS))
    answered = replace(ROWS, returns={"o": [inbox]})
    assert joined(answered, LogFacts(scan=scan, refused=UNREAD)).returns is not UNREAD


def test_refused_returns_that_could_not_be_read_are_not_none() -> None:
    assert joined(replace(ROWS, returns_by_trace=UNREAD)).returns is UNREAD


def test_the_records_around_one_are_unknown_where_it_was_not_read_itself() -> None:
    assert isinstance(joined().neighbours, Missing)
    read = ReadBacks({(WHERE, OFFSET): ReadBack(Found.SAME, EVENT.event_id)})
    assert joined(log=LogFacts(readbacks=read, answered=UNREAD)).neighbours is UNREAD


def unlooked(
    returns: TopicSeen, consumer: ConsumerSeen, scan: ScanResult | None = None
) -> tuple[str, Cause]:
    state = replace(AROUND, topics={RETURNS: returns}, consumer=consumer)
    flow = Flow(returns_topic=RETURNS)
    return unlooked_returns(flow, state, scan or ScanResult(), [SENT], EVENT)


@pytest.mark.parametrize(
    ("made_again", "cause"),
    [({0, 1}, Cause.TOPIC_RECREATED), ({0}, Cause.RECORDS_DELETED), ((), Cause.RECORDS_DELETED)],
)
def test_what_went_with_a_topic_that_was_made_again_was_deleted_by_nobody_else(
    made_again: Iterable[int], cause: Cause
) -> None:
    scan = ScanResult(deleted={0: (None,), 1: (None,)}, made_again=frozenset(made_again))
    said, why = unlooked(RETURNS_SEEN, ConsumerSeen(), scan)
    assert why is cause
    assert said.count("the topic was made again") == len(set(made_again))


def ids_of(wanted: WantedReturns | None) -> frozenset[str]:
    return frozenset() if wanted is None else wanted.orders


def test_returns_are_looked_for_wherever_one_may_have_been_sent() -> None:
    """Also where the event's row is gone, or the proof that it was sent."""
    known = Rows({"o": OrderSeen("submitted", False, PUBLISHED)}, {}, {}, {}, {})
    assert ids_of(_answerable([], ["o"], known)) == {"o"}
    waits = replace(known, events={"o": [replace(EVENT, handed_over=False)]})
    assert _answerable([], ["o"], waits) is None
    forgotten = replace(known, events={"o": [replace(EVENT, handed_over=True)]})
    found = _answerable([], ["o"], forgotten)
    assert found is not None
    assert (ids_of(found), found.by_event) == ({"o"}, {EVENT.event_id: "o"})
    assert _answerable([], ["o"], replace(known, orders={})) is None
    assert _answerable([], ["o"], replace(known, events=UNREAD)) is None


@pytest.mark.parametrize(
    ("made_again", "cause"), [(True, Cause.TOPIC_RECREATED), (False, Cause.RECORDS_DELETED)]
)
def test_a_log_that_is_another_one_was_made_again(made_again: bool, cause: Cause) -> None:
    said = unread_lost(AROUND, RETURNS_SEEN, 0, PUBLISHED, lost=True, made_again=made_again)
    assert said is cause


def test_a_topic_of_which_nobody_may_see_how_it_is_set_may_be_compacted() -> None:
    unset = replace(RETURNS_SEEN, settings=NOT_ALLOWED)
    empty = ConsumerSeen(empty_offsets_at=(PUBLISHED + timedelta(seconds=1),))
    assert unlooked(RETURNS_SEEN, empty)[0] == ""
    assert unlooked(unset, ConsumerSeen())[0] == ""
    said, cause = unlooked(unset, empty)
    assert "compacted is not known" in said
    assert cause is Cause.PERMISSION_DENIED


def test_more_gaps_than_are_looked_at_leave_the_look_incomplete() -> None:
    said, cause = unlooked(RETURNS_SEEN, ConsumerSeen(gaps_cut=True))
    assert "more gaps" in said
    assert cause is Cause.PAST_RETENTION


def test_where_the_ledger_cannot_be_read_no_row_was_deleted_before_it_was_sent() -> None:
    moments = {"o": Moment(vacant_count=2, deleted_count=1), "p": Moment()}
    rows = replace(ROWS, moments=moments, vacant={"o": (8, 9)}, vanished=UNREAD)
    rows, vanished = _without_ledger(rows)
    assert rows.moments == {"o": UNREAD, "p": Moment()}
    assert vanished == {}


def test_processes_older_than_those_looked_at_may_have_been_there() -> None:
    late = replace(
        LOST,
        order=OrderSeen("confirmed", True, ago(hours=1)),
        deliveries=(replace(DELIVERY, published_at=ago(minutes=5)),),
        returns=(replace(APPLIED, recorded_at=ago(minutes=5), handled_at=ago(minutes=5)),),
    )
    one = replace(STOPPED, started_at=ago(minutes=3), heartbeat_at=ago(minutes=2), stopped_at=NOW)
    found = longest_delay(around(late, relays=(one,)))
    assert found is not None
    assert found.cause is Cause.RELAY_DOWN
    found = longest_delay(around(late, relays=(one,) * PROCESSES_AT_MOST))
    assert found is not None
    assert found.cause is None


def test_a_late_order_waited_for_what_the_witnesses_saw_of_another_publisher() -> None:
    late = replace(
        LOST,
        order=OrderSeen("confirmed", True, ago(hours=1)),
        deliveries=(replace(DELIVERY, published_at=ago(minutes=5)),),
        returns=(replace(APPLIED, recorded_at=ago(minutes=5), handled_at=ago(minutes=5)),),
    )
    away = OutageSeen(
        "witness", "publisher", ago(hours=1), ago(minutes=5), "the connector is PAUSED",
        "publisher:connector_paused",
    )  # fmt: skip
    ours = replace(away, resource="database", failure_code="sqlstate:57P03")
    for seen, cause in ((away, Cause.CONNECTOR_PAUSED), (ours, None)):
        found = longest_delay(
            around(late, relays=(), outages=(seen,), publisher=PublisherSeen(witnesses=()))
        )
        assert found is not None
        assert (found.hop, found.cause) == (Hop.PUBLISH, cause)


def test_a_clock_is_behind_where_all_orders_say_so_by_hours_and_alike() -> None:
    hour = 3600.0
    assert clock_behind([2 * hour, 2 * hour + 1]) == timedelta(hours=2, seconds=1)
    assert clock_behind([2 * hour] * 20 + [-1e14]) == timedelta(hours=2)
    assert clock_behind([]) == timedelta(0)
    assert clock_behind([1.0, 2.0]) == timedelta(0)
    assert clock_behind([2 * hour, 5 * hour]) == timedelta(0)  # imported
    assert clock_behind([400 * 24 * hour] * 3) == timedelta(0)


def test_an_order_without_an_event_was_placed_by_a_clock_that_is_known_to_be_behind() -> None:
    young = around(BARE, watched_since=ago(minutes=70), events_since=ago(minutes=70))
    young = replace(young, order=OrderSeen("submitted", terminal=False, submitted_at=ago(hours=3)))
    assert decide(young).cause is Cause.NOT_WATCHED
    assert decide(around(young, clock_behind=timedelta(hours=2))).cause is Cause.OUTBOX_BYPASSED
