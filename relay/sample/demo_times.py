"""Hops 2 to 5 of the demo: how long each took, from the times that each hop recorded by itself.

Invariant: an order that did not pass a hop is not in that hop's numbers; nothing is guessed. Times
of different programs may differ by a clock's grain: never less than nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from relay.runtime.flow import Flow
from relay.runtime.kafka import KafkaConnection
from relay.sample.load_report import Times, times_of

_STOP_SECONDS: Final = 3.0

_ROWS: Final = """
SELECT event.aggregate_id, event.created_at, inbox.received_at
  FROM relay.outbox AS event
  LEFT JOIN relay.inbox AS inbox
         ON inbox.causation_id = event.event_id::text AND inbox.aggregate_id = event.aggregate_id
        AND inbox.new_status IN ('confirmed', 'rejected')
 WHERE event.aggregate_id = ANY ($1::text[])
"""


@dataclass(frozen=True, slots=True)
class _Record:
    """When a record was made, and what it says of when it was decided."""

    recorded_at: datetime
    decided_at: datetime | None


async def hop_times(
    connection: asyncpg.Connection, kafka: KafkaConnection, flow: Flow, order_ids: Sequence[str]
) -> Mapping[str, Times]:
    """Return each hop's times, over the orders that passed it.

    `publish` is from the outbox row to the record on the events topic, `process` from there to the
    processor's decision, `return` from there to the record on the returns topic, `confirm` from
    there to the inbox row.
    """
    rows = await connection.fetch(_ROWS, list(order_ids))
    since = min((row["created_at"] for row in rows), default=datetime.now(UTC))
    events = await _records(kafka, flow.events_topic, since)
    returns = await _records(kafka, flow.returns_topic, since)
    seconds: dict[str, list[float]] = {name: [] for name in ("publish", "process", "return")}
    seconds |= {"confirm": [], "row to status": []}
    for row in rows:
        event, answer = events.get(row["aggregate_id"]), returns.get(row["aggregate_id"])
        decided_at = answer.decided_at if answer else None
        answered_at = answer.recorded_at if answer else None
        sent_at = event.recorded_at if event else None
        _add(seconds["publish"], row["created_at"], sent_at)
        _add(seconds["process"], sent_at, decided_at)
        _add(seconds["return"], decided_at, answered_at)
        _add(seconds["confirm"], answered_at, row["received_at"])
        _add(seconds["row to status"], row["created_at"], row["received_at"])
    found = {name: times_of(times) for name, times in seconds.items()}
    return {name: times for name, times in found.items() if times is not None}


def _add(times: list[float], begun: datetime | None, ended: datetime | None) -> None:
    if begun is not None and ended is not None:
        times.append(max(0.0, (ended - begun).total_seconds()))


async def _records(kafka: KafkaConnection, topic: str, since: datetime) -> dict[str, _Record]:
    """Read a topic from `since` to its end as it is now: the first record of each key."""
    consumer = AIOKafkaConsumer(
        **kafka.client_options("relay-demo"), group_id=None, enable_auto_commit=False
    )
    try:
        await consumer.start()
        await consumer.topics()
        parts = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        return await _read(consumer, parts, since)
    finally:
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(consumer.stop(), _STOP_SECONDS)


async def _read(
    consumer: AIOKafkaConsumer, parts: Sequence[TopicPartition], since: datetime
) -> dict[str, _Record]:
    consumer.assign(parts)
    ends = await consumer.end_offsets(parts)
    starts = await consumer.offsets_for_times(dict.fromkeys(parts, int(since.timestamp() * 1000)))
    for tp in parts:
        consumer.seek(tp, starts[tp].offset if starts.get(tp) else ends[tp])
    found: dict[str, _Record] = {}
    while [tp for tp in parts if await consumer.position(tp) < ends[tp]]:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for one in records:
                if one.key is not None:
                    found.setdefault(one.key.decode("utf-8", "replace"), _record(one))
    return found


def _record(one: Any) -> _Record:
    return _Record(datetime.fromtimestamp(one.timestamp / 1000, UTC), _decided_at(one.value))


def _decided_at(value: bytes | None) -> datetime | None:
    try:
        read = orjson.loads(value or b"")
        return datetime.fromisoformat(read["returned_at"])
    except (ValueError, KeyError, TypeError):
        return None
