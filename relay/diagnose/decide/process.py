"""Hop 3: did the processor's group commit past the record, and if not, why: pure functions.

Invariant: a group that committed past the record, or any return, clears this hop; a group that
nobody could ask about is never blamed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from relay.diagnose.causes import Cause
from relay.diagnose.decide.finding import Finding, unknown
from relay.diagnose.decide.succession import (
    Succession,
    answerer_unseen,
    beginning_unseen,
    succession,
)
from relay.diagnose.evidence.order import Crossing, Delivery, Evidence, Found, ReadBack
from relay.diagnose.evidence.system_state import GroupSeen, Missing
from relay.diagnose.verdicts import Hop, Verdict
from relay.kafka.partition import Partition

# A record this young may not have been fetched yet.
FETCH_SECONDS = 10.0

# How often the watchdog writes a position that does not change.
UNCHANGED_SECONDS = 60.0

# In the classic protocol's words, and in those of KIP-848.
REBALANCING = frozenset({"PreparingRebalance", "CompletingRebalance", "Assigning", "Reconciling"})


class Passed(Enum):
    """Whether hop 3 is proven for the newest delivery."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Passage:
    """What hop 3 comes to: the group that proves it and when, or what is missing."""

    passed: Passed
    group: str | None = None
    at: datetime | None = None
    missing: Missing | None = None


def passage(evidence: Evidence, delivery: Delivery) -> Passage:
    """Tell whether one of the flow's processor groups came past a delivery."""
    recorded = _recorded_passage(evidence, delivery)
    if recorded is not None:
        return recorded
    copied = _copied_passage(evidence)
    if copied is not None:
        return copied
    if delivery.offset is None:
        return Passage(Passed.UNKNOWN, missing=_offset_unknown(delivery))
    if _not_there(evidence):
        # What the group committed since belongs to other records.
        return Passage(Passed.NO)
    groups = evidence.around.groups
    if isinstance(groups, Missing):
        return _passage_unasked(evidence, groups)
    return _committed_passage(evidence, delivery, delivery.offset)


def _copied_passage(evidence: Evidence) -> Passage | None:
    """Tell whether a group came past the copy that it reads instead; None: it reads none."""
    copy, groups = evidence.copy, evidence.around.groups
    if isinstance(copy, Missing):
        return Passage(Passed.UNKNOWN, missing=copy)
    if copy is None or copy.offset is None or isinstance(groups, Missing):
        return None
    where = Partition(copy.topic, copy.partition)
    for name in evidence.around.processor_groups:
        if name in groups and groups[name].committed.get(where, -1) > copy.offset:
            return Passage(Passed.YES, name)
    return Passage(Passed.NO)


def _recorded_passage(evidence: Evidence, delivery: Delivery) -> Passage | None:
    for group in evidence.around.processor_groups:
        crossing = evidence.crossing.get(group)
        if crossing is None or (_not_there(evidence) and not _before(evidence, delivery, crossing)):
            continue
        left_the_log = (
            crossing.log_start is not None
            and delivery.offset is not None
            and crossing.log_start > delivery.offset
        )
        if not left_the_log:
            return Passage(Passed.YES, group, crossing.after_at)
        alone = crossing.before_at == crossing.after_at  # no position was recorded before it
        since = delivery.published_at if alone else crossing.before_at
        return _left_the_log(group, since, crossing.after_at)
    return None


def _left_the_log(group: str, waiting_at: datetime, passed_at: datetime) -> Passage:
    """Tell whether a record was deleted unread that was there when the group last waited for it.

    Between two positions that follow each other the record left the log's front and the group came
    past it: deletion is what moved a group that had waited. Over a longer time that nobody watched
    it may have been read and have expired afterwards.
    """
    if passed_at - waiting_at <= timedelta(seconds=UNCHANGED_SECONDS + FETCH_SECONDS):
        return Passage(Passed.NO, group, passed_at)
    missing = Missing(
        f"how {group} came past the record",
        Cause.PAST_RETENTION,
        f"no position was recorded between {waiting_at:%Y-%m-%d %H:%M:%S} and "
        f"{passed_at:%Y-%m-%d %H:%M:%S} UTC; meanwhile the record left the log and the group "
        "passed it",
        "keep a relay or `relay watchdog` running: it records positions",
    )
    return Passage(Passed.UNKNOWN, group, missing=missing)


def _before(evidence: Evidence, delivery: Delivery, crossing: Crossing) -> bool:
    """Tell whether a group passed the record while it was still there, not one of a newer log."""
    topics = evidence.around.topics
    if isinstance(topics, Missing) or delivery.topic not in topics:
        return False
    topic = topics[delivery.topic]
    shrink = topic.recreated_after(delivery.published_at)
    if shrink is not None:
        return crossing.after_at <= shrink.after_at
    log = topic.logs.get(delivery.partition)
    newer_from = None if log is None else log.first_record_at
    return newer_from is not None and crossing.after_at < newer_from


def _not_there(evidence: Evidence) -> bool:
    readback = evidence.readback
    if readback is None or isinstance(readback, Missing):
        return False
    return readback.found not in (Found.SAME, Found.GONE_BEFORE)


def _offset_unknown(delivery: Delivery) -> Missing:
    return Missing(
        "the record's offset",
        Cause.OFFSET_UNKNOWN,
        f"{delivery.topic}[{delivery.partition}] acknowledged it as a duplicate",
        "scan the topic around its publication",
    )


def _passage_unasked(evidence: Evidence, missing: Missing) -> Passage:
    # The broker is away, our own processes saw it go, and the last position recorded before stands
    # at or before the record: nobody can have committed past it since.
    outages = evidence.around.outages
    if missing.cause is Cause.BROKER_UNREACHABLE and not isinstance(outages, Missing):
        # Who never reached it cannot say that it is away for the processor, too.
        away = [
            one
            for one in outages
            if one.resource == "broker" and one.to_at is None and not one.since_start
        ]
        if away and evidence.waiting and _recorded_until(evidence, away[0].from_at):
            return Passage(Passed.NO)
    return Passage(Passed.UNKNOWN, missing=missing)


def _recorded_until(evidence: Evidence, outage_from_at: datetime) -> bool:
    # What does not change is recorded once a minute, what changes within ten seconds.
    edge = outage_from_at - timedelta(seconds=UNCHANGED_SECONDS + FETCH_SECONDS)
    return all(one.at >= edge for one in evidence.waiting.values())


def _committed_passage(evidence: Evidence, delivery: Delivery, offset: int) -> Passage:
    groups = evidence.around.groups
    assert not isinstance(groups, Missing)
    where = Partition(delivery.topic, delivery.partition)
    named = [groups[name] for name in evidence.around.processor_groups if name in groups]
    for group in named:
        if group.committed.get(where, -1) > offset and not _left_over(evidence, group, where):
            return _passed_unrecorded(evidence, group.name, offset)
    answered = evidence.around.answered_past
    if isinstance(answered, Missing):
        return Passage(Passed.UNKNOWN, missing=answered)
    heir = succession(evidence, delivery)
    if heir is not None:
        return _succeeded_passage(evidence, heir, offset)
    if any(group.exists for group in named) or evidence.waiting:
        return Passage(Passed.NO)
    if evidence.around.other_groups:
        return Passage(Passed.UNKNOWN, missing=_group_unknown(evidence))
    return Passage(Passed.NO)


def _succeeded_passage(evidence: Evidence, heir: Succession, offset: int) -> Passage:
    if not heir.groups:
        return Passage(Passed.UNKNOWN, missing=answerer_unseen(evidence))
    if heir.skipped and heir.unlooked:
        return Passage(Passed.UNKNOWN, missing=beginning_unseen(evidence, heir))
    if heir.skipped or heir.behind(offset):
        return Passage(Passed.NO)
    return Passage(Passed.YES, ", ".join(one.name for one in heir.groups))


def _left_over(evidence: Evidence, group: GroupSeen, where: Partition) -> bool:
    """Tell whether the group's offset is one of a log that was there before this one."""
    last = evidence.waiting.get(group.name)
    return last is not None and last.left_over == group.committed.get(where)


def _passed_unrecorded(evidence: Evidence, group: str, offset: int) -> Passage:
    """Tell whether a group that is past the record has read it: since the last recorded position.

    A record that left the log's front while the group still waited was never read.
    """
    before = evidence.waiting.get(group)
    if before is None or not _gone_before(evidence):
        return Passage(Passed.YES, group)
    if before.log_start is not None and before.log_start > offset:
        return Passage(Passed.NO, group)
    # This look sees what the next recorded position will say.
    return _left_the_log(group, before.at, evidence.around.now_at)


def _gone_before(evidence: Evidence) -> bool:
    readback = evidence.readback
    return isinstance(readback, ReadBack) and readback.found is Found.GONE_BEFORE


def _group_unknown(evidence: Evidence) -> Missing:
    names = ", ".join(evidence.around.processor_groups) or "(none configured)"
    others = ", ".join(evidence.around.other_groups)
    return Missing(
        f"the processor group {names}",
        Cause.GROUP_UNKNOWN,
        f"the broker knows no such group; these read the topic: {others}",
        "set processor_groups in the flow's settings to the group the processor uses",
    )


def decide_unprocessed(evidence: Evidence, delivery: Delivery) -> Finding:
    """Say why no processor group has come past a record that is there."""
    groups = evidence.around.groups
    if isinstance(groups, Missing):
        if groups.cause is Cause.BROKER_UNREACHABLE:
            return Finding(Verdict.NOT_PROCESSED, groups.cause)
        return unknown(groups, Hop.PROCESS)
    if isinstance(evidence.around.answered_past, Missing):
        return unknown(evidence.around.answered_past, Hop.PROCESS)
    copy = evidence.copy if isinstance(evidence.copy, Delivery) else None
    heir = succession(evidence, delivery) if copy is None else None
    if heir is not None:
        return Finding(Verdict.NOT_PROCESSED, _successor_cause(heir, delivery))
    cause = _cause_of_flow(evidence, copy or delivery, groups)
    lone = evidence.around.lone_readers
    if cause is Cause.PROCESSOR_DOWN and isinstance(lone, Missing):
        return unknown(lone, Hop.PROCESS)
    return Finding(Verdict.NOT_PROCESSED, cause)


def _cause_of_flow(
    evidence: Evidence, delivery: Delivery, groups: Mapping[str, GroupSeen]
) -> Cause:
    named = [groups[name] for name in evidence.around.processor_groups if name in groups]
    staffed = [group for group in named if group.members is None or group.members > 0]
    # Who stands before an open transaction does not move, though it may well be there.
    where = Partition(delivery.topic, delivery.partition)
    lone = evidence.around.lone_readers
    lone = frozenset() if isinstance(lone, Missing) else lone
    alone = [
        group
        for group in named
        if group.name in lone or (group.never_joined and where in group.before_transaction)
    ]
    if staffed:
        cause = _staffed_cause(evidence, delivery, staffed)
    else:
        cause = _self_assigned_cause(evidence, delivery, alone) if alone else Cause.PROCESSOR_DOWN
    # A processor that cannot answer stands still, or fails again and again: started or not.
    halted = cause in (Cause.PROCESSOR_STUCK, Cause.PROCESSOR_DOWN)
    return Cause.TOPIC_MISSING if halted and _lacks_returns_topic(evidence) else cause


def _successor_cause(heir: Succession, delivery: Delivery) -> Cause:
    if heir.skipped:
        return Cause.GROUP_REPLACED
    behind = heir.behind(delivery.offset or 0)
    down = bool(behind) and all(one.members == 0 for one in behind)
    return Cause.PROCESSOR_DOWN if down else Cause.PROCESSOR_LAGGING


def _lacks_returns_topic(evidence: Evidence) -> bool:
    """Tell whether the returns topic is gone: a processor that cannot answer does not go on."""
    topics = evidence.around.topics
    if isinstance(topics, Missing):
        return False
    returns = topics.get(evidence.around.returns_topic)
    return returns is not None and not returns.exists


def _staffed_cause(evidence: Evidence, delivery: Delivery, staffed: Iterable[GroupSeen]) -> Cause:
    where = Partition(delivery.topic, delivery.partition)
    group = max(staffed, key=lambda one: one.committed.get(where, -1))
    if group.committed.get(where, -1) > group.earlier.get(where, _FAR):
        return Cause.PROCESSOR_LAGGING
    if group.subscribed is not None and delivery.topic not in group.subscribed:
        return Cause.TOPIC_NOT_CONSUMED
    if group.state in REBALANCING:
        return Cause.PROCESSOR_REBALANCING
    if group.assigned is not None and where not in group.assigned:
        return Cause.PARTITION_UNASSIGNED
    if where in group.before_transaction:
        return Cause.TRANSACTION_OPEN
    young = evidence.around.now_at - delivery.published_at < timedelta(seconds=FETCH_SECONDS)
    return Cause.PROCESSOR_LAGGING if young else Cause.PROCESSOR_STUCK


def _self_assigned_cause(
    evidence: Evidence, delivery: Delivery, alone: Iterable[GroupSeen]
) -> Cause:
    """Say why a reader that assigns partitions itself has not passed a record."""
    where = Partition(delivery.topic, delivery.partition)
    group = max(alone, key=lambda one: one.committed.get(where, -1))
    young = evidence.around.now_at - delivery.published_at < timedelta(seconds=FETCH_SECONDS)
    if group.committed.get(where, -1) > group.earlier.get(where, _FAR):
        return Cause.PROCESSOR_LAGGING
    if where in group.before_transaction and where in group.committed:
        return Cause.TRANSACTION_OPEN
    if young:
        return Cause.PROCESSOR_LAGGING
    return Cause.PROCESSOR_STUCK if where in group.committed else Cause.PARTITION_UNASSIGNED


_FAR = 2**63
