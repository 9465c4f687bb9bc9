"""Whatever the evidence: one diagnosis, no proven hop blamed, nothing claimed without looking."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.diagnose.causes import MEANINGS, Cause
from relay.diagnose.decide.decision import decide
from relay.diagnose.decide.proofs import PROOFS
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
from relay.diagnose.verdicts import Hop, Verdict

NOW = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)
EVENTS, RETURNS, GROUP = "orders.events", "orders.returns", "order-processor"

times = st.integers(-7200, 30).map(lambda seconds: NOW + timedelta(seconds=seconds))
offsets = st.integers(0, 40)
partitions = st.integers(0, 1)
words = st.sampled_from(["", "permission denied", "kafka is away", "too_large", "malformed"])
missing = st.builds(
    Missing,
    what=st.just("a part"),
    cause=st.sampled_from([c for c in Cause if Verdict.UNKNOWN in MEANINGS[c].verdicts]),
)


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(st.none(), strategy)


def or_missing(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(strategy, missing)


def some(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(strategy, max_size=3).map(tuple)


processes = some(
    st.builds(
        ProcessSeen,
        instance=st.just("h:1"),
        started_at=times,
        heartbeat_at=times,
        stopped_at=maybe(times),
        stop_reason=maybe(words),
        connected=maybe(st.booleans()),
        error=maybe(words),
    )
)
outages = some(
    st.builds(
        OutageSeen,
        kind=st.sampled_from(["relay", "confirm"]),
        resource=st.sampled_from(["database", "broker"]),
        from_at=times,
        to_at=maybe(times),
        error=words,
    )
)
logs = st.dictionaries(partitions, st.builds(LogSeen, offsets, offsets, maybe(times)))
shrinks = some(st.builds(Shrink, partitions, times, offsets, times, offsets))


def topic(name: str) -> st.SearchStrategy:
    retention = maybe(st.floats(0, 10_000))
    return st.builds(
        TopicSeen,
        st.just(name),
        st.booleans(),
        logs,
        retention,
        st.booleans(),
        shrinks,
        settings=maybe(missing),
    )


committed = st.dictionaries(st.tuples(st.just(EVENTS), partitions), offsets)
groups = st.builds(
    GroupSeen,
    name=st.just(GROUP),
    exists=st.booleans(),
    state=st.sampled_from(["Stable", "Empty", "PreparingRebalance"]),
    members=st.integers(0, 2),
    subscribed=maybe(st.sampled_from([frozenset({EVENTS}), frozenset()])),
    assigned=maybe(st.sampled_from([frozenset({(EVENTS, 0)}), frozenset()])),
    committed=committed,
    earlier=committed,
)
consumers = st.builds(
    ConsumerSeen,
    offsets=st.dictionaries(partitions, st.builds(ConsumerOffset, offsets, times)),
    gaps=some(st.builds(Gap, partitions, offsets, offsets, words, times)),
)
publishers = st.builds(
    PublisherSeen,
    slot=maybe(
        st.builds(
            SlotSeen, st.just("s"), st.booleans(), st.booleans(), maybe(st.just("wal_removed"))
        )
    ),
    connector=maybe(
        or_missing(
            st.builds(
                ConnectorSeen,
                st.just("c"),
                st.sampled_from(["RUNNING", "FAILED", "PAUSED", "STOPPED", "ABSENT"]),
                some(
                    st.builds(TaskSeen, st.integers(0, 1), st.sampled_from(["RUNNING", "FAILED"]))
                ),
            )
        )
    ),
    witnesses=or_missing(processes),
    unread=or_missing(st.dictionaries(st.tuples(st.just(EVENTS), partitions), offsets)),
    last_record_at=maybe(times),
)
surroundings = st.builds(
    SystemState,
    now_at=st.just(NOW),
    watched_since=maybe(or_missing(times)),
    returns_topic=st.just(RETURNS),
    processor_groups=st.just((GROUP,)),
    confirm_group=st.just("order-confirmation"),
    keeps_orders=st.booleans(),
    relays=or_missing(processes),
    consumers=or_missing(processes),
    outages=or_missing(outages),
    checkpoint=maybe(or_missing(st.builds(CheckpointSeen, times, st.booleans()))),
    lease=maybe(or_missing(st.builds(LeaseSeen, maybe(st.just("h:1")), maybe(times)))),
    topics=or_missing(st.fixed_dictionaries({EVENTS: topic(EVENTS), RETURNS: topic(RETURNS)})),
    groups=or_missing(st.fixed_dictionaries({GROUP: groups})),
    consumer=or_missing(consumers),
    ledger_from_at=maybe(or_missing(times)),
    other_groups=st.sampled_from([(), ("billing",)]),
    other_readers=or_missing(some(groups)),
    answered_past=or_missing(
        st.dictionaries(
            st.tuples(st.just(EVENTS), partitions),
            st.builds(AnsweredPast, offsets, offsets, times, maybe(offsets)),
        )
    ),
    disabled_triggers=or_missing(st.sampled_from([(), ("t",)])),
    lone_readers=or_missing(st.sampled_from([frozenset(), frozenset({GROUP})])),
    publisher=maybe(or_missing(publishers)),
)
returns = some(
    st.builds(
        ReturnSeen,
        place=st.sampled_from(Place),
        topic=st.just(RETURNS),
        partition=partitions,
        offset=offsets,
        status=maybe(st.sampled_from(["processing", "confirmed"])),
        terminal=maybe(st.booleans()),
        recorded_at=maybe(times),
        handled_at=times,
        reason=maybe(words),
        state=maybe(st.sampled_from(["held", "released", "discarded", "release_requested"])),
    )
)
deliveries = some(
    st.builds(Delivery, st.just(EVENTS), partitions, maybe(offsets), times, maybe(words))
)
crossings = st.builds(
    Crossing,
    group=st.just(GROUP),
    before_at=times,
    before_offset=offsets,
    before_members=maybe(st.integers(0, 2)),
    after_at=times,
    after_offset=offsets,
    after_members=maybe(st.integers(0, 2)),
    unattended_from_at=maybe(times),
    members_left_at=maybe(times),
    left_offset=maybe(offsets),
    log_start=maybe(offsets),
)
events = st.builds(
    EventSeen,
    outbox_id=st.just(7),
    event_id=st.just("e"),
    event_type=st.just("order.placed"),
    topic=maybe(st.just(EVENTS)),
    created_at=times,
    deadline_seconds=st.floats(1, 3600),
    kept=st.booleans(),
)
evidence = st.builds(
    Evidence,
    order_id=st.just("o"),
    around=surroundings,
    order=maybe(
        or_missing(
            st.builds(OrderSeen, st.just("submitted"), st.booleans(), maybe(times), maybe(times))
        )
    ),
    event=maybe(or_missing(events)),
    handed_over=or_missing(st.booleans()),
    passed=st.booleans(),
    deliveries=or_missing(deliveries),
    readback=maybe(or_missing(st.builds(ReadBack, st.sampled_from(Found)))),
    held=or_missing(
        some(
            st.builds(
                HeldEvent,
                words,
                words,
                st.sampled_from(["held", "released", "discarded", "release_requested"]),
                st.booleans(),
                times,
            )
        )
    ),
    returns=or_missing(returns),
    scan=or_missing(
        st.builds(
            Scan,
            st.booleans(),
            offsets,
            partitions,
            partitions,
            maybe(times),
            maybe(st.just(Cause.TOPIC_RECREATED)),
        )
    ),
    crossing=st.dictionaries(st.just(GROUP), crossings),
    waiting=st.dictionaries(st.just(GROUP), st.builds(Waiting, times, offsets, st.just(1))),
    neighbours=maybe(st.builds(Neighbours, some(offsets), some(offsets))),
    closed=maybe(st.builds(ClosedByHand, words, words, times)),
    twin=maybe(st.just("first")),
    other_types=st.sampled_from([(), ("order.changed",)]),
    moment=st.builds(
        Moment,
        strays=st.sampled_from([(), ("c-7",)]),
        unclaimed=st.sampled_from([(), ("c-8",)]),
        vacant_count=st.integers(0, 2),
        deleted_count=st.integers(0, 2),
        sent_count=st.integers(0, 1),
    )
    | missing,
    searched=maybe(missing),
    dropped_partition=maybe(st.just("outbox_20260101")),
)

BEFORE_KAFKA = {Verdict.NO_OUTBOX_ROW, Verdict.NOT_PUBLISHED, Verdict.PARKED}
BEFORE_RETURN = BEFORE_KAFKA | {
    Verdict.RECORD_MISSING,
    Verdict.NOT_PROCESSED,
    Verdict.NO_RETURN,
    Verdict.RETURN_INCOMPLETE,
}
many = settings(max_examples=300, deadline=None)


@many
@given(evidence)
def test_any_evidence_gives_one_diagnosis_that_fits_the_closed_lists(case: Evidence) -> None:
    finding = decide(case)
    assert finding.verdict in MEANINGS[finding.cause].verdicts
    if finding.verdict is Verdict.UNKNOWN:
        assert finding.missing is not None
        assert finding.missing.what
        assert finding.missing.cause is finding.cause


@many
@given(evidence, st.sampled_from([Place.LOG, Place.INBOX, Place.QUARANTINE, Place.PENDING]))
def test_with_a_return_in_hand_no_hop_before_confirm_is_blamed(
    case: Evidence, place: Place
) -> None:
    seen = ReturnSeen(place, RETURNS, 0, 3, "confirmed", True, NOW, NOW, state="held")
    case = replace(case, returns=(seen,))
    finding = decide(case)
    assert finding.verdict not in BEFORE_RETURN
    if finding.hop is Hop.PLACE:
        assert finding.cause is Cause.ORDER_DELETED or case.order is None


@many
@given(evidence)
def test_every_accusation_has_its_proof_in_the_evidence(case: Evidence) -> None:
    finding = decide(case)
    proof = PROOFS.get((finding.verdict, finding.cause))
    assert proof is None or not proof.flaws(case)


@many
@given(evidence)
def test_a_row_in_the_ledger_clears_the_relay(case: Evidence) -> None:
    delivered = replace(case, deliveries=(Delivery(EVENTS, 0, 5, NOW),))
    assert decide(delivered).verdict not in {Verdict.NOT_PUBLISHED, Verdict.PARKED}


@many
@given(evidence, st.integers(0, 5))
def test_a_group_past_the_record_that_is_there_clears_hop_3(case: Evidence, ahead: int) -> None:
    group = GroupSeen(GROUP, True, "Stable", committed={(EVENTS, 0): 6 + ahead})
    case = replace(
        case,
        around=replace(case.around, groups={GROUP: group}),
        deliveries=(Delivery(EVENTS, 0, 5, NOW),),
        readback=ReadBack(Found.SAME),
        crossing={},
    )
    assert decide(case).verdict not in {Verdict.NOT_PROCESSED, Verdict.RECORD_MISSING}


@many
@given(evidence)
def test_a_terminal_status_ends_every_question(case: Evidence) -> None:
    case = replace(case, order=OrderSeen("confirmed", True, NOW))
    assert decide(case).verdict is Verdict.RETURNED


@many
@given(evidence)
def test_no_return_needs_a_scan_to_the_end_or_a_recorded_loss(case: Evidence) -> None:
    finding = decide(case)
    if finding.verdict in {Verdict.NO_RETURN, Verdict.RETURN_INCOMPLETE}:
        elsewhere = not isinstance(case.returns, Missing) and any(
            one.place is Place.ELSEWHERE for one in case.returns
        )
        topics = case.around.topics
        absent = not isinstance(topics, Missing) and not topics[RETURNS].exists
        looked = isinstance(case.scan, Scan) and (case.scan.complete or case.scan.unread_lost)
        assert looked or elsewhere or absent
        assert not isinstance(case.returns, Missing)


@many
@given(evidence, missing)
def test_without_the_database_nothing_is_accused(case: Evidence, gap: Missing) -> None:
    blind = replace(
        case,
        order=gap,
        event=gap,
        deliveries=gap,
        held=gap,
        returns=gap,
        closed=None,
        handed_over=gap,
    )
    assert decide(blind).verdict is Verdict.UNKNOWN


@many
@given(evidence, missing)
def test_without_the_broker_hops_3_and_4_are_not_accused_unless_the_record_says_so(
    case: Evidence, gap: Missing
) -> None:
    blind = replace(
        case,
        around=replace(case.around, groups=gap, topics=gap),
        readback=gap,
        scan=gap,
        returns=(),
        crossing={},
        waiting={},
        deliveries=(Delivery(EVENTS, 0, 5, NOW),),
    )
    finding = decide(blind)
    assert finding.verdict not in {
        Verdict.NOT_PROCESSED,
        Verdict.NO_RETURN,
        Verdict.RETURN_INCOMPLETE,
        Verdict.RECORD_MISSING,
    }


@many
@given(evidence)
def test_closed_or_returned_orders_are_not_accused(case: Evidence) -> None:
    case = replace(case, closed=ClosedByHand("ana", "refunded", NOW))
    assert decide(case).verdict in {Verdict.CLOSED, Verdict.RETURNED}


ORDER = [Hop.PLACE, Hop.PUBLISH, Hop.PROCESS, Hop.RETURN, Hop.CONFIRM]


@many
@given(evidence)
def test_a_later_proof_never_moves_the_blame_to_an_earlier_hop(case: Evidence) -> None:
    before = decide(replace(case, returns=()))
    if before.hop is None or before.verdict in {Verdict.NO_SUCH_ORDER, Verdict.UNKNOWN}:
        return
    partly = ReturnSeen(Place.LOG, RETURNS, 0, 3, "processing", False, NOW)
    after = decide(replace(case, returns=(partly,)))
    if after.hop is not None:
        assert ORDER.index(after.hop) >= ORDER.index(before.hop)
