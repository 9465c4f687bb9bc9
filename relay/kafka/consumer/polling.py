"""Hop 5: takes records of the wanted partitions from aiokafka, so that no lane goes without.

Invariant: a poll takes nothing of a partition that was not asked for: what its lane has no room for
stays in aiokafka's buffer, and is fetched no further. A consumer whose fetches get no answer is
given up.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.structs import TopicPartition

from relay.kafka.consumer.fetch_watch import FetchWatch
from relay.kafka.consumer.options import SessionOptions
from relay.kafka.consumer.partitions import Record, lane_of
from relay.kafka.consumer.stoppable_calls import StalledError, StoppableCalls
from relay.kafka.partition import Partition


@dataclass(slots=True)
class Polling:
    """The polls of one consumer.

    Attributes:
        stall_seconds: a fetch without an answer for so long ends the session.
    """

    consumer: Any
    broker: StoppableCalls
    options: SessionOptions
    stall_seconds: float
    _fetches: FetchWatch = field(default_factory=FetchWatch)

    async def poll(
        self, wanted: Sequence[Partition], seconds: float
    ) -> Mapping[Partition, Sequence[Record]]:
        """Take what is here of some partitions, and wait for it if there is nothing.

        Raises:
            OffsetOutOfRangeError: a position is not in the log.
            BrokerError: the broker is away or refuses.
        """
        polled = await self._take(wanted, seconds)
        if polled:
            polled |= await self._of_other_lanes(polled, wanted)
            self._fetches.answered(polled, time.monotonic())
        return polled

    async def _of_other_lanes(
        self, polled: Collection[Partition], wanted: Sequence[Partition]
    ) -> dict[Partition, Sequence[Record]]:
        """Take what is here for lanes that got nothing: a poll empties one partition at a time."""
        lanes = self.options.connections
        served = {lane_of(one, lanes) for one in polled}
        found: dict[Partition, Sequence[Record]] = {}
        for lane in set(range(lanes)) - served:
            own = [one for one in wanted if lane_of(one, lanes) == lane]
            if own:
                found |= await self._take(own, 0.0)
        return found

    async def _take(
        self, partitions: Sequence[Partition], seconds: float
    ) -> dict[Partition, Sequence[Record]]:
        poll = self.consumer.getmany(
            *(TopicPartition(*one) for one in partitions),
            timeout_ms=int(seconds * 1000),
            max_records=self.options.batch_records,
        )
        # More than asked for: a rebalance that begins meanwhile makes getmany wait for its end.
        polled = await self.broker.ask(poll, seconds + self.options.start_seconds)
        return {Partition(*tp): records for tp, records in polled.items()}

    def is_answered(self, assigned: Collection[Partition], wanted: Sequence[Partition]) -> bool:
        """Tell, after a poll that brought nothing, whether the broker answers fetches.

        Raises:
            StalledError: it does not, and has not for too long.
        """
        now = time.monotonic()
        # What lies in the buffer of a lane without room was answered, and is not asked for again.
        self._fetches.answered(set(assigned).difference(wanted), now)
        polled_at = {
            one: self.consumer.last_poll_timestamp(TopicPartition(*one)) for one in assigned
        }
        seconds = self._fetches.observe(polled_at, now)
        if seconds > self.stall_seconds:
            raise StalledError(f"no fetch was answered for {seconds:.0f} s")
        return seconds < self.options.poll_seconds
