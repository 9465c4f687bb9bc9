"""Hop 5: returns that the confirmation consumer went past, given to it once more.

Invariant: nothing is applied here. Returns are read again from the topic, byte for byte, and put
where the consumer keeps those that wait; it decides them with all its guards: one that was handled
before is a copy, and no status moves back. Order within an order is the order of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from relay.consumers.apply.inbox import look_up
from relay.consumers.confirm.pending import put_pending
from relay.consumers.returns.reader import Return, ReturnReader
from relay.kafka.records import read_hostile_records
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.log_ends import read_log_ends
from relay.runtime.times import to_milliseconds

_START_SECONDS: Final = 15.0
_POLL_MS: Final = 1000
_BATCH: Final = 5000
_SILENT_POLLS: Final = 30


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
    read_hostile_records()
    consumer = AIOKafkaConsumer(
        **kafka.client_options("relay-replay"),
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="none",
    )
    found = ReturnsRead()
    try:
        async with asyncio.timeout(_START_SECONDS):
            await consumer.start()
        recorded = await _recorded_ends(connection, flow.returns_topic, stretch.since)
        ends = await _seek(consumer, flow.returns_topic, stretch, found, recorded)
        await _Feeder(connection, flow, stretch, found, execute).read_all(consumer, ends)
    except (KafkaError, OSError, TimeoutError) as error:
        raise ReturnsUnreadError(
            f"{flow.returns_topic} cannot be read: {error or repr(error)}"
        ) from error
    finally:
        await consumer.stop()
    return found


async def _recorded_ends(
    connection: asyncpg.Connection, topic: str, since: datetime | None
) -> Mapping[int, int]:
    """Return where the logs ended then: what stands behind it is younger, whatever it claims."""
    return {} if since is None else await read_log_ends(connection, topic, since)


async def _seek(
    consumer: AIOKafkaConsumer,
    topic: str,
    stretch: Stretch,
    found: ReturnsRead,
    recorded: Mapping[int, int],
) -> dict[TopicPartition, int]:
    """Go to where the stretch begins; return where it ends (exclusive), by partition."""
    numbers = consumer.partitions_for_topic(topic) or await _numbers(consumer, topic)
    if stretch.partition is not None and stretch.partition not in numbers:
        raise ReturnsUnreadError(f"{topic} has no partition {stretch.partition}")
    wanted = [
        TopicPartition(topic, number)
        for number in sorted(numbers)
        if stretch.partition in (None, number)
    ]
    consumer.assign(wanted)
    starts = await consumer.beginning_offsets(wanted)
    ends = dict(await consumer.end_offsets(wanted))
    since = await _at(consumer, wanted, stretch.since)
    until = await _at(consumer, wanted, stretch.until)
    for place in wanted:
        first = starts[place]
        if stretch.since is not None:
            first = since.get(place, ends[place])
            # A producer's clock may be behind: what came later is given once more, too.
            first = min(first, recorded.get(place.partition, first))
        if stretch.from_offset is not None:
            first = max(first, stretch.from_offset) if stretch.since else stretch.from_offset
        if first < starts[place]:
            found.gone[place.partition] = starts[place]
            first = starts[place]
        if stretch.until is not None:
            ends[place] = min(ends[place], until.get(place, ends[place]))
        if stretch.to_offset is not None:
            ends[place] = min(ends[place], stretch.to_offset + 1)
        if first < ends[place]:
            consumer.seek(place, first)
        else:
            del ends[place]
    consumer.pause(*[place for place in wanted if place not in ends])
    return ends


async def _numbers(consumer: AIOKafkaConsumer, topic: str) -> Collection[int]:
    await consumer._client.add_topic(topic)  # noqa: SLF001 - asks the broker for it
    numbers: Collection[int] | None = consumer.partitions_for_topic(topic)
    if not numbers:
        raise ReturnsUnreadError(f"topic {topic} does not exist, or may not be seen")
    return numbers


async def _at(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], at: datetime | None
) -> Mapping[TopicPartition, int]:
    """Return the first offset of that time or later, where there is one."""
    if at is None:
        return {}
    asked = dict.fromkeys(places, to_milliseconds(at))
    answers = await consumer.offsets_for_times(asked)
    return {place: one.offset for place, one in answers.items() if one is not None}


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

    async def read_all(self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> None:
        """Read every partition to its end."""
        silent = 0
        while ends:
            batch = await consumer.getmany(*ends, timeout_ms=_POLL_MS, max_records=_BATCH)
            silent = 0 if batch else silent + 1
            if silent > _SILENT_POLLS:
                raise ReturnsUnreadError(f"{self.flow.returns_topic} gave nothing for {silent} s")
            for place, records in batch.items():
                await self._feed([one for one in records if one.offset < ends[place]])
            for place in list(ends):
                if await consumer.position(place) >= ends[place]:
                    consumer.pause(place)
                    del ends[place]

    async def _feed(self, records: Sequence[Any]) -> None:
        found, orders = self.found, self.stretch.orders
        found.read += len(records)
        returns: list[Return] = []
        for record in records:
            one = self.reader.read(record)
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
