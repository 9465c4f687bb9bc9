"""Hop 2, when somebody else publishes: why a committed row has no record on Kafka; pure functions.

Invariant: nobody is blamed before all that stands in Kafka was witnessed: with no witness, or with
records that none has read, it is unknown. That the publisher skipped a row is said only where its
slot proves that it confirmed the row's commit.
"""

from datetime import timedelta

from relay.diagnose.causes import Cause
from relay.diagnose.decide.duty import alive
from relay.diagnose.decide.finding import Finding, unknown
from relay.diagnose.evidence.order import EventSeen, Evidence
from relay.diagnose.evidence.publisher import ConnectorSeen, PublisherSeen
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.verdicts import Hop, Verdict

WITNESS = "witness"
MOVING_SECONDS = 30.0
"""A publisher whose last record is no older goes on; a row no older may be on its way."""

_CONNECTOR = {
    "ABSENT": Cause.CONNECTOR_MISSING,
    "PAUSED": Cause.CONNECTOR_PAUSED,
    "STOPPED": Cause.CONNECTOR_PAUSED,
    "FAILED": Cause.CONNECTOR_FAILED,
}


def decide_external(evidence: Evidence, event: EventSeen, publisher: PublisherSeen) -> Finding:
    """Say why the ledger knows no record of this event, whoever should have published it."""
    unwitnessed = _unwitnessed(evidence, publisher)
    if unwitnessed is not None:
        return unknown(unwitnessed, Hop.PUBLISH)
    return Finding(Verdict.NOT_PUBLISHED, _cause(evidence, event, publisher))


def _unwitnessed(evidence: Evidence, publisher: PublisherSeen) -> Missing | None:
    witnesses, unread = publisher.witnesses, publisher.unread
    if isinstance(witnesses, Missing):
        return witnesses
    if not any(alive(one, evidence.around.now_at) for one in witnesses):
        return Missing(
            "the events' topics",
            Cause.WITNESS_DOWN,
            "no witness is running: what the publisher sent since is not known",
            "relay witness",
        )
    if isinstance(unread, Missing):
        return unread
    if unread:
        records = sum(unread.values())
        return Missing(
            "the events' topics",
            Cause.WITNESS_BEHIND,
            f"about {records} records are not witnessed yet; this event's may be one of them",
            "relay status, until nothing is unread",
        )
    return None


def _cause(evidence: Evidence, event: EventSeen, publisher: PublisherSeen) -> Cause:
    topics = evidence.around.topics
    if not isinstance(topics, Missing) and event.topic is not None:
        seen = topics.get(event.topic)
        if seen is not None and not seen.exists:
            return Cause.TOPIC_MISSING
    if evidence.passed:
        return Cause.PUBLISHER_SKIPPED
    said = _of_slot(publisher, lost=True) or _of_connector(publisher.connector)
    return said or _of_slot(publisher, lost=False) or _of_movement(evidence, event, publisher)


def _of_slot(publisher: PublisherSeen, *, lost: bool) -> Cause | None:
    """Return what is wrong with the slot: that it is lost, or else."""
    slot = publisher.slot
    if slot is None or (slot.lost is not None) is not lost:
        return None
    if lost:
        return Cause.SLOT_LOST
    if not slot.exists:
        return Cause.SLOT_MISSING
    return None if slot.active else Cause.SLOT_INACTIVE


def _of_movement(evidence: Evidence, event: EventSeen, publisher: PublisherSeen) -> Cause:
    """Tell, where nothing says that anything failed, whether the publisher goes on."""
    now_at, moving = evidence.around.now_at, timedelta(seconds=MOVING_SECONDS)
    last = publisher.last_record_at
    moves = now_at - event.created_at < moving or (last is not None and now_at - last < moving)
    return Cause.PUBLISHER_BEHIND if moves else Cause.PUBLISHER_STUCK


def _of_connector(connector: ConnectorSeen | Missing | None) -> Cause | None:
    """Return what Kafka Connect says is wrong; None: nothing, or nobody could ask."""
    if connector is None or isinstance(connector, Missing):
        return None
    if connector.state in _CONNECTOR:
        return _CONNECTOR[connector.state]
    return None if connector.failed_task is None else Cause.CONNECT_TASK_FAILED
