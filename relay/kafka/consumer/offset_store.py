"""Hop 5: the database's own record of how far each partition was handled.

Invariant: an offset moves only from where this consumer believes it to be (compare-and-set), in the
transaction of the returns before it; it never moves over records that were not seen without a row
in relay.offset_gap. Whoever believes wrong has lost the partition: PartitionLostError, nothing is
written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from relay.kafka.consumer.handler import Part, PartitionLostError
from relay.kafka.consumer.partitions import (
    Gap,
    GapReason,
    LastRecord,
    LogBounds,
    Progress,
    Start,
    last_record,
    other_log_reason,
    restart_point,
    starting_point,
)
from relay.kafka.partition import Partition

# FOR UPDATE waits for the batch that the partition's last owner has in hand, and so sees its end.
_READ = """
SELECT partition, next_offset, topic_id, last_record_offset, last_record
  FROM relay.consumer_offset
 WHERE consumer_group = $1 AND topic = $2 AND partition = ANY ($3::int[])
 ORDER BY partition
   FOR UPDATE
"""

# Two consumers may both think that a partition is new; the second finds the first one's row.
_ENTER = """
INSERT INTO relay.consumer_offset (consumer_group, topic, partition, next_offset, topic_id, owner)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""

_RESTART = """
UPDATE relay.consumer_offset
   SET next_offset = $5, topic_id = $6, owner = $7,
       last_record_offset = NULL, last_record = NULL, updated_at = clock_timestamp()
 WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND next_offset = $4
"""

_OWN = """
UPDATE relay.consumer_offset
   SET owner = $4, updated_at = clock_timestamp()
 WHERE consumer_group = $1 AND topic = $2 AND partition = ANY ($3::int[])
"""

# `locked` takes the rows in one order, whoever comes; it sees what a rival has just committed.
_ADVANCE = """
WITH moved AS (
    SELECT * FROM unnest($3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[])
                  AS m (partition, expected, next_offset, last_offset, last_record)
), locked AS (
    SELECT o.partition
      FROM relay.consumer_offset o JOIN moved m ON m.partition = o.partition
     WHERE o.consumer_group = $1 AND o.topic = $2 AND o.next_offset = m.expected
     ORDER BY o.partition
       FOR UPDATE OF o
)
UPDATE relay.consumer_offset o
   SET next_offset = m.next_offset, last_record_offset = m.last_offset,
       last_record = m.last_record, topic_id = coalesce($8, o.topic_id), owner = $9,
       updated_at = clock_timestamp()
  FROM moved m JOIN locked l ON l.partition = m.partition
 WHERE o.consumer_group = $1 AND o.topic = $2 AND o.partition = m.partition
   AND o.next_offset = m.expected
"""

_HOLD = """
SELECT o.partition
  FROM relay.consumer_offset o
  JOIN unnest($3::int[], $4::bigint[]) AS m (partition, expected) ON m.partition = o.partition
 WHERE o.consumer_group = $1 AND o.topic = $2 AND o.next_offset = m.expected
 ORDER BY o.partition
   FOR UPDATE OF o
"""

_GAP = """
INSERT INTO relay.offset_gap
    (consumer_group, topic, partition, from_offset, to_offset, missed_count, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (consumer_group, topic, partition, from_offset) WHERE reason = 'not_readable'
DO UPDATE SET to_offset = excluded.to_offset,
              missed_count = relay.offset_gap.missed_count + excluded.missed_count,
              noticed_at = clock_timestamp()
"""


@dataclass(slots=True)
class OffsetStore:
    """The offsets of one group on one topic, as this consumer knows them.

    Attributes:
        owner: this process, for people who look at the table.
        expected: where each partition stands since this consumer last looked or wrote.
    """

    group: str
    topic: str
    owner: str
    expected: dict[Partition, int] = field(default_factory=dict)
    _unreadable_since: dict[Partition, int] = field(default_factory=dict)

    async def open(
        self,
        connection: asyncpg.Connection,
        logs: Mapping[Partition, LogBounds],
        *,
        truncated: bool,
    ) -> tuple[dict[Partition, Start], list[tuple[Partition, Gap]]]:
        """Say where each partition starts, and enter what is new or lost.

        Raises:
            LogBehindError: a log ends before what was handled, and `truncated` is not said yet.
        """
        async with connection.transaction():
            known = await self._read(connection, logs)
            starts, gaps = {}, []
            for partition in sorted(logs):
                log, progress = logs[partition], known.get(partition)
                if progress is None:
                    progress = await self._enter(connection, partition, log)
                start, gap = starting_point(progress, log, truncated=truncated)
                starts[partition] = start
                if gap is not None:
                    await self._restart(connection, partition, progress, log, gap)
                    gaps.append((partition, gap))
            await self._own(connection, logs)
        self.expected = {partition: start.offset for partition, start in starts.items()}
        self._unreadable_since.clear()
        return starts, gaps

    async def restart(
        self, connection: asyncpg.Connection, partition: Partition, log: LogBounds
    ) -> Gap | None:
        """Start a partition anew whose log turned out to be another one."""
        async with connection.transaction():
            progress = (await self._read(connection, [partition])).get(partition)
            if progress is None:
                return None
            _, gap = restart_point(progress, log, other_log_reason(progress, log))
            await self._restart(connection, partition, progress, log, gap)
        return gap

    async def advance(self, connection: asyncpg.Connection, parts: Sequence[Part]) -> None:
        """Move the offsets behind these parts; call `advanced` once that is committed.

        Raises:
            PartitionLostError: one of them is not where it is believed to be.
        """
        last = [last_record(part.records) for part in parts]
        done = await connection.execute(
            _ADVANCE,
            self.group,
            self.topic,
            [part.partition.partition for part in parts],
            [part.start_offset for part in parts],
            [part.next_offset for part in parts],
            [None if one is None else one.offset for one in last],
            [None if one is None else one.digest for one in last],
            parts[0].topic_id,
            self.owner,
        )
        if _count(done) != len(parts):
            raise PartitionLostError(_lost(part.partition for part in parts))
        for part in parts:
            if part.gap is not None:
                await self._note_gap(connection, part.partition, part.gap)

    def advanced(self, parts: Sequence[Part]) -> None:
        """Note that what `advance` wrote is committed."""
        for part in parts:
            self.expected[part.partition] = part.next_offset

    async def hold(self, connection: asyncpg.Connection, owned: Collection[Partition]) -> None:
        """Keep everybody else from these partitions until the transaction ends.

        Raises:
            PartitionLostError: one of them is not where it is believed to be.
        """
        partitions = sorted(owned)
        rows = await connection.fetch(
            _HOLD,
            self.group,
            self.topic,
            [partition.partition for partition in partitions],
            [self.expected[partition] for partition in partitions],
        )
        if len(rows) != len(partitions):
            raise PartitionLostError(_lost(partitions))

    async def _read(
        self, connection: asyncpg.Connection, partitions: Collection[Partition]
    ) -> dict[Partition, Progress]:
        numbers = [partition.partition for partition in partitions]
        found = {}
        for row in await connection.fetch(_READ, self.group, self.topic, numbers):
            last = None
            if row["last_record"] is not None:
                last = LastRecord(row["last_record_offset"], row["last_record"])
            progress = Progress(row["next_offset"], row["topic_id"], last)
            found[Partition(self.topic, row["partition"])] = progress
        return found

    async def _enter(
        self, connection: asyncpg.Connection, partition: Partition, log: LogBounds
    ) -> Progress:
        values = (self.group, self.topic, partition.partition)
        await connection.execute(_ENTER, *values, log.start, log.topic_id, self.owner)
        return (await self._read(connection, [partition]))[partition]

    async def _restart(
        self,
        connection: asyncpg.Connection,
        partition: Partition,
        progress: Progress,
        log: LogBounds,
        gap: Gap,
    ) -> None:
        done = await connection.execute(
            _RESTART,
            self.group,
            self.topic,
            partition.partition,
            progress.next_offset,
            log.start,
            log.topic_id,
            self.owner,
        )
        if _count(done) != 1:
            raise PartitionLostError(_lost([partition]))
        await self._note_gap(connection, partition, gap)

    async def _own(self, connection: asyncpg.Connection, partitions: Collection[Partition]) -> None:
        # The topic's id is written with the first batch: only then is it known to be the same log.
        numbers = [partition.partition for partition in partitions]
        await connection.execute(_OWN, self.group, self.topic, numbers, self.owner)

    async def _note_gap(
        self, connection: asyncpg.Connection, partition: Partition, gap: Gap
    ) -> None:
        from_offset = gap.from_offset
        if gap.reason is GapReason.NOT_READABLE:
            # One row for each session and partition: a transaction leaves such a gap, for ever.
            from_offset = self._unreadable_since.setdefault(partition, from_offset)
        await connection.execute(
            _GAP,
            self.group,
            self.topic,
            partition.partition,
            from_offset,
            gap.to_offset,
            gap.missed_count,
            gap.reason.value,
        )


def _count(status: str) -> int:
    """Read the number of rows out of a command tag such as `UPDATE 3`."""
    return int(status.rpartition(" ")[2])


def _lost(partitions: Iterable[Partition]) -> str:
    shown = ", ".join(f"{p.topic}-{p.partition}" for p in partitions)
    return f"another consumer moved the offset of {shown}: this one gives its partitions back"
