"""Hops 2 to 5: records where logs and groups stand: what cannot be reconstructed later.

Invariant: one row per topic, partition and group every ten seconds while anything there changes,
every minute while nothing does, and at once, with the row of the moment before, when a group wins
or loses a member (with its last one where all logs end), when its offset moves without members or
backwards, and when a log ends before where it ended. The broker away, nothing is recorded: a
position is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from relay.diagnose.evidence.system_state import GroupSeen
from relay.diagnose.gather.topics import read_group
from relay.kafka.broker import EARLIEST, LATEST, Broker
from relay.kafka.partition import Partition
from relay.runtime.flow import Flow

UNCHANGED_SECONDS: Final = 60.0
THE_LOG: Final = ""

Series = tuple[str, Partition]
"""A group's name (THE_LOG: none) and a partition."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where one series stands."""

    log_start: int | None
    log_end: int | None
    committed: int | None = None
    members: int | None = None
    state: str | None = None


Sample = Mapping[Series, Position]


async def take_sample(broker: Broker, flow: Flow, *, refresh: bool) -> dict[Series, Position]:
    """Ask the broker where everything stands now; `refresh` looks for new topics, too.

    Raises:
        KafkaError, TimeoutError, OSError: it cannot be asked.
    """
    if broker.stale or refresh:
        await broker.refresh()
    topics = sorted(flow.topics | {flow.returns_topic})
    partitions = [one for topic in topics for one in broker.partitions(topic)]
    starts = await broker.offsets(partitions, EARLIEST)
    groups = [await read_group(broker, name) for name in flow.processor_groups]
    confirm = await read_group(broker, flow.confirm_group)
    # Last: an offset beyond the end was then committed on an older log, not a moment later.
    ends = await broker.offsets(partitions, LATEST)
    sample: dict[Series, Position] = {
        (THE_LOG, one): Position(starts.get(one), ends[one]) for one in ends
    }
    for group in groups:
        sample |= _of_group(group, [one for one in ends if one[0] in flow.topics], starts, ends)
    return sample | _of_group(
        confirm, [one for one in ends if one[0] == flow.returns_topic], starts, ends
    )


def _of_group(
    group: GroupSeen,
    partitions: Iterable[Partition],
    starts: Mapping[Partition, int],
    ends: Mapping[Partition, int],
) -> dict[Series, Position]:
    return {
        (group.name, one): Position(
            starts.get(one),
            ends.get(one),
            group.committed.get(one),
            group.members if group.exists else 0,
            group.state if group.exists else "Dead",
        )
        for one in partitions
    }


@dataclass(slots=True)
class Notebook:
    """Decides which positions are worth a row; pure but for what it remembers.

    Attributes:
        every_seconds: between the rows of a series that changes.
    """

    every_seconds: float
    _last: Sample = field(default_factory=dict)
    _last_at: float = 0.0
    _written: dict[Series, tuple[float, Position]] = field(default_factory=dict)

    def take(self, sample: Sample, now: float) -> list[tuple[float, Series, Position]]:
        """Return what to write: age in seconds, series, position.

        Args:
            sample: where everything stands.
            now: by a monotonic clock, when the sample was taken.
        """
        rows: list[tuple[float, Series, Position]] = []
        for series in _remarkable(self._last, sample):
            before = self._last.get(series)
            written = self._written.get(series)
            if before is not None and (written is None or written[1] != before):
                rows.append((now - self._last_at, series, before))
            rows.append((0.0, series, sample[series]))
            self._written[series] = (now, sample[series])
        for series, position in sample.items():
            if self._due(series, position, now):
                rows.append((0.0, series, position))
                self._written[series] = (now, position)
        self._last, self._last_at = dict(sample), now
        return rows

    def _due(self, series: Series, position: Position, now: float) -> bool:
        known = self._written.get(series)
        if known is None:
            return True
        at, before = known
        wait_seconds = self.every_seconds if before != position else UNCHANGED_SECONDS
        return now - at >= wait_seconds


def _remarkable(before: Sample, after: Sample) -> list[Series]:
    """Return the series of which the exact moment counts; a group's all together."""
    groups = {
        series[0]
        for series, position in after.items()
        if series in before and _group_changed(before[series], position)
    }
    emptied = any(
        before[series].members and position.members == 0
        for series, position in after.items()
        if series in before
    )
    logs = {
        series
        for series, position in after.items()
        if series in before
        and (_shrank(before[series], position) or (emptied and series[0] == THE_LOG))
    }
    return [one for one in after if (one[0] in groups and one[0] != THE_LOG) or one in logs]


def _group_changed(before: Position, after: Position) -> bool:
    if before.members != after.members:
        return True
    if before.committed == after.committed:
        return False
    backwards = (after.committed or 0) < (before.committed or 0)
    return backwards or after.members == 0


def _shrank(before: Position, after: Position) -> bool:
    return (after.log_end or 0) < (before.log_end or 0)


# A log that ends before where it ended is marked, so that nobody has to read a fortnight of rows to
# find it; the row before may be of this batch, or the last that any watchdog wrote.
_WRITE: Final = """
INSERT INTO relay.position
    (taken_at, topic, partition, consumer_group, log_start, log_end, committed_offset, members,
     group_state, shrank)
SELECT clock_timestamp() - make_interval(secs => p.age), p.topic, p.partition, p.consumer_group,
       p.log_start, p.log_end, p.committed_offset, p.members, p.group_state,
       p.consumer_group = '' AND coalesce(p.log_end < coalesce(
           lag(p.log_end) OVER (PARTITION BY p.topic, p.partition, p.consumer_group
                                ORDER BY p.age DESC),
           (SELECT b.log_end FROM relay.position b
             WHERE b.topic = p.topic AND b.consumer_group = p.consumer_group
               AND b.partition = p.partition ORDER BY b.taken_at DESC LIMIT 1)), false)
  FROM unnest($1::float8[], $2::text[], $3::int[], $4::text[], $5::bigint[], $6::bigint[],
              $7::bigint[], $8::int[], $9::text[])
       AS p (age, topic, partition, consumer_group, log_start, log_end, committed_offset, members,
             group_state)
"""


async def write_positions(
    connection: asyncpg.Connection, rows: Iterable[tuple[float, Series, Position]]
) -> None:
    """Write what a Notebook returned."""
    columns = [
        (
            age,
            topic,
            number,
            group,
            one.log_start,
            one.log_end,
            one.committed,
            one.members,
            one.state,
        )
        for age, (group, (topic, number)), one in rows
    ]
    if columns:
        await connection.execute(_WRITE, *map(list, zip(*columns, strict=True)))
