"""Hop 4: looks for returns of many orders on Kafka, by reading the returns topic once.

Invariant: complete means that every record from the first publication to the log's end was read, or
that what was not read lies before the consumer's own offset, which moves only together with inbox
and quarantine. What it cannot reach in time it says.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from consumers.returns.reader import ReturnReader
from consumers.returns.refusals import Refusal
from consumers.returns.stored_record import StoredRecord
from relay.diagnose.evidence.order import Place, ReturnSeen
from relay.diagnose.evidence.rows import ReturnRow
from relay.diagnose.evidence.surroundings import ConsumerSeen, Missing, Partition
from relay.diagnose.gather.broker import EARLIEST, LATEST, Broker
from relay.diagnose.gather.database import is_terminal
from relay.diagnose.gather.log_reader import RangeReader
from relay.orders.keys import canonical_order_id
from relay.runtime.flow import Flow
from relay.runtime.times import later, of_milliseconds, to_milliseconds

# The producer's clock and the database's may differ: a return may seem older than its event.
CLOCK_SLACK_SECONDS: Final = 60.0
# Up to so many orders, torn bytes are searched for each order's id.
_SEARCH_TORN_AT_MOST: Final = 50
_YIELD_EVERY: Final = 500


@dataclass(frozen=True, slots=True)
class WantedReturns:
    """Whose returns are looked for.

    Attributes:
        orders: canonical order ids.
        by_event: event id -> order id.
        by_trace: trace id -> order id.
        since: when the first of their events was published.
    """

    orders: frozenset[str]
    by_event: Mapping[str, str]
    by_trace: Mapping[str, str]
    since: datetime


@dataclass(slots=True)
class ScanResult:
    """What reading the returns topic came to.

    Attributes:
        vouched: some records were not read because the consumer had handled them.
        lost_partitions: partitions whose log began after the consumer's offset.
    """

    found: defaultdict[str, list[ReturnRow]] = field(default_factory=lambda: defaultdict(list))
    complete: bool = False
    vouched: bool = False
    records: int = 0
    partitions_read: int = 0
    partitions: int = 0
    newest_return_at: datetime | None = None
    lost_partitions: frozenset[int] = frozenset()


@dataclass(slots=True)
class Recogniser:
    """Tells whose return a record is, even one that the consumer could not read."""

    flow: Flow
    wanted: WantedReturns
    place: Place = Place.LOG
    _keys: frozenset[bytes] = field(init=False)
    _reader: ReturnReader = field(init=False)
    _canonical: Any = field(init=False)

    def __post_init__(self) -> None:
        self._keys = frozenset(one.encode() for one in self.wanted.orders)
        self._reader = ReturnReader(self.flow)
        self._canonical = canonical_order_id(self.flow)

    def orders_of(self, record: Any) -> set[str]:
        """Return the wanted orders that a record may be a return of.

        Two of them when it names one and answers another's event: it was meant for that one.
        """
        named = self._by_content(record)
        if named is not None:
            # Not by its trace: several orders may have been placed in one.
            meant = self.wanted.by_event.get(_text(record.headers, "ce_causationid") or "")
            return {named} if meant is None else {named, meant}
        found = self._by_headers(record) or self._torn(record.value)
        return set() if found is None else {found}

    def _by_content(self, record: Any) -> str | None:
        if record.key in self._keys:
            return str(record.key.decode())
        named = self._named(record.value)
        return named if named in self.wanted.orders else None

    def _named(self, value: bytes | None) -> str | None:
        if not value or b"order_id" not in value:
            return None
        try:
            body = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
        said = body.get("order_id") if isinstance(body, dict) else None
        return None if said is None else self._canonical(str(said))

    def _by_headers(self, record: Any) -> str | None:
        headers = dict(record.headers)
        for name, orders in (
            ("ce_causationid", self.wanted.by_event),
            ("traceparent", self.wanted.by_trace),
        ):
            text = _ascii(headers.get(name))
            if text is not None:
                order = orders.get(text[3:35] if name == "traceparent" else text)
                if order is not None:
                    return order
        subject = _ascii(headers.get("ce_subject"))
        return subject if subject in self.wanted.orders else None

    def _torn(self, value: bytes | None) -> str | None:
        if not value or len(self._keys) > _SEARCH_TORN_AT_MOST:
            return None
        torn = (key for key in self._keys if key in value)
        hit = next(torn, None)
        return None if hit is None else hit.decode()

    def row(self, partition: Partition, record: Any) -> ReturnRow:
        """Read the return as the consumer would."""
        topic, number = partition
        plain = StoredRecord(
            topic,
            number,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple(record.headers),
        )
        read = self._reader.read(plain)
        refused = isinstance(read, Refusal)
        status = None if isinstance(read, Refusal) else read.status
        return ReturnRow(
            ReturnSeen(
                place=self.place,
                topic=topic,
                partition=number,
                offset=record.offset,
                status=status,
                terminal=None if refused else is_terminal(self.flow, status),
                recorded_at=of_milliseconds(record.timestamp),
                names_order=read.order_id,
                reason=read.reason.value if isinstance(read, Refusal) else None,
                detail=read.detail if isinstance(read, Refusal) else None,
            ),
            None if isinstance(read, Refusal) else read.causation_id,
        )


def _text(headers: Iterable[tuple[str, bytes | None]], name: str) -> str | None:
    return next((_ascii(value) for key, value in headers if key == name), None)


def _ascii(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("ascii")
    except UnicodeDecodeError:
        return None


async def scan_returns(
    broker: Broker,
    flow: Flow,
    wanted: WantedReturns,
    consumer: ConsumerSeen | Missing,
    *,
    first: Collection[int],
    deadline: float,
    recheck_seconds: float,
) -> ScanResult:
    """Read the returns topic from the first publication to its end as it is now.

    What the consumer has not handled yet comes first, then the partitions in `first` (where the
    keys of the orders belong), then the others.

    Args:
        broker: connected.
        flow: names the topic, reads returns.
        wanted: whose returns.
        consumer: how far the consumer has come.
        first: partitions to read before the others.
        deadline: by the event loop's clock, for what the consumer has not handled.
        recheck_seconds: for the rest, which inbox and quarantine vouch for.
    """
    partitions = broker.partitions(flow.returns_topic)
    result = ScanResult(partitions=len(partitions))
    recogniser = Recogniser(flow, wanted)
    spans = await _spans(broker, partitions, wanted.since)
    handled = {} if isinstance(consumer, Missing) else consumer.offsets
    ahead, behind = {}, {}
    for one, (start, end) in spans.items():
        position = handled.get(one[1])
        edge = start if position is None else min(max(position.next_offset, start), end)
        ahead[one], behind[one] = (edge, end), (start, edge)
    unread = await _read(broker, ahead, recogniser, result, deadline)
    deadline = asyncio.get_running_loop().time() + recheck_seconds
    own = {one: span for one, span in behind.items() if one[1] in first}
    rest = {one: span for one, span in behind.items() if one not in own}
    skipped = await _read(broker, own, recogniser, result, deadline)
    if not (len(wanted.orders) == 1 and any(_ended(rows) for rows in result.found.values())):
        skipped |= await _read(broker, rest, recogniser, result, deadline)
    result.vouched = bool(skipped)
    result.complete = not unread and len(spans) == len(partitions)
    result.partitions_read = len(spans) - len(unread)
    result.lost_partitions = await _lost(broker, partitions, handled)
    return result


def _ended(rows: Iterable[ReturnRow]) -> bool:
    return any(row.seen.terminal for row in rows)


async def _spans(
    broker: Broker, partitions: Collection[Partition], since: datetime
) -> dict[Partition, tuple[int, int]]:
    """Return from where to where each partition is to be read."""
    ends = await broker.offsets(partitions, LATEST, committed_only=True)
    starts = await broker.offsets(partitions, EARLIEST)
    times = await broker.offsets(partitions, to_milliseconds(later(since, -CLOCK_SLACK_SECONDS)))
    return {
        one: (max(times.get(one, ends[one]), starts.get(one, 0)), ends[one])
        for one in partitions
        if one in ends
    }


async def _read(
    broker: Broker,
    spans: Mapping[Partition, tuple[int, int]],
    recogniser: Recogniser,
    result: ScanResult,
    deadline: float,
) -> set[Partition]:
    """Read these ranges; return the partitions that time did not suffice for."""
    reader = RangeReader(broker, dict(spans))
    async for one, records in reader.rounds(deadline):
        for number, record in enumerate(records):
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            for order in recogniser.orders_of(record):
                result.found[order].append(recogniser.row(one, record))
        _note_newest(result, records)
    result.records += reader.count
    return set(reader.left) | reader.lost


def _note_newest(result: ScanResult, records: Sequence[Any]) -> None:
    if records:
        newest = of_milliseconds(records[-1].timestamp)
        if result.newest_return_at is None or newest > result.newest_return_at:
            result.newest_return_at = newest


async def _lost(
    broker: Broker, partitions: Collection[Partition], handled: Mapping[int, Any]
) -> frozenset[int]:
    """Return the partitions of which records are gone that the consumer never came to."""
    starts = await broker.offsets(partitions, EARLIEST)
    ends = await broker.offsets(partitions, LATEST)
    return frozenset(
        number
        for (topic, number), start in starts.items()
        if number in handled
        and (
            start > handled[number].next_offset
            or ends.get((topic, number), start) < handled[number].next_offset
        )
    )


async def search_elsewhere(
    broker: Broker,
    flow: Flow,
    wanted: WantedReturns,
    *,
    records_at_most: int,
    deadline: float,
) -> dict[str, list[ReturnRow]]:
    """Look for returns on other topics than the flow's: the processor may answer on a wrong one.

    Only records that the consumer could apply count; the newest `records_at_most` of each partition
    are read.
    """
    own = flow.topics | {flow.returns_topic} | broker.internal
    others = [one for one in broker.leaders if one[0] not in own]
    recogniser = Recogniser(flow, wanted, Place.ELSEWHERE)
    result = ScanResult()
    spans = await _spans(broker, others, wanted.since)
    bounded = {one: (max(start, end - records_at_most), end) for one, (start, end) in spans.items()}
    await _read(broker, bounded, recogniser, result, deadline)
    found = {
        order: [row for row in rows if row.seen.status is not None]
        for order, rows in result.found.items()
    }
    return {order: rows for order, rows in found.items() if rows}
