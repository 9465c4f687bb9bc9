"""Hop 4: the processor passed the record and no return is there: why: pure functions.

Invariant: said only after a complete scan. What tells a skipped range from a single loss is what
the neighbours on the partition got, laid over the recorded positions of the group.
"""

from datetime import timedelta

from relay.diagnose.causes import Cause
from relay.diagnose.evidence import Crossing, Delivery, Evidence, Neighbours, Place, Scan
from relay.diagnose.finding import Finding, unknown
from relay.diagnose.surroundings import Missing
from relay.diagnose.verdicts import Hop, Verdict

# From how many unanswered records in a row up to the newest one "the processor answers nothing".
STOPPED_RUN = 5
# How much of a jump the unanswered run must cover: a position is some seconds old.
SKIPPED_SHARE = 0.9


def decide_unanswered(evidence: Evidence, delivery: Delivery) -> Finding:
    """Say why a record that was passed has no return, or that the scan does not suffice."""
    elsewhere = _answered_elsewhere(evidence)
    if elsewhere:
        return Finding(Verdict.NO_RETURN, Cause.ANSWERED_ELSEWHERE)
    scan = evidence.scan
    if isinstance(scan, Missing):
        return unknown(scan, Hop.RETURN)
    if _returns_topic_absent(evidence):
        return Finding(Verdict.NO_RETURN, Cause.TOPIC_MISSING)
    if scan.unread_lost is not None:
        return Finding(Verdict.NO_RETURN, scan.unread_lost)
    if not scan.complete:
        return unknown(_incomplete(evidence, scan), Hop.RETURN)
    return Finding(Verdict.NO_RETURN, unanswered_cause(evidence, delivery, scan))


def _answered_elsewhere(evidence: Evidence) -> bool:
    returns = evidence.returns
    if isinstance(returns, Missing):
        return False
    return any(one.place is Place.ELSEWHERE for one in returns)


def _returns_topic_absent(evidence: Evidence) -> bool:
    topics = evidence.around.topics
    if isinstance(topics, Missing):
        return False
    seen = topics.get(evidence.around.returns_topic)
    return seen is not None and not seen.exists


def _incomplete(evidence: Evidence, scan: Scan) -> Missing:
    return Missing(
        f"returns on {evidence.around.returns_topic}",
        Cause.SCAN_INCOMPLETE,
        f"{scan.records} records of {scan.partitions_read}/{scan.partitions} partitions were read",
        f"relay diagnose {evidence.order_id} --scan-seconds 600",
    )


def unanswered_cause(evidence: Evidence, delivery: Delivery, scan: Scan) -> Cause:
    """Choose among the ways in which a processor passes a record and does not answer."""
    run = evidence.neighbours or _alone(delivery)
    crossing = next(iter(evidence.crossing.values()), None)
    if crossing is not None:
        if _jumped(crossing, run):
            return Cause.OFFSETS_SKIPPED
        if _died(crossing, run):
            return Cause.PROCESSOR_CRASHED
    if _stopped(run, scan, delivery):
        return Cause.RETURNS_STOPPED
    return Cause.RETURN_NEVER_SENT


def _alone(delivery: Delivery) -> Neighbours:
    offset = delivery.offset if delivery.offset is not None else -1
    return Neighbours(offset, offset, 1, answered_before=True, answered_after=True)


def _jumped(crossing: Crossing, run: Neighbours) -> bool:
    """The group had no members while the record waited, and resumed past a run without answers."""
    if crossing.unattended_from_at is None:
        return False
    if run.from_offset <= crossing.before_offset:
        return True
    # The first position after the resumption may lie past records that were answered again.
    jump = crossing.after_offset - crossing.before_offset
    inside = min(run.to_offset + 1, crossing.after_offset) - run.from_offset
    return inside >= jump * SKIPPED_SHARE


def _died(crossing: Crossing, run: Neighbours) -> bool:
    """A member left just after the commit, and the run ends where the group stood then."""
    if crossing.left_offset is None or crossing.members_left_at is None:
        return False
    soon = crossing.members_left_at - crossing.after_at <= timedelta(seconds=120)
    return soon and run.to_offset < crossing.left_offset <= run.to_offset + 1


def _stopped(run: Neighbours, scan: Scan, delivery: Delivery) -> bool:
    if run.answered_after or run.count < STOPPED_RUN:
        return False
    newest = scan.newest_return_at
    return newest is None or newest < delivery.published_at
