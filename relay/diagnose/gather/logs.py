"""Hops 2 to 4: asks the broker everything about the orders that are still open, in one connection.

Invariant: each part is bounded in time and fails alone: without the scan there is still the group's
offset, without the read-back still the scan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from aiokafka.partitioner import murmur2

from relay.diagnose.evidence.order import Delivery, Found, OrderSeen
from relay.diagnose.evidence.rows import EventRow, Rows
from relay.diagnose.evidence.system_state import Missing, Shrink, TopicSeen
from relay.diagnose.gather.around import AroundRows
from relay.diagnose.gather.assemble import LogFacts
from relay.diagnose.gather.copies import Copies, find_copies, read_instead
from relay.diagnose.gather.database import trace_id
from relay.diagnose.gather.positions import Series
from relay.diagnose.gather.readback import ReadBacks, Wanted, first_record, read_back
from relay.diagnose.gather.reading import broker_missing
from relay.diagnose.gather.recognise import WantedReturns
from relay.diagnose.gather.scan import Recorded, ScanResult, scan_returns, search_elsewhere
from relay.diagnose.gather.topics import TopicFacts, broker_away, read_again, read_topics
from relay.diagnose.gather.unledgered import each_unaccounted
from relay.kafka.broker import Broker, connected
from relay.kafka.failures import READING_FAILURES
from relay.kafka.partition import Partition
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection

CLIENT_ID = "relay-diagnose"
# How long to watch a group of which no positions are recorded, to see whether it moves.
_WATCH_SECONDS = 1.0
_POSITIVE = 0x7FFFFFFF
# Where no time is known, everything is young enough.
_UNIX = datetime(1970, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LogReading:
    """What to read of Kafka's logs, and for how long.

    Attributes:
        scan_seconds: for reading returns that the consumer has not handled.
        recheck_seconds: for reading those that it has: a cross-check of inbox and quarantine.
        readback_seconds: for reading records back.
        neighbours_at_most: records looked at around all orders together.
        elsewhere_seconds: for looking for returns on other topics; 0: not at all.
        elsewhere_records: newest records read of each of their partitions.
    """

    scan_seconds: float = 15.0
    recheck_seconds: float = 0.3
    readback_seconds: float = 15.0
    neighbours_at_most: int = 100_000
    elsewhere_seconds: float = 3.0
    elsewhere_records: int = 20_000

    def neighbours(self, orders: int) -> int:
        """Return how many records to look at on each side of one order's."""
        return max(5, min(250, self.neighbours_at_most // max(1, 2 * orders)))


async def read_broker(
    kafka: KafkaConnection,
    flow: Flow,
    *,
    ids: Sequence[str],
    around: AroundRows,
    rows: Rows,
    positions: Series,
    log_ends: Mapping[int, int],
    options: LogReading,
) -> tuple[TopicFacts, LogFacts]:
    """Read it; a broker that cannot be reached leaves its parts Missing.

    `log_ends` says where the returns topic ended before the first of the orders was placed.
    """
    if not ids:
        return TopicFacts({}, {}), LogFacts()
    try:
        async with connected(kafka, CLIENT_ID) as broker:
            shrinks = {} if isinstance(around.shrinks, Missing) else around.shrinks
            topics = await read_topics(broker, flow, shrinks)
            reader = _Reader(broker, flow, ids, around, rows, log_ends, options, topics, LogFacts())
            await reader.read(positions)
            return reader.topics, reader.log
    except READING_FAILURES as error:
        missing = broker_missing(f"returns on {flow.returns_topic}", error)
        return broker_away(flow, error), LogFacts(scan=missing)


@dataclass(slots=True)
class _Reader:
    broker: Broker
    flow: Flow
    ids: Sequence[str]
    around: AroundRows
    rows: Rows
    log_ends: Mapping[int, int]
    options: LogReading
    topics: TopicFacts
    log: LogFacts

    async def read(self, positions: Series) -> None:
        pairs = _published(self.ids, self.rows)
        wanted = _answerable(pairs, self.ids, self.rows)
        if wanted is None:
            return
        began = _now()
        await self._read_back(pairs)
        await self._read_copies(pairs)
        await self._scan(wanted)
        await self._search_elsewhere(pairs)
        await self._watch(pairs, positions, began)

    async def _read_back(self, pairs: Sequence[tuple[str, EventRow, Delivery]]) -> None:
        wanted: list[Wanted] = [
            (Partition(sent.topic, sent.partition), sent.offset, event.event_id)
            for _order, event, sent in pairs
            if sent.offset is not None
        ]
        try:
            self.log.readbacks = await read_back(
                self.broker,
                self.topics.topics,
                wanted,
                neighbours=self.options.neighbours(len(wanted)),
                deadline=_now() + self.options.readback_seconds,
            )
            await self._read_beginnings(self.log.readbacks)
        except READING_FAILURES:
            return  # what was not read is Missing by its absence

    async def _read_copies(self, pairs: Sequence[tuple[str, EventRow, Delivery]]) -> None:
        """Where a processor reads another topic: does a copy of the event stand there?"""
        groups = {} if isinstance(self.topics.groups, Missing) else self.topics.groups
        topics = read_instead(self.flow, groups)
        wanted = [pair for pair in pairs if not self._passed(pair[2])]
        if not topics or not wanted:
            return
        try:
            self.log.copies = await find_copies(
                self.broker,
                topics,
                {event.event_id: order for order, event, _sent in wanted},
                since=min(event.created_at for _order, event, _sent in wanted),
                deadline=_now() + self.options.readback_seconds,
            )
        except READING_FAILURES as error:
            missing = broker_missing(f"copies on {', '.join(topics)}", error)
            self.log.copies = Copies(missing=missing)

    async def _read_beginnings(self, readbacks: ReadBacks) -> None:
        """Where a record is not what it was: how old is the log that stands there now?"""
        topics = self.topics.topics
        if isinstance(topics, Missing):
            return
        changed = {
            where
            for (where, _offset), one in readbacks.found.items()
            if one.found is not Found.SAME
        }
        updated: dict[str, TopicSeen] = dict(topics)
        for topic, number in sorted(changed):
            seen = updated.get(topic)
            log = None if seen is None else seen.logs.get(number)
            if seen is None or log is None:
                continue
            oldest = await first_record(self.broker, Partition(topic, number), log)
            at = None if oldest is None else oldest.recorded_at
            logs = dict(seen.logs) | {number: replace(log, first_record_at=at)}
            updated[topic] = replace(seen, logs=logs)
        self.topics = replace(self.topics, topics=updated)

    async def _scan(self, wanted: WantedReturns) -> None:
        partitions = self.broker.partitions(self.flow.returns_topic)
        if not partitions:
            self.log.scan = ScanResult()
            return
        home = _home(len(partitions))
        self.log.home = home
        try:
            self.log.scan = await scan_returns(
                self.broker,
                self.flow,
                replace(wanted, orders=wanted.orders | self._neighbours()),
                Recorded(
                    self.around.consumer,
                    self._shrinks(),
                    self.log_ends,
                ),
                first={home(order) for order in wanted.orders},
                deadline=_now() + self.options.scan_seconds,
                recheck_seconds=self.options.recheck_seconds,
            )
        except READING_FAILURES as error:
            self.log.scan = broker_missing(f"returns on {self.flow.returns_topic}", error)

    def _shrinks(self) -> tuple[Shrink, ...]:
        shrinks = self.around.shrinks
        return () if isinstance(shrinks, Missing) else shrinks.get(self.flow.returns_topic, ())

    def _neighbours(self) -> set[str]:
        """Return the orders whose records stand around those of the orders in question."""
        keys = self.log.readbacks.keys.values()
        return {key.decode("utf-8", "replace") for each in keys for key in each.values()}

    async def _search_elsewhere(self, pairs: Sequence[tuple[str, EventRow, Delivery]]) -> None:
        found = self.log.scan.found if isinstance(self.log.scan, ScanResult) else {}
        missing = [pair for pair in pairs if pair[0] not in found and self._passed(pair[2])]
        if not missing or self.options.elsewhere_seconds <= 0:
            return
        try:
            self.log.elsewhere, self.log.elsewhere_unread = await search_elsewhere(
                self.broker,
                self.flow,
                _wanted([(order, event) for order, event, _sent in missing]),
                records_at_most=self.options.elsewhere_records,
                deadline=_now() + self.options.elsewhere_seconds,
            )
        except READING_FAILURES:
            return  # topics that are none of ours; most brokers will not show them to us

    def _passed(self, sent: Delivery) -> bool:
        groups = self.topics.groups
        if isinstance(groups, Missing) or sent.offset is None:
            return False
        where = Partition(sent.topic, sent.partition)
        readers = self.topics.other_readers
        all_groups = [*groups.values(), *(() if isinstance(readers, Missing) else readers)]
        return any(group.committed.get(where, -1) > sent.offset for group in all_groups)

    async def _watch(
        self,
        pairs: Sequence[tuple[str, EventRow, Delivery]],
        positions: Series,
        began: float,
    ) -> None:
        """Without recorded positions: look twice, to see whether a group with members moves."""
        groups = self.topics.groups
        if isinstance(groups, Missing) or not any(group.members for group in groups.values()):
            return
        recorded = {where for (_group, where), samples in positions.items() if samples}
        still: set[Partition] = {
            Partition(sent.topic, sent.partition)
            for _o, _e, sent in pairs
            if not self._passed(sent)
        }
        if not still - recorded:
            return
        await asyncio.sleep(max(0.0, began + _WATCH_SECONDS - _now()))
        self.topics = replace(self.topics, groups=await read_again(self.broker, groups, still))


def _published(ids: Sequence[str], rows: Rows) -> list[tuple[str, EventRow, Delivery]]:
    """Return order, event and newest publication of all that was published."""
    if isinstance(rows.events, Missing) or isinstance(rows.deliveries, Missing):
        return []
    return [
        (one, event, rows.deliveries[event.outbox_id][-1])
        for one in ids
        for event in rows.events.get(one, [])
        if event.outbox_id in rows.deliveries
    ]


def _answerable(
    pairs: Sequence[tuple[str, EventRow, Delivery]], ids: Sequence[str], rows: Rows
) -> WantedReturns | None:
    """Return whose returns there may be, as far as it is known; None: nothing was sent.

    An order without an event's row may have had one; one that was handed over may have been sent,
    though the ledger has lost the proof.
    """
    sent = [(order, event) for order, event, _sent in pairs] + each_unaccounted(ids, rows)
    bare = without_event(ids, rows)
    if not sent and not bare:
        return None
    found = _wanted(sent, [one.submitted_at for one in bare.values() if one.submitted_at])
    return replace(found, orders=found.orders | bare.keys())


def without_event(ids: Sequence[str], rows: Rows) -> dict[str, OrderSeen]:
    """Return those that have a row of their own, and none of an event."""
    if isinstance(rows.events, Missing) or isinstance(rows.orders, Missing):
        return {}
    events, orders = rows.events, rows.orders
    return {one: orders[one] for one in ids if one in orders and not events.get(one)}


def _wanted(
    sent: Sequence[tuple[str, EventRow]], other_times: Sequence[datetime] = ()
) -> WantedReturns:
    return WantedReturns(
        orders=frozenset(order for order, _event in sent),
        by_event={event.event_id: order for order, event in sent},
        by_trace={trace_id(event): order for order, event in sent},
        placed_at=min([*other_times, *(one.created_at for _, one in sent)], default=_UNIX),
    )


def _home(partitions: int) -> Callable[[str], int]:
    return lambda order_id: (murmur2(order_id.encode()) & _POSITIVE) % partitions


def _now() -> float:
    return asyncio.get_running_loop().time()
