"""Hops 3 to 5: follows a canary through the processor and back, and names where it stopped.

Invariant: decided backwards, as every order is: what hop 5 did first, then the return on Kafka,
then the group's offset; so that a hop is blamed only when all before it are proven. Returns are
read from the log's end as it was before the canary left, so none can be missed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg
from aiokafka.errors import KafkaError

from relay.consumers.returns.reader import Return, ReturnReader
from relay.consumers.returns.stored_record import stored_record
from relay.diagnose.probe.publishing import READ_BYTES, Placed, Record
from relay.diagnose.verdicts import Hop
from relay.kafka.broker import LATEST, Broker
from relay.kafka.consumer.partitions import Record as KafkaRecord
from relay.kafka.partition import Partition
from relay.kafka.ranges import fetch
from relay.runtime.flow import Flow

_LOOK_SECONDS: Final = 0.02

_CONFIRMED: Final = """
SELECT outcome, partition, record_offset FROM relay.inbox
 WHERE aggregate_id = $1 AND consumer_group = $2 ORDER BY received_at LIMIT 1
"""
_REFUSED: Final = """
SELECT reason FROM relay.quarantine_summary
 WHERE kind = 'return' AND consumer_group = $2 AND (aggregate_id = $1 OR
       topic = $3 AND partition = $4 AND record_offset = $5 AND first_seen_at >= $6)
 LIMIT 1
"""
_CAME_BACK: Final = """
UPDATE relay.probe_run SET return_partition = $2, return_offset = $3 WHERE probe_id = $1
"""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Where a canary stopped."""

    hop: Hop
    said: str


@dataclass(slots=True)
class ReturnLeg:
    """What is known of a canary's way from its record to the inbox.

    Attributes:
        ends: of the returns topic's partitions, before the canary left; then as far as it was read.
        at: by hop, the loop's time when it was seen to be done.
        answer: the return: partition, offset, and what is wrong with it (None: nothing).
    """

    connection: asyncpg.Connection
    broker: Broker
    flow: Flow
    ends: dict[Partition, int]
    at: dict[Hop, float] = field(default_factory=dict)
    answer: tuple[Partition, int, str | None] | None = None

    async def follow(
        self, probe_id: UUID, placed: Placed, record: Record, within_seconds: float
    ) -> Stopped | None:
        """Wait for its return to be confirmed; None: it was. Each hop has `within_seconds`."""
        loop = asyncio.get_running_loop()
        left_at = loop.time()
        while True:
            refused = await self._look(probe_id, placed, record)
            if refused is not None or Hop.CONFIRM in self.at:
                return refused
            # The processor may commit after it has answered: the later of the two counts.
            latest = max([left_at, *self.at.values()])
            if loop.time() - latest >= within_seconds:
                return self._stopped(record)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self, probe_id: UUID, placed: Placed, record: Record) -> Stopped | None:
        """Note what was done since; Stopped: the return was refused."""
        now = asyncio.get_running_loop().time()
        if Hop.PROCESS not in self.at and await self._passed(record):
            self.at[Hop.PROCESS] = now
        if self.answer is None:
            await self._read_returns(placed.order_id)
            await self._note_answer(probe_id, now)
        row = await self.connection.fetchrow(_CONFIRMED, placed.order_id, self.flow.confirm_group)
        if row is not None:
            # Its return is proven by the inbox, whoever saw it first.
            self.at.setdefault(Hop.PROCESS, now)
            self.at.setdefault(Hop.RETURN, now)
            self.at[Hop.CONFIRM] = now
            return None
        return await self._refused(placed)

    async def _note_answer(self, probe_id: UUID, now: float) -> None:
        if self.answer is not None:
            self.at[Hop.RETURN] = now
            partition, offset, _ = self.answer
            await self.connection.execute(_CAME_BACK, probe_id, partition[1], offset)

    async def _passed(self, record: Record) -> bool:
        assert record.offset is not None
        for group in self.flow.processor_groups:
            try:
                committed = await self.broker.committed(group)
            except KafkaError:
                return False  # not permitted to see it: its return is proof enough
            if committed.get(record.partition, 0) <= record.offset:
                return False
        return True

    async def _read_returns(self, order_id: str) -> None:
        # To the high watermark: behind an open transaction it is there, and waits.
        got = await fetch(self.broker, self.ends, bytes_each=READ_BYTES, committed=False)
        for partition, fetched in got.items():
            for one in fetched.records:
                if self.answer is None and _is_of(one, order_id):
                    self.answer = partition, one.offset, await self._problem(partition, one)
            self.ends[partition] = max(self.ends[partition], fetched.next_offset)

    async def _problem(self, partition: Partition, one: KafkaRecord) -> str | None:
        reader = ReturnReader(self.flow)
        await reader.prepare([one])
        read = reader.read(stored_record(partition, one))
        return None if isinstance(read, Return) else f"{read.reason.value}: {read.detail}"

    async def _refused(self, placed: Placed) -> Stopped | None:
        partition, offset, problem = self.answer or (None, None, None)
        reason = await self.connection.fetchval(
            _REFUSED,
            placed.order_id,
            self.flow.confirm_group,
            self.flow.returns_topic,
            partition and partition[1],
            offset,
            placed.placed_at,
        )
        if reason is None:
            return None
        why = f" ({problem})" if problem else ""
        return Stopped(Hop.CONFIRM, f"its return was quarantined: {reason}{why}")

    def _stopped(self, record: Record) -> Stopped:
        groups = ", ".join(self.flow.processor_groups)
        if self.answer is not None:
            partition, offset, _ = self.answer
            where = f"{partition[0]}[{partition[1]}]@{offset}"
            group = self.flow.confirm_group
            return Stopped(Hop.CONFIRM, f"its return {where} was not applied by {group} in time")
        if Hop.PROCESS in self.at:
            said = f"{groups} passed {record}, and no return came to {self.flow.returns_topic}"
            return Stopped(Hop.RETURN, said)
        return Stopped(Hop.PROCESS, f"{groups} did not pass {record} in time")


async def return_leg(connection: asyncpg.Connection, broker: Broker, flow: Flow) -> ReturnLeg:
    """Note where the returns end before a canary leaves."""
    ends = await broker.offsets(broker.partitions(flow.returns_topic), LATEST)
    return ReturnLeg(connection, broker, flow, ends)


def _is_of(record: KafkaRecord, order_id: str) -> bool:
    """Tell whether a record is a canary's return, as far as one that cannot be read says."""
    key = order_id.encode()
    if record.key == key or key in (record.value or b""):
        return True
    return any(name == "ce_subject" and value == key for name, value in record.headers)
