"""Hop 5: what the broker says of the returns topic: its id, and where its partitions begin and end.

Invariant: `topic_id` is that of the topic whose bounds were asked last; a topic that was deleted
and made anew is noticed within `check_seconds`, also in the middle of a session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka.structs import TopicPartition

from relay.kafka.consumer.partitions import LogBounds
from relay.kafka.consumer.stoppable_calls import StoppableCalls
from relay.kafka.partition import Partition
from relay.kafka.topic_descriptions import topic_ids
from relay.runtime.tasks import awaited

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class TopicLog:
    """Asks about one topic, over a consumer's connection."""

    consumer: Any
    broker: StoppableCalls
    topic: str
    request_seconds: float
    check_seconds: float
    topic_id: str | None = None
    _checked_at: float = 0.0
    _check: asyncio.Task[str | None] | None = None

    async def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, LogBounds]:
        """Ask for the topic's id, and for where these partitions start and end.

        Raises:
            BrokerError, StoppedError: see `StoppableCalls.ask`.
        """
        self.topic_id = await self._ask_topic_id()
        tps = [TopicPartition(*partition) for partition in partitions]
        if not tps:
            return {}
        # The end first: a start that moved past it meanwhile is then no contradiction.
        ends = await self.broker.ask(self.consumer.end_offsets(tps), self.request_seconds)
        starts = await self.broker.ask(self.consumer.beginning_offsets(tps), self.request_seconds)
        return {
            Partition(*tp): LogBounds(starts[tp], max(starts[tp], ends[tp]), self.topic_id)
            for tp in tps
        }

    def is_another(self) -> bool:
        """Tell whether the topic was made anew since the bounds were asked.

        Asked now and then, in the background: on a connection with a fetch of nothing under way
        the answer takes half a second.
        """
        if self._check is None and time.monotonic() - self._checked_at >= self.check_seconds:
            self._check = awaited(self._ask_topic_id(), "topic id")
        if self._check is None or not self._check.done():
            return False
        check, self._check = self._check, None
        if check.exception() is not None:
            return False  # the broker is away: fetches will say so
        asked = check.result()
        if None in (self.topic_id, asked) or asked == self.topic_id:
            return False
        log.warning("topic_made_anew", topic=self.topic, was=self.topic_id, now=asked)
        return True

    async def close(self) -> None:
        """Drop a question under way."""
        if self._check is not None:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)

    async def _ask_topic_id(self) -> str | None:
        self._checked_at = time.monotonic()
        client = self.consumer._client  # noqa: SLF001 - one connection instead of two
        ids = await self.broker.ask(topic_ids(client, [self.topic]), self.request_seconds)
        return ids[self.topic]
