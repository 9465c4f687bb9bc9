"""Hop 4: the processor passed the record and no return is there: why: pure functions.

Invariant: said only after a complete scan. What tells a skipped range from a single loss is what
the neighbours on the partition got, laid over the recorded positions of the group.
"""

from datetime import timedelta

from relay.diagnose.causes import Cause
from relay.diagnose.decide.finding import Finding, unknown
from relay.diagnose.evidence.history import LEFT_SOON_SECONDS
from relay.diagnose.evidence.order import Crossing, Delivery, Evidence, Neighbours, Place, Scan
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.verdicts import Hop, Verdict
from relay.kafka.partition import Partition
from relay.runtime.command_line import command

# From how many unanswered records in a row up to the newest one "the processor answers nothing".
STOPPED_RUN = 5
# How much of a jump must be unanswered: a position is some seconds old.
SKIPPED_SHARE = 0.9
# From how many unanswered records in a row, just where the group stood, it is no coincidence.
JUMP_RUN = 5
# The same, where the group was seen to have no members while these very records waited.
RESUMED_RUN = 2


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
    unlooked = _way_unknown(evidence) if scan.complete else incomplete(evidence, scan)
    if unlooked is not None:
        return unknown(unlooked, Hop.RETURN)
    return Finding(Verdict.NO_RETURN, unanswered_cause(evidence, delivery, scan))


def _way_unknown(evidence: Evidence) -> Missing | None:
    """Say that nobody could look whether it was one of many, or they were all passed over."""
    if isinstance(evidence.neighbours, Missing):
        return evidence.neighbours
    return evidence.positions


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


def incomplete(evidence: Evidence, scan: Scan) -> Missing:
    """Say what was not looked at of what may hold a return, and how to look at it."""
    read = f"{scan.records} records of {scan.partitions_read}/{scan.partitions} partitions read"
    longer = command("relay diagnose {order} --scan-seconds 600", order=evidence.order_id)
    gone = "ask the processor whether it answered, then replay or close the order"
    return Missing(
        f"returns on {evidence.around.returns_topic}",
        scan.unlooked_cause,
        f"{read}; {scan.unlooked}" if scan.unlooked else read,
        longer if scan.unlooked_cause is Cause.SCAN_INCOMPLETE else gone,
    )


def unanswered_cause(evidence: Evidence, delivery: Delivery, scan: Scan) -> Cause:
    """Choose among the ways in which a processor passes a record and does not answer."""
    own = delivery.offset if delivery.offset is not None else -1
    found = evidence.neighbours
    around = found if isinstance(found, Neighbours) else Neighbours((own,))
    crossings = tuple(evidence.crossing.values())
    if not crossings and _moved_a_moment_ago(evidence, delivery):
        return Cause.OFFSETS_SKIPPED
    # Of several groups one that had members all the time has read it: what another one did while
    # nobody was in it proves nothing of this order.
    attended = tuple(one for one in crossings if one.unattended_from_at is None)
    telling = attended or crossings
    if any(_resumed_past(one, around, own) for one in telling):
        return Cause.OFFSETS_SKIPPED
    if any(_died(one, around, own) for one in telling):
        return Cause.PROCESSOR_CRASHED
    if _stopped(around, own, scan, delivery):
        return Cause.RETURNS_STOPPED
    if any(_jumped(one, around, own) for one in crossings):
        return Cause.OFFSETS_SKIPPED
    return Cause.RETURN_NEVER_SENT


def _moved_a_moment_ago(evidence: Evidence, delivery: Delivery) -> bool:
    """Tell whether the group has no members now, had none at its last position, and moved since.

    Another one that is past the record, and has members, has read it.
    """
    groups = evidence.around.groups
    if isinstance(groups, Missing):
        return False
    where = Partition(delivery.topic, delivery.partition)
    own = -1 if delivery.offset is None else delivery.offset
    if any(one.members != 0 and one.committed.get(where, -1) > own for one in groups.values()):
        return False
    for name, before in evidence.waiting.items():
        group = groups.get(name)
        alone = group is not None and group.exists and group.members == 0 == before.members
        if alone and group is not None and group.committed.get(where, -1) > before.offset:
            return True
    return False


def _resumed_past(crossing: Crossing, around: Neighbours, own: int) -> bool:
    """Tell whether the group had no members while the record waited, and came back past it."""
    if crossing.unattended_from_at is None:
        return False
    # What was answered by then was read before the group lost its last member, and not committed.
    before = around.answered_by(crossing.before_at) if crossing.before_members == 0 else frozenset()
    jump = range(crossing.before_offset, crossing.after_offset)
    lost = sum(one in jump for one in around.unanswered)
    answered = sum(one in jump and one not in before for one in around.answered)
    first, last = around.run(own)
    began = max((one + 1 for one in before if one < first), default=crossing.before_offset)
    if crossing.unattended_before and last - first + 1 < JUMP_RUN:
        return False  # it may have had members again, and lost a few of many
    # The first position after the resumption may lie past records that were answered again.
    from_the_start = first <= max(began, crossing.before_offset) and last - first + 1 >= RESUMED_RUN
    to_the_end = crossing.after_members == 0 and last == crossing.after_offset - 1
    return from_the_start or to_the_end or lost >= (lost + answered) * SKIPPED_SHARE


def _jumped(crossing: Crossing, around: Neighbours, own: int) -> bool:
    """Tell whether exactly what lies between two positions of a staffed group is unanswered."""
    first, last = around.run(own)
    exact = (first, last) == (crossing.before_offset, crossing.after_offset - 1)
    return exact and last - first + 1 >= JUMP_RUN and bool(around.answered)


def _died(crossing: Crossing, around: Neighbours, own: int) -> bool:
    """Tell whether a member left just after the commit, and the run ends where the group stood."""
    if crossing.left_offset is None or crossing.members_left_at is None:
        return False
    _first, last = around.run(own)
    soon = crossing.members_left_at - crossing.after_at <= timedelta(seconds=LEFT_SOON_SECONDS)
    return soon and last < crossing.left_offset <= last + 1


def _stopped(around: Neighbours, own: int, scan: Scan, delivery: Delivery) -> bool:
    """Tell whether nothing was answered any more, neither here nor on another partition."""
    if any(one > own for one in around.answered) or len(around.unanswered) < STOPPED_RUN:
        return False
    newest = scan.newest_return_at
    return newest is None or newest < delivery.published_at
