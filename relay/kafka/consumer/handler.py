"""Hop 5: what the consumer session asks of whoever keeps the stored offsets and does the work.

Invariant: whoever handles a part moves its offset in the same transaction, and only from where the
part starts. What a handler raises ends the session; the next one starts from the stored offsets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from relay.kafka.consumer.partitions import Gap, LogBounds, Record, Start
from relay.kafka.partition import Partition


class PartitionLostError(Exception):
    """Another consumer moved the offset: this one no longer owns the partition, and must rejoin."""


class PartitionBlockedError(Exception):
    """A record can neither be handled nor set aside: its partition waits, the others go on."""

    def __init__(self, partition: Partition, why: str) -> None:
        super().__init__(f"{partition.topic}-{partition.partition} waits {why}")
        self.partition = partition


@dataclass(frozen=True, slots=True)
class Part:
    """What one poll brought of one partition.

    Attributes:
        start_offset: where the partition stood, and what the stored offsets must still say.
        records: ascending by offset.
        next_offset: where it stands once these are handled.
        gap: offsets in between that held nothing readable.
        topic_id: of the topic that the records are from.
    """

    partition: Partition
    start_offset: int
    records: Sequence[Record]
    next_offset: int
    gap: Gap | None
    topic_id: str | None


WorkT = TypeVar("WorkT")


class Handler(Protocol[WorkT]):
    """Whoever keeps the stored offsets and does the work; what it raises ends the session.

    A partition is always in the same lane. Only `read`, and `handle` of other lanes, may be called
    while another call is under way.
    """

    def trim(self, record: Any) -> Any:
        """Return a record as soon as it is read, or what is to be kept of it."""

    async def positions(
        self, logs: Mapping[Partition, LogBounds], *, truncated: bool
    ) -> Mapping[Partition, Start]:
        """Say where each assigned partition starts.

        Raises:
            LogBehindError: a log ends before what was handled; ask again, or say `truncated`.
        """

    async def other_log(self, partition: Partition, log_bounds: LogBounds) -> None:
        """Note that the last record handled is not in this log, which starts anew."""

    async def read(self, lane: int, parts: Sequence[Part]) -> WorkT:
        """Make ready what a poll brought for a lane; it may never be handled."""

    async def handle(self, lane: int, work: WorkT) -> None:
        """Handle what a poll brought for a lane, offsets included, once and for all."""

    async def idle(self, owned: Collection[Partition]) -> float:
        """Do what waits; return in how many seconds to be asked again at the latest."""
