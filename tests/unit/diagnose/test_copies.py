"""A processor that reads a copy of the events' topic is judged by where the copy stands."""

from dataclasses import replace

from relay.diagnose.causes import Cause
from relay.diagnose.decide.decision import decide
from relay.diagnose.evidence.order import Delivery, Evidence, Found, ReadBack
from relay.diagnose.evidence.system_state import GroupSeen, Missing
from relay.diagnose.gather.copies import Copies, read_instead
from relay.diagnose.report.hops import process
from relay.diagnose.verdicts import Hop, Verdict
from relay.runtime.flow import Flow
from tests.unit.diagnose.test_diagnose_decide import GROUP, LOST, PUBLISHED, around

FLOW = Flow()
MIRROR = "mirror.orders.events"
COPY = Delivery(MIRROR, 4, 7, PUBLISHED)
EVENT = "01900000-0000-7000-8000-000000000007"


def group(committed: int) -> GroupSeen:
    where = (MIRROR, 4)
    return GroupSeen(
        GROUP, True, "Stable", 2, frozenset({MIRROR}), frozenset({where}), {where: committed}
    )


def mirrored(committed: int, **changes: object) -> Evidence:
    case = around(LOST, groups={GROUP: group(committed)})
    return replace(case, copy=COPY, **changes)


def test_who_came_past_the_copy_lost_the_order_himself() -> None:
    finding = decide(mirrored(8))
    assert (finding.hop, finding.verdict) == (Hop.RETURN, Verdict.NO_RETURN)
    assert "committed 8" in process(mirrored(8))[2]


def test_who_has_not_come_to_the_copy_is_not_said_to_read_another_topic() -> None:
    finding = decide(mirrored(7))
    assert (finding.hop, finding.cause) == (Hop.PROCESS, Cause.PROCESSOR_STUCK)
    gone = decide(mirrored(7, readback=ReadBack(Found.GONE_BEFORE)))
    assert gone.cause is Cause.PROCESSOR_STUCK
    alone = replace(mirrored(7), copy=None)
    assert decide(alone).cause is Cause.TOPIC_NOT_CONSUMED


def test_copies_that_were_not_all_read_accuse_nobody() -> None:
    unread = Missing("the copies", Cause.SCAN_INCOMPLETE, "not to the end", "again")
    assert decide(replace(mirrored(7), copy=unread)).verdict is Verdict.UNKNOWN
    copies = Copies({EVENT: COPY}, unread)
    assert copies.of(EVENT.upper()) is COPY
    assert copies.of("other") is unread


def test_other_topics_are_copies_only_for_who_reads_none_of_the_flows() -> None:
    (events,) = FLOW.topics
    assert read_instead(FLOW, {GROUP: group(1)}) == [MIRROR]
    both = replace(group(1), subscribed=frozenset({events, "stock.events"}))
    assert read_instead(FLOW, {GROUP: both}) == []
    left = replace(group(1), members=0, subscribed=None, committed={(events, 0): 3, ("x", 0): 1})
    assert read_instead(FLOW, {GROUP: left}) == []
