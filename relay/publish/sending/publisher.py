"""Hop 2: hands batches to Kafka, one unacknowledged batch per partition.

Invariant: a partition's next batch is sent only after the broker acknowledged the one before it,
and after a failure nothing that was queued leaves: this publisher is done, and whoever uses it
starts again at the checkpoint with a new producer id. Records of one order are therefore never
reordered among their first occurrences; a failure can only repeat some.

A batch's retry is the same bytes with the same sequence, which the broker knows again. What may be
retried is decided here and not by aiokafka's own producer: that one keeps queued batches it sends
after a failure, and numbers a batch before it knows that it can be sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    DuplicateSequenceNumber,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NoError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from relay.kafka.failures import BROKER_FAILURES
from relay.kafka.partition import Partition
from relay.publish.errors import (
    ProducerBrokenError,
    RecordRefusedError,
    TopicForbiddenError,
    TopicWaitError,
)
from relay.publish.sending import wire
from relay.publish.sending.batch import Acknowledged, Batch
from relay.runtime.client_failure import ClientFailure
from relay.runtime.tasks import awaited

_LOG: Final = structlog.get_logger("relay.publish")
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
# Refused before anything was written: whoever grants it finds the batch still here.
_FORBIDDEN: Final = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)
LOOK_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 0.1
_LARGEST_SEQUENCE: Final = 2**31 - 1
_TRANSACTION_TIMEOUT_MS: Final = 60_000


@dataclass(slots=True)
class Publisher:
    """An idempotent producer and the queues before it.

    Attributes:
        client: aiokafka's, not started yet.
        request_timeout_seconds: for the broker to answer one request.
        ack_timeout_seconds: for a batch, retries included; then this publisher is done.
        troubled: told of each error that is retried, and with None of the first success after.
        broken: told once of the error that ended this publisher; nothing is acknowledged after.
    """

    client: AIOKafkaClient
    request_timeout_seconds: float
    ack_timeout_seconds: float
    troubled: Callable[[BaseException | None], None] = lambda _error: None
    broken: Callable[[ProducerBrokenError], None] = lambda _error: None
    _producer_id: int = -1
    _producer_epoch: int = -1
    _sequences: dict[Partition, int] = field(default_factory=dict)
    _queues: dict[Partition, deque[Batch]] = field(default_factory=dict)
    _ready: list[Batch] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _broken: ProducerBrokenError | None = None
    _in_trouble: bool = False

    async def start(self) -> None:
        """Find the cluster and get a producer id.

        Raises:
            KafkaError, OSError, TimeoutError: no broker, or it refuses; `close` it all the same.
        """
        async with asyncio.timeout(self.request_timeout_seconds):
            await self.client.bootstrap()
            answer = await self.client.send(
                self.client.get_random_node(),
                InitProducerIdRequest(
                    transactional_id=None, transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS
                ),
            )
        error = for_code(answer.error_code)
        if error is not NoError:
            raise error("no producer id")
        self._producer_id, self._producer_epoch = answer.producer_id, answer.producer_epoch

    def hand_over(self, batch: Batch, acknowledged: Acknowledged) -> None:
        """Queue a batch behind its partition's others.

        `acknowledged` and `broken` are called back, and not a future: at 2,000 orders a second a
        batch holds a record or two, and a future's callbacks cost more than those.

        Raises:
            RecordRefusedError, ProducerBrokenError: what ended this publisher before.
        """
        if self._broken is not None:
            raise self._broken
        batch.acknowledged = acknowledged
        place = batch.place
        queue = self._queues.get(place)
        if queue is None:
            self._queues[place] = deque((batch,))
            self._send_soon(batch)
        else:
            queue.append(batch)

    def _send_soon(self, batch: Batch) -> None:
        """Send it with whatever else is ready in this turn of the loop, in one request a broker."""
        if self._broken is not None:
            return
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._send_ready)
        self._ready.append(batch)

    def _send_ready(self) -> None:
        ready, self._ready = self._ready, []
        by_leader: dict[int, list[Batch]] = {}
        for batch in ready:
            place = TopicPartition(*batch.place)
            leader = self.client.cluster.leader_for_partition(place)
            if leader is None and self._made_anew(place):
                self._break(ProducerBrokenError(f"{place} is gone: its topic was made anew"))
                return
            if leader is None or leader < 0:
                self._retry(batch, UnknownTopicOrPartitionError(f"{place} has no leader"))
            else:
                by_leader.setdefault(leader, []).append(batch)
        for leader, group in by_leader.items():
            task = awaited(self._produce(leader, group), "produce")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _made_anew(self, place: TopicPartition) -> bool:
        """Tell whether the topic is there, and has fewer partitions than it had."""
        partitions = self.client.cluster.partitions_for_topic(place.topic)
        return bool(partitions) and place.partition not in partitions

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Give up after an error that nobody expected: its batches must not be forgotten."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._break(ProducerBrokenError(f"unexpected: {error!r}"))

    async def _produce(self, leader: int, group: list[Batch]) -> None:
        if self._broken is not None:
            return
        topics: dict[str, list[tuple[int, bytes, bytes]]] = {}
        for one in group:
            self._finish(one)
            topics.setdefault(one.topic, []).append((one.partition, one.start, one.checked))
        timeout_ms = int(self.request_timeout_seconds * 1000)
        request = wire.ProduceRequest(wire.produce_body(topics, timeout_ms))
        try:
            answers: wire.Answers = await self.client.send(leader, request)
        except BROKER_FAILURES as error:
            for one in group:
                self._retry(one, error)
            return
        except ValueError as error:
            self._break(ProducerBrokenError(str(error)))
            return
        for one in group:
            answer = answers.get(one.place)
            if answer is None:
                self._retry(one, KafkaError("the broker's answer leaves the batch out"))
            else:
                self._answered(one, *answer)

    def _finish(self, batch: Batch) -> None:
        """Number the batch and close it, once."""
        if batch.start:
            return
        sequence = self._sequences.get(batch.place, 0)
        batch.checked = wire.checked_part(
            batch.records,
            len(batch.places),
            batch.timestamp_ms,
            batch.codec,
            (self._producer_id, self._producer_epoch, sequence),
        )
        batch.start = wire.batch_start(batch.checked, calc_crc32c(batch.checked))
        batch.records = b""
        batch.give_up_at = time.monotonic() + self.ack_timeout_seconds

    def _answered(self, batch: Batch, code: int, offset: int) -> None:
        if self._broken is not None:
            return
        error = for_code(code)
        if error is NoError or error is DuplicateSequenceNumber:
            self._acknowledged(batch, offset if error is NoError and offset >= 0 else None)
        elif error in _TOO_LARGE:
            ids = tuple(batch.outbox_ids)
            self._break(RecordRefusedError(batch.topic, ids, batch.size_bytes))
        elif error.retriable:
            self._retry(batch, error())
        elif error in _FORBIDDEN:
            self._retry(batch, _forbidden(batch.topic, error))
        else:
            where = f"{batch.topic}-{batch.partition}"
            self._break(ProducerBrokenError(f"{where}: {error.__name__}: {error.description}"))

    def _acknowledged(self, batch: Batch, offset: int | None) -> None:
        key = batch.place
        after = self._sequences.get(key, 0) + len(batch.places)
        # Java's int arithmetic: after the largest comes 0.
        self._sequences[key] = after - _LARGEST_SEQUENCE - 1 if after > _LARGEST_SEQUENCE else after
        queue = self._queues[key]
        queue.popleft()
        if queue:
            self._send_soon(queue[0])
        else:
            del self._queues[key]
        batch.start = batch.checked = b""
        # Who is told holds the batch's page, and the page the batch: they go by their counts of
        # references, for the collector of cycles comes rarely (relay/runtime/memory.py).
        acknowledged, batch.acknowledged = batch.acknowledged, None
        if acknowledged is not None:
            acknowledged(batch, offset)
        if self._in_trouble:
            self._in_trouble = False
            self.troubled(None)

    def _retry(self, batch: Batch, error: BaseException) -> None:
        """Send the same bytes again a little later, unless that went on for too long."""
        if self._broken is not None:
            return
        now = time.monotonic()
        if batch.give_up_at and now > batch.give_up_at:
            said = (
                f"no acknowledgement from {batch.topic}-{batch.partition} within"
                f" {self.ack_timeout_seconds:g} s; the last error: {error!r}"
            )
            forbidden = isinstance(error, TopicWaitError)
            self._break(
                TopicForbiddenError(batch.topic, said) if forbidden else ProducerBrokenError(said)
            )
            return
        batch.give_up_at = batch.give_up_at or now + self.ack_timeout_seconds
        self._in_trouble = True
        self.troubled(error)
        self.client.force_metadata_update()
        asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._send_soon, batch)

    def _break(self, error: ProducerBrokenError) -> None:
        if self._broken is not None:
            return
        self._broken = error
        for batch in chain.from_iterable(self._queues.values()):
            batch.acknowledged = None
        self._queues.clear()
        self._ready.clear()
        self.broken(error)

    async def look(self) -> None:
        """Ask the cluster every few seconds while nothing is sent, until cancelled.

        An idle producer never speaks to anybody: a broker that died would be seen with the next
        event, and the process would say meanwhile that it is ready.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._queues:
                continue  # what is sent tells
            error: BaseException | None = None
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    if not await self.client.force_metadata_update():
                        error = KafkaConnectionError("no broker answers")
            except TimeoutError:
                error = TimeoutError(f"no broker answers within {LOOK_SECONDS:g} s")
            except BROKER_FAILURES as failure:
                error = failure
            if self._queues or self._broken is not None:
                continue
            if error is not None:
                self._in_trouble = True
                self.troubled(error)
            elif self._in_trouble:
                self._in_trouble = False
                self.troubled(None)

    async def close(self, deadline_seconds: float) -> None:
        """Stop; what has no acknowledgement by now has none. Its connections close in time."""
        self._break(ProducerBrokenError("the producer is being closed"))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(deadline_seconds):
                await self.client.close()
        except BROKER_FAILURES as error:
            _LOG.debug("client_not_closed", error=repr(error))


def _forbidden(topic: str, error: type[KafkaError]) -> TopicWaitError:
    what = f"Write on topic {topic}"
    if error is ClusterAuthorizationFailedError:
        what = "IdempotentWrite on the cluster"
    return TopicWaitError(
        f"permission: grant {what} to the relay's user", ClientFailure.TOPIC_FORBIDDEN
    )
