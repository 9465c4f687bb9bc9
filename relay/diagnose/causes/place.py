"""Hop 1: why an order has no event, and what is said when nothing is wrong."""

from relay.diagnose.causes.codes import Cause
from relay.diagnose.causes.meaning import (
    AGAIN,
    CHECK,
    CLOSE,
    TRACE,
    WRITE_MISSING,
    CauseMeaning,
    row,
)
from relay.diagnose.verdicts import Verdict

FINE: dict[Cause, CauseMeaning] = {
    Cause.IN_TIME: row(Verdict.RETURNED, "its return was applied before the deadline", "", TRACE),
    Cause.LATE: row(
        Verdict.RETURNED,
        "its return was applied after the deadline; nothing is lost",
        "",
        "relay incidents",
    ),
    Cause.SET_BY_HAND: row(
        Verdict.RETURNED,
        "the order has a terminal status, and no return that set it is recorded",
        "ask who writes the status column beside the confirmation consumer",
        TRACE,
    ),
    Cause.MOVING: row(Verdict.IN_FLIGHT, "it is on its way and not due yet", "", AGAIN),
    Cause.CLOSED_BY_HAND: row(Verdict.CLOSED, "somebody closed it, with a reason", "", TRACE),
}

PLACE: dict[Cause, CauseMeaning] = {
    Cause.NEVER_COMMITTED: row(
        Verdict.NO_SUCH_ORDER,
        "neither an order nor an event of that id was ever committed, and nothing else is known by "
        "it: its transaction rolled back, or it never reached the order service",
        "look for the submission in the order service's own log; submit again with the same "
        "idempotency key",
        "relay diagnose --customer CUSTOMER --key KEY",
    ),
    Cause.DUPLICATE_SUBMISSION: row(
        Verdict.NO_SUCH_ORDER,
        "the same submission is already known as another order",
        "tell the customer the first order's id",
        "relay diagnose {twin}",
    ),
    Cause.ORDER_DELETED: row(
        Verdict.NO_SUCH_ORDER,
        "its event was committed, but there is no such order row: it was deleted, or the event "
        "was written without it",
        "ask who deletes orders (every return for it is refused); close it when that was meant",
        CLOSE,
    ),
    Cause.ROWS_LOST: row(
        Verdict.NO_SUCH_ORDER,
        "the order and its event were committed once (its record on Kafka, or a return that was "
        "applied, proves it), and both "
        "rows are gone since: the database was restored to an earlier moment, or they were deleted",
        "find the restore (`relay check` compares the checkpoint) or the deletion "
        "(`relay reconcile` lists what else is gone); bring the rows back from a backup, or submit "
        "the order again",
        CHECK,
        "relay reconcile",
    ),
    Cause.EVENT_DELETED: row(
        Verdict.NO_OUTBOX_ROW,
        "rows around the order are missing from the outbox, and rows were deleted from it: its "
        "event was written, and deleted before anything else proves it",
        "find who deletes from relay.outbox (nobody but its retention may), then write the event "
        "again",
        WRITE_MISSING,
    ),
    Cause.OUTBOX_BYPASSED: row(
        Verdict.NO_OUTBOX_ROW,
        "whoever wrote the order wrote no outbox row beside it",
        "make that writer append the event in the order's transaction, then insert the missing row",
        WRITE_MISSING,
    ),
    Cause.TRIGGER_DISABLED: row(
        Verdict.NO_OUTBOX_ROW,
        "a trigger that writes to the outbox is disabled on the orders table",
        "ALTER TABLE ... ENABLE TRIGGER, then insert the missing rows",
        CHECK,
        WRITE_MISSING,
    ),
    Cause.WRONG_AGGREGATE_ID: row(
        Verdict.NO_OUTBOX_ROW,
        "the order's transaction wrote an outbox row under another aggregate id",
        "make the writer use the order's id as aggregate_id, then insert the right row",
        WRITE_MISSING,
    ),
    Cause.WRONG_EVENT_TYPE: row(
        Verdict.NO_OUTBOX_ROW,
        "the order has outbox rows, but none of a type that expects a return",
        "give that type a deadline in the flow's settings, and look again; or correct the writer's "
        "event_type, and write the missing event",
        AGAIN,
        WRITE_MISSING,
    ),
}
