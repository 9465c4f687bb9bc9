"""Hop 2: finds on Kafka what the checkpoint, or a witness, is past and the ledger has no row of.

Invariant: a record proves that its event was sent, whatever the ledger has lost. Only offsets that
no row of the ledger covers are read, from what was published before the event was written; where
some of them cannot be read, nobody may say that the checkpoint skipped the event. Of another
publisher's records only those are read that a witness has come past: the rest is still to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.order import Delivery
from relay.diagnose.evidence.rows import EventRow, Rows
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.reading import broker_missing, database_missing
from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.event_headers import event_id_of
from relay.kafka.failures import READING_FAILURES
from relay.kafka.partition import Partition
from relay.kafka.ranges import RangeReader, seen
from relay.kafka.topic_descriptions import topic_ids
from relay.kafka.unread import ReadTo, position_in
from relay.orders.keys import canonical_event_id
from relay.runtime.database import DATABASE_FAILURES
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection

CLIENT_ID: Final = "relay-diagnose"
Span = tuple[int, int]
# To read so many records more costs less than to ask once more.
_NEAR_RECORDS: Final = 500

# Where the last batch ends that was published before a time, and the offsets behind it that are in
# no batch. A batch whose offset is not known covers none.
_UNCOVERED: Final = """
WITH floor AS (
    SELECT coalesce((SELECT base_offset FROM relay.delivery_ledger
                      WHERE topic = $1 AND partition = $2 AND published_at < $3
                        AND base_offset IS NOT NULL
                      ORDER BY base_offset DESC LIMIT 1), 0) AS at),
batches AS (
    SELECT l.base_offset, max(l.base_offset + l.record_count) OVER earlier AS covered_to
      FROM relay.delivery_ledger AS l, floor
     WHERE l.topic = $1 AND l.partition = $2 AND l.base_offset >= floor.at
    WINDOW earlier AS (ORDER BY l.base_offset
                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
SELECT coalesce(covered_to, (SELECT at FROM floor)), base_offset FROM batches
 WHERE base_offset > coalesce(covered_to, (SELECT at FROM floor))
 UNION ALL
SELECT coalesce(max(base_offset + record_count), (SELECT at FROM floor)), NULL
  FROM relay.delivery_ledger
 WHERE topic = $1 AND partition = $2 AND base_offset >= (SELECT at FROM floor)
 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class _Uncovered:
    """Offsets that no batch of the ledger covers: what is there, and whether some is not."""

    there: tuple[Span, ...]
    gone: bool


async def find_unledgered(
    connection: asyncpg.Connection,
    kafka: KafkaConnection,
    flow: Flow,
    ids: Sequence[str],
    rows: Rows,
    *,
    search_seconds: float,
    read_to: Mapping[Partition, ReadTo] | None = None,
) -> Rows:
    """Return the rows with the deliveries that Kafka proves, and what could not be searched.

    Args:
        connection: outside a transaction.
        kafka: where.
        flow: names the topics.
        ids: of orders that are neither returned nor closed.
        rows: what the database has of them.
        search_seconds: at most.
        read_to: how far the witnesses of another publisher have come; None: our relay publishes.
    """
    wanted = unaccounted(ids, rows, read_to)
    if not wanted:
        return rows
    first = min(one.created_at for one in wanted.values())
    try:
        async with connected(kafka, CLIENT_ID) as broker:
            partitions = [one for topic in sorted(flow.topics) for one in broker.partitions(topic)]
            uncovered = await _uncovered(connection, broker, partitions, first)
            if read_to is not None:
                ids_now = await topic_ids(broker.client, sorted(flow.topics))
                uncovered = {one: _until(it, position_in(read_to.get(one), ids_now.get(one[0])))
                             for one, it in uncovered.items()}  # fmt: skip
            absent = [topic for topic in sorted(flow.topics) if not broker.partitions(topic)]
            found, whole = await _search(
                broker, uncovered, wanted, search_seconds, committed=read_to is not None
            )
    except READING_FAILURES as error:
        return _not_searched(rows, wanted, broker_missing(_what(flow), error))
    except DATABASE_FAILURES as error:
        return _not_searched(rows, wanted, database_missing("the delivery ledger", error))
    rows = _with_deliveries(rows, found)
    left = {event_id: one for event_id, one in wanted.items() if one.outbox_id not in found}
    if not left or (whole and not absent and not any(one.gone for one in uncovered.values())):
        return rows
    return _not_searched(rows, left, _unread(flow, whole=whole, uncovered=uncovered, absent=absent))


def unaccounted(
    ids: Sequence[str], rows: Rows, read_to: Mapping[Partition, ReadTo] | None = None
) -> dict[str, EventRow]:
    """Return, by event id, the events that were handed over, of which no table says where to.

    Of another publisher's, whose witnesses have come to `read_to`, all that no table knows of: it
    is handed over once it stands on Kafka, and the checkpoint only follows the ledger.
    """
    found = each_unaccounted(ids, rows, anyway=read_to is not None)
    return {canonical_event_id(one.event_id): one for _order, one in found}


def each_unaccounted(
    ids: Sequence[str], rows: Rows, *, anyway: bool = False
) -> list[tuple[str, EventRow]]:
    """Return the same, with their orders; `anyway`: also those that were not handed over."""
    if isinstance(rows.events, Missing) or isinstance(rows.deliveries, Missing):
        return []
    held = {} if isinstance(rows.held, Missing) else rows.held
    parked = {
        order for order, each in held.items() if any(one.held.state != "released" for one in each)
    }
    return [
        (one, event)
        for one in ids
        for event in rows.events.get(one, [])
        if one not in parked
        and (event.handed_over or anyway)
        and event.outbox_id not in rows.deliveries
    ]


def _what(flow: Flow) -> str:
    return f"the records of {', '.join(sorted(flow.topics))}"


async def _uncovered(
    connection: asyncpg.Connection, broker: Broker, partitions: Sequence[Partition], at: datetime
) -> dict[Partition, _Uncovered]:
    starts = await broker.offsets(partitions, EARLIEST)
    ends = await broker.offsets(partitions, LATEST)
    found = {}
    for one in partitions:
        rows = await connection.fetch(_UNCOVERED, *one, at)
        known = one in starts and one in ends
        log = (starts[one], ends[one]) if known else (0, 0)
        uncovered = uncovered_in([(row[0], row[1]) for row in rows], log)
        found[one] = uncovered if known else replace(uncovered, gone=True)
    return found


def uncovered_in(uncovered: Sequence[tuple[int, int | None]], log: Span) -> _Uncovered:
    """Return what of some offsets is there; without an end, they go on to the log's end.

    Whoever has batches of offsets behind the log's end has those of another log.
    """
    start, end = log
    spans = [(first, end if last is None else last) for first, last in uncovered]
    there = [(max(first, start), min(last, end)) for first, last in spans]
    gone = any(first < min(last, start) for first, last in spans)
    another = any(first > end for first, _last in uncovered)
    return _Uncovered(tuple((low, high) for low, high in there if low < high), gone or another)


def _until(uncovered: _Uncovered, end: int) -> _Uncovered:
    there = [(first, min(last, end)) for first, last in uncovered.there if first < end]
    return replace(uncovered, there=tuple(there))


def joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Return spans, in order, with those joined that are near one another."""
    found: list[Span] = []
    for first, last in spans:
        if found and first - found[-1][1] <= _NEAR_RECORDS:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


async def _search(
    broker: Broker,
    uncovered: Mapping[Partition, _Uncovered],
    wanted: Mapping[str, EventRow],
    seconds: float,
    *,
    committed: bool,
) -> tuple[dict[int, list[Delivery]], bool]:
    """Read the uncovered offsets; return what was found by outbox id, and whether all were read."""
    deadline = asyncio.get_running_loop().time() + seconds
    found: dict[int, list[Delivery]] = {}
    whole = True
    ranges = {one: joined(it.there) for one, it in uncovered.items()}
    # A reader takes one range of each partition: as many rounds as a partition has ranges.
    for number in range(max(map(len, ranges.values()), default=0)):
        spans = {one: it[number] for one, it in ranges.items() if number < len(it)}
        reader = RangeReader(broker, spans, committed=committed)
        async for where, records in reader.rounds(deadline):
            for record in records:
                event = wanted.get(event_id_of(record.headers) or "")
                if event is not None:
                    read = seen(where, record)
                    sent = Delivery(*where, record.offset, read.recorded_at, None)
                    found.setdefault(event.outbox_id, []).append(sent)
        whole = whole and not reader.left and not reader.lost
    return found, whole


def _with_deliveries(rows: Rows, found: Mapping[int, list[Delivery]]) -> Rows:
    assert not isinstance(rows.deliveries, Missing)
    return replace(rows, deliveries={**rows.deliveries, **found})


def _not_searched(rows: Rows, events: Mapping[str, EventRow], missing: Missing) -> Rows:
    """Say of these events that whether they were handed over to Kafka is not known.

    Of those of another publisher that the checkpoint is not past, the witnesses are asked.
    """
    assert not isinstance(rows.events, Missing)
    left = {one.outbox_id for one in events.values() if one.handed_over}
    return replace(
        rows,
        events={
            order: [
                replace(one, handed_over=missing) if one.outbox_id in left else one for one in each
            ]
            for order, each in rows.events.items()
        },
    )


def _unread(
    flow: Flow, *, whole: bool, uncovered: Mapping[Partition, _Uncovered], absent: Sequence[str]
) -> Missing:
    gone = [f"{topic}[{number}]" for (topic, number), one in sorted(uncovered.items()) if one.gone]
    said = [f"topic {one} is not there" for one in absent]
    said += [f"records of {', '.join(gone)} are gone that no ledger row covers"] if gone else []
    said += [] if whole else ["not all offsets were read that no ledger row covers"]
    how = "ask the processor whether it got the event, then replay or close the order"
    return Missing(
        _what(flow),
        Cause.PAST_RETENTION if whole else Cause.SCAN_INCOMPLETE,
        "; ".join(said),
        how if whole else "relay diagnose ORDER --scan-seconds 600",
    )
