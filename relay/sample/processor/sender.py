"""Hop 4 of the sample: hands returns to Kafka in batches, and says where each one stands.

Invariant: one unacknowledged batch per partition, so the returns of one order keep their order;
what `send` has returned is acknowledged by all in-sync replicas. Any error leaves the producer
unusable: throw it away, start another, send again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from relay.sample.processor.return_maker import Return

_BATCH_BYTES: Final = 512 * 1024
_STOP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One acknowledged batch. `base_offset` is -1 when the broker did not say (a duplicate)."""

    partition: int
    base_offset: int
    returns: Sequence[Return]
    started_ns: int
    ended_ns: int


class ReturnSender:
    """A producer for one topic, as an async context."""

    def __init__(self, client_options: dict[str, Any], topic: str, request_seconds: float) -> None:
        self._topic = topic
        self._producer = AIOKafkaProducer(
            **client_options,
            acks="all",
            enable_idempotence=True,
            max_batch_size=_BATCH_BYTES,
            request_timeout_ms=int(request_seconds * 1000),
        )

    async def __aenter__(self) -> Self:
        try:
            await self._producer.start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        # stop() waits for what is queued, which is for ever when the broker is gone.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._producer.stop(), _STOP_SECONDS)

    async def send(self, returns: Sequence[Return]) -> list[Sent]:
        """Send, and wait until all of it is acknowledged.

        Raises:
            KafkaError: nothing is known of what was not acknowledged; send all of it again.
        """
        if not returns:
            return []
        partitions = sorted(await self._producer.partitions_for(self._topic))
        by_partition: dict[int, list[Return]] = {}
        for one in returns:
            # Java's default partitioner, so that a foreign consumer finds an order where it looks.
            number = (murmur2(one.key) & 0x7FFFFFFF) % len(partitions)
            by_partition.setdefault(partitions[number], []).append(one)
        sends = [self._send(*item) for item in by_partition.items()]
        # All are waited for, so that none goes on behind the back of a retry.
        results = await asyncio.gather(*sends, return_exceptions=True)
        sent: list[Sent] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            sent += result
        return sent

    async def _send(self, partition: int, returns: list[Return]) -> list[Sent]:
        sent = []
        position = 0
        while position < len(returns):
            started_ns = time.time_ns()
            batch = self._producer.create_batch()
            taken = position
            while taken < len(returns) and self._append(batch, returns[taken]):
                taken += 1
            acknowledged = await self._producer.send_batch(batch, self._topic, partition=partition)
            offset = (await acknowledged).offset
            part = returns[position:taken]
            sent.append(Sent(partition, offset, part, started_ns, time.time_ns()))
            position = taken
        return sent

    @staticmethod
    def _append(batch: Any, one: Return) -> bool:
        """Add to the batch; False when it is full. An empty one takes any record."""
        added = batch.append(key=one.key, value=one.value, timestamp=None, headers=one.headers)
        return added is not None
