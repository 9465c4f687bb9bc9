"""Hop 2: why an event is not on Kafka."""

from relay.diagnose.causes.codes import Cause
from relay.diagnose.causes.meaning import (
    ALL_QUARANTINE,
    CHECK,
    CLOSE,
    QUARANTINE,
    RELEASE,
    REPLAY,
    STATUS,
    CauseMeaning,
    row,
)
from relay.diagnose.verdicts import Verdict

PUBLISH: dict[Cause, CauseMeaning] = {
    Cause.RELAY_DOWN: row(
        Verdict.NOT_PUBLISHED,
        "no relay is running",
        "start it: it publishes the row by itself",
        "relay run",
    ),
    Cause.RELAY_PAUSED: row(
        Verdict.NOT_PUBLISHED,
        "the relay's process is there but stands still: no heartbeat, its connection open",
        "resume or kill that process; a standby takes over when its lease lapses",
        STATUS,
    ),
    Cause.RELAY_BEHIND: row(
        Verdict.NOT_PUBLISHED, "the relay works through a backlog and will come to it", "", STATUS
    ),
    Cause.RELAY_STUCK: row(
        Verdict.NOT_PUBLISHED,
        "the relay runs, and its checkpoint does not move though rows wait",
        "read the relay's last log lines, then restart it",
        STATUS,
    ),
    Cause.LEASE_STUCK: row(
        Verdict.NOT_PUBLISHED,
        "a relay stands by, and no relay holds the lease",
        "see who owns the lease (whoever took it by hand is in `relay audit`); it lapses by itself "
        "unless its row is locked",
        STATUS,
    ),
    Cause.REBASELINE_NEEDED: row(
        Verdict.NOT_PUBLISHED,
        "the database was restored: the relay refuses to trust its checkpoint",
        "stop the relay and set a new checkpoint",
        "relay rebaseline",
    ),
    Cause.CHECKPOINT_SKIPPED: row(
        Verdict.NOT_PUBLISHED,
        "the checkpoint is past the row, and the ledger does not know it: it was never sent",
        "find who wrote the checkpoint by hand; a new one publishes the rows that were passed over",
        "relay rebaseline",
    ),
    Cause.SENT_TO_OTHER_TOPIC: row(
        Verdict.NOT_PUBLISHED,
        "the ledger proves that it was sent, to a topic that the flow's settings do not name, and "
        "no processor read it there",
        "compare the settings of the relay that sent it with today's (`relay status` names the "
        "processes); then send it to its topic",
        REPLAY,
    ),
    Cause.TOO_LARGE: row(
        Verdict.PARKED,
        "the event is larger than the topic takes",
        "raise the topic's max.message.bytes, then release it",
        QUARANTINE,
        RELEASE,
    ),
    Cause.NO_TOPIC_MAPPED: row(
        Verdict.PARKED,
        "no topic is mapped to its event type",
        "map the type in the flow's settings, restart the relay, then release it",
        QUARANTINE,
        RELEASE,
    ),
    Cause.REFUSED_BY_BROKER: row(
        Verdict.PARKED,
        "the broker refuses this record and takes others",
        "see the broker's reason, fix it, then release the event",
        QUARANTINE,
        RELEASE,
    ),
    Cause.PARKED_BEHIND: row(
        Verdict.PARKED,
        "an earlier event of the same order is in quarantine, and this one waits behind it",
        "fix what holds the earlier one, then release both",
        QUARANTINE,
        RELEASE,
    ),
    Cause.RELEASE_PENDING: row(
        (Verdict.PARKED, Verdict.RETURN_QUARANTINED),
        "its release was requested and the service has not done it yet",
        "",
        STATUS,
    ),
    Cause.DISCARDED_BY_HAND: row(
        Verdict.PARKED,
        "somebody discarded the event in quarantine",
        "ask who did and why; publish it after all, or close the order",
        ALL_QUARANTINE,
        f"{REPLAY} --verdict parked",
        CLOSE,
    ),
    Cause.TOPIC_RECREATED: row(
        (Verdict.RECORD_MISSING, Verdict.NO_RETURN, Verdict.UNKNOWN),
        "the topic was deleted and made again, and its records went with it",
        "find who deleted it; publish the events again",
        REPLAY,
    ),
    Cause.TOPIC_MISSING: row(
        (Verdict.NOT_PUBLISHED, Verdict.RECORD_MISSING, Verdict.NOT_PROCESSED, Verdict.NO_RETURN),
        "the topic does not exist",
        "make the topic (`relay check` prints the command)",
        CHECK,
        REPLAY,
    ),
    Cause.RECORDS_DELETED: row(
        (Verdict.RECORD_MISSING, Verdict.NO_RETURN, Verdict.UNKNOWN),
        "records younger than the topic's retention were deleted before they were read",
        "find who deleted them; publish the events again",
        REPLAY,
    ),
    Cause.RECORD_EXPIRED: row(
        (Verdict.RECORD_MISSING, Verdict.NO_RETURN),
        "the topic's retention dropped the record before it was read",
        "make the topic's retention longer than the longest outage; publish the events again",
        CHECK,
        REPLAY,
    ),
    Cause.COMPACTED: row(
        (Verdict.RECORD_MISSING, Verdict.UNKNOWN),
        "the topic is compacted: records that a later one of the same key replaced are gone",
        "set cleanup.policy=delete on the topic; publish the event again",
        CHECK,
        REPLAY,
    ),
    Cause.LOG_TRUNCATED: row(
        Verdict.RECORD_MISSING,
        "the topic's log ends before a record that the broker had acknowledged",
        "look at the broker's replication (min.insync.replicas, unclean elections); publish again",
        CHECK,
        REPLAY,
    ),
    Cause.RECORD_ALTERED: row(
        Verdict.RECORD_MISSING,
        "another record stands where the event was acknowledged",
        "compare the broker with the one that the relay publishes to",
        CHECK,
        REPLAY,
    ),
}
