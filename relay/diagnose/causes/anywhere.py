"""Any hop: what was not looked at, and what stands in everybody's way."""

from relay.diagnose.causes.codes import Cause
from relay.diagnose.causes.meaning import (
    AGAIN,
    CHECK,
    CLOSE,
    STATUS,
    TRACE,
    WRITE_MISSING,
    CauseMeaning,
    row,
)
from relay.diagnose.verdicts import Verdict

ANYWHERE: dict[Cause, CauseMeaning] = {
    Cause.PERMISSION_DENIED: row(
        (Verdict.NOT_PUBLISHED, Verdict.NOT_CONFIRMED, Verdict.UNKNOWN),
        "a permission is missing",
        "grant what `relay check` names",
        CHECK,
    ),
    Cause.DATABASE_UNREACHABLE: row(
        (Verdict.NOT_PUBLISHED, Verdict.NOT_CONFIRMED, Verdict.UNKNOWN),
        "the database cannot be reached",
        "bring the database back; everything goes on by itself",
        STATUS,
    ),
    Cause.DATABASE_REFUSES: row(
        (Verdict.NOT_PUBLISHED, Verdict.NOT_CONFIRMED, Verdict.UNKNOWN),
        "the database answers, and refuses what is asked of it",
        "fix what its error says (`relay status` shows it)",
        STATUS,
    ),
    Cause.BROKER_UNREACHABLE: row(
        (Verdict.NOT_PUBLISHED, Verdict.NOT_PROCESSED, Verdict.NOT_CONFIRMED, Verdict.UNKNOWN),
        "the broker cannot be reached",
        "bring the broker back; everything goes on by itself",
        STATUS,
    ),
    Cause.REGISTRY_UNREACHABLE: row(
        (Verdict.NOT_CONFIRMED, Verdict.UNKNOWN),
        "the schema registry cannot be asked, and returns cannot be read without it",
        "bring the registry back, or correct [registry] url; everything goes on by itself",
        STATUS,
    ),
    Cause.TRANSACTION_OPEN: row(
        (Verdict.NOT_PROCESSED, Verdict.NOT_CONFIRMED),
        "a transaction on the topic was begun and has not ended: whoever reads committed records "
        "only stands before it",
        "find the producer that holds it open, and let it commit, or stop it; end a hanging one by "
        "hand. Do not replay: the records are there",
        CHECK,
        AGAIN,
    ),
    Cause.PAST_RETENTION: row(
        Verdict.UNKNOWN,
        "what would decide is older than what is kept",
        "keep outbox, ledger and topics for longer than orders may stay open",
        CLOSE,
    ),
    Cause.SCAN_INCOMPLETE: row(
        Verdict.UNKNOWN,
        "not every return since the publication was read",
        "scan for longer",
        "relay diagnose {order} --scan-seconds 600",
    ),
    Cause.OFFSET_UNKNOWN: row(
        Verdict.UNKNOWN,
        "the broker acknowledged the record as a duplicate, so its offset is not known",
        "",
        "relay diagnose {order} --scan-seconds 600",
    ),
    Cause.TIMED_OUT: row(
        Verdict.UNKNOWN, "reading the evidence took too long", "try again when it is quieter", AGAIN
    ),
    Cause.CODEC_MISSING: row(
        (Verdict.RETURN_QUARANTINED, Verdict.UNKNOWN),
        "a batch of records cannot be read: codec, checksum, broken, or too large decompressed",
        "read what `relay quarantine list --held-for unreadable` says of it",
        CHECK,
    ),
    Cause.EVENT_UNCLAIMED: row(
        Verdict.UNKNOWN,
        "the order has no event under its id, and events of that moment belong to no order: one of "
        "them may be this order's, sent under another id",
        "compare the rows that the evidence names with the order: where one of them is its event, "
        "the processor has it: correct the writer, and close the order; where none is, write the "
        "missing event. Not before that is known: the processor would see it twice",
        TRACE,
        CLOSE,
        f"{WRITE_MISSING} --verdict unknown",
    ),
    Cause.ORDERS_NOT_NAMED: row(
        Verdict.UNKNOWN,
        "no event has this id, and no setting says in which table the orders stand: whether there "
        "is such an order was not looked at",
        "name the orders' table in the flow's settings (`columns`; it is only looked at), and look "
        "again; or ask the order service for the order",
        AGAIN,
    ),
    Cause.BEFORE_EVENTS: row(
        Verdict.UNKNOWN,
        "it has no event, and was placed before the order service wrote its first one, or none was "
        "ever written here: whether it went another way nothing tells",
        "let the order service write events (docs/order-service.md), or say since when it does "
        "(`events_since` in the flow's settings), and look again; or close the order",
        CHECK,
        AGAIN,
        CLOSE,
    ),
    Cause.NOT_AN_ORDER: row(
        Verdict.UNKNOWN,
        "the id is known, and it is no order's",
        "give the order's own id, or name the columns by which people ask for orders "
        "(`lookup_columns` in the flow's settings)",
        "relay unreturned",
    ),
    Cause.WRITE_UNDECIDED: row(
        Verdict.UNKNOWN,
        "no row has this id, and a transaction that has written here is still open, or was "
        "prepared and never decided: the order may be in it",
        "see whose transaction it is, and let it be committed or rolled back. Do not submit the "
        "order again before that: there could be two",
        AGAIN,
    ),
    Cause.NOT_WATCHED: row(
        Verdict.UNKNOWN,
        "it was placed before this installation watched anything",
        "",
        "relay diagnose {order} --since 1970-01-01",
    ),
}
