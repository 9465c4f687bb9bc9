"""The confirmation consumer one would write first, to measure against: a transaction a return.

It has the same effects as `relay confirm` where nothing goes wrong: inbox, status, history and
offset in one transaction. It handles none of what can go wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal

import asyncpg
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord

TOPIC = "orders.returns"
GROUP = "naive-confirm"
SEEN = """
INSERT INTO relay.inbox (event_id, aggregate_id, status, old_status, new_status, outcome,
                         content_hash, consumer_group, topic, partition, record_offset, recorded_at)
VALUES ($1, $2, $3, 'submitted', $3, 'applied', '', $4, $5, $6, $7, now())
ON CONFLICT DO NOTHING RETURNING true
"""
APPLY = """
UPDATE public.orders SET status = $2, version = version + 1, returned_at = now()
 WHERE order_id = $1::text::uuid
"""
HISTORY = """
INSERT INTO public.order_status_history (order_id, old_status, new_status, event_id)
VALUES ($1::text::uuid, 'submitted', $2, $3)
"""
OFFSET = """
INSERT INTO relay.consumer_offset (consumer_group, topic, partition, next_offset)
VALUES ($1, $2, $3, $4)
ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET next_offset = excluded.next_offset
"""


async def handle(connection: asyncpg.Connection, record: ConsumerRecord) -> None:
    said = json.loads(record.value)
    order, status = said["order_id"], said["status"]
    headers = dict(record.headers)
    identity = f"{headers['ce_source'].decode()}/{headers['ce_id'].decode()}"
    place = (record.topic, record.partition, record.offset)
    async with connection.transaction():
        if await connection.fetchval(SEEN, identity, order, status, GROUP, *place):
            await connection.execute(APPLY, order, status)
            await connection.execute(HISTORY, order, status, identity)
        await connection.execute(OFFSET, GROUP, record.topic, record.partition, record.offset + 1)


async def main() -> None:
    stop = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=GROUP,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    while not stop.is_set():
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                await handle(connection, record)
    await consumer.stop()
    await connection.close()


asyncio.run(main())
