"""Hop 2, when somebody else publishes: why an event is not on Kafka."""

from relay.diagnose.causes.codes import Cause
from relay.diagnose.causes.meaning import CHECK, STATUS, CauseMeaning, row
from relay.diagnose.verdicts import Verdict

_TAKE_OVER = "relay run --take-over"

EXTERNAL: dict[Cause, CauseMeaning] = {
    Cause.PUBLISHER_SKIPPED: row(
        Verdict.NOT_PUBLISHED,
        "the publisher's slot confirmed the row's commit, and no topic has its record: it was lost "
        "between them, and will not come by itself",
        "find who made the slot or the connector's offsets anew; stop the publisher, and let the "
        "relay send what has no record",
        _TAKE_OVER,
        CHECK,
    ),
    Cause.PUBLISHER_BEHIND: row(
        Verdict.NOT_PUBLISHED,
        "the publisher works through a backlog and will come to it",
        "",
        STATUS,
    ),
    Cause.PUBLISHER_STUCK: row(
        Verdict.NOT_PUBLISHED,
        "nothing of the publisher says that it failed, and no record has come for a while though "
        "rows wait",
        "read its log: a task that waits for a topic that is missing looks healthy everywhere else",
        CHECK,
    ),
    Cause.SLOT_LOST: row(
        Verdict.NOT_PUBLISHED,
        "the server gave up WAL that the publisher's slot still needed: rows in it are lost to the "
        "publisher",
        "raise max_slot_wal_keep_size, make the slot anew, and let the relay send what has no "
        "record",
        _TAKE_OVER,
        CHECK,
    ),
    Cause.SLOT_MISSING: row(
        Verdict.NOT_PUBLISHED,
        "the publisher's replication slot does not exist",
        "find who dropped it; one that is made anew does not have the rows until then: let the "
        "relay send what has no record",
        _TAKE_OVER,
        CHECK,
    ),
    Cause.SLOT_INACTIVE: row(
        Verdict.NOT_PUBLISHED,
        "nobody reads the publisher's replication slot: the publisher is down or cannot connect",
        "start it: it goes on from the slot by itself",
        CHECK,
    ),
    Cause.CONNECTOR_FAILED: row(
        Verdict.NOT_PUBLISHED,
        "the connector failed, says Kafka Connect",
        "read why in its status, fix that, and restart the connector with its tasks",
        CHECK,
    ),
    Cause.CONNECTOR_PAUSED: row(
        Verdict.NOT_PUBLISHED,
        "the connector is paused or stopped",
        "resume it: it goes on from its slot by itself",
        CHECK,
    ),
    Cause.CONNECTOR_MISSING: row(
        Verdict.NOT_PUBLISHED,
        "no connector of that name is known to Kafka Connect",
        "create it again with its old slot, or correct `publisher.connector`",
        CHECK,
    ),
    Cause.CONNECT_TASK_FAILED: row(
        Verdict.NOT_PUBLISHED,
        "a task of the connector failed; the connector itself still reads RUNNING",
        "fix what its trace says, then restart the connector with its tasks",
        CHECK,
    ),
    Cause.WITNESS_BEHIND: row(
        Verdict.UNKNOWN,
        "records of the events' topics are not witnessed yet: this event's may be one of them",
        "wait until `relay status` shows nothing unread, or start more witnesses",
        STATUS,
    ),
    Cause.WITNESS_DOWN: row(
        Verdict.UNKNOWN,
        "no witness is running: whether the event was published since is not known",
        "start it: it reads on from where the last one stood",
        "relay witness",
    ),
}
