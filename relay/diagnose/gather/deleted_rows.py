"""Hops 1 and 2: finds on Kafka the events that the database has no rows of.

Invariant: a record proves that the event was sent, by whatever way: an order whose event is found
here is judged by what became of the record, and its writer is not accused. A search that did not
reach the log's end says so, and then nobody may say "never committed", nor that a row was deleted
before it was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.order import Delivery, Moment
from relay.diagnose.evidence.rows import EventRow, Rows
from relay.diagnose.evidence.system_state import LogSeen, Missing, TopicSeen
from relay.diagnose.gather.readback import Wanted, read_back
from relay.diagnose.gather.reading import broker_missing
from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.event_headers import event_id_text, event_type_text
from relay.kafka.failures import READING_FAILURES
from relay.kafka.partition import Partition
from relay.kafka.ranges import RangeReader, RecordSeen, seen
from relay.orders.keys import canonical_event_id, canonical_order_id, is_uuid
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.times import to_milliseconds

CLIENT_ID: Final = "relay-diagnose"
_READ_BACK_SECONDS: Final = 10.0


async def find_deleted(
    kafka: KafkaConnection,
    flow: Flow,
    ids: Sequence[str],
    rows: Rows,
    *,
    search_seconds: float,
) -> Rows:
    """Return the rows with the events that Kafka proves, and what could not be searched.

    Args:
        kafka: where.
        flow: names the topics.
        ids: of orders, canonical.
        rows: what the database has of them.
        search_seconds: at most, for ids of which no row knows.
    """
    if isinstance(rows.events, Missing) or isinstance(rows.orders, Missing):
        return rows
    unknown, bare = _without_any_row(ids, rows, flow), _without_event(ids, rows)
    rows, vanished = _without_ledger(rows)
    if not vanished and not unknown and not bare:
        return rows
    try:
        async with connected(kafka, CLIENT_ID) as broker:
            if vanished:
                rows = await _read_vanished(broker, flow, rows, vanished)
            if unknown or bare:
                rows = await _search(broker, flow, unknown | bare, rows, search_seconds)
    except READING_FAILURES as error:
        return _unsearched(rows, broker_missing(_records_of(flow), error))
    return rows


def _without_ledger(rows: Rows) -> tuple[Rows, Mapping[int, list[Delivery]]]:
    """Return what the ledger knows of ids without a row; where it says nothing, nobody decides."""
    vanished, moments = rows.vanished, rows.moments
    if not isinstance(vanished, Missing):
        return rows, vanished
    if not isinstance(moments, Missing):
        known = {key: vanished if rows.vacant.get(key) else one for key, one in moments.items()}
        rows = replace(rows, moments=known)
    return rows, {}


def _records_of(flow: Flow) -> str:
    return f"the records of {', '.join(sorted(flow.topics))}"


def _unsearched(rows: Rows, missing: Missing) -> Rows:
    """Say that the log was not searched, of whatever would be decided by that."""
    moments = rows.moments
    if isinstance(moments, Missing):
        return replace(rows, unsearched=missing)
    decided = {
        key: missing
        for key, one in moments.items()
        if isinstance(one, Moment) and one.vacant_count and one.deleted_count and not one.strays
    }
    return replace(rows, unsearched=missing, moments={**moments, **decided})


def _without_event(ids: Sequence[str], rows: Rows) -> frozenset[str]:
    """Return the orders that have a row and no event, and whose event stands nowhere else."""
    moments = rows.moments
    if isinstance(moments, Missing):
        return frozenset()
    return frozenset(
        one
        for one in ids
        if isinstance(moment := moments.get(one), Moment)
        and not moment.strays
        and not _events(rows).get(one)
    )


def _without_any_row(ids: Sequence[str], rows: Rows, flow: Flow) -> frozenset[str]:
    """Return the ids of which neither table knows, where they should."""
    assert not isinstance(rows.events, Missing)
    assert not isinstance(rows.orders, Missing)
    clean = canonical_order_id(flow)
    found = [one for one in ids if one not in rows.orders and not rows.events.get(one)]
    return frozenset(one for one in found if clean(one) is not None)


def _order_of(key: bytes | None, flow: Flow) -> str | None:
    """Return the order that a record's key names."""
    if key is None:
        return None
    return canonical_order_id(flow)(key.decode("utf-8", "replace"))


async def _logs(broker: Broker, topics: Collection[str]) -> dict[str, TopicSeen]:
    found = {}
    for topic in topics:
        partitions = broker.partitions(topic)
        starts = await broker.offsets(partitions, EARLIEST)
        ends = await broker.offsets(partitions, LATEST)
        logs = {one[1]: LogSeen(starts.get(one, 0), ends[one]) for one in ends}
        found[topic] = TopicSeen(topic, exists=bool(partitions), logs=logs)
    return found


async def _read_vanished(
    broker: Broker, flow: Flow, rows: Rows, vanished: Mapping[int, list[Delivery]]
) -> Rows:
    """Read back what the ledger knows of ids that no row has: whose were they?"""
    moments = rows.moments
    assert not isinstance(moments, Missing)
    topics = await _logs(broker, {one.topic for sent in vanished.values() for one in sent})
    wanted: list[Wanted] = [
        (Partition(one.topic, one.partition), one.offset, "")
        for sent in vanished.values()
        for one in sent
        if one.offset is not None
    ]
    deadline = asyncio.get_running_loop().time() + _READ_BACK_SECONDS
    read = await read_back(broker, topics, wanted, neighbours=0, deadline=deadline)
    unread: set[int] = set()
    others: dict[int, str] = {}
    for outbox_id, sent in vanished.items():
        newest = sent[-1]
        where, offset = Partition(newest.topic, newest.partition), newest.offset
        key = None if offset is None else read.keys.get(where, {}).get(offset)
        known = None if offset is None else read.found.get((where, offset))
        order = _order_of(key, flow)
        if order is None or known is None or known.event_id is None:
            unread.add(outbox_id)
            continue
        others[outbox_id] = order
        if order in moments and is_uuid(known.event_id) and not _events(rows).get(order):
            event = _event(flow, outbox_id, known.event_id, sent[0].published_at)
            rows = _with_event(rows, order, event, sent)
    return replace(rows, moments=_with_unread(moments, rows.vacant, unread, others))


def _with_unread(
    moments: Mapping[str, Moment | Missing],
    vacant: Mapping[str, Sequence[int]],
    unread: Collection[int],
    others: Mapping[int, str],
) -> dict[str, Moment | Missing]:
    """Count, for each order, the rows around it that were sent and of which nothing can be read.

    Those whose record is another order's, by `others`, were never this one's.
    """
    counted: dict[str, Moment | Missing] = {}
    for key, one in moments.items():
        ids = [number for number in vacant.get(key, ()) if others.get(number, key) == key]
        sent = sum(number in unread for number in ids)
        if isinstance(one, Moment):
            one = replace(one, vacant_count=len(ids), sent_count=sent)  # noqa: PLW2901
        counted[key] = one
    return counted


def _events(rows: Rows) -> Mapping[str, list[EventRow]]:
    assert not isinstance(rows.events, Missing)
    return rows.events


def _event(flow: Flow, outbox_id: int, event_id: str, created_at: datetime) -> EventRow:
    """Return the event that a record proves."""
    return EventRow(
        outbox_id=outbox_id,
        event_id=event_id,
        event_type=next(iter(flow.deadlines), next(iter(flow.events))),
        created_at=created_at,
        traceparent=None,
        kept=False,
        handed_over=True,
        deleted=True,
    )


def _with_event(rows: Rows, order: str, event: EventRow, sent: Sequence[Delivery]) -> Rows:
    deliveries = {} if isinstance(rows.deliveries, Missing) else rows.deliveries
    return replace(
        rows,
        events={**_events(rows), order: [event]},
        deliveries={**deliveries, event.outbox_id: list(sent)},
    )


async def _search(
    broker: Broker, flow: Flow, wanted: frozenset[str], rows: Rows, seconds: float
) -> Rows:
    """Search the events' topics for ids without an event's row: deleted, lost, or never written."""
    partitions = [one for topic in sorted(flow.topics) for one in broker.partitions(topic)]
    since = _search_from(wanted, rows)
    starts = await broker.offsets(partitions, EARLIEST if since is None else to_milliseconds(since))
    ends = await broker.offsets(partitions, LATEST)
    # Where no record is as young as that, there is none to read.
    spans = {one: (starts.get(one, ends[one]), ends[one]) for one in partitions if one in ends}
    reader = RangeReader(broker, spans, committed=False)
    deadline = asyncio.get_running_loop().time() + seconds
    found: dict[str, tuple[Partition, Any]] = {}
    async for where, records in reader.rounds(deadline):
        for record in records:
            order = _order_of(record.key, flow)
            if order not in wanted:
                order = _event_named(record.headers)
            if order in wanted:
                found[order] = (where, record)
    for number, (order, (where, record)) in enumerate(found.items(), start=1):
        # No row has an id of its own any more: these are below every real one.
        rows = _with_record(rows, flow, order, seen(where, record), -number)
    if not reader.left and not reader.lost and len(spans) == len(partitions):
        return rows
    missing = Missing(
        _records_of(flow),
        Cause.SCAN_INCOMPLETE,
        f"no row of the database has this event; {reader.count} records were read, not to the end",
        "relay diagnose ORDER --scan-seconds 600",
    )
    return _unsearched(rows, missing)


def _search_from(wanted: frozenset[str], rows: Rows) -> datetime | None:
    """Return from when on records are searched; None: from the first, where an id has no time."""
    orders = {} if isinstance(rows.orders, Missing) else rows.orders
    times = [orders[one].submitted_at if one in orders else None for one in wanted]
    known = [one for one in times if one is not None]
    # Another program's clock: a day is more than clocks differ by, most of the time.
    return min(known) - timedelta(days=1) if known and len(known) == len(times) else None


def _event_named(headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    text = event_id_text(headers)
    return None if text is None else canonical_event_id(text)


def _with_record(rows: Rows, flow: Flow, order: str, record: RecordSeen, number: int) -> Rows:
    """Add the event that a record proves; one without an event's id may be this order's."""
    kind = event_type_text(record.headers)
    if kind is not None and flow.route(kind) is None:
        return rows
    event_id = canonical_event_id(event_id_text(record.headers) or "")
    sent = Delivery(*record.partition, record.offset, record.recorded_at)
    if is_uuid(event_id):
        event = _event(flow, number, event_id, record.recorded_at)
        return _with_event(rows, order, event, [sent])
    moments = {} if isinstance(rows.moments, Missing) else rows.moments
    moment = moments.get(order)
    if not isinstance(moment, Moment):
        return rows
    named = f"{sent.topic}[{sent.partition}]@{sent.offset} on Kafka"
    beside = replace(moment, unclaimed=(named, *moment.unclaimed))
    return replace(rows, moments={**moments, order: beside})
