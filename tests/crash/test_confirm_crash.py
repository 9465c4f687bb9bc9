"""Hop 5: a consumer that is killed between its two commits, or frozen in the middle of a batch."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka import Producer

VICTIM = Path(__file__).with_name("confirm_victim.py")
WAIT_SECONDS = 60
WAITS_FOR_LOCK = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE wait_event_type = 'Lock' AND application_name = 'relay-confirm'"
)


@pytest.fixture
def group() -> str:
    return f"confirm-{uuid.uuid4().hex[:8]}"


@contextmanager
def consumer(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, str(VICTIM), *map(str, arguments)])
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@asynccontextmanager
async def open_connection(dsn):
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


async def place(pg, count):
    ids = [str(uuid.uuid4()) for _ in range(count)]
    await pg.execute(
        "INSERT INTO orders (order_id, customer_id, items, total, currency) "
        "SELECT i, 'c', '[]', 1, 'EUR' FROM unnest($1::uuid[]) i",
        ids,
    )
    return ids


def send(bootstrap_servers, topic, orders, statuses=("processing", "confirmed")):
    producer = Producer({"bootstrap.servers": bootstrap_servers, "acks": "all"})
    for status in statuses:
        for order in orders:
            value = json.dumps({"order_id": order, "status": status})
            producer.produce(topic, key=order, value=value)
    assert producer.flush(30) == 0


async def handled(pg, count):
    return count == await pg.fetchval("SELECT sum(next_offset) FROM relay.consumer_offset")


async def test_killed_again_and_again_after_its_commit_nothing_is_lost_or_twice(
    database, pg, topics, kafka_bootstrap, group, eventually
):
    topic = topics.create("orders.returns", 2)
    orders = await place(pg, 400)
    send(kafka_bootstrap, topic, orders)
    deaths = 0
    for deadly in (1, 3, 5):
        with consumer(database, kafka_bootstrap, topic, group, deadly, 5) as process:
            # Kafka's committed offset is behind by what was just committed in the database.
            assert await asyncio.to_thread(process.wait, WAIT_SECONDS) == -signal.SIGKILL
            deaths += 1
    before = await pg.fetchval("SELECT sum(next_offset) FROM relay.consumer_offset")
    assert 0 < before < 800
    assert before == await pg.fetchval("SELECT count(*) FROM relay.inbox")
    with consumer(database, kafka_bootstrap, topic, group, 0, 5):
        await eventually(lambda: handled(pg, 800), WAIT_SECONDS)
    assert deaths == 3
    steps = await pg.fetch(
        "SELECT array_agg(new_status ORDER BY history_id) AS steps "
        "FROM order_status_history GROUP BY order_id"
    )
    assert [tuple(row["steps"]) for row in steps] == [("processing", "confirmed")] * 400
    assert await pg.fetchval("SELECT bool_and(version = 3) FROM orders")
    assert await pg.fetchval("SELECT count(*) FROM relay.inbox") == 800
    assert await pg.fetchval("SELECT count(*) FROM relay.offset_gap") == 0


async def test_a_frozen_consumer_holds_neither_orders_nor_offsets_for_long(
    database, pg, topics, kafka_bootstrap, group, eventually
):
    topic = topics.create("orders.returns", 1)
    orders = await place(pg, 10)
    async with open_connection(database) as blocker:
        await freeze_and_wake(
            (database, kafka_bootstrap, topic, group), pg, orders, blocker, eventually
        )
    assert await pg.fetchval("SELECT count(*) FROM order_status_history") == 10
    assert await pg.fetchval("SELECT bool_and(status = 'confirmed') FROM orders")
    assert await pg.fetchval("SELECT count(*) FROM relay.inbox") == 20


async def freeze_and_wake(where, pg, orders, blocker, eventually):
    _, kafka_bootstrap, topic, _ = where
    with consumer(*where, 0, 1) as frozen:
        transaction = blocker.transaction()
        await transaction.start()
        # Its batch waits here, with the offset's and the orders' rows locked.
        await blocker.execute("LOCK TABLE relay.inbox IN ACCESS EXCLUSIVE MODE")
        send(kafka_bootstrap, topic, orders, ["confirmed"])
        await eventually(lambda: pg.fetchval(WAITS_FOR_LOCK), WAIT_SECONDS)
        os.kill(frozen.pid, signal.SIGSTOP)
        await transaction.rollback()
        with consumer(*where, 0, 5):
            await eventually(lambda: handled(pg, 10), WAIT_SECONDS)
            # It wakes up in the belief that the partition is its own.
            os.kill(frozen.pid, signal.SIGCONT)
            send(kafka_bootstrap, topic, orders, ["confirmed"])
            await eventually(lambda: handled(pg, 20), WAIT_SECONDS)
            assert frozen.poll() is None
