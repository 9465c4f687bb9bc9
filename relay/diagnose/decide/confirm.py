"""Hop 5: a return is there and the order does not show it: why: pure functions.

Invariant: the consumer is blamed only with the return itself in hand: on the log, in the inbox, in
quarantine or pending.
"""

from datetime import timedelta

from relay.diagnose.causes import Cause
from relay.diagnose.decide.duty import Standing, complaint, open_outage, recorded_end, standing
from relay.diagnose.decide.finding import Finding, unknown
from relay.diagnose.evidence.order import Evidence, Place, ReturnSeen
from relay.diagnose.evidence.system_state import ConsumerSeen, Missing
from relay.diagnose.verdicts import Hop, Verdict

CONSUMER = "confirm"
# The consumer commits its offset with every batch, and waits for a batch less than a second.
OFFSET_STILL_SECONDS = 10.0

REFUSED_FOR = {
    "malformed": Cause.RETURN_MALFORMED,
    "unknown_schema": Cause.RETURN_UNKNOWN_SCHEMA,
    "unknown_order": Cause.RETURN_UNKNOWN_ORDER,
    "unknown_status": Cause.RETURN_UNKNOWN_STATUS,
    "conflict": Cause.RETURN_CONFLICTS,
    "apply_failed": Cause.APPLY_FAILED,
    "status_not_kept": Cause.STATUS_NOT_KEPT,
    "names_differ": Cause.RETURN_NAMES_DIFFER,
    "unreadable": Cause.CODEC_MISSING,
}


def decide_unconfirmed(evidence: Evidence, returns: tuple[ReturnSeen, ...]) -> Finding:
    """Say why an order with a return that may end it is not returned."""
    consumer = evidence.around.consumer
    if isinstance(consumer, Missing):
        return unknown(consumer, Hop.CONFIRM)
    coming = [one for one in returns if _still_coming(one, consumer)]
    if coming:
        return _unapplied(evidence, consumer, coming[0])
    if any(one.place is Place.PENDING for one in returns):
        return Finding(Verdict.NOT_CONFIRMED, _pending_cause(evidence))
    refused = [one for one in returns if one.place is Place.QUARANTINE and one.state != "released"]
    if refused:
        return Finding(Verdict.RETURN_QUARANTINED, _refused_cause(evidence, refused[-1]))
    return Finding(Verdict.RETURN_SKIPPED, _skipped_cause(evidence, returns, consumer))


def _unapplied(evidence: Evidence, consumer: ConsumerSeen, coming: ReturnSeen) -> Finding:
    cause, consumers = _consumer_cause(evidence, consumer, coming), evidence.around.consumers
    if cause is Cause.CONSUMER_STUCK and isinstance(consumers, Missing):
        return unknown(consumers, Hop.CONFIRM)  # it may be that none runs
    return Finding(Verdict.NOT_CONFIRMED, cause)


def _still_coming(seen: ReturnSeen, consumer: ConsumerSeen) -> bool:
    if seen.place is not Place.LOG:
        return False
    position = consumer.offsets.get(seen.partition)
    return position is None or seen.offset >= position.next_offset


def _consumer_cause(evidence: Evidence, consumer: ConsumerSeen, coming: ReturnSeen) -> Cause:
    around = evidence.around
    moving = moves(evidence, consumer, coming.partition)
    going = Cause.CONSUMER_LAGGING if moving else Cause.CONSUMER_STUCK
    if coming.behind_transaction:
        going = Cause.TRANSACTION_OPEN
    if isinstance(around.consumers, Missing):
        return going
    stands = standing(around.consumers, around.now_at, newcomer=CONSUMER in around.newcomers)
    if stands is Standing.DOWN:
        return recorded_end(around.consumers) or Cause.CONSUMER_DOWN
    if stands is Standing.PAUSED:
        return Cause.CONSUMER_PAUSED
    return _trouble(evidence) or going


def _trouble(evidence: Evidence) -> Cause | None:
    around = evidence.around
    assert not isinstance(around.consumers, Missing)
    fits = (
        Cause.PERMISSION_DENIED,
        Cause.DATABASE_REFUSES,
        Cause.DATABASE_UNREACHABLE,
        Cause.BROKER_UNREACHABLE,
        Cause.REGISTRY_UNREACHABLE,
    )
    said = complaint(around.consumers, around.now_at)
    if said in fits:
        return said
    if isinstance(around.outages, Missing):
        return None
    outage = open_outage(around.outages, CONSUMER)
    return outage if outage in fits else None


def moves(evidence: Evidence, consumer: ConsumerSeen, partition: int) -> bool:
    """Tell whether the consumer's offset moves, or it came just now."""
    now_at = evidence.around.now_at
    position = consumer.offsets.get(partition)
    moved_at = position.updated_at if position is not None else None
    still = timedelta(seconds=OFFSET_STILL_SECONDS)
    if CONSUMER in evidence.around.newcomers:
        return True  # it has not had its first batch yet
    return moved_at is not None and now_at - moved_at < still


def _pending_cause(evidence: Evidence) -> Cause:
    around = evidence.around
    if not isinstance(around.consumers, Missing):
        stands = standing(around.consumers, around.now_at, newcomer=CONSUMER in around.newcomers)
        if stands is Standing.DOWN:
            return Cause.CONSUMER_DOWN
        if stands is Standing.PAUSED:
            return Cause.CONSUMER_PAUSED
    return Cause.ORDER_ROW_LOCKED


def _refused_cause(evidence: Evidence, refused: ReturnSeen) -> Cause:
    if refused.state == "discarded":
        return Cause.RETURN_DISCARDED
    if refused.state == "release_requested":
        return Cause.RELEASE_PENDING
    cause = REFUSED_FOR.get(refused.reason or "", Cause.APPLY_FAILED)
    names_it = refused.names_order == evidence.order_id
    if cause is Cause.RETURN_UNKNOWN_ORDER and names_it and _is_hidden(evidence):
        return Cause.ORDER_HIDDEN
    return cause


def _is_hidden(evidence: Evidence) -> bool:
    """Tell whether the order is there, or was committed with its event and may be hidden."""
    order, event = evidence.order, evidence.event
    if isinstance(order, Missing):
        committed = event is not None and not isinstance(event, Missing)
        return committed and order.cause is Cause.PERMISSION_DENIED
    return order is not None


def _skipped_cause(
    evidence: Evidence, returns: tuple[ReturnSeen, ...], consumer: ConsumerSeen
) -> Cause:
    if any(one.place is Place.INBOX for one in returns):
        return Cause.STATUS_OVERWRITTEN
    if all(one.names_order not in (None, evidence.order_id) for one in returns):
        return Cause.RETURN_MISNAMED
    for seen in returns:
        for gap in consumer.gaps:
            if gap.partition == seen.partition and gap.from_offset <= seen.offset < gap.to_offset:
                return Cause.OFFSET_GAP
    return Cause.OFFSET_MOVED
