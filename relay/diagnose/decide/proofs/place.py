"""Hop 1: what proves that an order was not committed together with its event."""

from relay.diagnose.causes import Cause
from relay.diagnose.decide.proofs.fact import (
    CLOSED,
    EVENT_ROW,
    FINAL_CAME,
    NO_EVENT,
    ORDER_ROW,
    SETTLED,
    Fact,
    Proof,
    returns,
)
from relay.diagnose.evidence.order import EventSeen, Evidence, Moment, Place
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.verdicts import Verdict


def _moment(evidence: Evidence) -> Moment:
    return evidence.moment if isinstance(evidence.moment, Moment) else Moment()


def _triggers_off(evidence: Evidence) -> bool:
    triggers = evidence.around.disabled_triggers
    return not isinstance(triggers, Missing) and bool(triggers)


def _unlooked_moment(evidence: Evidence) -> bool:
    return isinstance(evidence.moment, Missing)


_NO_ORDER = Fact("no row of the order is there", lambda e: e.order is None)
_HANDLED = Fact(
    "the consumer handled a return of it", lambda e: any(r.place is Place.INBOX for r in returns(e))
)
_UNSEARCHED = Fact(
    "Kafka was not searched to its end, or a transaction that has written here is undecided",
    lambda e: e.searched is not None,
)
_NOT_NAMED = Fact("nobody said where orders stand", lambda e: not e.around.keeps_orders)
_DROPPED = Fact("the day of its row was dropped", lambda e: e.dropped_partition is not None)
_STRAY = Fact("a row of its own transaction names another id", lambda e: bool(_moment(e).strays))
_UNCLAIMED = Fact(
    "an event of that moment belongs to nobody",
    lambda e: bool(_moment(e).unclaimed) and not _moment(e).strays,
)
_UNLOOKED = Fact("nobody could look at the rows around it", _unlooked_moment)
_OTHER_TYPE = Fact("it has an event of another type", lambda e: bool(e.other_types))
_TRIGGER_OFF = Fact("a trigger that writes events is disabled", _triggers_off)
_TRIGGERS_UNREAD = Fact(
    "nobody could look at the triggers", lambda e: isinstance(e.around.disabled_triggers, Missing)
)
_EARLY = Fact("it is older than the first event, or the trigger's end", lambda e: bool(
    _moment(e).before_trigger))  # fmt: skip
_VACANT = Fact(
    "rows around it were deleted, or were sent and are gone",
    lambda e: bool(_moment(e).sent_count or (_moment(e).vacant_count and _moment(e).deleted_count)),
)
_SENT_AND_GONE = Fact(
    "rows around it were sent and are gone", lambda e: bool(_moment(e).sent_count)
)
_TWIN = Fact("the same submission is known under another id", lambda e: e.twin is not None)
_EVENT_DELETED = Fact(
    "its record proves an event that has no row any more",
    lambda e: isinstance(e.event, EventSeen) and e.event.deleted,
)
_CAME = (CLOSED, SETTLED, FINAL_CAME)


def _bare(*seen: Fact, never: tuple[Fact, ...] = ()) -> Proof:
    return Proof((ORDER_ROW, NO_EVENT, *seen), (*_CAME, *never))


PLACE: dict[tuple[Verdict, Cause], Proof] = {
    (Verdict.NO_SUCH_ORDER, Cause.NEVER_COMMITTED): Proof(
        (_NO_ORDER, NO_EVENT),
        (_HANDLED, _UNSEARCHED, _NOT_NAMED, _DROPPED, _OTHER_TYPE, _TWIN, CLOSED),
    ),
    (Verdict.NO_SUCH_ORDER, Cause.DUPLICATE_SUBMISSION): Proof(
        (_NO_ORDER, NO_EVENT, _TWIN), (_DROPPED, CLOSED)
    ),
    (Verdict.NO_SUCH_ORDER, Cause.ORDER_DELETED): Proof((_NO_ORDER, EVENT_ROW), (_NOT_NAMED,)),
    (Verdict.NO_SUCH_ORDER, Cause.ROWS_LOST): Proof(
        (_NO_ORDER, Fact(f"{_HANDLED.text}, or {_EVENT_DELETED.text}", lambda e: (
            _HANDLED.holds(e) or _EVENT_DELETED.holds(e)))),
        (_NOT_NAMED,),
    ),
    (Verdict.NO_OUTBOX_ROW, Cause.OUTBOX_BYPASSED): _bare(
        never=(_STRAY, _UNCLAIMED, _UNLOOKED, _OTHER_TYPE, _DROPPED, _VACANT, _TRIGGERS_UNREAD)
    ),
    (Verdict.NO_OUTBOX_ROW, Cause.TRIGGER_DISABLED): _bare(
        _TRIGGER_OFF,
        never=(_STRAY, _UNCLAIMED, _UNLOOKED, _OTHER_TYPE, _DROPPED, _SENT_AND_GONE, _EARLY),
    ),
    (Verdict.NO_OUTBOX_ROW, Cause.WRONG_AGGREGATE_ID): _bare(
        _STRAY, never=(_UNLOOKED, _OTHER_TYPE, _DROPPED)
    ),
    (Verdict.NO_OUTBOX_ROW, Cause.EVENT_DELETED): _bare(
        _VACANT, never=(_STRAY, _UNCLAIMED, _UNLOOKED, _OTHER_TYPE, _DROPPED)
    ),
    (Verdict.NO_OUTBOX_ROW, Cause.WRONG_EVENT_TYPE): Proof((NO_EVENT, _OTHER_TYPE), _CAME),
}  # fmt: skip
