"""Hop 1: was the order committed together with its event: pure functions.

Invariant: `no_such_order` and `no_outbox_row` are said only after looking; an order whose event may
have left with a dropped partition is `unknown`.
"""

from relay.diagnose.causes import Cause
from relay.diagnose.decide.finding import Finding, unknown
from relay.diagnose.evidence.order import Evidence
from relay.diagnose.evidence.surroundings import Missing
from relay.diagnose.verdicts import Hop, Verdict


def decide_place(evidence: Evidence) -> Finding | None:
    """Return what is wrong at hop 1, or None when both rows are there (or are proven later)."""
    order, event = evidence.order, evidence.event
    if isinstance(event, Missing):
        return unknown(event, Hop.PLACE)
    if event is not None:
        return _event_without_order(evidence)
    if isinstance(order, Missing):
        return unknown(order, Hop.PLACE)
    if order is not None:
        return _order_without_event(evidence)
    return _neither(evidence)


def _neither(evidence: Evidence) -> Finding:
    if evidence.dropped_partition is not None:
        return _dropped(evidence.dropped_partition)
    if evidence.other_types:
        return Finding(Verdict.NO_OUTBOX_ROW, Cause.WRONG_EVENT_TYPE)
    cause = Cause.NEVER_COMMITTED if evidence.twin is None else Cause.DUPLICATE_SUBMISSION
    return Finding(Verdict.NO_SUCH_ORDER, cause)


def _event_without_order(evidence: Evidence) -> Finding | None:
    if evidence.order is None and evidence.around.keeps_orders:
        return Finding(Verdict.NO_SUCH_ORDER, Cause.ORDER_DELETED)
    return None


def _order_without_event(evidence: Evidence) -> Finding:
    if evidence.other_types:
        return Finding(Verdict.NO_OUTBOX_ROW, Cause.WRONG_EVENT_TYPE)
    if evidence.dropped_partition is not None:
        return _dropped(evidence.dropped_partition)
    if evidence.strays:
        return Finding(Verdict.NO_OUTBOX_ROW, Cause.WRONG_AGGREGATE_ID)
    if evidence.around.disabled_triggers:
        return Finding(Verdict.NO_OUTBOX_ROW, Cause.TRIGGER_DISABLED)
    return Finding(Verdict.NO_OUTBOX_ROW, Cause.OUTBOX_BYPASSED)


def _dropped(partition: str) -> Finding:
    missing = Missing(
        "the outbox row",
        Cause.PAST_RETENTION,
        f"its day's partition {partition} was dropped",
        "close the order by hand, or restore that day from a backup",
    )
    return unknown(missing, Hop.PLACE)
