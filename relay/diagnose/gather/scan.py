"""Hop 4: looks for returns of many orders on Kafka, by reading the returns topic once.

Invariant: complete means that everything was read that could hold a return and that nobody vouches
for: from the consumer's own next offset (what lies before it stands in inbox, quarantine or as a
recorded gap) to the high watermark, on every partition. A record's own time is its producer's, and
is no bound. What it cannot reach in time, what was deleted, and where offsets are missing, it says.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from relay.diagnose.evidence.order import Place
from relay.diagnose.evidence.rows import ReturnRow
from relay.diagnose.evidence.system_state import ConsumerSeen, Missing, Shrink
from relay.diagnose.gather.looks import Bounds, Look, look_at
from relay.diagnose.gather.recognise import Recogniser, WantedReturns
from relay.diagnose.gather.set_aside import Unseen, unseen
from relay.kafka.broker import EARLIEST, LATEST, Broker
from relay.kafka.partition import Partition
from relay.kafka.ranges import RangeReader
from relay.runtime.flow import Flow
from relay.runtime.times import OddTime, later, of_milliseconds, to_milliseconds

# The producer's clock and the database's may differ: a return may seem older than its event.
CLOCK_SLACK_SECONDS: Final = 60.0
_YIELD_EVERY: Final = 500

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the database knows of the returns topic.

    Attributes:
        consumer: how far the consumer has come, and what it never saw.
        shrinks: when its logs were seen to be made again, since the first order was placed.
        log_ends: by partition, where it was recorded to end before the first order was placed.
    """

    consumer: ConsumerSeen | Missing
    shrinks: Sequence[Shrink] = ()
    log_ends: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(slots=True)
class ScanResult:
    """What reading the returns topic came to.

    Attributes:
        unread: partitions that time did not suffice for, of what nobody vouches for.
        deleted: partition -> when records were found deleted before anybody had read them (None:
            only now).
        holes: partition -> offsets without a record (compaction) among what nobody vouches for.
        vouched: some records were not read because the consumer had handled them.
        lost_partitions: partitions whose log began after the consumer's offset.
        made_again: those whose log is another one than that which the consumer had read.
        unseen: offsets whose returns nobody can look at.
    """

    found: defaultdict[str, list[ReturnRow]] = field(default_factory=lambda: defaultdict(list))
    unread: set[int] = field(default_factory=set)
    deleted: dict[int, tuple[datetime | None, ...]] = field(default_factory=dict)
    holes: dict[int, int] = field(default_factory=dict)
    vouched: bool = False
    records: int = 0
    partitions: int = 0
    newest_return_at: datetime | None = None
    lost_partitions: frozenset[int] = frozenset()
    made_again: frozenset[int] = frozenset()
    unseen: tuple[Unseen, ...] = ()

    def deleted_since(self, at: datetime) -> list[int]:
        """Return the partitions that may have lost unread returns of an order placed then."""
        return sorted(
            number
            for number, times in self.deleted.items()
            if any(when is None or when >= at for when in times)
        )


async def scan_returns(
    broker: Broker,
    flow: Flow,
    wanted: WantedReturns,
    recorded: Recorded,
    *,
    first: Collection[int],
    deadline: float,
    recheck_seconds: float,
) -> ScanResult:
    """Read the returns topic as far as nobody vouches for it, to its end as it is now.

    What the consumer has not handled yet comes first; then, as a cross-check, what it has: the
    partitions in `first` (where the keys of the orders belong), then the others.

    Args:
        broker: connected.
        flow: names the topic, reads returns.
        wanted: whose returns.
        recorded: what the database knows of the topic.
        first: partitions to recheck before the others.
        deadline: by the event loop's clock, for what the consumer has not handled.
        recheck_seconds: for the rest, which inbox and quarantine vouch for.
    """
    looks = await _looks(broker, flow, wanted, recorded)
    partitions = broker.partitions(flow.returns_topic)
    result = ScanResult(partitions=len(partitions))
    result.unread = {
        number for _, number in partitions if Partition(flow.returns_topic, number) not in looks
    }
    result.deleted = {one[1]: look.deleted_at for one, look in looks.items() if look.deleted_at}
    result.lost_partitions = frozenset(one[1] for one, look in looks.items() if look.lost)
    result.made_again = frozenset(one[1] for one, look in looks.items() if look.another)
    reading = _Reading(broker, Recogniser(flow, wanted), result)
    await reading.unhandled(looks, deadline)
    skips = {one: look.skipped for one, look in looks.items()}
    result.unread |= {number for _, number in await reading.committed(skips, deadline)}
    result.unseen = _unseen(looks, recorded, reading.unreadable)
    deadline = asyncio.get_running_loop().time() + recheck_seconds
    handled = {one: look.handled for one, look in looks.items()}
    own = {one: span for one, span in handled.items() if one[1] in first}
    skipped = await reading.committed(own, deadline)
    if not (len(wanted.by_event) == 1 and any(_ended(rows) for rows in result.found.values())):
        rest = {one: span for one, span in handled.items() if one not in own}
        skipped |= await reading.committed(rest, deadline)
    result.vouched = bool(skipped)
    return result


def _unseen(
    looks: Mapping[Partition, Look],
    recorded: Recorded,
    unreadable: Mapping[Partition, Sequence[Span]],
) -> tuple[Unseen, ...]:
    consumer = recorded.consumer
    known = ConsumerSeen() if isinstance(consumer, Missing) else consumer
    numbers = {one.partition for one in known.set_aside}
    there = {one[1]: look for one, look in looks.items()}
    on_kafka = {one[1]: spans for one, spans in unreadable.items()}
    return tuple(
        found
        for number in sorted(there.keys() | numbers)
        for found in unseen(
            number,
            there.get(number),
            on_kafka.get(number, ()),
            known,
            recorded.shrinks,
        )
    )


def _ended(rows: Iterable[ReturnRow]) -> bool:
    return any(row.seen.terminal for row in rows)


async def _looks(
    broker: Broker, flow: Flow, wanted: WantedReturns, recorded: Recorded
) -> dict[Partition, Look]:
    partitions = broker.partitions(flow.returns_topic)
    # The end first: a log with no open transaction is then stable to there, whoever writes on.
    ends = await broker.offsets(partitions, LATEST)
    stable = await broker.offsets(partitions, LATEST, committed_only=True)
    starts = await broker.offsets(partitions, EARLIEST)
    slack = later(wanted.placed_at, -CLOCK_SLACK_SECONDS)
    times = await broker.offsets(partitions, to_milliseconds(slack))
    consumer = recorded.consumer
    known = ConsumerSeen() if isinstance(consumer, Missing) else consumer
    return {
        one: look_at(
            Bounds(starts.get(one, 0), min(stable.get(one, end), end), end),
            known.offsets.get(one[1]),
            [gap for gap in known.gaps if gap.partition == one[1]],
            [shrink for shrink in recorded.shrinks if shrink.partition == one[1]],
            floor=recorded.log_ends.get(one[1]),
            since=times.get(one, end),
            set_aside=[aside for aside in known.set_aside if aside.partition == one[1]],
        )
        for one, end in ends.items()
    }


@dataclass(slots=True)
class _Reading:
    broker: Broker
    recogniser: Recogniser
    result: ScanResult
    unreadable: dict[Partition, list[Span]] = field(default_factory=lambda: defaultdict(list))

    async def unhandled(self, looks: Mapping[Partition, Look], deadline: float) -> None:
        """Read what nobody vouches for, records of open transactions included."""
        spans = {one: look.unhandled for one, look in looks.items()}
        reader = RangeReader(self.broker, spans, committed=False, pass_over=True)
        stable = {one: look.log.stable_end for one, look in looks.items()}
        await self.transactional(reader, deadline, stable)
        unread = set(reader.left) | reader.lost
        self.result.unread |= {number for _, number in unread}
        for one, (start, end) in spans.items():
            missing = end - start - reader.places[one]
            if one not in unread and missing > 0:
                self.result.holes[one[1]] = missing

    async def committed(self, spans: Mapping[Partition, Span], deadline: float) -> set[Partition]:
        """Read ranges in which all transactions have ended; return what was not read in time."""
        reader = RangeReader(self.broker, dict(spans), pass_over=True)
        async for one, records in reader.rounds(deadline):
            async for _record, orders, row in self._recognised(one, records):
                for order in orders:
                    self.result.found[order].append(row)
        self._note_read(reader)
        return set(reader.left) | reader.lost

    async def transactional(
        self, reader: RangeReader, deadline: float, stable_ends: Mapping[Partition, int]
    ) -> None:
        """Read to the high watermark; what was aborted is no return."""
        found: list[tuple[Partition, set[str], ReturnRow, int | None]] = []
        async for one, records in reader.rounds(deadline):
            writers = reader.writers
            async for record, orders, row in self._recognised(one, records):
                found.append((one, orders, row, writers.get((one, record.offset))))
        self._note_read(reader)
        for one, orders, row, writer in found:
            offset = row.seen.offset
            ended = None if writer is None else reader.outcomes.committed(one, writer, offset)
            stable = offset < stable_ends[one]
            if ended is False or (ended is None and writer is not None and stable):
                continue  # aborted; or its marker was not reached in time
            seen = replace(row.seen, behind_transaction=not stable)
            for order in orders:
                self.result.found[order].append(replace(row, seen=seen))

    def _note_read(self, reader: RangeReader) -> None:
        self.result.records += reader.count
        for one, spans in reader.unreadable.items():
            self.unreadable[one] += spans

    async def _recognised(
        self, one: Partition, records: Sequence[Any]
    ) -> AsyncIterator[tuple[Any, set[str], ReturnRow]]:
        await self.recogniser.prepare(records)
        for number, record in enumerate(records):
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            orders, row = self.recogniser.find(one, record)
            if row is not None:
                yield record, orders, row
        self._note_newest(records)

    def _note_newest(self, records: Sequence[Any]) -> None:
        newest = of_milliseconds(records[-1].timestamp)
        known = self.result.newest_return_at
        if not isinstance(newest, OddTime) and (known is None or newest > known):
            self.result.newest_return_at = newest


async def search_elsewhere(
    broker: Broker,
    flow: Flow,
    wanted: WantedReturns,
    *,
    records_at_most: int,
    deadline: float,
) -> tuple[dict[str, list[ReturnRow]], list[str]]:
    """Look for returns on other topics than the flow's: the processor may answer on a wrong one.

    Only records that the consumer could apply count; the newest `records_at_most` of each partition
    are read. Returned beside them are the topics of which not all was read.
    """
    own = flow.topics | {flow.returns_topic} | broker.internal
    others = [one for one in broker.leaders if one[0] not in own]
    ends = await broker.offsets(others, LATEST)
    stable = await broker.offsets(others, LATEST, committed_only=True)
    starts = await broker.offsets(others, EARLIEST)
    slack = later(wanted.placed_at, -CLOCK_SLACK_SECONDS)
    times = await broker.offsets(others, to_milliseconds(slack))
    since = {one: max(times.get(one, end), starts.get(one, 0)) for one, end in ends.items()}
    spans = {one: (max(since[one], end - records_at_most), end) for one, end in ends.items()}
    reading = _Reading(broker, Recogniser(flow, wanted, Place.ELSEWHERE), ScanResult())
    reader = RangeReader(broker, spans, committed=False, pass_over=True)
    await reading.transactional(reader, deadline, {one: stable.get(one, ends[one]) for one in ends})
    found = {
        order: [row for row in rows if row.seen.status is not None]
        for order, rows in reading.result.found.items()
    }
    cut = {one for one, (start, _end) in spans.items() if start > since[one]}
    unread = {topic for topic, _number in cut | set(reader.left) | reader.lost}
    return {order: rows for order, rows in found.items() if rows}, sorted(unread)
