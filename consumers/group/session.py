"""Hop 5: one consumer's life in its group: join, seek, poll, leave.

Invariant: no record reaches the handler before every assigned partition was sought to the place
that the handler's own books name, nor after a rebalance began to take it away, nor unless it
continues the books. On failure the session ends with an error that says which; a new one starts
from the books again. Heartbeats go on while a slow batch is handled: aiokafka sends them from a
task of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalStateError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from consumers.group.broker import Broker, BrokerError, StalledError, StoppedError
from consumers.group.fetch_watch import FetchWatch
from consumers.group.handler import Handler, Part, WorkT
from consumers.group.kafka_commit import KafkaCommit
from consumers.group.leaving import leave
from consumers.group.partitions import (
    LogBehindError,
    OtherLogError,
    Partition,
    Record,
    Start,
    continuing,
    holes,
    lane_of,
)
from consumers.group.rebalances import Rebalances
from consumers.group.topic_log import TopicLog
from consumers.options import SessionOptions
from relay.runtime.kafka import KafkaConnection
from relay.runtime.kafka_records import read_any_header_name

log = structlog.get_logger(__name__)

_ASK_AGAIN_SECONDS = 0.5
_NEVER = -1
_METADATA_MS = 10_000
# How soon a batch that is done is noticed while no records come.
_IN_HAND_POLL_SECONDS = 0.02


@dataclass(slots=True)
class Session(Generic[WorkT]):
    """One consumer, from joining the group to leaving it.

    Attributes:
        stall_seconds: a fetch without an answer for so long ends the session.
        alive: the broker answered: what failed before is over.
    """

    kafka: KafkaConnection
    topic: str
    group: str
    options: SessionOptions
    handler: Handler[WorkT]
    broker: Broker
    stall_seconds: float
    alive: asyncio.Event = field(default_factory=asyncio.Event)
    _consumer: Any = field(init=False)
    _commit: KafkaCommit = field(init=False)
    _log: TopicLog = field(init=False)
    _rebalances: Rebalances = field(init=False)
    _drained: asyncio.Event = field(default_factory=asyncio.Event)
    _fetches: FetchWatch = field(default_factory=FetchWatch)
    _sought: int = _NEVER
    _starts: dict[Partition, Start] = field(default_factory=dict)
    _idle_due_at: float = 0.0
    _in_hand: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._drained.set()
        read_any_header_name()
        self._rebalances = Rebalances(self._drained, self.options.drain_seconds)
        self._consumer = AIOKafkaConsumer(**self._consumer_options())
        self._consumer.subscribe(topics=[self.topic], listener=self._rebalances)
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
            # The books say where to start; without them Kafka must not guess.
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": max(1, session_ms // 4),
            "rebalance_timeout_ms": max(session_ms, int(2000 * options.drain_seconds)),
            "request_timeout_ms": int(options.request_seconds * 1000),
            "max_partition_fetch_bytes": options.max_partition_fetch_bytes,
            # A partition that was added is unknown until then: by default for five minutes.
            "metadata_max_age_ms": _METADATA_MS,
        }

    async def run(self) -> None:
        """Take part in the group until the process is asked to stop.

        Raises:
            BrokerError: the broker is away or refuses.
            PartitionLostError: another consumer moved an offset.
            DiscontinuityError: records came that do not continue the books.
        """
        try:
            await self.broker.ask(self._consumer.start(), self.options.start_seconds)
            log.info("joined the group", group=self.group, topic=self.topic)
            while not self.broker.stop.is_set():
                await self._step()
        except StoppedError:
            pass  # as if the loop had ended by itself
        finally:
            await self._end()

    async def _end(self) -> None:
        """Let the batch in hand be finished, whatever ended the session, and leave the group."""
        try:
            await self._settle()
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
        polled = await self._poll()
        if self._stands(generation) and polled:
            await self._hand_over(polled, generation)
        if self._in_hand is not None and (self._in_hand.done() or not polled):
            await self._settle()
        if self._stands(generation) and time.monotonic() >= self._idle_due_at:
            await self._settle()
            wait_seconds = await self.handler.idle(self._starts.keys())
            self._idle_due_at = time.monotonic() + wait_seconds
        self._commit.tick()

    def _stands(self, generation: int) -> bool:
        """Tell whether the partitions are still ours, and sought; else what was polled is void."""
        return self._sought == generation == self._rebalances.generation

    async def _is_sought(self) -> bool:
        """Seek every assigned partition to where the books say; False when that was in vain."""
        if self._rebalances.error is not None:
            raise BrokerError(f"a rebalance failed: {self._rebalances.error!r}")
        if self._sought == self._rebalances.generation:
            return True
        await self._settle()
        self._commit.forget()
        assigned = await self.broker.ask(self._rebalances.wait(), self.options.start_seconds)
        generation = self._rebalances.generation
        starts = await self._positions(assigned, generation)
        if starts is None or generation != self._rebalances.generation:
            return False
        for partition, start in starts.items():
            self._consumer.seek(TopicPartition(*partition), start.seek_offset)
        self._starts, self._sought = dict(starts), generation
        log.info("partitions sought", group=self.group, partitions=_shown(starts))
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
                log.warning("waiting for the log to come back", error=str(error))
                await self.broker.pause(_ASK_AGAIN_SECONDS)
        return None

    async def _poll(self) -> Mapping[Partition, Sequence[Record]]:
        due_seconds = max(0.0, self._idle_due_at - time.monotonic())
        seconds = min(self.options.poll_seconds, due_seconds)
        if self._in_hand is not None:
            seconds = min(seconds, _IN_HAND_POLL_SECONDS)
        poll = self._consumer.getmany(
            timeout_ms=int(seconds * 1000), max_records=self.options.batch_records
        )
        try:
            # More than asked for: a rebalance that begins meanwhile makes getmany wait for its end.
            polled = await self.broker.ask(poll, seconds + self.options.start_seconds)
            if polled:
                polled |= await self._of_other_lanes(polled)
        except OffsetOutOfRangeError as error:
            log.warning("the position is not in the log", error=str(error))
            self._sought = _NEVER
            await self.broker.pause(_ASK_AGAIN_SECONDS)
            return {}
        records = {Partition(*tp): found for tp, found in polled.items()}
        self._look_for_a_stall(records)
        return records

    async def _of_other_lanes(
        self, polled: Collection[TopicPartition]
    ) -> Mapping[TopicPartition, Sequence[Record]]:
        """Take what is here for lanes that got nothing: a poll empties one partition at a time."""
        lanes = self.options.connections
        found: dict[TopicPartition, Sequence[Record]] = {}
        served = {lane_of(one, lanes) for one in polled}
        for lane in set(range(lanes)) - served:
            own = [TopicPartition(*one) for one in self._starts if lane_of(one, lanes) == lane]
            if own:
                more = self._consumer.getmany(
                    *own, timeout_ms=0, max_records=self.options.batch_records
                )
                found |= await self.broker.ask(more, self.options.start_seconds)
        return found

    def _look_for_a_stall(self, polled: Collection[Partition]) -> None:
        if polled:
            self._fetches.answered(polled, time.monotonic())
            self.alive.set()
            return
        if self._sought != self._rebalances.generation:
            return
        polled_at = {
            partition: self._consumer.last_poll_timestamp(TopicPartition(*partition))
            for partition in self._starts
        }
        seconds = self._fetches.observe(polled_at, time.monotonic())
        if seconds > self.stall_seconds:
            raise StalledError(f"no fetch was answered for {seconds:.0f} s")
        if seconds < self.options.poll_seconds:
            self.alive.set()

    async def _hand_over(
        self, polled: Mapping[Partition, Sequence[Record]], generation: int
    ) -> None:
        """Read what came while the batch before is in the database, then hand it over."""
        parts = []
        for partition, records in polled.items():
            part = await self._part(partition, records)
            if part is not None:
                parts.append(part)
        if not parts or not self._stands(generation):
            return
        work = await self.handler.read(parts)
        await self._settle()
        if not self._stands(generation):
            return
        for part in parts:
            # Where the next records must go on; a batch that fails takes the session with it.
            self._starts[part.partition] = Start(part.next_offset)
        self._drained.clear()
        self._in_hand = asyncio.create_task(self._handle(work, parts))

    async def _handle(self, work: WorkT, parts: Sequence[Part]) -> None:
        try:
            await self.handler.handle(work)
            for part in parts:
                self._commit.handled(part.partition, part.next_offset)
        finally:
            self._drained.set()

    async def _settle(self) -> None:
        """Wait for the batch in hand; raise what it failed with."""
        in_hand, self._in_hand = self._in_hand, None
        if in_hand is not None:
            await in_hand

    async def _part(self, partition: Partition, records: Sequence[Record]) -> Part | None:
        start = self._starts[partition]
        try:
            fresh = continuing(partition, start, records)
        except OtherLogError as error:
            log.warning("the log is another one", error=str(error))
            await self._settle()
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
        gap = holes(start, fresh, next_offset)
        return Part(partition, start.offset, fresh, next_offset, gap, self._log.topic_id)


def _shown(starts: Mapping[Partition, Start]) -> dict[str, int]:
    return {f"{tp.topic}-{tp.partition}": start.offset for tp, start in sorted(starts.items())}
