"""Hop 2: hands batches to Kafka, one unacknowledged batch per partition.

Invariant: a partition's next batch is handed over only after the broker acknowledged the one before
it, and after any failure nothing that was queued leaves: the producer is thrown away and whoever
uses this starts again at the checkpoint. Records of one order are therefore never reordered among
their first occurrences; a failure can only repeat some.
"""

from __future__ import annotations

import asyncio
from collections import deque
from struct import Struct
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from aiokafka.record.util import calc_crc32c

from relay.publish.batch import Batch
from relay.publish.checkpoint import Delivery
from relay.publish.errors import ProducerBrokenError, RecordRefusedError

_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
# Batch header v2: base offset, length, leader epoch, magic | crc | attributes, last offset delta,
# first and last timestamp, producer id and epoch, sequence, count.
_BEFORE_CRC: Final = Struct(">qiib")
_CRC: Final = Struct(">I")
_AFTER_CRC: Final = Struct(">hiqqqhii")
_LENGTH_OFFSET: Final = 12


class EncodedBatch:
    """A batch whose records are encoded already, in the shape that aiokafka's sender asks for."""

    def __init__(self, records: bytes, count: int, timestamp_ms: int) -> None:
        self._records = records
        self._count = count
        self._timestamp_ms = timestamp_ms
        self._buffer = b""

    def record_count(self) -> int:
        """Say how many records are in it."""
        return self._count

    def closed(self) -> bool:
        """Nothing is added any more: no linger."""
        return True

    def close(self) -> None:
        """Nothing to do: see `closed`."""

    def _set_producer_state(self, producer_id: int, epoch: int, sequence: int) -> None:
        """Finish the batch; called once, before its first attempt, so that a retry is the same."""
        after = _AFTER_CRC.pack(
            0, self._count - 1, self._timestamp_ms, self._timestamp_ms,
            producer_id, epoch, sequence, self._count,
        )  # fmt: skip
        body = after + self._records
        length = len(body) + _CRC.size + _BEFORE_CRC.size - _LENGTH_OFFSET
        self._buffer = b"".join(
            (_BEFORE_CRC.pack(0, length, -1, 2), _CRC.pack(calc_crc32c(body)), body)
        )
        self._records = b""

    def _build(self) -> bytes:
        return self._buffer


class Publisher:
    """A started idempotent producer and the queues before it."""

    def __init__(self, producer: AIOKafkaProducer, ack_timeout_seconds: float) -> None:
        self._producer = producer
        self._ack_timeout_seconds = ack_timeout_seconds
        self._queues: dict[
            tuple[str, int], deque[tuple[Batch, EncodedBatch, asyncio.Future[Delivery]]]
        ]
        self._queues = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: ProducerBrokenError | None = None

    async def partition_count(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        known = self._producer.client.cluster.partitions_for_topic(topic)
        if known is None:
            known = await self._producer.partitions_for(topic)
        return len(known)

    def hand_over(self, batch: Batch, encoded: EncodedBatch) -> asyncio.Future[Delivery]:
        """Queue a batch behind its partition's others; the future ends with its acknowledgement.

        The future's errors: RecordRefusedError, ProducerBrokenError.
        """
        future: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        if self._broken is not None:
            future.set_exception(self._broken)
            return future
        key = (batch.topic, batch.partition)
        queue = self._queues.get(key)
        if queue is not None:
            queue.append((batch, encoded, future))
            return future
        self._queues[key] = deque([(batch, encoded, future)])
        task = asyncio.create_task(self._send_queue(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def _send_queue(self, key: tuple[str, int]) -> None:
        """Send a partition's batches one after the other until there are no more."""
        queue = self._queues[key]
        while queue and self._broken is None:
            batch, encoded, future = queue[0]
            try:
                offset = await self._send(batch, encoded)
            except ProducerBrokenError as error:
                self._break(error)
                return
            queue.popleft()
            if not future.done():
                future.set_result(Delivery(batch.topic, batch.partition, offset, batch.outbox_ids))
        del self._queues[key]

    async def _send(self, batch: Batch, encoded: EncodedBatch) -> int | None:
        try:
            async with asyncio.timeout(self._ack_timeout_seconds):
                acknowledged = await self._producer.send_batch(
                    encoded, batch.topic, partition=batch.partition
                )
                metadata = await acknowledged
        except _TOO_LARGE as error:
            raise RecordRefusedError(
                batch.topic, tuple(batch.outbox_ids), batch.size_bytes
            ) from error
        except TimeoutError as error:
            raise ProducerBrokenError(
                f"no acknowledgement from {batch.topic}-{batch.partition}"
                f" within {self._ack_timeout_seconds:g} s"
            ) from error
        except (KafkaError, OSError, AssertionError) as error:
            raise ProducerBrokenError(f"{batch.topic}-{batch.partition}: {error!r}") from error
        # -1: the broker knew the batch (a retry) and no longer knows where it put it.
        return metadata.offset if metadata.offset >= 0 else None

    def _break(self, error: ProducerBrokenError) -> None:
        self._broken = error
        for queue in self._queues.values():
            for _batch, _encoded, future in queue:
                if not future.done():
                    future.set_exception(error)
        self._queues.clear()

    async def close(self, deadline_seconds: float) -> None:
        """Stop within the deadline; what has no acknowledgement by then has none."""
        self._break(ProducerBrokenError("the producer is being closed"))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await stop_producer(self._producer, deadline_seconds)


async def stop_producer(producer: Any, deadline_seconds: float) -> None:
    """Stop an aiokafka producer; with the broker down its own `stop()` may take 20 s and more."""
    try:
        async with asyncio.timeout(deadline_seconds):
            await producer.stop()
    except (TimeoutError, KafkaError, OSError):
        sender = producer._sender.sender_task  # noqa: SLF001 - nothing public ends it
        if sender is not None:
            sender.cancel()
        await producer.client.close()
