"""Hop 3 of the sample: notices a consumer that sits still although the log goes on.

Invariant: a consumer that gets its records is never accused; one that is stuck is found within two
checks, and its session is made anew (seen after broker restarts).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition


class StuckConsumerError(Exception):
    """The log has records that this consumer does not get: it is thrown away for a new one."""


@dataclass(slots=True)
class ProgressWatch:
    """Compares, while nothing comes, where the consumer stands with where the log ends."""

    consumer: AIOKafkaConsumer
    every_seconds: float
    _checked_at: float = field(default_factory=time.monotonic)
    _behind_at: Mapping[TopicPartition, int] | None = None

    async def polled(self, *, moved: bool) -> None:
        """Compare positions with the log's end now and then, while nothing comes.

        Raises:
            StuckConsumerError: twice in a row the same partitions stood behind at the same offsets.
        """
        now = time.monotonic()
        if moved:
            self._checked_at, self._behind_at = now, None
            return
        if now - self._checked_at < self.every_seconds:
            return
        self._checked_at = now
        behind = await self._behind()
        if behind and behind == self._behind_at:
            raise StuckConsumerError(f"no records come although the log goes on: {behind}")
        self._behind_at = behind

    async def _behind(self) -> Mapping[TopicPartition, int]:
        assigned = list(self.consumer.assignment())
        if not assigned:
            return {}
        ends = await self.consumer.end_offsets(assigned)
        positions = {tp: await self.consumer.position(tp) for tp in assigned}
        return {tp: at for tp, at in positions.items() if at < ends[tp]}
