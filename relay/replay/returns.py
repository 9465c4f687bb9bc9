"""Hop 5: returns that the confirmation consumer went past, given to it once more.

Invariant: nothing is applied here. Returns are read again from the topic, byte for byte, and put
where the consumer keeps those that wait; it decides them with all its guards: one that was handled
before is a copy, and no status moves back. Order within an order is the order of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.consumers.apply.inbox import look_up
from relay.consumers.confirm.pending import put_pending
from relay.consumers.returns.reader import Return, ReturnReader
from relay.consumers.returns.stored_record import stored_record
from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.failures import READING_FAILURES
from relay.kafka.partition import Partition
from relay.kafka.ranges import RangeReader
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.log_ends import read_log_ends
from relay.runtime.times import to_milliseconds

_REQUEST_SECONDS: Final = 15.0
_BATCH: Final = 5000
_SILENT_SECONDS: Final = 30.0


class ReturnsUnreadError(Exception):
    """The returns topic cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Which returns are read.

    Attributes:
        partition: None: all of them.
        from_offset: the first; None: the beginning, or `since`.
        to_offset: the last; None: the end, or `until`.
        since: records of that time and later, and what came later with an earlier time.
        until: records before that time.
        orders: of these only; None: of all.
    """

    partition: int | None = None
    from_offset: int | None = None
    to_offset: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    orders: frozenset[str] | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it for the audit log."""
        given = {
            "partition": self.partition,
            "from_offset": self.from_offset,
            "to_offset": self.to_offset,
            "since": self.since,
            "until": self.until,
            "orders": None if self.orders is None else len(self.orders),
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(slots=True)
class ReturnsRead:
    """What was found in a stretch.

    Attributes:
        read: records.
        handled: returns that the consumer handled before.
        unreadable: records that are no return; whoever quarantined them has their bytes.
        fed: returns that were given to the consumer (or would be).
        gone: partition -> first offset that is still there, where the stretch begins before it.
    """

    read: int = 0
    handled: int = 0
    unreadable: int = 0
    fed: int = 0
    orders: set[str] = field(default_factory=set)
    places: list[tuple[int, int]] = field(default_factory=list)
    gone: dict[int, int] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "read": self.read,
            "handled_before": self.handled,
            "unreadable": self.unreadable,
            "fed": self.fed,
            "orders": len(self.orders),
            "gone_before": {str(number): offset for number, offset in self.gone.items()},
        }


async def feed_returns(
    connection: asyncpg.Connection,
    kafka: KafkaConnection,
    flow: Flow,
    stretch: Stretch,
    *,
    execute: bool,
) -> ReturnsRead:
    """Read a stretch of returns, and give those that were not handled to the consumer.

    Args:
        connection: in autocommit; every batch read is stored by one statement.
        kafka: where the returns are.
        flow: which topic, and whose consumer.
        stretch: which of them.
        execute: False: only count.

    Raises:
        ReturnsUnreadError: the topic is not there, or the broker does not answer.
        asyncpg.InsufficientPrivilegeError: this login may not.
    """
    found = ReturnsRead()
    topic = flow.returns_topic
    try:
        async with connected(kafka, "relay-replay", request_seconds=_REQUEST_SECONDS) as broker:
            spans = await _spans(connection, broker, topic, stretch, found)
            reader = RangeReader(broker, spans, pass_over=True)
            await _Feeder(connection, flow, stretch, found, execute).read_all(reader)
    except READING_FAILURES as error:
        raise ReturnsUnreadError(f"{topic} cannot be read: {error or repr(error)}") from error
    return found


async def _spans(
    connection: asyncpg.Connection, broker: Broker, topic: str, stretch: Stretch, found: ReturnsRead
) -> dict[Partition, tuple[int, int]]:
    """Return which offsets the stretch has of each partition; note those that are gone."""
    partitions = broker.partitions(topic)
    if not partitions:
        raise ReturnsUnreadError(f"topic {topic} does not exist, or may not be seen")
    wanted = [one for one in partitions if stretch.partition in (None, one[1])]
    if not wanted:
        raise ReturnsUnreadError(f"{topic} has no partition {stretch.partition}")
    starts = await broker.offsets(wanted, EARLIEST)
    ends = await broker.offsets(wanted, LATEST, committed_only=True)
    leaderless = sorted(one[1] for one in wanted if one not in starts or one not in ends)
    if leaderless:
        raise ReturnsUnreadError(f"partitions {leaderless} of {topic} have no leader now")
    since = await _at(broker, wanted, stretch.since)
    until = await _at(broker, wanted, stretch.until)
    # What stands behind where the logs ended then is younger, whatever time it claims.
    recorded = {} if not stretch.since else await read_log_ends(connection, topic, stretch.since)
    spans = {}
    for place in wanted:
        first, end = starts[place], ends[place]
        if stretch.since is not None:
            first = since.get(place, end)
            # A producer's clock may be behind: what came later is given once more, too.
            first = min(first, recorded.get(place[1], first))
        if stretch.from_offset is not None:
            first = max(first, stretch.from_offset) if stretch.since else stretch.from_offset
        if first < starts[place]:
            found.gone[place[1]] = starts[place]
            first = starts[place]
        if stretch.until is not None:
            end = min(end, until.get(place, end))
        if stretch.to_offset is not None:
            end = min(end, stretch.to_offset + 1)
        spans[place] = (first, end)
    return spans


async def _at(
    broker: Broker, places: Sequence[Partition], at: datetime | None
) -> Mapping[Partition, int]:
    """Return the first offset of that time or later, where there is one."""
    return {} if at is None else await broker.offsets(places, to_milliseconds(at))


@dataclass(slots=True)
class _Feeder:
    connection: asyncpg.Connection
    flow: Flow
    stretch: Stretch
    found: ReturnsRead
    execute: bool
    reader: ReturnReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = ReturnReader(self.flow)

    async def read_all(self, ranges: RangeReader) -> None:
        """Read every range to its end, for as long as it goes on."""
        loop, topic = asyncio.get_running_loop(), self.flow.returns_topic
        left: Mapping[Partition, tuple[int, int]] | None = None
        while ranges.left and ranges.left != left:
            left = dict(ranges.left)
            async for place, records in ranges.rounds(loop.time() + _SILENT_SECONDS):
                for start in range(0, len(records), _BATCH):
                    await self._feed(place, records[start : start + _BATCH])
        if ranges.left:
            raise ReturnsUnreadError(f"{topic} gave nothing for {_SILENT_SECONDS:.0f} s")
        if ranges.lost:
            where = sorted(number for _topic, number in ranges.lost)
            raise ReturnsUnreadError(f"{topic}: partitions {where} were cut while they were read")
        unread = sum(len(spans) for spans in ranges.unreadable.values())
        self.found.read += unread
        self.found.unreadable += unread

    async def _feed(self, place: Partition, records: Sequence[Any]) -> None:
        found, orders = self.found, self.stretch.orders
        found.read += len(records)
        returns: list[Return] = []
        await self.reader.prepare(records)
        for record in records:
            one = self.reader.read(stored_record(place, record))
            if not isinstance(one, Return):
                found.unreadable += 1
            elif orders is None or one.order_id in orders:
                returns.append(one)
        if not returns:
            return
        told = await look_up(self.connection, returns, None)
        fresh = [one for _identity, one in told.fresh]
        found.handled += len(told.copies)
        found.fed += len(fresh)
        found.orders.update(one.order_id for one in fresh)
        found.places += [(one.record.partition, one.record.offset) for one in fresh]
        if self.execute and fresh:
            await put_pending(self.connection, self.flow.confirm_group, fresh)


_STILL_PENDING: Final = """
SELECT count(*) FROM unnest($3::int[], $4::bigint[]) AS fed (partition, record_offset)
 WHERE EXISTS (SELECT FROM relay.pending_return AS p
                WHERE p.consumer_group = $1 AND p.topic = $2
                  AND p.partition = fed.partition AND p.record_offset = fed.record_offset)
"""
_OUTCOMES: Final = """
SELECT i.outcome, count(*) FROM unnest($3::int[], $4::bigint[]) AS fed (partition, record_offset)
  JOIN relay.inbox AS i
    ON i.aggregate_id = ANY ($5::text[]) AND i.consumer_group = $1 AND i.topic = $2
   AND i.partition = fed.partition AND i.record_offset = fed.record_offset
 GROUP BY i.outcome
"""
_REFUSED: Final = """
SELECT q.reason, count(*) FROM unnest($3::int[], $4::bigint[]) AS fed (partition, record_offset)
  JOIN relay.quarantine_summary AS q
    ON q.kind = 'return' AND q.consumer_group = $1 AND q.topic = $2
   AND q.partition = fed.partition AND q.record_offset = fed.record_offset
   AND q.state = 'held'
 GROUP BY q.reason
"""


async def still_pending(connection: asyncpg.Connection, flow: Flow, fed: ReturnsRead) -> int:
    """Count the fed returns that the consumer has not decided."""
    count: int = await connection.fetchval(_STILL_PENDING, *_places(flow, fed))
    return count


async def outcomes(connection: asyncpg.Connection, flow: Flow, fed: ReturnsRead) -> dict[str, int]:
    """Return what became of the fed returns: the inbox's outcomes, and the quarantine's reasons."""
    where = _places(flow, fed)
    found = dict(list(await connection.fetch(_OUTCOMES, *where, list(fed.orders))))
    refused = await connection.fetch(_REFUSED, *where)
    return found | {f"quarantined: {row[0]}": row[1] for row in refused}


def _places(flow: Flow, fed: ReturnsRead) -> tuple[Any, ...]:
    return (
        flow.confirm_group,
        flow.returns_topic,
        [place[0] for place in fed.places],
        [place[1] for place in fed.places],
    )
