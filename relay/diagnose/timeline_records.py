"""Hops 3 and 4: asks the broker what it knows of one order: committed offsets, and its returns.

Invariant: reads without joining any group and commits nothing. A broker that does not answer in
time is an `Unreachable` that says so, never an error: half a timeline is better than none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from relay.diagnose.timeline_facts import (
    Delivery,
    KafkaFacts,
    OrderFacts,
    Partition,
    PartitionState,
    ReturnFact,
    Scan,
    Unreachable,
)
from relay.diagnose.timeline_hops import is_terminal
from relay.runtime.flow import Flow
from relay.runtime.kafka import KafkaConnection

_CLIENT_ID: Final = "relay-trace"
_REQUEST_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 2.0
_PAGE_RECORDS: Final = 5000
# The broker's clock and ours may differ, and a return may not seem older than its event.
_CLOCK_SLACK_SECONDS: Final = 60


async def read_records(
    kafka: KafkaConnection, flow: Flow, facts: OrderFacts, *, at_most_seconds: float
) -> tuple[KafkaFacts | Unreachable, tuple[ReturnFact, ...]]:
    """Ask for what the rows leave open.

    Args:
        kafka: the broker.
        flow: names topics and groups.
        facts: the rows; their deliveries and returns say what there is to ask for.
        at_most_seconds: how long to read the returns topic; then the scan is incomplete.

    Returns:
        What the broker says, and the returns that stand on Kafka only.
    """
    try:
        async with asyncio.timeout(at_most_seconds + 2 * _REQUEST_SECONDS):
            partitions = await _partitions(kafka, flow, facts.deliveries)
            answered = any(is_terminal(one, flow) for one in facts.returns)
            if answered or not facts.deliveries:
                return KafkaFacts(partitions), ()
            since = min(one.published_at for one in facts.deliveries)
            known = {(one.topic, one.partition, one.offset) for one in facts.returns}
            scan, found = await _scan(kafka, flow, facts.order_id, since, at_most_seconds)
            new = [one for one in found if (one.topic, one.partition, one.offset) not in known]
            return KafkaFacts(partitions, scan), tuple(new)
    except (KafkaError, OSError, TimeoutError) as error:
        reason = str(error) or "it does not answer in time"
        return Unreachable(f"Kafka at {kafka.bootstrap_servers}: {reason}"), ()


@asynccontextmanager
async def _consumer(kafka: KafkaConnection) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **kafka.client_options(_CLIENT_ID),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=int(_REQUEST_SECONDS * 1000),
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(consumer.stop(), _STOP_SECONDS)


async def _partitions(
    kafka: KafkaConnection, flow: Flow, deliveries: Sequence[Delivery]
) -> dict[Partition, PartitionState]:
    """Read log ends and committed offsets of the partitions that the event was delivered to."""
    wanted = sorted({TopicPartition(one.topic, one.partition) for one in deliveries})
    async with _consumer(kafka) as consumer:
        existing = [tp for tp in wanted if tp.partition in await _numbers(consumer, tp.topic)]
        if not existing:
            return {}
        ends = await consumer.end_offsets(existing)
    committed = {group: await _committed(kafka, group, existing) for group in flow.processor_groups}
    return {
        (tp.topic, tp.partition): PartitionState(
            ends[tp], {group: offsets[tp] for group, offsets in committed.items()}
        )
        for tp in existing
    }


async def _numbers(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    """Return a topic's partition numbers; none when there is no such topic."""
    await consumer.topics()
    return set(consumer.partitions_for_topic(topic) or ())


async def _committed(
    kafka: KafkaConnection, group: str, partitions: Sequence[TopicPartition]
) -> Mapping[TopicPartition, int | None]:
    admin = AIOKafkaAdminClient(
        **kafka.client_options(_CLIENT_ID), request_timeout_ms=int(_REQUEST_SECONDS * 1000)
    )
    try:
        await admin.start()
        found = await admin.list_consumer_group_offsets(group, partitions=list(partitions))
    finally:
        with suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(admin.close(), _STOP_SECONDS)
    offsets = {tp: found[tp].offset if tp in found else -1 for tp in partitions}
    return {tp: None if offset < 0 else offset for tp, offset in offsets.items()}


async def _scan(
    kafka: KafkaConnection, flow: Flow, order_id: str, since: datetime, at_most_seconds: float
) -> tuple[Scan, list[ReturnFact]]:
    """Read the returns topic from `since` to its end as it is now, for returns of the order.

    All partitions: a foreign producer need not place a return where Java's partitioner would.
    """
    found: list[ReturnFact] = []
    count = 0
    async with _consumer(kafka) as consumer:
        numbers = await _numbers(consumer, flow.returns_topic)
        parts = [TopicPartition(flow.returns_topic, number) for number in sorted(numbers)]
        if not parts:
            return Scan(0, complete=True), []
        left = await _seek(consumer, parts, since)
        deadline = asyncio.get_running_loop().time() + at_most_seconds
        while left and asyncio.get_running_loop().time() < deadline:
            polled = await consumer.getmany(timeout_ms=200, max_records=_PAGE_RECORDS)
            for records in polled.values():
                count += len(records)
                found += [_fact(one) for one in records if _is_of(one, order_id)]
            left = {tp: end for tp, end in left.items() if await consumer.position(tp) < end}
    return Scan(count, complete=not left), found


async def _seek(
    consumer: AIOKafkaConsumer, parts: Sequence[TopicPartition], since: datetime
) -> dict[TopicPartition, int]:
    """Go to the first record since then; return the ends of the partitions that have one."""
    consumer.assign(parts)
    ends = await consumer.end_offsets(parts)
    since_ms = int((since.timestamp() - _CLOCK_SLACK_SECONDS) * 1000)
    starts = await consumer.offsets_for_times(dict.fromkeys(parts, since_ms))
    left = {}
    for tp in parts:
        start = starts.get(tp)
        consumer.seek(tp, ends[tp] if start is None else start.offset)
        if start is not None and start.offset < ends[tp]:
            left[tp] = ends[tp]
    return left


def _is_of(record: ConsumerRecord[bytes, bytes], order_id: str) -> bool:
    """By key, or by `order_id` in the value; a torn value may still name it."""
    wanted = order_id.encode()
    return record.key == wanted or (record.value is not None and wanted in record.value)


def _fact(record: ConsumerRecord[bytes, bytes]) -> ReturnFact:
    headers = dict(record.headers)
    causation = headers.get("ce_causationid")
    return ReturnFact(
        place="log",
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        status=_status(record.value),
        causation_id=None if causation is None else causation.decode("utf-8", "replace"),
        recorded_at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
    )


def _status(value: bytes | None) -> str | None:
    try:
        read = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    status = read.get("status") if isinstance(read, dict) else None
    return status if isinstance(status, str) else None
