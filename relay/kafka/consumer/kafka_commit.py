"""Hop 5: keeps Kafka's committed offset near the truth, for lag tools and nobody else.

Invariant: the database's offset rules; whatever goes wrong here is noted and changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from relay.kafka.partition import Partition
from relay.runtime.tasks import background

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class KafkaCommit:
    """Commits in the background, one request at a time, `every_seconds` at most."""

    consumer: Any
    every_seconds: float
    _handled: dict[Partition, int] = field(default_factory=dict)
    _last_at: float = 0.0
    _task: asyncio.Task[None] | None = None

    def handled(self, partition: Partition, next_offset: int) -> None:
        """Note that the database has this offset now."""
        self._handled[partition] = next_offset

    def forget(self) -> None:
        """Drop what is noted: the partitions may be somebody else's now."""
        self._handled.clear()

    def tick(self) -> None:
        """Commit when it is time, without waiting for it."""
        busy = self._task is not None and not self._task.done()
        if busy or not self._handled or time.monotonic() - self._last_at < self.every_seconds:
            return
        self._last_at = time.monotonic()
        self._task = background(self._commit(), "kafka commit")

    async def finish(self, seconds: float) -> None:
        """Commit what is noted, or give up after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                if self._task is not None:
                    await self._task
                await self._commit()
        except TimeoutError:
            log.info("kafka_offset_behind", error="no answer")

    async def _commit(self) -> None:
        offsets = {TopicPartition(*tp): at for tp, at in self._handled.items()}
        self._handled.clear()
        if not offsets:
            return
        try:
            await self.consumer.commit(offsets)
        except (KafkaError, IllegalStateError, OSError) as error:
            # A rebalance, as a rule: the next owner commits.
            log.info("kafka_offset_behind", error=str(error))
