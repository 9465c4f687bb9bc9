"""Hops 1 to 5 of the demo: how many orders passed each hop, by the proof that each hop leaves.

Invariant: reads only. Counts are those since the first look, so that a database and a broker that
hold older orders can be used.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Final, Self

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from relay.runtime.flow import Flow
from relay.runtime.kafka import KafkaConnection

_CLIENT_ID: Final = "relay-demo"
_STOP_SECONDS: Final = 3.0

# Each hop's own proof: the order, the ledger, the inbox. Hops 3 and 4 leave theirs on the broker.
_ROWS: Final = """
SELECT (SELECT count(*) FROM public.orders),
       (SELECT coalesce(sum(record_count), 0)::bigint FROM relay.delivery_ledger
         WHERE topic = $1 AND replay_id IS NULL),
       (SELECT count(*) FROM public.orders WHERE returned_at IS NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many orders passed each hop so far."""

    place: int = 0
    publish: int = 0
    process: int = 0
    returns: int = 0
    confirm: int = 0

    def since(self, earlier: Counts) -> Counts:
        """Leave out what was there earlier."""
        return Counts(*(now - then for now, then in zip(astuple(self), astuple(earlier))))  # noqa: B905


class HopCounter:
    """Looks at all hops; an async context."""

    def __init__(self, connection: asyncpg.Connection, kafka: KafkaConnection, flow: Flow) -> None:
        self._connection = connection
        self._flow = flow
        options = kafka.client_options(_CLIENT_ID)
        self._consumer = AIOKafkaConsumer(**options, group_id=None, enable_auto_commit=False)
        self._admin = AIOKafkaAdminClient(**options)
        self._before = Counts()

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        await self._admin.start()
        self._before = await self._look()
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(self._consumer.stop(), _STOP_SECONDS)
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(self._admin.close(), _STOP_SECONDS)

    async def counts(self) -> Counts:
        """Return how many orders passed each hop since this context was entered."""
        return (await self._look()).since(self._before)

    async def _look(self) -> Counts:
        row = await self._connection.fetchrow(_ROWS, self._flow.events_topic)
        return Counts(row[0], row[1], await self._committed(), await self._returns(), row[2])

    async def _committed(self) -> int:
        group = self._flow.processor_groups[0]
        found = await self._admin.list_consumer_group_offsets(group)
        topic = self._flow.events_topic
        return sum(max(0, one.offset) for tp, one in found.items() if tp.topic == topic)

    async def _returns(self) -> int:
        topic = self._flow.returns_topic
        await self._consumer.topics()
        numbers = self._consumer.partitions_for_topic(topic) or set()
        parts = [TopicPartition(topic, number) for number in numbers]
        return sum((await self._consumer.end_offsets(parts)).values()) if parts else 0
