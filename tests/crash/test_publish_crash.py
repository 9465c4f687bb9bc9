"""kill -9 at the worst places: nothing is lost, nothing overtakes, and little is repeated."""

import asyncio
import json
import random
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Consumer, TopicPartition

from relay.embedded import EmbeddedKafka

SCRIPT = Path(__file__).with_name("relay_that_dies.py")
ORDERS = 40
FILL = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', 'order-' || n % 40, 'order.placed', json_build_object('seq', n)
  FROM generate_series($1::int, $2::int - 1) n
"""
# What is read ahead: three pages of 1,600.
MOST_REPEATED = 4_800


@pytest.fixture
def topic(topics: Any) -> str:
    name: str = topics.create(partitions=6)
    return name


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(database: str, kafka_bootstrap: str, topic: str) -> Iterator[Start]:
    """Start a relay in a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def one(point: str = "never", how_often: int = 1, bootstrap: str | None = None) -> Any:
        arguments = (database, bootstrap or kafka_bootstrap, topic, point, str(how_often))
        started.append(subprocess.Popen([sys.executable, SCRIPT, *arguments]))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.wait()


def read(bootstrap_servers: str, topic: str) -> list[tuple[int, str, int]]:
    """Return (partition, key, seq) of every record, each partition in its order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
        }
    )
    numbers = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    ends = {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20)[1]
        for number in numbers
    }
    consumer.assign([TopicPartition(topic, number, 0) for number in ends])
    found: list[tuple[int, str, int]] = []
    while len(found) < sum(ends.values()):
        for one in consumer.consume(5000, 1.0):
            assert one.error() is None, one.error()
            found.append((one.partition(), one.key().decode(), json.loads(one.value())["seq"]))
    consumer.close()
    return found


def judge(records: Sequence[tuple[int, str, int]], expected: dict[str, list[int]]) -> int:
    """Check every event and each order's order by first occurrences; return how many repeat."""
    first: dict[str, list[int]] = {}
    seen: set[int] = set()
    for _, key, seq in records:
        if seq not in seen:
            seen.add(seq)
            first.setdefault(key, []).append(seq)
    assert first == expected
    return len(records) - len(seen)


def filled(count: int) -> dict[str, list[int]]:
    return {f"order-{n}": list(range(n, count, ORDERS)) for n in range(min(ORDERS, count))}


async def until_caught_up(pg: asyncpg.Connection, count: int, eventually: Any) -> None:
    async def all_known() -> bool:
        known = await pg.fetchval(
            "SELECT count(DISTINCT i) FROM relay.delivery_ledger, unnest(outbox_ids) i"
        )
        return bool(known >= count)

    await eventually(all_known, within_seconds=60)


@pytest.mark.parametrize(
    "point", ["after_read", "before_send", "after_send_before_checkpoint", "after_checkpoint"]
)
async def test_killed_at_any_point_it_loses_nothing(
    pg: asyncpg.Connection, start: Start, point: str, topic: str, topics: Any, eventually: Any
) -> None:
    count = 20_000
    await pg.execute(FILL, 0, count)
    for how_often in (1, 2, 5):
        assert await asyncio.to_thread(start(point, how_often).wait, 60) == -9
    last = start()
    await until_caught_up(pg, count, eventually)
    last.terminate()
    assert await asyncio.to_thread(last.wait, 20) == 0
    repeated = judge(read(topics.bootstrap_servers, topic), filled(count))
    assert repeated <= 3 * MOST_REPEATED


@pytest.fixture
async def writers(database: str) -> AsyncIterator[Callable[[int], Awaitable[dict[str, list[int]]]]]:
    """Contending writers: each locks the order, takes its next number, and inserts."""
    connections = [await asyncpg.connect(database) for _ in range(8)]
    await connections[0].execute("CREATE TABLE public.counter (order_no int PRIMARY KEY, seq int)")
    await connections[0].execute(
        "INSERT INTO public.counter SELECT n, 0 FROM generate_series(0, $1::int - 1) n", ORDERS
    )

    async def write(connection: asyncpg.Connection, rounds: int, luck: random.Random) -> None:
        for _ in range(rounds):
            order = luck.randrange(ORDERS)
            transaction = connection.transaction()
            await transaction.start()
            if luck.random() < 0.3:
                await connection.execute("SELECT pg_current_xact_id()")
            seq = await connection.fetchval(
                "UPDATE public.counter SET seq = seq + 1 WHERE order_no = $1 RETURNING seq", order
            )
            await connection.execute(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
                " VALUES ('order', $1, 'order.placed', $2)",
                f"order-{order}",
                json.dumps({"seq": order * 1_000_000 + seq}),
            )
            if luck.random() < 0.1:
                await transaction.rollback()
            else:
                await transaction.commit()

    async def run(rounds: int) -> dict[str, list[int]]:
        await asyncio.gather(
            *(write(one, rounds, random.Random(n)) for n, one in enumerate(connections))
        )
        rows = await connections[0].fetch("SELECT * FROM public.counter WHERE seq > 0")
        return {
            f"order-{row['order_no']}": [
                row["order_no"] * 1_000_000 + n for n in range(1, row["seq"] + 1)
            ]
            for row in rows
        }

    yield run
    for connection in connections:
        await connection.close()


async def test_killed_again_and_again_under_contending_writers(
    pg: asyncpg.Connection, start: Start, writers: Any, topic: str, topics: Any, eventually: Any
) -> None:
    luck = random.Random(7)
    writing = asyncio.create_task(writers(700))
    while not writing.done():
        relay = start()
        await asyncio.wait([writing], timeout=0.8 + luck.random())
        relay.kill()
        relay.wait()
    expected = await writing
    count = await pg.fetchval("SELECT count(*) FROM relay.outbox")
    last = start()
    await until_caught_up(pg, count, eventually)
    last.terminate()
    assert await asyncio.to_thread(last.wait, 20) == 0
    judge(read(topics.bootstrap_servers, topic), expected)


async def test_two_relays_and_a_broker_that_comes_and_goes(
    pg: asyncpg.Connection,
    start: Start,
    writers: Any,
    topic: str,
    private_kafka: EmbeddedKafka,
    eventually: Any,
) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic  # noqa: PLC0415

    bootstrap = private_kafka.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(topic, 6, 1)])[topic].result(20)
    relays = [start(bootstrap=bootstrap), start(bootstrap=bootstrap)]
    writing = asyncio.create_task(writers(500))
    for _ in range(2):
        await asyncio.wait([writing], timeout=1.5)
        await asyncio.to_thread(private_kafka.kill)
        await asyncio.wait([writing], timeout=1.0)
        await asyncio.to_thread(private_kafka.start)
    relays[0].kill()
    expected = await writing
    count = await pg.fetchval("SELECT count(*) FROM relay.outbox")
    await until_caught_up(pg, count, eventually)
    relays[1].terminate()
    assert await asyncio.to_thread(relays[1].wait, 20) == 0
    judge(read(bootstrap, topic), expected)
