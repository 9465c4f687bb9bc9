"""Hop 5: several batches at a time, each of its own partitions and on its own connection.

Invariant: a partition is always handled in the same lane, so its returns stay in order. A lane that
fails ends the session once the others have ended; what those committed stays committed, and the
stored offsets say so: the next session goes on from there. Duties that are not of one batch run in
the first lane, between batches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.consumers.confirm.handling import Returns
from relay.consumers.confirm.transaction import Batch
from relay.kafka.consumer.handler import Part
from relay.kafka.consumer.partitions import LogBounds, Start
from relay.kafka.partition import Partition


@dataclass(frozen=True, slots=True)
class Lanes:
    """The handler of the returns topic on several database connections."""

    lanes: Sequence[Returns]

    def trim(self, record: Any) -> Any:
        """Return what is to be kept of a record that was just read."""
        return self.lanes[0].confirmation.trim(record)

    async def positions(
        self, logs: Mapping[Partition, LogBounds], *, truncated: bool
    ) -> Mapping[Partition, Start]:
        """Say where each partition starts."""
        return await self.lanes[0].positions(logs, truncated=truncated)

    async def other_log(self, partition: Partition, log_bounds: LogBounds) -> None:
        """Start a partition anew."""
        await self.lanes[0].other_log(partition, log_bounds)

    async def read(self, lane: int, parts: Sequence[Part]) -> Batch:
        """Read a poll's records, while the database works on those before."""
        return await self.lanes[lane].read(parts)

    async def handle(self, lane: int, work: Batch) -> None:
        """Handle what a poll brought for a lane.

        Raises:
            PartitionLostError, DatabaseBlockedError: see `Returns.handle`.
        """
        await self.lanes[lane].handle(work)

    async def idle(self, owned: Collection[Partition]) -> float:
        """Decide waiting returns whose orders are free; return when to be asked again."""
        return await self.lanes[0].idle(owned)
