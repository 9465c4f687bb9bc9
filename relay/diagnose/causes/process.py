"""Hops 3 and 4: why the processor has not passed an event, or has not answered it."""

from relay.diagnose.causes.codes import Cause
from relay.diagnose.causes.meaning import CHECK, REPLAY, STATUS, CauseMeaning, row
from relay.diagnose.verdicts import Verdict

PROCESS: dict[Cause, CauseMeaning] = {
    Cause.PROCESSOR_DOWN: row(
        Verdict.NOT_PROCESSED,
        "the order processor's group has no members",
        "start the order processor: it goes on where its group stopped",
        STATUS,
    ),
    Cause.PROCESSOR_LAGGING: row(
        Verdict.NOT_PROCESSED, "the order processor moves and has not come to it yet", "", STATUS
    ),
    Cause.PROCESSOR_STUCK: row(
        Verdict.NOT_PROCESSED,
        "the order processor's group has members, and its offset does not move",
        "look at the record it stands at (poison?), then restart the processor",
        STATUS,
    ),
    Cause.PROCESSOR_REBALANCING: row(
        Verdict.NOT_PROCESSED,
        "the order processor's group keeps rebalancing: members come and go",
        "look for crash loops, and for max.poll.interval.ms",
        STATUS,
    ),
    Cause.TOPIC_NOT_CONSUMED: row(
        Verdict.NOT_PROCESSED,
        "the processor's group has members, and none of them reads the topic of this event",
        "compare the flow's topics with what the processor subscribes to",
        CHECK,
    ),
    Cause.PARTITION_UNASSIGNED: row(
        Verdict.NOT_PROCESSED,
        "no member of the processor's group has this record's partition",
        "restart the processor, so that it sees every partition",
        CHECK,
    ),
    Cause.GROUP_REPLACED: row(
        Verdict.NOT_PROCESSED,
        "another group answers newer orders: it began after this record, and the flow's own group "
        "stopped before it, so that nobody read it",
        "replay; do not start the old group again, it would process what the new one has done a "
        "second time; set processor_groups in the flow's settings to the new group",
        REPLAY,
    ),
    Cause.GROUP_UNKNOWN: row(
        Verdict.UNKNOWN,
        "the broker knows no group of the name in the flow's processor_groups",
        "set processor_groups to the group that the order processor really uses",
        CHECK,
    ),
}

RETURN: dict[Cause, CauseMeaning] = {
    Cause.OFFSETS_SKIPPED: row(
        Verdict.NO_RETURN,
        "the processor's group jumped over this record and its neighbours without answering any",
        "replay them; and find what moved the group's offset (auto.offset.reset, a reset by "
        "hand), or it happens again",
        "relay incidents",
        REPLAY,
    ),
    Cause.PROCESSOR_CRASHED: row(
        Verdict.NO_RETURN,
        "the processor committed its offset and died before it answered",
        "make the processor commit after its return is acknowledged, then replay",
        REPLAY,
    ),
    Cause.RETURN_NEVER_SENT: row(
        Verdict.NO_RETURN,
        "the processor passed this record among others that it answered, and sent nothing",
        "look for this order in the processor's own log, fix it, then replay",
        REPLAY,
    ),
    Cause.RETURNS_STOPPED: row(
        Verdict.NO_RETURN,
        "the processor passes every record and no return of any order arrives",
        "check which topic it answers on and whether it may write there",
        CHECK,
        REPLAY,
    ),
    Cause.ANSWERED_ELSEWHERE: row(
        Verdict.NO_RETURN,
        "its return is on another topic than the flow's returns topic",
        "correct the processor's topic (or the flow's returns_topic), then replay",
        REPLAY,
    ),
    Cause.FINAL_RETURN_MISSING: row(
        Verdict.RETURN_INCOMPLETE,
        "the processor announced that it works on the order and never sent the result",
        "look for this order in the processor's own log, fix it, then replay",
        REPLAY,
    ),
}
