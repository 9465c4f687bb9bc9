"""Hop 2: reads records back from the offsets that the ledger names, and who stands around them.

Invariant: one fetch serves every wanted offset that it reaches; partitions are read side by side,
in offset order. What time does not suffice for is absent from the result, never "gone".
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from relay.diagnose.evidence.order import Found, ReadBack
from relay.diagnose.evidence.system_state import LogSeen, Missing, TopicSeen
from relay.kafka.broker import Broker
from relay.kafka.event_headers import event_id_text
from relay.kafka.partition import Partition
from relay.kafka.ranges import Fetched, RecordSeen, fetch, seen

# More pays only where wanted offsets lie close together. Of the first partition of an answer at
# least one batch comes, however large; a batch of another one that is larger does not come at all
# (KIP-74), and so more is asked for until it does.
_BYTES_EACH: Final = 64_000
_LARGEST_BATCH: Final = 16_000_000

# Decoding that many records costs less than another fetch.
_WORTH_DECODING: Final = 200

Wanted = tuple[Partition, int, str]
"""Partition, offset, and the event id that should stand there."""


@dataclass(slots=True)
class ReadBacks:
    """What was found, by partition and offset.

    Attributes:
        keys: by partition, the keys of the records in the neighbourhood of what was wanted.
        reach: how many records on each side of one were looked at.
    """

    found: dict[tuple[Partition, int], ReadBack] = field(default_factory=dict)
    keys: dict[Partition, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    reach: int = 0

    def at(self, partition: Partition, offset: int, event_id: str) -> ReadBack | None:
        """Return what stands there for an event that should; None: it was not read.

        Of a topic that was made again, two events have the same place, and one of them is there.
        """
        read = self.found.get((partition, offset))
        if read is None or read.found not in (Found.SAME, Found.OTHER):
            return read
        return replace(read, found=Found.SAME if read.event_id == event_id else Found.OTHER)

    def around(self, partition: Partition, offset: int) -> list[tuple[int, bytes]]:
        """Return offset and key of the records around one that was wanted."""
        keys = self.keys.get(partition)
        if keys is None:
            return []
        near = range(offset - self.reach, offset + self.reach + 1)
        return [(one, keys[one]) for one in near if one in keys]


@dataclass(slots=True)
class _ReadPlan:
    """The offsets still wanted of one partition, in order, and how far it was read."""

    offsets: list[int]
    events: dict[int, str]
    position: int
    end: int

    def wanted_until(self, neighbours: int) -> int:
        """Return where the neighbourhoods that hang together with the next one end."""
        reach = self.offsets[0] + neighbours + 1
        for offset in self.offsets[1:]:
            if offset - neighbours > reach + _WORTH_DECODING:
                break
            reach = offset + neighbours + 1
        return min(reach, self.end)


async def read_back(
    broker: Broker,
    topics: Mapping[str, TopicSeen] | Missing,
    wanted: Collection[Wanted],
    *,
    neighbours: int,
    deadline: float,
) -> ReadBacks:
    """Read what stands at the wanted offsets.

    Args:
        broker: connected.
        topics: their logs' bounds.
        wanted: in any order.
        neighbours: how many records on each side are looked at.
        deadline: by the event loop's clock.
    """
    result = ReadBacks(reach=neighbours)
    ways = _ways(topics, wanted, neighbours, result)
    loop, bytes_each = asyncio.get_running_loop(), _BYTES_EACH
    while ways and loop.time() < deadline:
        starts = {one: way.position for one, way in ways.items()}
        until = {one: way.wanted_until(neighbours) for one, way in ways.items()}
        got = await fetch(
            broker, starts, bytes_each=bytes_each, committed=False, until=until, pass_over=True
        )
        if any(_came_empty(fetched, starts[one]) for one, fetched in got.items()):
            bytes_each = min(2 * bytes_each, _LARGEST_BATCH)
        for one, fetched in got.items():
            _take(result, one, ways[one], fetched, neighbours)
            await asyncio.sleep(0)
        ways = {one: way for one, way in ways.items() if way.position < way.end}
    return result


def _came_empty(fetched: Fetched, start: int) -> bool:
    return not fetched.out_of_range and fetched.next_offset <= start


def _ways(
    topics: Mapping[str, TopicSeen] | Missing,
    wanted: Collection[Wanted],
    neighbours: int,
    result: ReadBacks,
) -> dict[Partition, _ReadPlan]:
    """Sort what is wanted by partition; what lies outside its log is decided here."""
    inside: defaultdict[Partition, dict[int, str]] = defaultdict(dict)
    logs: dict[Partition, LogSeen] = {}
    for partition, offset, event_id in wanted:
        log, absent = _log(topics, partition)
        if log is None:
            if absent:
                result.found[partition, offset] = ReadBack(Found.NO_TOPIC)
        elif offset < log.log_start:
            result.found[partition, offset] = ReadBack(Found.GONE_BEFORE)
        elif offset >= log.log_end:
            result.found[partition, offset] = ReadBack(Found.GONE_AFTER)
        else:
            inside[partition][offset] = event_id
            logs[partition] = log
    return {one: _read_plan(events, logs[one], neighbours) for one, events in inside.items()}


def _read_plan(events: dict[int, str], log: LogSeen, neighbours: int) -> _ReadPlan:
    offsets = sorted(events)
    start = max(log.log_start, offsets[0] - neighbours)
    return _ReadPlan(offsets, events, start, min(log.log_end, offsets[-1] + neighbours + 1))


def _log(
    topics: Mapping[str, TopicSeen] | Missing, partition: Partition
) -> tuple[LogSeen | None, bool]:
    """Return a partition's log; (None, True) when there certainly is none."""
    if isinstance(topics, Missing) or partition[0] not in topics:
        return None, False
    topic = topics[partition[0]]
    if not topic.exists:
        return None, True
    return topic.logs.get(partition[1]), False


def _take(
    result: ReadBacks, one: Partition, way: _ReadPlan, fetched: Fetched, neighbours: int
) -> None:
    """Note what a fetch brought, and go on to what is wanted next."""
    records = {record.offset: record for record in fetched.records}
    reached = way.end if fetched.out_of_range else max(fetched.next_offset, way.position)
    near = _Near(way.offsets, neighbours)
    for offset, record in records.items():
        if record.key is not None and near.holds(offset):
            result.keys[one][offset] = record.key
    first, behind = bisect_left(way.offsets, way.position), bisect_left(way.offsets, reached)
    for offset in way.offsets[first:behind]:
        if any(low <= offset < high for low, high in fetched.unreadable):
            continue  # nobody can say what stands there
        if (one, offset) not in result.found:
            deleted = ReadBack(Found.GONE_BEFORE)  # while it was being read
            stands = _compared(one, records.get(offset), way.events[offset])
            result.found[one, offset] = deleted if fetched.out_of_range else stands
    # Skip what nobody wants: go on where the next wanted one's neighbourhood begins.
    way.offsets = way.offsets[bisect_left(way.offsets, reached - neighbours) :]
    way.position = max(reached, way.offsets[0] - neighbours) if way.offsets else way.end


@dataclass(slots=True)
class _Near:
    """Tells whether an offset, asked in rising order, is near one of some sorted offsets."""

    offsets: list[int]
    reach: int
    _at: int = 0

    def holds(self, offset: int) -> bool:
        while self._at < len(self.offsets) and self.offsets[self._at] + self.reach < offset:
            self._at += 1
        return self._at < len(self.offsets) and abs(self.offsets[self._at] - offset) <= self.reach


def _compared(one: Partition, record: Any, event_id: str) -> ReadBack:
    if record is None:
        return ReadBack(Found.GONE_WITHIN)
    read = seen(one, record)
    own = event_id_text(read.headers)
    return ReadBack(Found.SAME if own == event_id else Found.OTHER, own, read.recorded_at)


async def first_record(broker: Broker, partition: Partition, log: LogSeen) -> RecordSeen | None:
    """Read the oldest record of a partition; None when it holds none."""
    if log.log_start >= log.log_end:
        return None
    got = await fetch(broker, {partition: log.log_start}, bytes_each=1, committed=False)
    records = got[partition].records if partition in got else []
    return seen(partition, records[0]) if records else None
