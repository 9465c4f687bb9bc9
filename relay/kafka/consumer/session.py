"""Hop 5: one consumer's life in its group: join, seek, poll, leave.

Invariant: no record reaches the handler before every assigned partition was sought to the place
that the handler's own stored offsets name, nor after a rebalance began to take it away, nor unless
it continues them. On failure the session ends with an error that says which; a new one starts from
the stored offsets again. Heartbeats go on while a slow batch is handled: aiokafka sends them from a
task of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalStateError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from relay.kafka.consumer.blocked import BlockedPartitions
from relay.kafka.consumer.handler import Handler, Part, WorkT
from relay.kafka.consumer.kafka_commit import KafkaCommit
from relay.kafka.consumer.lane_queues import LaneQueues
from relay.kafka.consumer.leaving import leave
from relay.kafka.consumer.options import SessionOptions
from relay.kafka.consumer.partitions import (
    LogBehindError,
    OtherLogError,
    Record,
    Start,
    continuing,
    gap_between,
    lane_of,
)
from relay.kafka.consumer.polling import Polling
from relay.kafka.consumer.rebalances import Rebalances
from relay.kafka.consumer.stoppable_calls import BrokerError, StoppableCalls, StoppedError
from relay.kafka.consumer.topic_log import TopicLog
from relay.kafka.partition import Partition
from relay.kafka.poll_limit import trim_records
from relay.kafka.records import read_hostile_records
from relay.runtime.kafka_connection import KafkaConnection

log = structlog.get_logger(__name__)

_ASK_AGAIN_SECONDS = 0.5
_NEVER = -1
_METADATA_MS = 10_000
# How long a broker waits for `fetch_min_bytes`.
_GATHER_MS = 500
_LOOK_MS = 200
# How soon it is noticed that a batch failed, or that a lane has room, while no records come.
_QUEUED_POLL_SECONDS = 0.02


@dataclass(slots=True)
class Session(Generic[WorkT]):
    """One consumer, from joining the group to leaving it.

    Attributes:
        stall_seconds: a fetch without an answer for so long ends the session.
        blocked: partitions that wait; nothing of them is polled.
        progressed: called at each turn of its loop.
        alive: the broker answered: what failed before is over.
    """

    kafka: KafkaConnection
    topic: str
    group: str
    options: SessionOptions
    handler: Handler[WorkT]
    broker: StoppableCalls
    stall_seconds: float
    blocked: BlockedPartitions = field(default_factory=BlockedPartitions)
    progressed: Callable[[], None] = lambda: None
    alive: asyncio.Event = field(default_factory=asyncio.Event)
    _consumer: Any = field(init=False)
    _commit: KafkaCommit = field(init=False)
    _log: TopicLog = field(init=False)
    _rebalances: Rebalances = field(init=False)
    _queues: LaneQueues = field(default_factory=LaneQueues)
    _polling: Polling = field(init=False)
    _sought: int = _NEVER
    _starts: dict[Partition, Start] = field(default_factory=dict)
    _idle_due_at: float = 0.0

    def __post_init__(self) -> None:
        read_hostile_records()
        trim_records(self.topic, self.handler.trim)
        self._rebalances = Rebalances(self._queues.drained, self.options.drain_seconds)
        self._consumer = AIOKafkaConsumer(**self._consumer_options())
        self._consumer.subscribe(topics=[self.topic], listener=self._rebalances)
        self._polling = Polling(self._consumer, self.broker, self.options, self.stall_seconds)
        self._commit = KafkaCommit(self._consumer, self.options.commit_seconds)
        self._log = TopicLog(
            self._consumer,
            self.broker,
            self.topic,
            self.options.request_seconds,
            self.options.topic_check_seconds,
        )

    def _consumer_options(self) -> dict[str, Any]:
        options = self.options
        session_ms = int(options.session_timeout_seconds * 1000)
        return {
            **self.kafka.client_options(options.client_id),
            "group_id": self.group,
            "enable_auto_commit": False,
            # The stored offsets say where to start; without them Kafka must not guess.
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": max(1, session_ms // 4),
            "rebalance_timeout_ms": max(session_ms, int(2000 * options.drain_seconds)),
            "request_timeout_ms": int(options.request_seconds * 1000),
            "fetch_min_bytes": options.fetch_min_bytes,
            "fetch_max_wait_ms": _GATHER_MS,
            # Between two looks of aiokafka's for what else it could fetch.
            "consumer_timeout_ms": _LOOK_MS if options.fetch_min_bytes == 1 else _GATHER_MS,
            "max_partition_fetch_bytes": options.max_partition_fetch_bytes,
            "fetch_max_bytes": options.max_fetch_bytes,
            # A partition that was added is unknown until then: by default for five minutes.
            "metadata_max_age_ms": _METADATA_MS,
        }

    async def run(self) -> None:
        """Take part in the group until the process is asked to stop.

        Raises:
            BrokerError: the broker is away or refuses.
            PartitionLostError: another consumer moved an offset.
            PartitionBlockedError: a record can neither be handled nor set aside.
            DiscontinuityError: records came that do not continue the stored offsets.
        """
        try:
            await self.broker.ask(self._consumer.start(), self.options.start_seconds)
            log.info("joined_group", group=self.group, topic=self.topic)
            while not self.broker.stop.is_set():
                self.progressed()
                await self._step()
        except StoppedError:
            pass  # as if the loop had ended by itself
        finally:
            await self._end()

    async def _end(self) -> None:
        """Let the batches in hand be finished, whatever ended the session, and leave the group."""
        try:
            await self._queues.settle()
            if self.broker.stop.is_set():
                await self._commit.finish(self.options.stop_seconds)
        finally:
            await self._log.close()
            await leave(self._consumer, self.options.stop_seconds)

    async def _step(self) -> None:
        """Seek if need be, poll once, and hand over what came."""
        if not await self._is_sought():
            return
        if self._log.is_another():
            self._sought = _NEVER
            return
        generation = self._rebalances.generation
        free = self.blocked.free(self._starts)
        wanted = [one for one in free if self._queues.has_room(self._lane_of(one))]
        if self._starts and not free:
            await self.broker.pause(_ASK_AGAIN_SECONDS)
        elif self._starts and not wanted:
            await self._queues.room()
        else:
            polled = await self._poll(wanted, generation)
            if self._stands(generation) and polled:
                await self._hand_over(polled, generation)
        if self._stands(generation) and time.monotonic() >= self._idle_due_at:
            await self._queues.settle()
            wait_seconds = await self.handler.idle(self.blocked.free(self._starts))
            self._idle_due_at = time.monotonic() + wait_seconds
        self._commit.tick()

    def _stands(self, generation: int) -> bool:
        """Tell whether the partitions are still ours, and sought; else what was polled is void."""
        return self._sought == generation == self._rebalances.generation

    def _may_begin(self, generation: int) -> bool:
        return self._stands(generation) and not self.broker.stop.is_set()

    async def _is_sought(self) -> bool:
        """Seek every assigned partition to its stored offset; False when that was in vain."""
        if self._rebalances.error is not None:
            raise BrokerError(f"a rebalance failed: {self._rebalances.error!r}")
        if self._sought == self._rebalances.generation:
            return True
        await self._queues.settle()
        self._commit.forget()
        assigned = await self.broker.ask(self._rebalances.wait(), self.options.start_seconds)
        generation = self._rebalances.generation
        starts = await self._positions(assigned, generation)
        if starts is None or generation != self._rebalances.generation:
            return False
        for partition, start in starts.items():
            self._consumer.seek(TopicPartition(*partition), start.seek_offset)
        self._starts, self._sought = dict(starts), generation
        self.blocked.assigned(starts)
        log.info("partitions_sought", group=self.group, partitions=_shown(starts))
        return True

    async def _positions(
        self, assigned: Collection[Partition], generation: int
    ) -> Mapping[Partition, Start] | None:
        deadline = time.monotonic() + self.options.truncated_seconds
        while generation == self._rebalances.generation:
            truncated = time.monotonic() >= deadline
            try:
                return await self.handler.positions(
                    await self._log.bounds(assigned), truncated=truncated
                )
            except LogBehindError as error:
                log.warning("waiting_for_log", error=str(error))
                await self.broker.pause(_ASK_AGAIN_SECONDS)
        return None

    async def _poll(
        self, wanted: Sequence[Partition], generation: int
    ) -> Mapping[Partition, Sequence[Record]]:
        seconds = min(self.options.poll_seconds, max(0.0, self._idle_due_at - time.monotonic()))
        if not self._queues.is_empty:
            seconds = min(seconds, _QUEUED_POLL_SECONDS)
        try:
            polled = await self._polling.poll(wanted, seconds)
        except OffsetOutOfRangeError as error:
            log.warning("position_not_in_log", error=str(error))
            self._sought = _NEVER
            await self.broker.pause(_ASK_AGAIN_SECONDS)
            return {}
        if polled or (self._stands(generation) and self._polling.is_answered(self._starts, wanted)):
            self.alive.set()
        return polled

    def _lane_of(self, partition: Partition) -> int:
        return lane_of(partition, self.options.connections)

    async def _hand_over(
        self, polled: Mapping[Partition, Sequence[Record]], generation: int
    ) -> None:
        """Read what came, while the batches before are in the database, and hand it to its lane."""
        shares: dict[int, list[Part]] = {}
        for partition, records in polled.items():
            part = await self._part(partition, records)
            if part is not None:
                shares.setdefault(self._lane_of(partition), []).append(part)
        if sum(map(_size, shares.values())) <= self.options.together_records:
            every = [part for parts in shares.values() for part in parts]
            if every and self._stands(generation):
                await self._begin(tuple(shares), every, generation)
            return
        for lane, parts in shares.items():
            if self._stands(generation):
                await self._begin((lane,), parts, generation)

    async def _begin(self, lanes: Sequence[int], parts: Sequence[Part], generation: int) -> None:
        lane = lanes[0]
        work = await self.handler.read(lane, parts)
        if not self._stands(generation):
            return
        for part in parts:
            # Where the next records must go on; a batch that fails takes the session with it.
            self._starts[part.partition] = Start(part.next_offset)
        self._queues.put(
            lanes, partial(self._handle, lane, work, parts), partial(self._may_begin, generation)
        )

    async def _handle(self, lane: int, work: WorkT, parts: Sequence[Part]) -> None:
        await self.handler.handle(lane, work)
        for part in parts:
            self.blocked.handled(part.partition)
            self._commit.handled(part.partition, part.next_offset)

    async def _part(self, partition: Partition, records: Sequence[Record]) -> Part | None:
        start = self._starts[partition]
        try:
            fresh = continuing(partition, start, records)
        except OtherLogError as error:
            log.warning("log_is_another", error=str(error))
            await self._queues.settle()
            logs = await self._log.bounds([partition])
            await self.handler.other_log(partition, logs[partition])
            self._sought = _NEVER
            return None
        if not fresh:
            self._starts[partition] = Start(start.offset)
            return None
        # Past what follows the last record and cannot be read: transaction markers.
        try:
            position = await self._consumer.position(TopicPartition(*partition))
        except IllegalStateError:  # taken away just now; the callback is on its way
            self._sought = _NEVER
            return None
        next_offset = max(fresh[-1].offset + 1, position)
        gap = gap_between(start, fresh, next_offset)
        return Part(partition, start.offset, fresh, next_offset, gap, self._log.topic_id)


def _size(parts: Sequence[Part]) -> int:
    return sum(len(part.records) for part in parts)


def _shown(starts: Mapping[Partition, Start]) -> dict[str, int]:
    return {f"{tp.topic}-{tp.partition}": start.offset for tp, start in sorted(starts.items())}
