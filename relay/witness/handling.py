"""Hop 2, witnessed: handles batches of one events' topic: proof and offsets in one transaction.

Invariant: an offset moves only by compare-and-set and only in the transaction that writes what
stood before it: ledger rows for records whose row is visible, their places for the rest. So each
record is accounted for exactly once, whoever dies, freezes or takes over, with any number of
witnesses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import asyncpg

from relay.kafka.consumer.handler import Part
from relay.kafka.consumer.offset_store import OffsetStore
from relay.kafka.consumer.partitions import LogBounds, Start
from relay.kafka.partition import Partition
from relay.witness.batch import Batch, Place, read_batch
from relay.witness.ledger import (
    LateRows,
    dropped_until,
    forget_known,
    prove,
    rows_of,
    set_aside,
)
from relay.witness.options import WitnessOptions
from relay.witness.report import Report
from relay.witness.runs import to_runs
from relay.witness.testpoints import TestPoint, nothing

# Nobody reads a value here: of a larger one its hash is kept, so that ten thousand records fit.
_VALUE_BYTES: Final = 4096
_AGAIN_SECONDS: Final = 1.0


@dataclass(slots=True)
class TopicWitness:
    """The handler of one topic, each lane on a database connection of its own."""

    connections: Sequence[asyncpg.Connection]
    topic: str
    offsets: OffsetStore
    options: WitnessOptions
    report: Report
    test_point: TestPoint = nothing
    late_rows: LateRows = field(init=False)

    def __post_init__(self) -> None:
        self.late_rows = LateRows(self.topic)

    def trim(self, record: Any) -> Any:
        """Return a record without a large value; its hash tells it from another all the same."""
        if len(record.value or b"") <= _VALUE_BYTES or type(record.value) is not bytes:
            return record
        return dataclasses.replace(record, value=blake2b(record.value, digest_size=16).digest())

    async def positions(
        self, logs: Mapping[Partition, LogBounds], *, truncated: bool
    ) -> Mapping[Partition, Start]:
        """Say where each partition starts: at its first record, the first time."""
        starts, gaps = await self.offsets.open(self.connections[0], logs, truncated=truncated)
        for partition, gap in gaps:
            self.report.gap(partition, gap)
        return starts

    async def other_log(self, partition: Partition, log_bounds: LogBounds) -> None:
        """Start a partition anew whose topic was made anew: all of it is read."""
        gap = await self.offsets.restart(self.connections[0], partition, log_bounds)
        if gap is not None:
            self.report.gap(partition, gap)

    async def read(self, _lane: int, parts: Sequence[Part]) -> Batch:
        """Read a poll's records, while the database works on those before."""
        return read_batch(parts)

    async def handle(self, lane: int, work: Batch) -> None:
        """Write what a batch proves, once and for all.

        Raises:
            PartitionLostError: another witness moved an offset; nothing was written.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: the database is away.
        """
        connection = self.connections[lane]
        await forget_known(connection, self.topic, work)
        row_of = await rows_of(connection, work)
        until = await dropped_until(connection) if None in row_of else 0.0

        def is_dropped(place: Place) -> bool:
            return place.at < until

        runs = to_runs(work, row_of, is_dropped)
        await self.test_point("rows_found")
        async with connection.transaction():
            await self.offsets.advance(connection, work.parts)
            await prove(connection, self.topic, runs)
            topic_id = work.parts[0].topic_id
            await set_aside(
                connection, self.topic, topic_id, runs.unmatched, self.options.row_seconds
            )
            await self.test_point("before_commit")
        await self.test_point("after_commit")
        self.offsets.advanced(work.parts)
        self.report.witnessed(work, runs)

    async def idle(self, _owned: Collection[Partition]) -> float:
        """Match records whose rows became visible since; return when to be asked again."""
        matched = await self.late_rows.match(self.connections[0])
        if matched:
            await self.test_point("matched_late")
        self.report.matched_late(matched)
        return _AGAIN_SECONDS
