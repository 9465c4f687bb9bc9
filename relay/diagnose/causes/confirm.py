"""Hop 5: why a return is not the order's status."""

from relay.diagnose.causes.codes import Cause
from relay.diagnose.causes.meaning import (
    ALL_QUARANTINE,
    CHECK,
    CLOSE,
    DISCARD,
    QUARANTINE,
    RELEASE,
    REPLAY,
    RETURNS_AGAIN,
    STATUS,
    TRACE,
    CauseMeaning,
    row,
)
from relay.diagnose.verdicts import Verdict

CONFIRM: dict[Cause, CauseMeaning] = {
    Cause.CONSUMER_DOWN: row(
        Verdict.NOT_CONFIRMED,
        "no confirmation consumer is running",
        "start it: it goes on where it stopped",
        "relay confirm",
    ),
    Cause.CONSUMER_PAUSED: row(
        Verdict.NOT_CONFIRMED,
        "the confirmation consumer's process is there but stands still",
        "resume or kill that process, then start it again",
        STATUS,
    ),
    Cause.CONSUMER_LAGGING: row(
        Verdict.NOT_CONFIRMED, "the confirmation consumer moves and will come to it", "", STATUS
    ),
    Cause.CONSUMER_STUCK: row(
        Verdict.NOT_CONFIRMED,
        "the confirmation consumer runs, and its offset does not move",
        "read its last log lines, then restart it",
        STATUS,
    ),
    Cause.ORDER_ROW_LOCKED: row(
        Verdict.NOT_CONFIRMED,
        "somebody holds a lock on the order's row; its return waits and is retried",
        "find the transaction that holds it (pg_locks), and end it",
        TRACE,
    ),
    Cause.RETURN_MALFORMED: row(
        Verdict.RETURN_QUARANTINED,
        "its return cannot be read",
        "see the raw bytes, fix the processor, then replay the order",
        QUARANTINE,
        REPLAY,
    ),
    Cause.RETURN_UNKNOWN_SCHEMA: row(
        Verdict.RETURN_QUARANTINED,
        "its return has a schema that the schema registry does not know, or that cannot be used",
        "register the schema, or correct [registry] url, then release it",
        QUARANTINE,
        RELEASE,
    ),
    Cause.RETURN_UNKNOWN_ORDER: row(
        Verdict.RETURN_QUARANTINED,
        "its return names an order that does not exist",
        "fix the processor's order_id, then replay the order",
        QUARANTINE,
        REPLAY,
    ),
    Cause.RETURN_UNKNOWN_STATUS: row(
        Verdict.RETURN_QUARANTINED,
        "its return carries a status that the flow does not know",
        "where the status is right, add it to the flow's status_ranks, restart the services, then "
        "release the return; else fix the processor, discard the return, and replay the order",
        QUARANTINE,
        RELEASE,
        DISCARD,
        f"{REPLAY} --verdict return_quarantined",
    ),
    Cause.RETURN_CONFLICTS: row(
        Verdict.RETURN_QUARANTINED,
        "its return contradicts the status that the order has for good",
        "decide which one holds: where the order's does, discard the return; else set the status "
        "of the order by hand, then release the return",
        QUARANTINE,
        DISCARD,
        RELEASE,
    ),
    Cause.RETURN_DISCARDED: row(
        Verdict.RETURN_QUARANTINED,
        "somebody discarded its return in quarantine",
        "ask who did and why; replay the order, or close it",
        ALL_QUARANTINE,
        f"{REPLAY} --verdict return_quarantined",
        CLOSE,
    ),
    Cause.APPLY_FAILED: row(
        Verdict.RETURN_QUARANTINED,
        "applying its return failed in the database",
        "see the error, fix it, then release the return",
        QUARANTINE,
        RELEASE,
    ),
    Cause.STATUS_NOT_KEPT: row(
        Verdict.RETURN_QUARANTINED,
        "its status was written, and a trigger or rule of the orders table put another one in its "
        "place: nothing was kept of it",
        "look at the trigger or rule that the evidence names, fix it, then release the return",
        QUARANTINE,
        RELEASE,
    ),
    Cause.RETURN_NAMES_DIFFER: row(
        Verdict.RETURN_QUARANTINED,
        "a return names two open orders, one by its order_id and another by its key or ce_subject: "
        "it was applied to neither",
        "ask the processor which order it decided on: where its order_id is right, release the "
        "return; else fix the processor (a batch that swaps neighbours?), discard the return, and "
        "replay the orders",
        QUARANTINE,
        RELEASE,
        DISCARD,
        f"{REPLAY} --verdict return_quarantined",
    ),
    Cause.ORDER_HIDDEN: row(
        Verdict.RETURN_QUARANTINED,
        "the consumer was told that no such order exists, yet it does",
        "look for row-level security or another database, and for events that outran their order",
        CHECK,
        RELEASE,
    ),
    Cause.OFFSET_GAP: row(
        Verdict.RETURN_SKIPPED,
        "the consumer recorded a gap that covers the return",
        "give the consumer what the gap covers once more",
        RETURNS_AGAIN,
    ),
    Cause.OFFSET_MOVED: row(
        Verdict.RETURN_SKIPPED,
        "the consumer's offset was moved past the return, and no gap was recorded",
        "find who wrote relay.consumer_offset by hand, then give the consumer its return once more",
        RETURNS_AGAIN,
    ),
    Cause.RETURN_MISNAMED: row(
        Verdict.RETURN_SKIPPED,
        "its return names another order, and was applied to that one",
        "fix the processor's order_id; set the other order right, then replay this one",
        TRACE,
        REPLAY,
    ),
    Cause.STATUS_OVERWRITTEN: row(
        Verdict.RETURN_SKIPPED,
        "the return was applied, and somebody gave the order another status afterwards",
        "find who writes the status column beside the confirmation consumer; where the return is "
        "right, run the statement that `relay diagnose` prints: it sets the status again (a replay "
        "cannot, its answer is a copy that the inbox knows); where the new status is right, close "
        "the order",
        TRACE,
        CLOSE,
    ),
    Cause.ORDER_STATUS_UNKNOWN: row(
        (Verdict.RETURN_QUARANTINED, Verdict.UNKNOWN),
        "the order has a status that the flow does not know: whether it still waits cannot be told",
        "name the status in the flow's status_ranks, or in later_statuses if the order goes on "
        "with it after its return; restart the services, then release what is held. Do not replay "
        "before that: the order may be settled",
        CHECK,
        RELEASE,
    ),
}
