"""Hop 5: several batches at a time, each of its own partitions and on its own connection.

Invariant: a partition is always handled in the same lane, so its returns stay in order. A lane that
fails, fails the poll once the others have ended; what those committed stays committed, and the
books say so: the next session goes on from there. Duties that are not of one batch run in the first
lane, between polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from consumers.confirm.handling import Returns
from consumers.confirm.transaction import Batch
from consumers.group.handler import Part
from consumers.group.partitions import LogBounds, Partition, Start, lane_of


@dataclass(frozen=True, slots=True)
class LaneWork:
    """What a poll brought for one lane, read."""

    lane: Returns
    batch: Batch


@dataclass(frozen=True, slots=True)
class Lanes:
    """The handler of the returns topic on several database connections."""

    lanes: Sequence[Returns]

    async def positions(
        self, logs: Mapping[Partition, LogBounds], *, truncated: bool
    ) -> Mapping[Partition, Start]:
        """Say where each partition starts."""
        return await self.lanes[0].positions(logs, truncated=truncated)

    async def other_log(self, partition: Partition, log_bounds: LogBounds) -> None:
        """Start a partition anew."""
        await self.lanes[0].other_log(partition, log_bounds)

    async def read(self, parts: Sequence[Part]) -> list[LaneWork]:
        """Read a poll's records, while the database works on those before."""
        shares: dict[int, list[Part]] = {}
        for part in parts:
            shares.setdefault(lane_of(part.partition, len(self.lanes)), []).append(part)
        return [
            LaneWork(self.lanes[number], await self.lanes[number].read(share))
            for number, share in shares.items()
        ]

    async def handle(self, work: Sequence[LaneWork]) -> None:
        """Handle what a poll brought, all lanes at once.

        Raises:
            PartitionLostError, DatabaseBlockedError: as the lane that failed first in line.
        """
        ended = await asyncio.gather(
            *(one.lane.handle(one.batch) for one in work), return_exceptions=True
        )
        for error in ended:
            if error is not None:
                raise error

    async def idle(self, owned: Collection[Partition]) -> float:
        """Decide waiting returns whose orders are free; return when to be asked again."""
        return await self.lanes[0].idle(owned)
