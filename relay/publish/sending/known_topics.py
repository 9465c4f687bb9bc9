"""Hop 2: what a run of the relay knows of the topics that it sends to, and when it asks again.

Invariant: what a topic takes is never a fact for ever: before anything is parked for its size, and
before what was released is sent, the broker is asked again, once a second at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiokafka.errors import KafkaError

from relay.kafka.failures import BROKER_FAILURES
from relay.publish.errors import TopicWaitError
from relay.publish.sending.in_flight_pages import InFlightPages
from relay.publish.sending.sizing import Sizing
from relay.publish.sending.topics import Topics
from relay.runtime.backoff import Backoff
from relay.runtime.shutdown import stopped_within

_LOG: Final = structlog.get_logger("relay.publish")
_BACKOFF: Final = Backoff(0.2, 5.0)
_LIMIT_SECONDS: Final = 1.0
UNKNOWN: Final = (TopicWaitError, KafkaError, OSError, TimeoutError)
"""Why a topic may not be known now."""


@dataclass(slots=True)
class KnownTopics:
    """Partition counts and limits.

    Attributes:
        waits: told what a page waits for before it can be sent, and with None that it no longer
            does.
        partition_counts: by topic.
    """

    topics: Topics
    sizing: Sizing
    in_flight: InFlightPages
    waits: Callable[[BaseException | None], None]
    partition_counts: dict[str, int] = field(default_factory=dict)
    _limit_asked_at: dict[str, float] = field(default_factory=dict)

    async def ready(self, names: Iterable[str], stop: asyncio.Event) -> bool:
        """Wait until every topic can be sent to; False: asked to stop meanwhile."""
        attempt = 0
        while not stop.is_set():
            try:
                for topic in names:
                    await self.know(topic)
            except UNKNOWN as error:
                self.waits(error)
                await stopped_within(stop, _BACKOFF.ceiling_seconds(attempt))
                attempt += 1
            else:
                if attempt:
                    self.waits(None)
                return True
        return False

    async def know(self, topic: str) -> None:
        """Learn a topic's partitions, and at first what it takes.

        Raises:
            TopicWaitError: it is missing or forbidden; the message is what is waited for.
            KafkaError, OSError, TimeoutError: the broker does not answer.
        """
        count = await self.topics.partition_count(topic)
        known = self.partition_counts.get(topic)
        if known is None:
            await self._ask_limit(topic)
        elif known != count:
            # Orders move to other partitions: what was sent must be there before what comes next.
            _LOG.warning("partitions_changed", topic=topic, before=known, now=count)
            await self.in_flight.empty()
        self.partition_counts[topic] = count

    async def ask_limits(self, names: Iterable[str]) -> None:
        """Ask again what topics take, unless they were asked a moment ago."""
        now = time.monotonic()
        for topic in names:
            if now - self._limit_asked_at.get(topic, 0.0) >= _LIMIT_SECONDS:
                await self._ask_limit(topic)

    async def _ask_limit(self, topic: str) -> None:
        self._limit_asked_at[topic] = time.monotonic()
        try:
            limit = await self.topics.largest_batch_bytes(topic)
        except BROKER_FAILURES as error:
            _LOG.info("topic_limit_unknown", topic=topic, error=repr(error))
        else:
            self.sizing.set_limit(topic, limit)
