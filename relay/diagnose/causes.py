"""All hops: the closed list of causes, what each means, which verdicts it explains, what to do.

Invariant: every verdict has at least one cause, every cause at least one verdict, and every cause
a sentence that someone who has never seen the system understands. Nothing here can fail.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from relay.diagnose.verdicts import Verdict


class Cause(StrEnum):
    """Why an order is where it is."""

    # Nothing is wrong.
    IN_TIME = "in_time"
    LATE = "late"
    SET_BY_HAND = "set_by_hand"
    MOVING = "moving"
    CLOSED_BY_HAND = "closed_by_hand"
    # Hop 1.
    NEVER_COMMITTED = "never_committed"
    DUPLICATE_SUBMISSION = "duplicate_submission"
    ORDER_DELETED = "order_deleted"
    ROWS_LOST = "rows_lost"
    EVENT_DELETED = "event_deleted"
    OUTBOX_BYPASSED = "outbox_bypassed"
    TRIGGER_DISABLED = "trigger_disabled"
    WRONG_AGGREGATE_ID = "wrong_aggregate_id"
    WRONG_EVENT_TYPE = "wrong_event_type"
    # Hop 2.
    RELAY_DOWN = "relay_down"
    RELAY_PAUSED = "relay_paused"
    RELAY_BEHIND = "relay_behind"
    RELAY_STUCK = "relay_stuck"
    LEASE_STUCK = "lease_stuck"
    REBASELINE_NEEDED = "rebaseline_needed"
    CHECKPOINT_SKIPPED = "checkpoint_skipped"
    SENT_TO_OTHER_TOPIC = "sent_to_other_topic"
    TOO_LARGE = "too_large"
    NO_TOPIC_MAPPED = "no_topic_mapped"
    REFUSED_BY_BROKER = "refused_by_broker"
    PARKED_BEHIND = "parked_behind"
    RELEASE_PENDING = "release_pending"
    DISCARDED_BY_HAND = "discarded_by_hand"
    TOPIC_RECREATED = "topic_recreated"
    TOPIC_MISSING = "topic_missing"
    RECORDS_DELETED = "records_deleted"
    RECORD_EXPIRED = "record_expired"
    COMPACTED = "compacted"
    LOG_TRUNCATED = "log_truncated"
    RECORD_ALTERED = "record_altered"
    # Hop 3.
    PROCESSOR_DOWN = "processor_down"
    PROCESSOR_LAGGING = "processor_lagging"
    PROCESSOR_STUCK = "processor_stuck"
    PROCESSOR_REBALANCING = "processor_rebalancing"
    TOPIC_NOT_CONSUMED = "topic_not_consumed"
    PARTITION_UNASSIGNED = "partition_unassigned"
    GROUP_REPLACED = "group_replaced"
    GROUP_UNKNOWN = "group_unknown"
    # Hop 4.
    OFFSETS_SKIPPED = "offsets_skipped"
    PROCESSOR_CRASHED = "processor_crashed"
    RETURN_NEVER_SENT = "return_never_sent"
    RETURNS_STOPPED = "returns_stopped"
    ANSWERED_ELSEWHERE = "answered_elsewhere"
    FINAL_RETURN_MISSING = "final_return_missing"
    # Hop 5.
    CONSUMER_DOWN = "consumer_down"
    CONSUMER_PAUSED = "consumer_paused"
    CONSUMER_LAGGING = "consumer_lagging"
    CONSUMER_STUCK = "consumer_stuck"
    ORDER_ROW_LOCKED = "order_row_locked"
    RETURN_MALFORMED = "return_malformed"
    RETURN_UNKNOWN_ORDER = "return_unknown_order"
    RETURN_UNKNOWN_STATUS = "return_unknown_status"
    RETURN_CONFLICTS = "return_conflicts"
    RETURN_DISCARDED = "return_discarded"
    APPLY_FAILED = "apply_failed"
    STATUS_NOT_KEPT = "status_not_kept"
    RETURN_NAMES_DIFFER = "return_names_differ"
    ORDER_HIDDEN = "order_hidden"
    OFFSET_GAP = "offset_gap"
    OFFSET_MOVED = "offset_moved"
    STATUS_OVERWRITTEN = "status_overwritten"
    ORDER_STATUS_UNKNOWN = "order_status_unknown"
    RETURN_MISNAMED = "return_misnamed"
    # More than one hop.
    PERMISSION_DENIED = "permission_denied"
    DATABASE_UNREACHABLE = "database_unreachable"
    DATABASE_REFUSES = "database_refuses"
    BROKER_UNREACHABLE = "broker_unreachable"
    TRANSACTION_OPEN = "transaction_open"
    # The evidence is missing.
    PAST_RETENTION = "past_retention"
    SCAN_INCOMPLETE = "scan_incomplete"
    OFFSET_UNKNOWN = "offset_unknown"
    TIMED_OUT = "timed_out"
    CODEC_MISSING = "codec_missing"
    NOT_WATCHED = "not_watched"
    EVENT_UNCLAIMED = "event_unclaimed"
    ORDERS_NOT_NAMED = "orders_not_named"
    BEFORE_EVENTS = "before_events"
    NOT_AN_ORDER = "not_an_order"


@dataclass(frozen=True, slots=True)
class CauseMeaning:
    """One row of the list.

    Attributes:
        verdicts: those that it can explain.
        meaning: one sentence.
        fix: what to do before the orders are helped; "" where nothing is to be done.
        next: commands, with `{order}` for the order's id; the first is the one to run now.
    """

    verdicts: frozenset[Verdict]
    meaning: str
    fix: str
    next: tuple[str, ...]


_TRACE = "relay trace {order}"
_STATUS = "relay status"
_CHECK = "relay check"
_REPLAY = "relay replay --order {order}"
_QUARANTINE = "relay quarantine list --order {order}"
_ALL_QUARANTINE = "relay quarantine list --order {order} --state all"
_RELEASE = "relay quarantine release --order {order} --reason REASON"
_RETURNS_AGAIN = "relay replay returns --order {order}"
_WRITE_MISSING = "relay replay --order {order} --write-missing"
_AGAIN = "relay diagnose {order}"
_CLOSE = "relay close {order} --reason REASON"


def _row(
    verdicts: Verdict | tuple[Verdict, ...], meaning: str, fix: str, *commands: str
) -> CauseMeaning:
    named = verdicts if isinstance(verdicts, tuple) else (verdicts,)
    return CauseMeaning(frozenset(named), meaning, fix, commands)


_V = Verdict

_FINE: dict[Cause, CauseMeaning] = {
    Cause.IN_TIME: _row(_V.RETURNED, "its return was applied before the deadline", "", _TRACE),
    Cause.LATE: _row(
        _V.RETURNED,
        "its return was applied after the deadline; nothing is lost",
        "",
        "relay incidents",
    ),
    Cause.SET_BY_HAND: _row(
        _V.RETURNED,
        "the order has a terminal status, and no return that set it is recorded",
        "ask who writes the status column beside the confirmation consumer",
        _TRACE,
    ),
    Cause.MOVING: _row(_V.IN_FLIGHT, "it is on its way and not due yet", "", _AGAIN),
    Cause.CLOSED_BY_HAND: _row(_V.CLOSED, "somebody closed it, with a reason", "", _TRACE),
}

_PLACE: dict[Cause, CauseMeaning] = {
    Cause.NEVER_COMMITTED: _row(
        _V.NO_SUCH_ORDER,
        "neither an order nor an event of that id was ever committed, and nothing else is known by "
        "it: its transaction rolled back, or it never reached the order service",
        "look for the submission in the order service's own log; submit again with the same "
        "idempotency key",
        "relay diagnose --customer CUSTOMER --key KEY",
    ),
    Cause.DUPLICATE_SUBMISSION: _row(
        _V.NO_SUCH_ORDER,
        "the same submission is already known as another order",
        "tell the customer the first order's id",
        "relay diagnose {twin}",
    ),
    Cause.ORDER_DELETED: _row(
        _V.NO_SUCH_ORDER,
        "its event was committed, but there is no such order row: it was deleted, or the event "
        "was written without it",
        "ask who deletes orders (every return for it is refused); close it when that was meant",
        _CLOSE,
    ),
    Cause.ROWS_LOST: _row(
        _V.NO_SUCH_ORDER,
        "the order and its event were committed once (its record on Kafka, or a return that was "
        "applied, proves it), and both "
        "rows are gone since: the database was restored to an earlier moment, or they were deleted",
        "find the restore (`relay check` compares the checkpoint) or the deletion "
        "(`relay reconcile` lists what else is gone); bring the rows back from a backup, or submit "
        "the order again",
        _CHECK,
        "relay reconcile",
    ),
    Cause.EVENT_DELETED: _row(
        _V.NO_OUTBOX_ROW,
        "rows around the order are missing from the outbox, and rows were deleted from it: its "
        "event was written, and deleted before anything else proves it",
        "find who deletes from relay.outbox (nobody but its retention may), then write the event "
        "again",
        _WRITE_MISSING,
    ),
    Cause.OUTBOX_BYPASSED: _row(
        _V.NO_OUTBOX_ROW,
        "whoever wrote the order wrote no outbox row beside it",
        "make that writer append the event in the order's transaction, then insert the missing row",
        _WRITE_MISSING,
    ),
    Cause.TRIGGER_DISABLED: _row(
        _V.NO_OUTBOX_ROW,
        "a trigger that writes to the outbox is disabled on the orders table",
        "ALTER TABLE ... ENABLE TRIGGER, then insert the missing rows",
        _CHECK,
        _WRITE_MISSING,
    ),
    Cause.WRONG_AGGREGATE_ID: _row(
        _V.NO_OUTBOX_ROW,
        "the order's transaction wrote an outbox row under another aggregate id",
        "make the writer use the order's id as aggregate_id, then insert the right row",
        _WRITE_MISSING,
    ),
    Cause.WRONG_EVENT_TYPE: _row(
        _V.NO_OUTBOX_ROW,
        "the order has outbox rows, but none of a type that expects a return",
        "give that type a deadline in the flow's settings, and look again; or correct the writer's "
        "event_type, and write the missing event",
        _AGAIN,
        _WRITE_MISSING,
    ),
}

_PUBLISH: dict[Cause, CauseMeaning] = {
    Cause.RELAY_DOWN: _row(
        _V.NOT_PUBLISHED,
        "no relay is running",
        "start it: it publishes the row by itself",
        "relay run",
    ),
    Cause.RELAY_PAUSED: _row(
        _V.NOT_PUBLISHED,
        "the relay's process is there but stands still: no heartbeat, its connection open",
        "resume or kill that process; a standby takes over when its lease lapses",
        _STATUS,
    ),
    Cause.RELAY_BEHIND: _row(
        _V.NOT_PUBLISHED, "the relay works through a backlog and will come to it", "", _STATUS
    ),
    Cause.RELAY_STUCK: _row(
        _V.NOT_PUBLISHED,
        "the relay runs, and its checkpoint does not move though rows wait",
        "read the relay's last log lines, then restart it",
        _STATUS,
    ),
    Cause.LEASE_STUCK: _row(
        _V.NOT_PUBLISHED,
        "a relay stands by, and nobody holds the lease",
        "see who owns the lease; it lapses by itself unless its row is locked",
        _STATUS,
    ),
    Cause.REBASELINE_NEEDED: _row(
        _V.NOT_PUBLISHED,
        "the database was restored: the relay refuses to trust its checkpoint",
        "stop the relay and set a new checkpoint",
        "relay rebaseline",
    ),
    Cause.CHECKPOINT_SKIPPED: _row(
        _V.NOT_PUBLISHED,
        "the checkpoint is past the row, and the ledger does not know it: it was never sent",
        "find who wrote the checkpoint by hand; a new one publishes the rows that were passed over",
        "relay rebaseline",
    ),
    Cause.SENT_TO_OTHER_TOPIC: _row(
        _V.NOT_PUBLISHED,
        "the ledger proves that it was sent, to a topic that the flow's settings do not name, and "
        "no processor read it there",
        "compare the settings of the relay that sent it with today's (`relay status` names the "
        "processes); then send it to its topic",
        _REPLAY,
    ),
    Cause.TOO_LARGE: _row(
        _V.PARKED,
        "the event is larger than the topic takes",
        "raise the topic's max.message.bytes, then release it",
        _QUARANTINE,
        _RELEASE,
    ),
    Cause.NO_TOPIC_MAPPED: _row(
        _V.PARKED,
        "no topic is mapped to its event type",
        "map the type in the flow's settings, restart the relay, then release it",
        _QUARANTINE,
        _RELEASE,
    ),
    Cause.REFUSED_BY_BROKER: _row(
        _V.PARKED,
        "the broker refuses this record and takes others",
        "see the broker's reason, fix it, then release the event",
        _QUARANTINE,
        _RELEASE,
    ),
    Cause.PARKED_BEHIND: _row(
        _V.PARKED,
        "an earlier event of the same order is in quarantine, and this one waits behind it",
        "fix what holds the earlier one, then release both",
        _QUARANTINE,
        _RELEASE,
    ),
    Cause.RELEASE_PENDING: _row(
        (_V.PARKED, _V.RETURN_QUARANTINED),
        "its release was requested and the service has not done it yet",
        "",
        _STATUS,
    ),
    Cause.DISCARDED_BY_HAND: _row(
        _V.PARKED,
        "somebody discarded the event in quarantine",
        "ask who did and why; publish it after all, or close the order",
        _ALL_QUARANTINE,
        f"{_REPLAY} --verdict parked",
        _CLOSE,
    ),
    Cause.TOPIC_RECREATED: _row(
        (_V.RECORD_MISSING, _V.NO_RETURN),
        "the topic was deleted and made again, and its records went with it",
        "find who deleted it; publish the events again",
        _REPLAY,
    ),
    Cause.TOPIC_MISSING: _row(
        (_V.NOT_PUBLISHED, _V.RECORD_MISSING, _V.NOT_PROCESSED, _V.NO_RETURN),
        "the topic does not exist",
        "make the topic (`relay check` prints the command)",
        _CHECK,
        _REPLAY,
    ),
    Cause.RECORDS_DELETED: _row(
        (_V.RECORD_MISSING, _V.NO_RETURN, _V.UNKNOWN),
        "records younger than the topic's retention were deleted before they were read",
        "find who deleted them; publish the events again",
        _REPLAY,
    ),
    Cause.RECORD_EXPIRED: _row(
        (_V.RECORD_MISSING, _V.NO_RETURN),
        "the topic's retention dropped the record before it was read",
        "make the topic's retention longer than the longest outage; publish the events again",
        _CHECK,
        _REPLAY,
    ),
    Cause.COMPACTED: _row(
        (_V.RECORD_MISSING, _V.UNKNOWN),
        "the topic is compacted: records that a later one of the same key replaced are gone",
        "set cleanup.policy=delete on the topic; publish the event again",
        _CHECK,
        _REPLAY,
    ),
    Cause.LOG_TRUNCATED: _row(
        _V.RECORD_MISSING,
        "the topic's log ends before a record that the broker had acknowledged",
        "look at the broker's replication (min.insync.replicas, unclean elections); publish again",
        _CHECK,
        _REPLAY,
    ),
    Cause.RECORD_ALTERED: _row(
        _V.RECORD_MISSING,
        "another record stands where the event was acknowledged",
        "compare the broker with the one that the relay publishes to",
        _CHECK,
        _REPLAY,
    ),
}

_PROCESS: dict[Cause, CauseMeaning] = {
    Cause.PROCESSOR_DOWN: _row(
        _V.NOT_PROCESSED,
        "the order processor's group has no members",
        "start the order processor: it goes on where its group stopped",
        _STATUS,
    ),
    Cause.PROCESSOR_LAGGING: _row(
        _V.NOT_PROCESSED, "the order processor moves and has not come to it yet", "", _STATUS
    ),
    Cause.PROCESSOR_STUCK: _row(
        _V.NOT_PROCESSED,
        "the order processor's group has members, and its offset does not move",
        "look at the record it stands at (poison?), then restart the processor",
        _STATUS,
    ),
    Cause.PROCESSOR_REBALANCING: _row(
        _V.NOT_PROCESSED,
        "the order processor's group keeps rebalancing: members come and go",
        "look for crash loops, and for max.poll.interval.ms",
        _STATUS,
    ),
    Cause.TOPIC_NOT_CONSUMED: _row(
        _V.NOT_PROCESSED,
        "the processor's group has members, and none of them reads the topic of this event",
        "compare the flow's topics with what the processor subscribes to",
        _CHECK,
    ),
    Cause.PARTITION_UNASSIGNED: _row(
        _V.NOT_PROCESSED,
        "no member of the processor's group has this record's partition",
        "restart the processor, so that it sees every partition",
        _CHECK,
    ),
    Cause.GROUP_REPLACED: _row(
        _V.NOT_PROCESSED,
        "another group answers newer orders: it began after this record, and the flow's own group "
        "stopped before it, so that nobody read it",
        "replay; do not start the old group again, it would process what the new one has done a "
        "second time; set processor_groups in the flow's settings to the new group",
        _REPLAY,
    ),
    Cause.GROUP_UNKNOWN: _row(
        _V.UNKNOWN,
        "the broker knows no group of the name in the flow's processor_groups",
        "set processor_groups to the group that the order processor really uses",
        _CHECK,
    ),
}

_RETURN: dict[Cause, CauseMeaning] = {
    Cause.OFFSETS_SKIPPED: _row(
        _V.NO_RETURN,
        "the processor's group jumped over this record and its neighbours without answering any",
        "replay them; and find what moved the group's offset (auto.offset.reset, a reset by "
        "hand), or it happens again",
        "relay incidents",
        _REPLAY,
    ),
    Cause.PROCESSOR_CRASHED: _row(
        _V.NO_RETURN,
        "the processor committed its offset and died before it answered",
        "make the processor commit after its return is acknowledged, then replay",
        _REPLAY,
    ),
    Cause.RETURN_NEVER_SENT: _row(
        _V.NO_RETURN,
        "the processor passed this record among others that it answered, and sent nothing",
        "look for this order in the processor's own log, fix it, then replay",
        _REPLAY,
    ),
    Cause.RETURNS_STOPPED: _row(
        _V.NO_RETURN,
        "the processor passes every record and no return of any order arrives",
        "check which topic it answers on and whether it may write there",
        _CHECK,
        _REPLAY,
    ),
    Cause.ANSWERED_ELSEWHERE: _row(
        _V.NO_RETURN,
        "its return is on another topic than the flow's returns topic",
        "correct the processor's topic (or the flow's returns_topic), then replay",
        _REPLAY,
    ),
    Cause.FINAL_RETURN_MISSING: _row(
        _V.RETURN_INCOMPLETE,
        "the processor announced that it works on the order and never sent the result",
        "look for this order in the processor's own log, fix it, then replay",
        _REPLAY,
    ),
}

_CONFIRM: dict[Cause, CauseMeaning] = {
    Cause.CONSUMER_DOWN: _row(
        _V.NOT_CONFIRMED,
        "no confirmation consumer is running",
        "start it: it goes on where it stopped",
        "relay confirm",
    ),
    Cause.CONSUMER_PAUSED: _row(
        _V.NOT_CONFIRMED,
        "the confirmation consumer's process is there but stands still",
        "resume or kill that process, then start it again",
        _STATUS,
    ),
    Cause.CONSUMER_LAGGING: _row(
        _V.NOT_CONFIRMED, "the confirmation consumer moves and will come to it", "", _STATUS
    ),
    Cause.CONSUMER_STUCK: _row(
        _V.NOT_CONFIRMED,
        "the confirmation consumer runs, and its offset does not move",
        "read its last log lines, then restart it",
        _STATUS,
    ),
    Cause.ORDER_ROW_LOCKED: _row(
        _V.NOT_CONFIRMED,
        "somebody holds a lock on the order's row; its return waits and is retried",
        "find the transaction that holds it (pg_locks), and end it",
        _TRACE,
    ),
    Cause.RETURN_MALFORMED: _row(
        _V.RETURN_QUARANTINED,
        "its return cannot be read",
        "see the raw bytes, fix the processor, then replay the order",
        _QUARANTINE,
        _REPLAY,
    ),
    Cause.RETURN_UNKNOWN_ORDER: _row(
        _V.RETURN_QUARANTINED,
        "its return names an order that does not exist",
        "fix the processor's order_id, then replay the order",
        _QUARANTINE,
        _REPLAY,
    ),
    Cause.RETURN_UNKNOWN_STATUS: _row(
        _V.RETURN_QUARANTINED,
        "its return carries a status that the flow does not know",
        "add the status to the flow, or fix the processor, then release it",
        _QUARANTINE,
        _RELEASE,
    ),
    Cause.RETURN_CONFLICTS: _row(
        _V.RETURN_QUARANTINED,
        "its return contradicts the status that the order has for good",
        "decide which one holds: where the order's does, discard the return; else set the status "
        "of the order by hand, then release the return",
        _QUARANTINE,
        "relay quarantine discard --order {order} --reason REASON",
        _RELEASE,
    ),
    Cause.RETURN_DISCARDED: _row(
        _V.RETURN_QUARANTINED,
        "somebody discarded its return in quarantine",
        "ask who did and why; replay the order, or close it",
        _ALL_QUARANTINE,
        f"{_REPLAY} --verdict return_quarantined",
        _CLOSE,
    ),
    Cause.APPLY_FAILED: _row(
        _V.RETURN_QUARANTINED,
        "applying its return failed in the database",
        "see the error, fix it, then release the return",
        _QUARANTINE,
        _RELEASE,
    ),
    Cause.STATUS_NOT_KEPT: _row(
        _V.RETURN_QUARANTINED,
        "its status was written, and a trigger or rule of the orders table put another one in its "
        "place: nothing was kept of it",
        "look at the trigger or rule that the evidence names, fix it, then release the return",
        _QUARANTINE,
        _RELEASE,
    ),
    Cause.RETURN_NAMES_DIFFER: _row(
        _V.RETURN_QUARANTINED,
        "a return names two open orders, one by its order_id and another by its key or ce_subject: "
        "it was applied to neither",
        "ask the processor which order it decided on: where its order_id is right, release the "
        "return; else fix the processor (a batch that swaps neighbours?), discard the return, and "
        "replay the orders",
        _QUARANTINE,
        _RELEASE,
        "relay quarantine discard --order {order} --reason REASON",
        f"{_REPLAY} --verdict return_quarantined",
    ),
    Cause.ORDER_HIDDEN: _row(
        _V.RETURN_QUARANTINED,
        "the consumer was told that no such order exists, yet it does",
        "look for row-level security or another database, and for events that outran their order",
        _CHECK,
        _RELEASE,
    ),
    Cause.OFFSET_GAP: _row(
        _V.RETURN_SKIPPED,
        "the consumer recorded a gap that covers the return",
        "give the consumer what the gap covers once more",
        _RETURNS_AGAIN,
    ),
    Cause.OFFSET_MOVED: _row(
        _V.RETURN_SKIPPED,
        "the consumer's offset was moved past the return, and no gap was recorded",
        "find who wrote relay.consumer_offset by hand, then give the consumer its return once more",
        _RETURNS_AGAIN,
    ),
    Cause.RETURN_MISNAMED: _row(
        _V.RETURN_SKIPPED,
        "its return names another order, and was applied to that one",
        "fix the processor's order_id; set the other order right, then replay this one",
        _TRACE,
        _REPLAY,
    ),
    Cause.STATUS_OVERWRITTEN: _row(
        _V.RETURN_SKIPPED,
        "the return was applied, and somebody gave the order another status afterwards",
        "find who writes the status column beside the confirmation consumer, and set the status "
        "that the return gave by hand: a replay cannot, its answer is a copy that the inbox knows; "
        "where the new status is right, close the order",
        _TRACE,
        _CLOSE,
    ),
    Cause.ORDER_STATUS_UNKNOWN: _row(
        (_V.RETURN_QUARANTINED, _V.UNKNOWN),
        "the order has a status that the flow does not know: whether it still waits cannot be told",
        "name the status in the flow's status_ranks, or in later_statuses if the order goes on "
        "with it after its return; restart the services, then release what is held. Do not replay "
        "before that: the order may be settled",
        _CHECK,
        _RELEASE,
    ),
}

_ANYWHERE: dict[Cause, CauseMeaning] = {
    Cause.PERMISSION_DENIED: _row(
        (_V.NOT_PUBLISHED, _V.NOT_CONFIRMED, _V.UNKNOWN),
        "a permission is missing",
        "grant what `relay check` names",
        _CHECK,
    ),
    Cause.DATABASE_UNREACHABLE: _row(
        (_V.NOT_PUBLISHED, _V.NOT_CONFIRMED, _V.UNKNOWN),
        "the database cannot be reached",
        "bring the database back; everything goes on by itself",
        _STATUS,
    ),
    Cause.DATABASE_REFUSES: _row(
        (_V.NOT_PUBLISHED, _V.NOT_CONFIRMED, _V.UNKNOWN),
        "the database answers, and refuses what is asked of it",
        "fix what its error says (`relay status` shows it)",
        _STATUS,
    ),
    Cause.BROKER_UNREACHABLE: _row(
        (_V.NOT_PUBLISHED, _V.NOT_PROCESSED, _V.NOT_CONFIRMED, _V.UNKNOWN),
        "the broker cannot be reached",
        "bring the broker back; everything goes on by itself",
        _STATUS,
    ),
    Cause.TRANSACTION_OPEN: _row(
        (_V.NOT_PROCESSED, _V.NOT_CONFIRMED),
        "a transaction on the topic was begun and has not ended: whoever reads committed records "
        "only stands before it",
        "find the producer that holds it open, and let it commit, or stop it; end a hanging one by "
        "hand. Do not replay: the records are there",
        _CHECK,
        _AGAIN,
    ),
    Cause.PAST_RETENTION: _row(
        _V.UNKNOWN,
        "what would decide is older than what is kept",
        "keep outbox, ledger and topics for longer than orders may stay open",
        _CLOSE,
    ),
    Cause.SCAN_INCOMPLETE: _row(
        _V.UNKNOWN,
        "not every return since the publication was read",
        "scan for longer",
        "relay diagnose {order} --scan-seconds 600",
    ),
    Cause.OFFSET_UNKNOWN: _row(
        _V.UNKNOWN,
        "the broker acknowledged the record as a duplicate, so its offset is not known",
        "",
        "relay diagnose {order} --scan-seconds 600",
    ),
    Cause.TIMED_OUT: _row(
        _V.UNKNOWN, "reading the evidence took too long", "try again when it is quieter", _AGAIN
    ),
    Cause.CODEC_MISSING: _row(
        (_V.RETURN_QUARANTINED, _V.UNKNOWN),
        "a batch of records cannot be read: codec, checksum, broken, or too large decompressed",
        "read what `relay quarantine list --held-for unreadable` says of it",
        _CHECK,
    ),
    Cause.EVENT_UNCLAIMED: _row(
        _V.UNKNOWN,
        "the order has no event under its id, and events of that moment belong to no order: one of "
        "them may be this order's, sent under another id",
        "do not write its event again before that is known: the processor would see it twice",
        _TRACE,
    ),
    Cause.ORDERS_NOT_NAMED: _row(
        _V.UNKNOWN,
        "no event has this id, and no setting says in which table the orders stand: whether there "
        "is such an order was not looked at",
        "name the orders' table in the flow's settings (`columns`; it is only looked at), and look "
        "again; or ask the order service for the order",
        _AGAIN,
    ),
    Cause.BEFORE_EVENTS: _row(
        _V.UNKNOWN,
        "it has no event, and was placed before the order service wrote its first one, or none was "
        "ever written here: whether it went another way nothing tells",
        "let the order service write events (docs/order-service.md), or say since when it does "
        "(`events_since` in the flow's settings), and look again; or close the order",
        _CHECK,
        _AGAIN,
        _CLOSE,
    ),
    Cause.NOT_AN_ORDER: _row(
        _V.UNKNOWN,
        "the id is known, and it is no order's",
        "give the order's own id, or name the columns by which people ask for orders "
        "(`lookup_columns` in the flow's settings)",
        "relay unreturned",
    ),
    Cause.NOT_WATCHED: _row(
        _V.UNKNOWN,
        "it was placed before this installation watched anything",
        "",
        "relay diagnose {order} --since 1970-01-01",
    ),
}

MEANINGS: Mapping[Cause, CauseMeaning] = MappingProxyType(
    _FINE | _PLACE | _PUBLISH | _PROCESS | _RETURN | _CONFIRM | _ANYWHERE
)

_OF_ANOTHER_VERSION = CauseMeaning(
    frozenset(), "this version does not know this cause", "", ("relay diagnose {order}",)
)


def meaning_of(code: str) -> CauseMeaning:
    """Return the row of a cause that was stored: by another version, perhaps, or by hand."""
    known = Cause(code) if code in MEANINGS else None
    return _OF_ANOTHER_VERSION if known is None else MEANINGS[known]


# These end by themselves: before the deadline an order with one of them is merely on its way.
MOVING_BY_ITSELF = frozenset(
    {
        Cause.RELAY_BEHIND,
        Cause.RELEASE_PENDING,
        Cause.PROCESSOR_LAGGING,
        Cause.PROCESSOR_REBALANCING,
        Cause.CONSUMER_LAGGING,
        Cause.TRANSACTION_OPEN,
        Cause.ORDER_ROW_LOCKED,
        Cause.RETURN_NEVER_SENT,
        Cause.RETURNS_STOPPED,
        Cause.FINAL_RETURN_MISSING,
    }
)

# What is said of a process whose last heartbeat is fresh; it may have been killed right after it.
PROVISIONAL = frozenset({Cause.RELAY_BEHIND, Cause.PROCESSOR_LAGGING, Cause.CONSUMER_LAGGING})

# What holds the orders of an incident in quarantine, in the quarantine's own word.
_HELD_FOR: Mapping[Cause, str] = MappingProxyType(
    {
        Cause.TOO_LARGE: "too_large",
        Cause.NO_TOPIC_MAPPED: "no_topic",
        Cause.REFUSED_BY_BROKER: "refused_by_broker",
        Cause.RETURN_MALFORMED: "malformed",
        Cause.RETURN_UNKNOWN_ORDER: "unknown_order",
        Cause.RETURN_UNKNOWN_STATUS: "unknown_status",
        Cause.RETURN_CONFLICTS: "conflict",
        Cause.APPLY_FAILED: "apply_failed",
        Cause.STATUS_NOT_KEPT: "status_not_kept",
        Cause.RETURN_NAMES_DIFFER: "names_differ",
        Cause.CODEC_MISSING: "unreadable",
        Cause.ORDER_HIDDEN: "unknown_order",
    }
)


def for_incident(command: str, cause: str, incident: str) -> str:
    """Return a cause's command for all orders of an incident, with `{order}` where it is for one.

    Args:
        command: of `MEANINGS[cause].next`.
        cause: the incident's.
        incident: its name, such as I-17.
    """
    if command.startswith("relay replay returns"):
        # Returns that were passed over are given again by the incident's replay, too.
        return f"relay replay --incident {incident}"
    if command.startswith("relay replay --order {order}"):
        return command.replace("--order {order}", f"--incident {incident}")
    if command.startswith("relay quarantine") and cause in _HELD_FOR:
        return command.replace("--order {order}", f"--held-for {_HELD_FOR[Cause(cause)]}")
    return command


def causes_of(verdict: Verdict) -> tuple[Cause, ...]:
    """Every cause that can explain a verdict, in the order of the list."""
    return tuple(cause for cause in Cause if verdict in MEANINGS[cause].verdicts)
