"""Says of one hop whether it is proven, since when, and by what: pure functions.

Invariant: the same evidence that decides is what is shown; a text says what was found, and what
could not be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from relay.diagnose.decide.confirm import CONSUMER
from relay.diagnose.decide.contradiction import held_conflict, overwritten
from relay.diagnose.decide.decision import applied_return, returned_at
from relay.diagnose.decide.duty import alive
from relay.diagnose.decide.external import WITNESS
from relay.diagnose.decide.process import Passed, passage
from relay.diagnose.decide.publish import RELAY
from relay.diagnose.decide.succession import succession
from relay.diagnose.evidence.order import (
    Crossing,
    Delivery,
    EventSeen,
    Evidence,
    Found,
    Moment,
    OrderSeen,
    Place,
    ReadBack,
    ReturnSeen,
    Scan,
)
from relay.diagnose.evidence.publisher import PublisherSeen
from relay.diagnose.evidence.system_state import GroupSeen, Missing, ProcessSeen
from relay.diagnose.report.transactions import transaction_text
from relay.kafka.partition import Partition
from relay.runtime.durations import duration

Told = tuple[bool | None, datetime | None, str]
"""Proven, not proven, or cannot be told; since when; in words."""

_TEXT_CHARACTERS = 160


def place(evidence: Evidence) -> Told:
    """Hop 1: order and outbox row."""
    order, event = evidence.order, evidence.event
    status = f"order is {order.status}" if isinstance(order, OrderSeen) else None
    if isinstance(event, Missing):
        return None, _submitted(order), _could_not("outbox row", event)
    if event is not None:
        gone = order is None and evidence.around.keeps_orders
        kept = ", kept from a dropped day" if event.kept else ""
        text = f"outbox {event.outbox_id}, {event.event_type}{kept}"
        if event.deleted:
            text = "its record on Kafka; no outbox row: deleted, lost in a restore, or not written"
        return not gone, event.created_at, text + ("; no order row" if gone else "")
    if isinstance(order, Missing):
        return None, None, _could_not("order row", order)
    return False, _submitted(order), "; ".join(_without_event(evidence, status))


def _without_event(evidence: Evidence, status: str | None) -> list[str]:
    unseen = "no order row" if evidence.around.keeps_orders else "orders were not looked at"
    parts = [status or unseen, "no outbox row that expects a return"]
    if evidence.other_types:
        parts.append(f"rows of type {', '.join(evidence.other_types)}")
    if isinstance(evidence.order, OrderSeen):
        # Without a row nobody knows at which moment it was written.
        parts += _around(evidence.moment)
    triggers, day = evidence.around.disabled_triggers, evidence.dropped_partition
    if isinstance(triggers, Missing):
        parts.append(_could_not("disabled triggers", triggers))
    elif triggers:
        parts.append(f"disabled: trigger {', '.join(triggers)}")
    if isinstance(day, Missing):
        parts.append(_could_not("dropped days", day))
    elif day:
        parts.append(f"its day {day} was dropped")
    if evidence.twin:
        parts.append(f"the same submission is order {evidence.twin}")
    return parts


def _around(moment: Moment | Missing) -> list[str]:
    if isinstance(moment, Missing):
        return [_could_not("rows around it", moment)]
    parts = []
    if moment.strays:
        parts.append(f"its event stands under {', '.join(moment.strays[:3])}")
    if moment.unclaimed:
        parts.append(f"rows of no order near it: {', '.join(moment.unclaimed[:3])}")
    if moment.vacant_count and (moment.deleted_count or moment.sent_count):
        parts.append(
            f"{moment.vacant_count} ids around it have no row; {moment.deleted_count} rows were "
            "deleted from the outbox"
        )
    return parts


def _submitted(order: OrderSeen | Missing | None) -> datetime | None:
    return order.submitted_at if isinstance(order, OrderSeen) else None


def publish(evidence: Evidence) -> Told:
    """Hop 2: ledger and record."""
    deliveries = evidence.deliveries
    if isinstance(deliveries, Missing):
        return None, None, _could_not("delivery ledger", deliveries)
    if not deliveries:
        return False, None, _unsent(evidence)
    newest = deliveries[-1]
    copies = f", copy {len(deliveries)} (replayed)" if newest.replay_id else ""
    if evidence.strayed:
        return False, newest.published_at, f"{_where(newest)}: a topic that no setting names"
    there, read = _read_back(evidence.readback)
    return there, newest.published_at, f"{_where(newest)}{read}{copies}"


def _where(delivery: Delivery) -> str:
    offset = "?" if delivery.offset is None else delivery.offset
    return f"{delivery.topic}[{delivery.partition}]@{offset}"


def _read_back(readback: ReadBack | Missing | None) -> tuple[bool, str]:
    if readback is None:
        return True, ", offset unknown (acknowledged as a duplicate)"
    if isinstance(readback, Missing):
        return True, ", acknowledged; not read back"
    texts = {
        Found.SAME: ", read back, ce_id equal",
        Found.OTHER: f": another record is there ({readback.event_id or 'without an id'})",
        Found.GONE_BEFORE: ": gone, the log starts later",
        Found.GONE_AFTER: ": gone, the log ends before it",
        Found.GONE_WITHIN: ": gone, the log has a hole there",
        Found.NO_TOPIC: ": there is no such topic",
    }
    return readback.found is Found.SAME, texts[readback.found]


def _unsent(evidence: Evidence) -> str:
    if not isinstance(evidence.event, EventSeen):
        return "nothing to publish"
    held = evidence.held
    if not isinstance(held, Missing) and held:
        one = next((each for each in held if each.own), held[0])
        return _cut(f"quarantined ({one.state}): {one.reason}, {one.detail}")
    passed = "checkpoint is past it" if evidence.handed_over is True else "not in the ledger"
    publisher = evidence.around.publisher
    if publisher is not None and not isinstance(publisher, Missing):
        return f"{passed}; {_publisher(evidence, publisher)}"
    return f"{passed}; relay {_running(evidence, evidence.around.relays, RELAY)}"


def _publisher(evidence: Evidence, seen: PublisherSeen) -> str:
    """Say what is known of a publisher that is not ours."""
    parts = []
    connector, slot = seen.connector, seen.slot
    if isinstance(connector, Missing):
        parts.append(_could_not("connector", connector))
    elif connector is not None:
        task = connector.failed_task
        failed = f", task {task.number} failed: {task.trace}" if task else ""
        parts.append(f"connector {connector.name} {connector.state}{failed}")
    if slot is not None:
        state = "active" if slot.active else "not active"
        state = state if slot.lost is None else f"lost ({slot.lost})"
        behind = "" if slot.behind_bytes is None else f", {slot.behind_bytes:,} bytes behind"
        known = f"{state}{behind}" if slot.exists else "does not exist"
        passed = ", past the row" if evidence.passed else ""
        parts.append(f"slot {slot.name} {known}{passed}")
    parts.append(f"witness {_running(evidence, seen.witnesses, WITNESS)}")
    return _cut("; ".join(parts))


def _running(evidence: Evidence, processes: Sequence[ProcessSeen] | Missing, kind: str) -> str:
    if isinstance(processes, Missing):
        return "cannot be looked at"
    living = [one for one in processes if alive(one, evidence.around.now_at)]
    if living:
        first = next((one for one in living if one.error), living[0])
        waits = f", waits for {first.error}" if first.error else ", healthy"
        return _cut(f"{first.instance} {first.state or 'alive'}{waits}")
    if kind in evidence.around.newcomers:
        return "has just started"
    if not processes:
        return "never ran"
    last = max(processes, key=lambda one: one.heartbeat_at)
    if last.stopped_at is not None:
        return f"{last.instance} stopped {last.stopped_at:%H:%M:%S} ({last.stop_reason})"
    still = ", its connection is still open" if last.connected else ""
    return f"{last.instance} silent since {last.heartbeat_at:%H:%M:%S}{still}"


def process(evidence: Evidence) -> Told:
    """Hop 3: the group's committed offset."""
    if isinstance(evidence.deliveries, Missing) or not evidence.deliveries:
        return _by_return(evidence, "not published")
    newest = evidence.deliveries[-1]
    came = passage(evidence, newest)
    if isinstance(evidence.copy, Delivery):
        newest = evidence.copy  # which the group reads instead
    crossing = next(iter(evidence.crossing.values()), None)
    if crossing is not None and came.passed is Passed.YES:
        return True, crossing.after_at, _crossed(crossing)
    if came.passed is Passed.YES:
        return True, None, _committed(evidence, newest)
    if came.missing is not None:
        return _by_return(evidence, _could_not("processor group", came.missing), unsure=True)
    return _by_return(evidence, _committed(evidence, newest))


def _by_return(evidence: Evidence, text: str, *, unsure: bool = False) -> Told:
    returns = () if isinstance(evidence.returns, Missing) else evidence.returns
    if returns:
        return True, None, "proven by its return"
    return (None if unsure else False), None, text


def _crossed(crossing: Crossing) -> str:
    before, after = crossing.before_offset, crossing.after_offset
    if crossing.unattended_from_at is None:
        return f"{crossing.group} {before} -> {after}"
    without = (crossing.after_at - crossing.unattended_from_at).total_seconds()
    return f"{crossing.group} jumped from {before} to {after}, {duration(without)} without members"


def _committed(evidence: Evidence, delivery: Delivery) -> str:
    groups = evidence.around.groups
    if isinstance(groups, Missing):
        return "; ".join(
            f"{name} last recorded at {one.offset}, {one.at:%H:%M:%S}"
            for name, one in evidence.waiting.items()
        )
    named = [groups[name] for name in evidence.around.processor_groups if name in groups]
    heir = succession(evidence, delivery)
    named += [] if heir is None or heir.skipped else list(heir.groups)
    parts = [_group(group, delivery) for group in named]
    parts += [heir.text] if heir is not None and heir.skipped else []
    where = Partition(delivery.topic, delivery.partition)
    if any(where in group.before_transaction for group in named):
        parts.insert(0, _transaction(evidence, where) or "behind an open transaction")
    return _cut("; ".join(parts))


def _group(group: GroupSeen, delivery: Delivery) -> str:
    if not group.exists:
        return f"{group.name}: no such group"
    at = group.committed.get(Partition(delivery.topic, delivery.partition))
    members = f"{group.members} members"
    if group.members is None:
        members = f"members of a {group.kind} group not known"
    stands = "nothing committed" if at is None else f"committed {at}"
    elsewhere = group.subscribed is not None and delivery.topic not in group.subscribed
    reads = f", reads {', '.join(sorted(group.subscribed or ()))}" if elsewhere else ""
    return f"{group.name} {stands}, {members} ({group.state or '?'}){reads}"


def _transaction(evidence: Evidence, partition: Partition) -> str:
    """Say which open transaction a partition is held up by; "" when there is none."""
    topics = evidence.around.topics
    topic = None if isinstance(topics, Missing) else topics.get(partition[0])
    log = None if topic is None else topic.logs.get(partition[1])
    begun = None if log is None else log.transaction
    return "" if begun is None else transaction_text(partition, begun)


def returned(evidence: Evidence) -> Told:
    """Hop 4: the return itself, or the scan for it."""
    if isinstance(evidence.returns, Missing):
        return None, None, _could_not("returns", evidence.returns)
    home = [one for one in evidence.returns if one.place is not Place.ELSEWHERE]
    if home:
        last = home[-1]
        text = _described(home)
        if last.behind_transaction:
            begun = _transaction(evidence, Partition(last.topic, last.partition))
            text += f", behind {begun or 'an open transaction'}"
        return any(one.ends for one in home), last.recorded_at, _cut(text)
    away = next(iter(evidence.returns), None)
    if away is not None:
        text = f"{away.status} on {away.topic}[{away.partition}]@{away.offset}, a wrong topic"
        return False, away.recorded_at, text
    if isinstance(evidence.scan, Missing):
        return None, None, _could_not("returns", evidence.scan)
    return _scanned(evidence, evidence.scan)


def _described(returns: Sequence[ReturnSeen]) -> str:
    parts = []
    for one in returns[-3:]:
        word = one.status or one.reason or "unread"
        parts.append(f"{word} {one.topic}[{one.partition}]@{one.offset}")
    return ", ".join(parts)


def _scanned(evidence: Evidence, scan: Scan) -> Told:
    if not evidence.deliveries:
        return False, None, "none"
    where = f"{scan.partitions_read}/{scan.partitions} partitions"
    count = f"{scan.records:,} records scanned, {where}"
    if not scan.complete:
        return None, None, _cut(f"none in {count}, scan incomplete: {scan.unlooked}".rstrip(": "))
    handled = ", the rest is in the inbox" if scan.vouched else ""
    return False, None, f"none in {count}, to log end{handled}{_elsewhere(scan)}"


def _elsewhere(scan: Scan) -> str:
    """Name other topics of which not all was read: it may have been answered there."""
    if not scan.elsewhere_unread:
        return ""
    first, *more = scan.elsewhere_unread
    others = f" and {len(more)} more topics" if more else ""
    return _cut(f"; not all was read of {first}{others}")


def confirm(evidence: Evidence) -> Told:
    """Hop 5: the order's status."""
    applied, order = applied_return(evidence), evidence.order
    at = returned_at(evidence)
    consumer = _running(evidence, evidence.around.consumers, CONSUMER)
    noted = applied is not None and not evidence.around.status_decides
    if isinstance(order, OrderSeen) and not noted:
        other = _contradicted(evidence, order)
        if other is not None:
            return False, at if applied else None, other
        if order.terminal:
            return True, at, f"{order.status}{'' if applied else ', by no recorded return'}"
        return False, at if applied else None, f"{_unapplied(evidence, order)}; consumer {consumer}"
    if applied is not None:
        return True, at, f"{applied.status} ({applied.outcome})"
    if isinstance(order, Missing):
        return None, None, _could_not("order row", order)
    return False, None, f"consumer {consumer}"


def _contradicted(evidence: Evidence, order: OrderSeen) -> str | None:
    set_back, held = overwritten(evidence), held_conflict(evidence)
    if set_back is not None:
        return f"{set_back.became} was applied, and the order is {order.status} now"
    if held is not None:
        return _cut(f"order is {order.status}; refused ({held.state}): {held.detail or 'conflict'}")
    return None


def _unapplied(evidence: Evidence, order: OrderSeen) -> str:
    returns = () if isinstance(evidence.returns, Missing) else evidence.returns
    refused = [one for one in returns if one.place is Place.QUARANTINE and one.state != "released"]
    if refused:
        last = refused[-1]
        return _cut(f"refused ({last.state}): {last.reason}, {last.detail or ''}")
    if any(one.place is Place.PENDING for one in returns):
        return f"{order.status}, its row is locked by somebody"
    return f"order is {order.status}"


def not_reached(text: str) -> str:
    """Say of a hop behind the gap what is known of who serves it."""
    _, found, consumer = text.partition("consumer ")
    return f"not reached; {found}{consumer}" if found else "not reached"


def _could_not(what: str, missing: Missing) -> str:
    return _cut(f"{what}: {missing.cause}, {missing.detail}")


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _TEXT_CHARACTERS else flat[: _TEXT_CHARACTERS - 3] + "..."
