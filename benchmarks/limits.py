"""What PostgreSQL gives out and Kafka takes in by themselves: nobody can be faster."""

from __future__ import annotations

import asyncio
import time

import psycopg
import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks import orders
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.topic import Topic

_TOPIC = "bench.limit"
_BATCH = 267  # what a page of 1,600 rows gives each of six partitions
_WARM_ROWS = 1_000_000
_PAYLOAD = b"x" * 330


def warm_up(servers: Servers) -> None:
    """Let the broker compile what it runs, as a broker has that was not started just now."""
    topic = Topic(servers.bootstrap_servers, _TOPIC)
    uvloop.run(_produce(servers.bootstrap_servers, _WARM_ROWS, topic.partitions))
    topic.close()


def measure(servers: Servers, report: Report, rows: int) -> None:
    """Add both limits to a report."""
    report.add("limit: COPY of such rows to nowhere", rows_per_s=_copy(servers, rows))
    topic = Topic(servers.bootstrap_servers, _TOPIC)
    rate = uvloop.run(_produce(servers.bootstrap_servers, rows, topic.partitions))
    assert topic.count() == rows
    topic.close()
    report.add("limit: aiokafka send_batch of records made before", rows_per_s=rate)


def _copy(servers: Servers, rows: int) -> int:
    url = servers.database("bench_limit")
    orders.fill(url, orders.OUTBOX, rows)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        started = time.perf_counter()
        query = """COPY (SELECT id, event_id, aggregate_id, event_type, payload, traceparent,
                   created_at FROM relay.outbox ORDER BY id) TO STDOUT (FORMAT binary)"""
        with cursor.copy(query) as copy:
            for _ in copy:
                pass
        return round(rows / (time.perf_counter() - started))


async def _produce(bootstrap_servers: str, rows: int, partitions: int) -> int:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        max_batch_size=1_000_000,
    )
    await producer.start()
    batches = []
    left = rows
    while left:
        builder = producer.create_batch()
        for _ in range(min(_BATCH, left)):
            builder.append(key=b"k" * 36, value=_PAYLOAD, timestamp=None)
        left -= builder.record_count()
        batches.append(builder)
    started = time.perf_counter()

    async def one(partition: int) -> None:
        for builder in batches[partition::partitions]:
            await (await producer.send_batch(builder, _TOPIC, partition=partition))

    await asyncio.gather(*map(one, range(partitions)))
    seconds = time.perf_counter() - started
    await producer.stop()
    return round(rows / seconds)
