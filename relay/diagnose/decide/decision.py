"""Evidence in, diagnosis out: the one pure function behind every verdict.

Invariant: total (any evidence gives a finding), decided backwards (a later proof clears every
earlier hop), and `unknown` where the deciding evidence is missing: a healthy hop is never blamed.
"""

from datetime import datetime

from relay.diagnose import causes
from relay.diagnose.causes import Cause
from relay.diagnose.decide.confirm import decide_unconfirmed
from relay.diagnose.decide.contradiction import contradiction, with_status_unknown
from relay.diagnose.decide.finding import Finding, unknown
from relay.diagnose.decide.place import decide_place
from relay.diagnose.decide.process import Passed, decide_unprocessed, passage
from relay.diagnose.decide.publish import decide_record_gone, decide_unpublished
from relay.diagnose.decide.returning import decide_unanswered, incomplete
from relay.diagnose.evidence.order import (
    Delivery,
    Evidence,
    Found,
    OrderSeen,
    Place,
    ReadBack,
    ReturnSeen,
)
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.verdicts import Hop, Verdict
from relay.runtime.times import later

# Where an order before its deadline stands, when what would be its verdict ends by itself.
_TOO_EARLY = frozenset(
    {
        Verdict.NOT_PUBLISHED,
        Verdict.PARKED,
        Verdict.NOT_PROCESSED,
        Verdict.NO_RETURN,
        Verdict.RETURN_INCOMPLETE,
        Verdict.NOT_CONFIRMED,
        Verdict.RETURN_QUARANTINED,
    }
)


# What was not looked at may hold the return: before the deadline nobody misses it.
_MAY_HAVE_COME = frozenset(
    {
        Cause.SCAN_INCOMPLETE,
        Cause.RECORDS_DELETED,
        Cause.TOPIC_RECREATED,
        Cause.COMPACTED,
        Cause.CODEC_MISSING,
    }
)


def decide(evidence: Evidence) -> Finding:
    """Name the first hop that is missing and why, for one order."""
    found = _answered(evidence) or _unwatched(evidence) or _unanswered(evidence)
    finding = with_status_unknown(evidence, found)
    due = due_at(evidence)
    if due is None or evidence.around.now_at >= due:
        return finding
    return _before_the_deadline(finding)


def placed_at(evidence: Evidence) -> datetime | None:
    """Return when the order was placed, as far as anything says."""
    event, order = evidence.event, evidence.order
    if event is not None and not isinstance(event, Missing):
        return event.created_at
    if order is not None and not isinstance(order, Missing):
        return order.submitted_at
    return None


def _by_our_clock(evidence: Evidence) -> datetime | None:
    """Return the same, corrected where the order's own clock is all that says it and is behind."""
    at = placed_at(evidence)
    own = evidence.event is None or isinstance(evidence.event, Missing)
    return at + evidence.around.clock_behind if own and at is not None else at


def waited_from(evidence: Evidence) -> datetime | None:
    """Return since when its customer waits: an event that was missing was written later."""
    placed, order, lost = placed_at(evidence), evidence.order, evidence.lost_kind
    written = lost is not None and lost[0] == Hop.PLACE and isinstance(order, OrderSeen)
    if written and isinstance(order, OrderSeen) and order.submitted_at and placed:
        return min(placed, order.submitted_at)
    return placed


def deadline_at(evidence: Evidence) -> datetime | None:
    """Return when its return was due, counted from the placing."""
    start = placed_at(evidence)
    return None if start is None else later(start, _deadline_seconds(evidence))


def due_at(evidence: Evidence) -> datetime | None:
    """Return when its return is due; a replay starts the clock anew."""
    due = deadline_at(evidence)
    if due is None or isinstance(evidence.deliveries, Missing):
        return due
    replays = [one.published_at for one in evidence.deliveries if one.replay_id is not None]
    if not replays:
        return due
    return max(due, later(max(replays), _deadline_seconds(evidence)))


def _deadline_seconds(evidence: Evidence) -> float:
    event = evidence.event
    if event is None or isinstance(event, Missing):
        return evidence.default_deadline_seconds
    return event.deadline_seconds


def applied_return(evidence: Evidence) -> ReturnSeen | None:
    """Return the first terminal return that the consumer handled as valid, if any."""
    if isinstance(evidence.returns, Missing):
        return None
    applied = [one for one in evidence.returns if one.place is Place.INBOX and one.terminal]
    return min(applied, key=_handled, default=None)


def given_status(evidence: Evidence) -> str | None:
    """Return the final status that the last applied return gave the order, where one did."""
    if isinstance(evidence.returns, Missing):
        return None
    applied = [one for one in evidence.returns
               if one.place is Place.INBOX and one.terminal and one.became is not None]  # fmt: skip
    return max(applied, key=_handled).became if applied else None


def _handled(seen: ReturnSeen) -> datetime:
    assert seen.handled_at is not None, "an inbox row has its time"
    return seen.handled_at


def returned_at(evidence: Evidence) -> datetime | None:
    """Return when the order got its terminal status, as far as that is recorded."""
    applied = applied_return(evidence)
    if applied is not None:
        return applied.handled_at
    order = evidence.order
    return order.returned_at if isinstance(order, OrderSeen) else None


def _answered(evidence: Evidence) -> Finding | None:
    doubt = contradiction(evidence)
    if doubt is None and _is_returned(evidence):
        return Finding(Verdict.RETURNED, _returned_cause(evidence))
    if evidence.closed is not None:
        return Finding(Verdict.CLOSED, Cause.CLOSED_BY_HAND)
    return doubt


def _is_returned(evidence: Evidence) -> bool:
    if isinstance(evidence.order, OrderSeen):
        if evidence.around.status_decides or evidence.order.terminal:
            return evidence.order.terminal
        return applied_return(evidence) is not None
    # The order's row is not ours to read, cannot be read, or is gone: the inbox is the proof.
    gone = evidence.order is None and evidence.around.keeps_orders
    return not gone and applied_return(evidence) is not None


def _returned_cause(evidence: Evidence) -> Cause:
    known = not isinstance(evidence.returns, Missing)
    if known and applied_return(evidence) is None:
        return Cause.SET_BY_HAND
    since, at = waited_from(evidence), returned_at(evidence)
    if since is None or at is None:
        return Cause.IN_TIME
    return Cause.LATE if at > later(since, _deadline_seconds(evidence)) else Cause.IN_TIME


def _unwatched(evidence: Evidence) -> Finding | None:
    since, start = evidence.around.watched_since, _by_our_clock(evidence)
    if isinstance(since, Missing):
        return unknown(since)
    if since is None or start is None or start >= since:
        return None
    missing = Missing(
        "what happened before this installation watched",
        Cause.NOT_WATCHED,
        f"placed {start:%Y-%m-%d %H:%M}, watched since {since:%Y-%m-%d %H:%M}",
        "--since reaches back, as far as anything is recorded",
    )
    return unknown(missing)


def _unanswered(evidence: Evidence) -> Finding:
    """Decide backwards: a return, then the group's offset, then the ledger, then the rows."""
    returns = () if isinstance(evidence.returns, Missing) else evidence.returns
    at_home = tuple(one for one in returns if one.place is not Place.ELSEWHERE)
    ending = tuple(one for one in at_home if one.ends)
    place = decide_place(evidence)
    if place is not None and place.verdict is Verdict.NO_SUCH_ORDER:
        return place
    if ending:
        return decide_unconfirmed(evidence, ending)
    if isinstance(evidence.returns, Missing):
        return unknown(evidence.returns)
    if at_home:
        return _only_partly_answered(evidence)
    if place is not None:
        return place
    return _published_and_then(evidence)


def _only_partly_answered(evidence: Evidence) -> Finding:
    scan = evidence.scan
    if isinstance(scan, Missing):
        return unknown(scan, Hop.RETURN)
    if not scan.complete:
        return unknown(incomplete(evidence, scan), Hop.RETURN)
    return Finding(Verdict.RETURN_INCOMPLETE, Cause.FINAL_RETURN_MISSING)


def _published_and_then(evidence: Evidence) -> Finding:
    event = evidence.event
    assert event is not None, "hop 1 was decided"
    assert not isinstance(event, Missing), "hop 1 was decided"
    if isinstance(evidence.deliveries, Missing):
        return unknown(evidence.deliveries, Hop.PUBLISH)
    if not evidence.deliveries:
        return decide_unpublished(evidence, event)
    return _delivered_and_then(evidence, evidence.deliveries[-1])


def _delivered_and_then(evidence: Evidence, newest: Delivery) -> Finding:
    came_past = passage(evidence, newest)
    if came_past.passed is Passed.YES:
        return decide_unanswered(evidence, newest)
    if evidence.strayed:
        # A group that read it there is cleared above: the topic was renamed since.
        return Finding(Verdict.NOT_PUBLISHED, Cause.SENT_TO_OTHER_TOPIC)
    readback = evidence.readback
    copied = isinstance(evidence.copy, Delivery)
    if copied or not isinstance(readback, ReadBack) or readback.found is Found.SAME:
        if came_past.missing is not None:
            return unknown(came_past.missing, Hop.PROCESS)
        return decide_unprocessed(evidence, newest)
    if came_past.missing is not None and readback.found is Found.GONE_BEFORE:
        # What left the log's front may have been read before: only the group's way tells.
        return unknown(came_past.missing, Hop.PROCESS)
    return decide_record_gone(evidence, newest, readback)


def _before_the_deadline(finding: Finding) -> Finding:
    by_itself = finding.verdict in _TOO_EARLY and finding.cause in causes.MOVING_BY_ITSELF
    unread = finding.verdict is Verdict.UNKNOWN and finding.cause in _MAY_HAVE_COME
    if not (by_itself or unread):
        return finding
    return Finding(Verdict.IN_FLIGHT, Cause.MOVING, finding.hop)
