"""Hop 3: another group answers what comes since the flow's own groups stopped: pure functions.

Invariant: a group that merely reads the topic, too, is no processor. What proves one is returns to
records that no group of the flow had come to; what lies between where these stopped and the first
of those returns was read by nobody, and starting the old group again would process the rest twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.order import Delivery, Evidence
from relay.diagnose.evidence.system_state import AnsweredPast, GroupSeen, Missing
from relay.kafka.partition import Partition
from relay.runtime.command_line import command


@dataclass(frozen=True, slots=True)
class Succession:
    """Who answers on a record's partition after the flow's groups stopped.

    Attributes:
        groups: that have come past what was answered; none: they may not be seen.
        where: the record's partition.
        skipped: the record lies before what they began with.
        stopped: where the furthest of the flow's groups stands on the partition; None: not known.
        first: the first record of the partition that was answered since; None: none was.
        unlooked: whether the record lies before the first that was answered nobody looked.
    """

    groups: tuple[GroupSeen, ...]
    where: Partition
    skipped: bool
    stopped: int | None = None
    first: int | None = None
    unlooked: bool = False

    def behind(self, offset: int) -> tuple[GroupSeen, ...]:
        """Return the groups that are not known to have come past an offset."""
        return tuple(one for one in self.groups if one.committed.get(self.where, -1) <= offset)

    @property
    def text(self) -> str:
        """How it came that nobody read the record."""
        who = ", ".join(f"{one.name} ({_members(one)})" for one in self.groups)
        if self.first is None or self.stopped is None:
            return f"{who} answers newer orders and began after it"
        between = self.first - self.stopped
        return (
            f"{who} answers newer orders, began at {self.first}: {between} "
            f"{'records lie' if between != 1 else 'record lies'} between {self.stopped} and that"
        )


def _members(group: GroupSeen) -> str:
    if group.members is None:
        return f"a {group.kind} group"
    return f"{group.members} member{'' if group.members == 1 else 's'}"


def succession(evidence: Evidence, delivery: Delivery) -> Succession | None:
    """Tell who answers newer orders than any that the flow's groups came to; None: nobody does."""
    answered = evidence.around.answered_past
    if isinstance(answered, Missing) or not answered:
        return None
    where = Partition(delivery.topic, delivery.partition)
    readers = evidence.around.other_readers
    groups = tuple(
        one
        for one in (() if isinstance(readers, Missing) else readers)
        if any(one.committed.get(at, -1) > seen.first for at, seen in answered.items())
    )
    own = answered.get(where)
    heir = Succession(
        groups,
        where,
        skipped=False,
        stopped=None if own is None else own.stopped,
        first=None if own is None else own.first,
        unlooked=own is not None and own.unlooked(delivery.offset or 0),
    )
    # What was published before is answered elsewhere: who did so was there when this one came.
    began_at: datetime = min(one.first_published_at for one in answered.values())
    skipped = delivery.published_at < began_at and (
        _left_out(answered.values(), heir, delivery)
        if own is None
        else delivery.offset is not None and delivery.offset < own.first
    )
    return replace(heir, skipped=skipped)


def _left_out(answered: Iterable[AnsweredPast], heir: Succession, delivery: Delivery) -> bool:
    """Tell by the other partitions: records were left out there, and nobody stands before this."""
    stands_before = any(heir.where in one.committed for one in heir.behind(delivery.offset or 0))
    return not stands_before and any(one.first > one.stopped for one in answered)


def beginning_unseen(evidence: Evidence, heir: Succession) -> Missing:
    """Say that nobody looked where somebody else began to answer."""
    return Missing(
        "where the group that answers newer orders began",
        Cause.SCAN_INCOMPLETE,
        f"records between {heir.stopped} and {heir.first} of {heir.where[0]}[{heir.where[1]}] were "
        "not all looked at",
        command("relay diagnose {order} --scan-seconds 600", order=evidence.order_id),
    )


def answerer_unseen(evidence: Evidence) -> Missing:
    """Say that somebody answers who cannot be seen."""
    names = ", ".join(evidence.around.processor_groups)
    readers = evidence.around.other_readers
    why = readers.detail if isinstance(readers, Missing) else "no other group may be seen"
    return Missing(
        "who answers newer orders",
        Cause.GROUP_UNKNOWN,
        f"orders are answered that {names} never came to, without members; {why}",
        "set processor_groups in the flow's settings to the group the processor uses, and let "
        "this role describe it; do not start the old group before that is known",
    )
