"""Hop 2: why a committed row has no record on Kafka, or no longer has one: pure functions.

Invariant: the relay is blamed only for a row that its ledger does not know and nobody answered.
"""

from datetime import timedelta

from relay.diagnose.causes import Cause
from relay.diagnose.decide.duty import (
    Standing,
    alive,
    complaint,
    open_outage,
    recorded_end,
    standing,
)
from relay.diagnose.decide.external import decide_external
from relay.diagnose.decide.finding import Finding, unknown
from relay.diagnose.evidence.order import Delivery, EventSeen, Evidence, Found, HeldEvent, ReadBack
from relay.diagnose.evidence.system_state import (
    CheckpointSeen,
    LeaseSeen,
    Missing,
    SystemState,
    TopicSeen,
)
from relay.diagnose.verdicts import Hop, Verdict

RELAY = "relay"
# The checkpoint is written with every page; a backlog's page takes far less than that.
CHECKPOINT_STILL_SECONDS = 10.0
CLOCK_SLACK_SECONDS = 60.0
# Whoever stands by asks for the lease five times a second.
LEASE_TAKEN_SECONDS = 2.0
# What a relay that was killed leaves of its lease (publish.lease_seconds) is far less than that.
LEASE_LEFT_SECONDS = 60.0

_HELD_REASONS = {
    "too_large": Cause.TOO_LARGE,
    "no_topic": Cause.NO_TOPIC_MAPPED,
    "order_parked": Cause.PARKED_BEHIND,
    "refused_by_broker": Cause.REFUSED_BY_BROKER,
}


def decide_unpublished(evidence: Evidence, event: EventSeen) -> Finding:
    """Say why the ledger knows no delivery of this event."""
    if isinstance(evidence.held, Missing):
        return unknown(evidence.held, Hop.PUBLISH)
    held = _holding(evidence.held)
    if held is not None:
        return Finding(Verdict.PARKED, _held_cause(held))
    checkpoint = evidence.around.checkpoint
    if isinstance(checkpoint, CheckpointSeen) and checkpoint.rebaseline_needed:
        # Of another time: whether it is past the row means nothing.
        return Finding(Verdict.NOT_PUBLISHED, Cause.REBASELINE_NEEDED)
    if isinstance(evidence.handed_over, Missing):
        return unknown(evidence.handed_over, Hop.PUBLISH)
    if evidence.handed_over:
        return _skipped_or_forgotten(evidence, event)
    return _not_handed_over(evidence, event)


def _not_handed_over(evidence: Evidence, event: EventSeen) -> Finding:
    publisher = evidence.around.publisher
    if isinstance(publisher, Missing):
        return unknown(publisher, Hop.PUBLISH)
    if publisher is not None:
        return decide_external(evidence, event, publisher)
    cause = _relay_cause(evidence, event)
    unread = _unread_of_relay(evidence.around) if cause is Cause.RELAY_STUCK else None
    if unread is not None:
        return unknown(unread, Hop.PUBLISH)
    return Finding(Verdict.NOT_PUBLISHED, cause)


def _unread_of_relay(around: SystemState) -> Missing | None:
    """Return what nobody could read of that which shows that a relay runs and stands still."""
    parts = around.relays, around.checkpoint
    return next((one for one in parts if isinstance(one, Missing)), None)


def _holding(held: tuple[HeldEvent, ...]) -> HeldEvent | None:
    """Return the row that holds the event: its own first, then an earlier one's."""
    standing_rows = [one for one in held if one.state != "released"]
    return next((one for one in standing_rows if one.own), next(iter(standing_rows), None))


def _held_cause(held: HeldEvent) -> Cause:
    if held.state == "release_requested":
        return Cause.RELEASE_PENDING
    if held.state == "discarded":
        return Cause.DISCARDED_BY_HAND if held.own else Cause.PARKED_BEHIND
    if not held.own:
        return Cause.PARKED_BEHIND
    return _HELD_REASONS.get(held.reason, Cause.REFUSED_BY_BROKER)


def _skipped_or_forgotten(evidence: Evidence, event: EventSeen) -> Finding:
    oldest = evidence.around.ledger_from_at
    if isinstance(oldest, Missing):
        return unknown(oldest, Hop.PUBLISH)
    if event.kept or (oldest is not None and event.created_at >= oldest):
        return Finding(Verdict.NOT_PUBLISHED, Cause.CHECKPOINT_SKIPPED)
    missing = Missing(
        "the delivery ledger",
        Cause.PAST_RETENTION,
        "the row is older than the oldest ledger row that is kept"
        if oldest
        else "the ledger is empty though the checkpoint is past the row",
        "raise the ledger's retention; for this order: relay trace",
    )
    return unknown(missing, Hop.PUBLISH)


def _relay_cause(evidence: Evidence, event: EventSeen) -> Cause:
    around = evidence.around
    if isinstance(around.relays, Missing):
        return Cause.RELAY_BEHIND if _checkpoint_moves(evidence) else Cause.RELAY_STUCK
    stands = standing(around.relays, around.now_at, newcomer=_unrecorded(around))
    if stands is Standing.DOWN:
        return recorded_end(around.relays) or Cause.RELAY_DOWN
    if stands is Standing.PAUSED:
        return Cause.RELAY_PAUSED
    return _living_relay_cause(evidence, event)


def _unrecorded(around: SystemState) -> bool:
    """Tell whether a relay is there that has not recorded itself yet: it came a moment ago."""
    lease = around.lease
    holds = isinstance(lease, LeaseSeen) and lease.connected is True and _is_held(lease, around)
    return holds or RELAY in around.newcomers


def _living_relay_cause(evidence: Evidence, event: EventSeen) -> Cause:
    around = evidence.around
    assert not isinstance(around.relays, Missing)
    said = complaint(around.relays, around.now_at)
    if said in (Cause.PERMISSION_DENIED, Cause.REBASELINE_NEEDED):
        return said
    if _topic_absent(evidence, event.topic):
        return Cause.TOPIC_MISSING
    if said is not None:
        return said
    if not isinstance(around.outages, Missing):
        outage = open_outage(around.outages, RELAY)
        if outage is not None:
            return outage
    if lease_is_stuck(around):
        return Cause.LEASE_STUCK
    grace = timedelta(seconds=CHECKPOINT_STILL_SECONDS)
    young = around.now_at - event.created_at < grace or just_started(around, grace)
    return Cause.RELAY_BEHIND if young or _checkpoint_moves(evidence) else Cause.RELAY_STUCK


def just_started(around: SystemState, grace: timedelta) -> bool:
    """Tell whether a relay came up a moment ago: it may not have had its first page yet."""
    assert not isinstance(around.relays, Missing)
    living = [one for one in around.relays if alive(one, around.now_at)]
    return not living or any(around.now_at - one.started_at < grace for one in living)


def _topic_absent(evidence: Evidence, topic: str | None) -> bool:
    topics = evidence.around.topics
    if isinstance(topics, Missing) or topic is None:
        return False
    seen = topics.get(topic)
    return seen is not None and not seen.exists


def lease_is_stuck(around: SystemState) -> bool:
    """Tell whether no relay has the lease though one stands by for it: nobody, or somebody by hand.

    A relay that was killed a moment ago has a fresh heartbeat and a lapsed lease, and stands by for
    nothing; one that was killed with its lease leaves it for some seconds.
    """
    lease = around.lease
    if lease is None or isinstance(lease, Missing):
        return False
    if _is_held(lease, around):
        if not _is_held_by_hand(lease, around):
            return False
    elif lease.held_until is not None:
        free = around.now_at - lease.held_until
        if free < timedelta(seconds=LEASE_TAKEN_SECONDS):
            return False
    assert not isinstance(around.relays, Missing)
    return any(one.state == "standby" and alive(one, around.now_at) for one in around.relays)


def _is_held_by_hand(lease: LeaseSeen, around: SystemState) -> bool:
    """Tell whether no relay took it: no relay's connection did, and none died so short ago."""
    until = lease.held_until
    lasting = until is not None and until - around.now_at > timedelta(seconds=LEASE_LEFT_SECONDS)
    return lease.connected is False and lasting


def _is_held(lease: LeaseSeen, around: SystemState) -> bool:
    until = lease.held_until
    return lease.owner is not None and until is not None and until > around.now_at


def _checkpoint_moves(evidence: Evidence) -> bool:
    checkpoint = evidence.around.checkpoint
    if checkpoint is None or isinstance(checkpoint, Missing):
        return False
    still = evidence.around.now_at - checkpoint.updated_at
    return still < timedelta(seconds=CHECKPOINT_STILL_SECONDS)


def _came_later(readback: ReadBack, delivery: Delivery) -> bool:
    """Tell whether what stands at the offset was written after the event: in another log."""
    # The record's time is its producer's, the delivery's is the database's.
    slack = timedelta(seconds=CLOCK_SLACK_SECONDS)
    return readback.recorded_at is not None and readback.recorded_at > delivery.published_at - slack


_GONE = {Found.GONE_AFTER: Cause.LOG_TRUNCATED, Found.GONE_WITHIN: Cause.RECORDS_DELETED}


def decide_record_gone(evidence: Evidence, delivery: Delivery, readback: ReadBack) -> Finding:
    """Say why the record is no longer where the broker acknowledged it."""
    cause = _gone_cause(evidence, delivery, readback)
    topics = evidence.around.topics
    topic = None if isinstance(topics, Missing) else topics.get(delivery.topic)
    if cause is Cause.RECORDS_DELETED and topic is not None and topic.settings is not None:
        # By whom nobody can say who does not know how long the topic keeps records.
        return unknown(topic.settings, Hop.PUBLISH)
    return Finding(Verdict.RECORD_MISSING, cause)


def _gone_cause(evidence: Evidence, delivery: Delivery, readback: ReadBack) -> Cause:
    topics = evidence.around.topics
    topic = None if isinstance(topics, Missing) else topics.get(delivery.topic)
    if readback.found is Found.NO_TOPIC or (topic is not None and not topic.exists):
        return Cause.TOPIC_MISSING
    if topic is not None and made_again_since(topic, delivery):
        return Cause.TOPIC_RECREATED
    if readback.found is Found.OTHER and _came_later(readback, delivery):
        return Cause.TOPIC_RECREATED
    if readback.found is Found.GONE_BEFORE:
        return _deleted_cause(evidence, delivery, topic)
    if readback.found is Found.GONE_WITHIN and topic is not None and topic.compacted:
        return Cause.COMPACTED
    return _GONE.get(readback.found, Cause.RECORD_ALTERED)


def _deleted_cause(evidence: Evidence, delivery: Delivery, topic: TopicSeen | None) -> Cause:
    if topic is None or topic.retention_seconds is None:
        return Cause.RECORDS_DELETED
    age = evidence.around.now_at - delivery.published_at
    if age.total_seconds() < topic.retention_seconds:
        return Cause.RECORDS_DELETED
    return Cause.RECORD_EXPIRED


def made_again_since(topic: TopicSeen, delivery: Delivery) -> bool:
    """Tell whether the topic was deleted and made again after a delivery to it.

    Either a log was seen to shrink, or a log that starts at 0 (nothing was ever deleted from its
    front) is empty below the delivery, or begins with a record that is younger than it.
    """
    if topic.recreated_after(delivery.published_at) is not None:
        return True
    log = topic.logs.get(delivery.partition)
    if log is None or log.log_start != 0:
        return False
    if log.first_record_at is None:
        return log.log_end == 0
    return log.first_record_at > delivery.published_at
