"""Hop 1: was the order committed together with its event: pure functions.

Invariant: `no_such_order` and `no_outbox_row` are said only after looking, in the rows around the
order and, where no row knows the id, on Kafka to the end. An order whose event may have left with a
dropped partition, or may stand under another id, is `unknown`.
"""

from relay.diagnose.causes import Cause
from relay.diagnose.decide.finding import Finding, unknown
from relay.diagnose.evidence.order import EventSeen, Evidence, Moment, OrderSeen, Place
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.verdicts import Hop, Verdict

_ORDERS_NOT_NAMED = Missing(
    "the order's row",
    Cause.ORDERS_NOT_NAMED,
    "no setting says in which table orders stand",
    "name it in [flow.NAME.columns] (table, key_column, ...): it is only looked at",
)


def decide_place(evidence: Evidence) -> Finding | None:
    """Return what is wrong at hop 1, or None when both rows are there (or are proven later)."""
    order, event = evidence.order, evidence.event
    if isinstance(event, Missing):
        return unknown(event, Hop.PLACE)
    if event is not None:
        return _event_without_order(evidence, event)
    if isinstance(order, Missing):
        return unknown(order, Hop.PLACE)
    if order is not None:
        return _order_without_event(evidence, order)
    return _neither(evidence)


def _neither(evidence: Evidence) -> Finding:
    if evidence.dropped_partition is not None:
        return _dropped(evidence.dropped_partition)
    if evidence.other_types:
        return Finding(Verdict.NO_OUTBOX_ROW, Cause.WRONG_EVENT_TYPE)
    unlooked = evidence.searched if evidence.around.keeps_orders else _ORDERS_NOT_NAMED
    if evidence.known_as is not None:
        unlooked = _not_an_order(evidence.known_as)
    if evidence.twin is not None:
        cause = Cause.DUPLICATE_SUBMISSION
    elif evidence.around.keeps_orders and _was_answered(evidence):
        cause = Cause.ROWS_LOST
    elif unlooked is not None:
        return unknown(unlooked, Hop.PLACE)
    else:
        cause = Cause.NEVER_COMMITTED
    return Finding(Verdict.NO_SUCH_ORDER, cause)


def _not_an_order(known_as: str) -> Missing:
    how = "give the order's own id; name columns that people ask by in lookup_columns"
    return Missing("which order is meant", Cause.NOT_AN_ORDER, f"it is {known_as}", how)


def _was_answered(evidence: Evidence) -> bool:
    """Tell whether a return was handled as the order's: the order was there then.

    One that was refused, or stands on Kafka, proves nothing: anybody may send a return for an id.
    """
    returns = () if isinstance(evidence.returns, Missing) else evidence.returns
    return any(one.place is Place.INBOX for one in returns)


def _event_without_order(evidence: Evidence, event: EventSeen) -> Finding | None:
    if evidence.order is None and evidence.around.keeps_orders:
        cause = Cause.ROWS_LOST if event.deleted else Cause.ORDER_DELETED
        return Finding(Verdict.NO_SUCH_ORDER, cause)
    return None


def _order_without_event(evidence: Evidence, order: OrderSeen) -> Finding:
    if evidence.other_types:
        return Finding(Verdict.NO_OUTBOX_ROW, Cause.WRONG_EVENT_TYPE)
    if evidence.dropped_partition is not None:
        return _dropped(evidence.dropped_partition)
    moment = evidence.moment
    if isinstance(moment, Missing):
        return unknown(moment, Hop.PLACE)
    if not moment.strays:
        unlooked = _before_events(evidence, order, moment)
        if unlooked is None and moment.unclaimed:
            unlooked = _unclaimed(moment)
        triggers = evidence.around.disabled_triggers
        if unlooked is None and isinstance(triggers, Missing):
            unlooked = triggers
        if unlooked is not None:
            return unknown(unlooked, Hop.PLACE)
    return Finding(Verdict.NO_OUTBOX_ROW, _unwritten_cause(evidence, moment))


def _before_events(evidence: Evidence, order: OrderSeen, moment: Moment) -> Missing | None:
    """Say that the order's time knew no events, as far as that can be told; None: it did."""
    since, at = evidence.around.events_since, order.submitted_at
    at = None if at is None else at + evidence.around.clock_behind
    if isinstance(since, Missing):
        return since
    if since is None:
        detail = "no event of any order was ever written here"
    elif at is None or at < since or moment.before_events:
        detail = f"the first event is of {since:%Y-%m-%d %H:%M:%S}, and the order no younger"
    else:
        return None
    how = "say in the flow's settings since when there are events (events_since)"
    return Missing("what became of it", Cause.BEFORE_EVENTS, detail, how)


def _unwritten_cause(evidence: Evidence, moment: Moment) -> Cause:
    if moment.strays:
        return Cause.WRONG_AGGREGATE_ID
    if moment.sent_count:
        return Cause.EVENT_DELETED
    if evidence.around.disabled_triggers and not moment.before_trigger:
        return Cause.TRIGGER_DISABLED
    deleted = moment.vacant_count and moment.deleted_count
    return Cause.EVENT_DELETED if deleted else Cause.OUTBOX_BYPASSED


def _unclaimed(moment: Moment) -> Missing:
    others = ", ".join(moment.unclaimed[:3])
    how = "ask as relay_operator, who may look into payloads" if moment.payloads_unread else ""
    return Missing(
        "whose event it was",
        Cause.EVENT_UNCLAIMED,
        f"rows or records of that moment belong to no order: {others}",
        how or "compare those rows with the order in the order service's own log",
    )


def _dropped(partition: str | Missing) -> Finding:
    if isinstance(partition, Missing):
        return unknown(partition, Hop.PLACE)
    missing = Missing(
        "the outbox row",
        Cause.PAST_RETENTION,
        f"its day's partition {partition} was dropped",
        "close the order by hand, or restore that day from a backup",
    )
    return unknown(missing, Hop.PLACE)
