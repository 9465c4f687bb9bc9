"""Hops 3 to 5: what proves that an order was not processed, not answered, or not confirmed."""

from collections.abc import Callable, Iterable
from datetime import timedelta

from relay.diagnose.causes import Cause
from relay.diagnose.decide.confirm import CONSUMER, REFUSED_FOR, moves
from relay.diagnose.decide.duty import Standing, standing
from relay.diagnose.decide.process import FETCH_SECONDS, REBALANCING, Passed, passage
from relay.diagnose.decide.proofs.fact import (
    CLOSED,
    EVENT_ROW,
    FINAL_CAME,
    RETURN_CAME,
    RETURNS_UNREAD,
    SENT,
    SETTLED,
    Fact,
    Proof,
    at_home,
    complains,
    living,
    returns,
    sent,
    topic_of,
)
from relay.diagnose.decide.returning import STOPPED_RUN
from relay.diagnose.evidence.order import (
    Delivery,
    EventSeen,
    Evidence,
    Neighbours,
    OrderSeen,
    Place,
    ReturnSeen,
    Scan,
)
from relay.diagnose.evidence.system_state import ConsumerSeen, GroupSeen, Missing
from relay.diagnose.verdicts import Verdict
from relay.kafka.partition import Partition

# --- hop 3


def _newest(evidence: Evidence) -> Delivery:
    copy = evidence.copy
    return copy if isinstance(copy, Delivery) else sent(evidence)[-1]


def _where(evidence: Evidence) -> Partition:
    return Partition(_newest(evidence).topic, _newest(evidence).partition)


def _groups(evidence: Evidence) -> list[GroupSeen]:
    groups = evidence.around.groups
    if isinstance(groups, Missing):
        return []
    return [groups[name] for name in evidence.around.processor_groups if name in groups]


def _readers(evidence: Evidence) -> list[GroupSeen]:
    """Return the flow's groups, and those that may have taken their place."""
    others = evidence.around.other_readers
    return _groups(evidence) + ([] if isinstance(others, Missing) else list(others))


def _staffed(evidence: Evidence) -> list[GroupSeen]:
    return [one for one in _groups(evidence) if one.members is None or one.members > 0]


def _some(
    holds: Callable[[GroupSeen, Partition], bool],
    among: Callable[[Evidence], Iterable[GroupSeen]] = _groups,
) -> Callable[[Evidence], bool]:
    return lambda evidence: any(holds(one, _where(evidence)) for one in among(evidence))


def _moved(group: GroupSeen, where: Partition) -> bool:
    return where in group.earlier and group.committed.get(where, -1) > group.earlier[where]


def _young(evidence: Evidence) -> bool:
    age = evidence.around.now_at - _newest(evidence).published_at
    return age < timedelta(seconds=FETCH_SECONDS)


def _answered_past(evidence: Evidence) -> bool:
    answered = evidence.around.answered_past
    return not isinstance(answered, Missing) and bool(answered)


def _passed(evidence: Evidence) -> bool:
    return passage(evidence, sent(evidence)[-1]).passed is Passed.YES


def _lone(evidence: Evidence) -> bool:
    lone, named = evidence.around.lone_readers, _groups(evidence)
    return not isinstance(lone, Missing) and any(one.name in lone for one in named)


def _no_topic(evidence: Evidence) -> bool:
    topic = topic_of(evidence, evidence.around.returns_topic)
    return topic is not None and not topic.exists


_PASSED = Fact("a processor's group came past it", _passed)
_GROUPS_UNREAD = Fact("nobody could ask the groups", lambda e: isinstance(e.around.groups, Missing))
_NO_TOPIC = Fact("the broker says that there is no returns topic", _no_topic)
_STAFFED = Fact("a group of the flow has members", lambda e: bool(_staffed(e)))
_ANSWERED_PAST = Fact("somebody else answers newer orders", _answered_past)
_MOVED = Fact("the group moves there", _some(_moved, _staffed))
_UNPASSED = (CLOSED, SETTLED, RETURN_CAME, RETURNS_UNREAD, _PASSED)


def _process(*seen: Fact, never: tuple[Fact, ...] = ()) -> Proof:
    return Proof((EVENT_ROW, SENT, *seen), (*_UNPASSED, _GROUPS_UNREAD, *never))


PROCESS: dict[tuple[Verdict, Cause], Proof] = {
    (Verdict.NOT_PROCESSED, Cause.PROCESSOR_DOWN): _process(
        Fact("no group of the flow has members, or its successor has none", lambda e: (
            not _staffed(e) or _answered_past(e))),
        never=(Fact("a reader without group moves, and nobody took its place", lambda e: (
            _lone(e) and not _answered_past(e) and not _staffed(e))),),
    ),
    (Verdict.NOT_PROCESSED, Cause.PROCESSOR_LAGGING): _process(
        Fact("a group moves there, or the record is some seconds old, or a successor has not come "
             "to it", lambda e: _some(_moved)(e) or _young(e) or _answered_past(e)),
    ),
    (Verdict.NOT_PROCESSED, Cause.PROCESSOR_STUCK): _process(
        Fact("somebody reads there", lambda e: bool(_staffed(e)) or _lone(e) or any(
            one.never_joined for one in _groups(e))),
        never=(_MOVED, _ANSWERED_PAST, Fact("the record is some seconds old", _young)),
    ),
    (Verdict.NOT_PROCESSED, Cause.PROCESSOR_REBALANCING): _process(
        _STAFFED, Fact("the broker says that its group rebalances",
                       _some(lambda g, _w: g.state in REBALANCING, _staffed)),
        never=(_ANSWERED_PAST,),
    ),
    (Verdict.NOT_PROCESSED, Cause.TOPIC_NOT_CONSUMED): _process(
        _STAFFED, Fact("its members ask for other topics", _some(
            lambda g, w: g.subscribed is not None and w[0] not in g.subscribed, _staffed)),
        never=(_ANSWERED_PAST,),
    ),
    (Verdict.NOT_PROCESSED, Cause.PARTITION_UNASSIGNED): _process(
        Fact("no member has its partition, or a reader without group never committed there", _some(
            lambda g, w: (g.assigned is not None and w not in g.assigned) or (
                not g.members and w not in g.committed))),
        never=(_ANSWERED_PAST,),
    ),
    (Verdict.NOT_PROCESSED, Cause.TRANSACTION_OPEN): _process(
        Fact("its group stands before an open transaction", _some(
            lambda g, w: w in g.before_transaction)),
        never=(_ANSWERED_PAST,),
    ),
    (Verdict.NOT_PROCESSED, Cause.TOPIC_MISSING): _process(_NO_TOPIC, never=(_MOVED,)),
    (Verdict.NOT_PROCESSED, Cause.GROUP_REPLACED): _process(_ANSWERED_PAST, Fact(
        "another group reads the topic", lambda e: len(_readers(e)) > len(_groups(e)))),
    (Verdict.NOT_PROCESSED, Cause.BROKER_UNREACHABLE): Proof(
        (EVENT_ROW, SENT, Fact(
            "the broker does not answer, and a process of ours saw it go", lambda e: (
                isinstance(e.around.groups, Missing)
                and e.around.groups.cause is Cause.BROKER_UNREACHABLE))),
        _UNPASSED,
    ),
}  # fmt: skip

# --- hop 4


def _scan(evidence: Evidence) -> Scan | None:
    return evidence.scan if isinstance(evidence.scan, Scan) else None


def _whole(evidence: Evidence) -> bool:
    scan = _scan(evidence)
    return scan is not None and scan.complete


def _lost_unread(cause: Cause) -> Fact:
    return Fact(
        "returns were lost before the consumer read them, for that",
        lambda e: (scan := _scan(e)) is not None and scan.unread_lost is cause,
    )


def _neighbours(evidence: Evidence) -> Neighbours:
    found = evidence.neighbours
    own = _newest(evidence).offset
    return found if isinstance(found, Neighbours) else Neighbours((-1 if own is None else own,))


def _answered_after(evidence: Evidence) -> bool:
    own = sent(evidence)[-1].offset
    return own is not None and any(one > own for one in _neighbours(evidence).answered)


def _jumped(evidence: Evidence) -> bool:
    crossings = evidence.crossing.values()
    alone = any(one.unattended_from_at is not None for one in crossings)
    return alone or bool(crossings and _neighbours(evidence).answered) or bool(evidence.waiting)


_WHOLE = Fact("the returns were read to the log's end, all partitions", _whole)
_WAY_UNKNOWN = Fact(
    "nobody could look at its neighbours, or at recorded positions",
    lambda e: isinstance(e.neighbours, Missing) or e.positions is not None,
)
_CAME_PAST = Fact(_PASSED.text, _passed)
_UNANSWERED = (CLOSED, SETTLED, RETURN_CAME, RETURNS_UNREAD)


def _unanswered(*seen: Fact, never: tuple[Fact, ...] = ()) -> Proof:
    return Proof((EVENT_ROW, SENT, _CAME_PAST, *seen), (*_UNANSWERED, *never))


def _no_answer(*seen: Fact, never: tuple[Fact, ...] = ()) -> Proof:
    return _unanswered(_WHOLE, *seen, never=(_WAY_UNKNOWN, *never))


RETURN: dict[tuple[Verdict, Cause], Proof] = {
    (Verdict.NO_RETURN, Cause.OFFSETS_SKIPPED): _no_answer(
        Fact("the group's offset moved past it with nobody in the group, or exactly over what is "
             "unanswered", _jumped),
    ),
    (Verdict.NO_RETURN, Cause.PROCESSOR_CRASHED): _no_answer(
        Fact("a member left the group just after the commit", lambda e: any(
            one.members_left_at is not None for one in e.crossing.values())),
    ),
    (Verdict.NO_RETURN, Cause.RETURNS_STOPPED): _no_answer(
        Fact(f"{STOPPED_RUN} records in a row and more were not answered", lambda e: (
            len(_neighbours(e).unanswered) >= STOPPED_RUN)),
        never=(Fact("a record behind it was answered", _answered_after),),
    ),
    (Verdict.NO_RETURN, Cause.RETURN_NEVER_SENT): _no_answer(),
    (Verdict.NO_RETURN, Cause.ANSWERED_ELSEWHERE): _unanswered(
        Fact("a return of it stands on another topic", lambda e: any(
            one.place is Place.ELSEWHERE for one in returns(e))),
    ),
    (Verdict.NO_RETURN, Cause.TOPIC_MISSING): _unanswered(_NO_TOPIC),
    (Verdict.NO_RETURN, Cause.TOPIC_RECREATED): _unanswered(_lost_unread(Cause.TOPIC_RECREATED)),
    (Verdict.NO_RETURN, Cause.RECORDS_DELETED): _unanswered(_lost_unread(Cause.RECORDS_DELETED)),
    (Verdict.NO_RETURN, Cause.RECORD_EXPIRED): _unanswered(_lost_unread(Cause.RECORD_EXPIRED)),
    (Verdict.RETURN_INCOMPLETE, Cause.FINAL_RETURN_MISSING): Proof(
        (RETURN_CAME, _WHOLE), (CLOSED, SETTLED, FINAL_CAME, RETURNS_UNREAD)
    ),
}  # fmt: skip

# --- hop 5


def _stands(*ways: Standing) -> Callable[[Evidence], bool]:
    def holds(evidence: Evidence) -> bool:
        consumers = evidence.around.consumers
        if isinstance(consumers, Missing):
            return False
        return standing(consumers, evidence.around.now_at) in ways

    return holds


def _coming(evidence: Evidence) -> list[ReturnSeen]:
    consumer = evidence.around.consumer
    offsets = {} if isinstance(consumer, Missing) else consumer.offsets
    return [
        one
        for one in at_home(evidence)
        if one.ends
        and one.place is Place.LOG
        and (one.partition not in offsets or one.offset >= offsets[one.partition].next_offset)
    ]


def _pending(evidence: Evidence) -> bool:
    return any(one.ends and one.place is Place.PENDING for one in at_home(evidence))


def _refused(holds: Callable[[ReturnSeen], bool]) -> Callable[[Evidence], bool]:
    return lambda evidence: any(
        one.place is Place.QUARANTINE and one.state != "released" and holds(one)
        for one in at_home(evidence)
    )


def _refused_for(cause: Cause) -> Proof:
    words = [word for word, named in REFUSED_FOR.items() if named is cause]
    named = f"quarantine holds its return for `{'`, `'.join(words)}`"
    return _quarantined(Fact(named, _refused(lambda one: one.reason in words)))


def _gap(evidence: Evidence) -> bool:
    consumer = evidence.around.consumer
    gaps = consumer.gaps if isinstance(consumer, ConsumerSeen) else ()
    return any(
        gap.partition == one.partition and gap.from_offset <= one.offset < gap.to_offset
        for one in at_home(evidence)
        for gap in gaps
    )


def _consumer_moves(evidence: Evidence) -> bool:
    consumer, coming = evidence.around.consumer, _coming(evidence)
    if isinstance(consumer, Missing) or not coming:
        return False
    return moves(evidence, consumer, coming[0].partition)


def _there_or_hidden(evidence: Evidence) -> bool:
    order = evidence.order
    if isinstance(order, Missing):
        committed = isinstance(evidence.event, EventSeen)
        return committed and order.cause is Cause.PERMISSION_DENIED
    return isinstance(order, OrderSeen)


def _unknown_status(evidence: Evidence) -> bool:
    return isinstance(evidence.order, OrderSeen) and not evidence.order.known


_ALIVE = Fact("a consumer is alive", lambda e: bool(living(e.around.consumers, e)))
_NEWCOMER = Fact("a consumer has just connected", lambda e: CONSUMER in e.around.newcomers)
_WAITS = Fact(
    "a return that ends it waits for the consumer", lambda e: bool(_coming(e)) or _pending(e)
)
_UNREAD = Fact(
    "nobody could read where the consumer stands", lambda e: isinstance(e.around.consumer, Missing)
)
_APPLIED = Fact(
    "the consumer applied a return that ends it",
    lambda e: any(one.place is Place.INBOX and one.ends for one in at_home(e)),
)


def _waits(*seen: Fact, never: tuple[Fact, ...] = ()) -> Proof:
    return Proof((_WAITS, *seen), (CLOSED, SETTLED, _UNREAD, *never))


def _quarantined(*seen: Fact) -> Proof:
    return Proof(
        (Fact("quarantine holds a return of it", _refused(lambda _one: True)), *seen), (CLOSED,)
    )


def _consumer_says(cause: Cause) -> Proof:
    fact = Fact("the consumer recorded it, of itself or of an outage", complains("confirm", cause))
    return _waits(fact)


def _skipped(*seen: Fact, never: tuple[Fact, ...] = ()) -> Proof:
    return Proof((FINAL_CAME, *seen), (CLOSED, _UNREAD, _WAITS, *never))


CONFIRM: dict[tuple[Verdict, Cause], Proof] = {
    (Verdict.NOT_CONFIRMED, Cause.CONSUMER_DOWN): _waits(
        Fact("no consumer is alive or paused, by their own records", _stands(Standing.DOWN)),
        never=(_ALIVE, _NEWCOMER),
    ),
    (Verdict.NOT_CONFIRMED, Cause.CONSUMER_PAUSED): _waits(
        Fact("a consumer without heartbeat holds its connection", _stands(Standing.PAUSED)),
        never=(_ALIVE, _NEWCOMER),
    ),
    (Verdict.NOT_CONFIRMED, Cause.CONSUMER_LAGGING): _waits(
        Fact("its offset there moves, or it has just connected", _consumer_moves)
    ),
    (Verdict.NOT_CONFIRMED, Cause.CONSUMER_STUCK): _waits(_ALIVE, never=(
        _NEWCOMER, Fact("its offset there moves", _consumer_moves))),
    (Verdict.NOT_CONFIRMED, Cause.TRANSACTION_OPEN): _waits(
        Fact("it stands behind an open transaction", lambda e: any(
            one.behind_transaction for one in _coming(e))),
    ),
    (Verdict.NOT_CONFIRMED, Cause.ORDER_ROW_LOCKED): _waits(
        Fact("the consumer set it aside because the row is locked", _pending)
    ),
    (Verdict.NOT_CONFIRMED, Cause.PERMISSION_DENIED): _consumer_says(Cause.PERMISSION_DENIED),
    (Verdict.NOT_CONFIRMED, Cause.DATABASE_REFUSES): _consumer_says(Cause.DATABASE_REFUSES),
    (Verdict.NOT_CONFIRMED, Cause.DATABASE_UNREACHABLE): _consumer_says(
        Cause.DATABASE_UNREACHABLE
    ),
    (Verdict.NOT_CONFIRMED, Cause.BROKER_UNREACHABLE): _consumer_says(Cause.BROKER_UNREACHABLE),
    (Verdict.NOT_CONFIRMED, Cause.REGISTRY_UNREACHABLE): _consumer_says(Cause.REGISTRY_UNREACHABLE),
    **{
        (Verdict.RETURN_QUARANTINED, cause): _refused_for(cause)
        for cause in (
            Cause.RETURN_MALFORMED,
            Cause.RETURN_UNKNOWN_SCHEMA,
            Cause.RETURN_UNKNOWN_ORDER,
            Cause.RETURN_UNKNOWN_STATUS,
            Cause.RETURN_CONFLICTS,
            Cause.STATUS_NOT_KEPT,
            Cause.RETURN_NAMES_DIFFER,
            Cause.CODEC_MISSING,
        )
    },
    (Verdict.RETURN_QUARANTINED, Cause.APPLY_FAILED): _quarantined(),
    (Verdict.RETURN_QUARANTINED, Cause.RETURN_DISCARDED): _quarantined(
        Fact("somebody discarded it", _refused(lambda one: one.state == "discarded"))
    ),
    (Verdict.RETURN_QUARANTINED, Cause.RELEASE_PENDING): _quarantined(
        Fact("its release was requested", _refused(lambda one: one.state == "release_requested"))
    ),
    (Verdict.RETURN_QUARANTINED, Cause.ORDER_HIDDEN): _quarantined(
        Fact("the order's row is there, or its event is and row-level security may hide the row",
             _there_or_hidden),
        Fact("it was refused as a return of an unknown order",
             _refused(lambda one: one.reason == "unknown_order")),
    ),
    (Verdict.RETURN_QUARANTINED, Cause.ORDER_STATUS_UNKNOWN): _quarantined(
        Fact("the flow does not know the order's status", _unknown_status)
    ),
    (Verdict.RETURN_SKIPPED, Cause.STATUS_OVERWRITTEN): _skipped(_APPLIED),
    (Verdict.RETURN_SKIPPED, Cause.OFFSET_GAP): _skipped(
        Fact("the consumer recorded that it never saw those offsets", _gap), never=(_APPLIED,)
    ),
    (Verdict.RETURN_SKIPPED, Cause.OFFSET_MOVED): _skipped(never=(_APPLIED, Fact(
        "the consumer recorded a gap there", _gap))),
    (Verdict.RETURN_SKIPPED, Cause.RETURN_MISNAMED): _skipped(
        Fact("its returns name another order", lambda e: all(
            one.names_order not in (None, e.order_id) for one in at_home(e) if one.ends)),
        never=(_APPLIED,),
    ),
}  # fmt: skip
