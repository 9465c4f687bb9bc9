"""kill -9 of replays: each selected event is sent, and a kill repeats at most one batch."""

import asyncio
import json
import random
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Consumer, TopicPartition

SCRIPT = Path(__file__).with_name("relay_that_dies.py")
FILL = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', 'order-' || n % 40, 'order.placed', json_build_object('seq', n)
  FROM generate_series(0, $1::int - 1) n
"""
PAGE = 200
KILLS = 20

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def topic(topics: Any) -> str:
    name: str = topics.create(partitions=6)
    return name


@pytest.fixture
def start(database: str, kafka_bootstrap: str, topic: str) -> Iterator[Callable[..., Any]]:
    """Start a relay in a process of its own, that dies at a point."""
    started: list[subprocess.Popen[bytes]] = []

    def one(point: str = "never", how_often: int = 1) -> Any:
        arguments = (database, kafka_bootstrap, topic, point, str(how_often))
        started.append(subprocess.Popen([sys.executable, SCRIPT, *arguments]))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.wait()


def copies(bootstrap_servers: str, topic: str, replay_id: str) -> list[tuple[str, int]]:
    """Return (key, seq) of the records of a replay, each partition in its order."""
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
    found: list[tuple[str, int]] = []
    read = 0
    while read < sum(ends.values()):
        for one in consumer.consume(5000, 1.0):
            assert one.error() is None, one.error()
            read += 1
            headers = dict(one.headers())
            if headers.get("replay_id", b"").decode() == replay_id:
                found.append((one.key().decode(), json.loads(one.value())["seq"]))
    consumer.close()
    return found


async def until_published(pg: asyncpg.Connection, count: int, eventually: Any) -> None:
    async def known() -> bool:
        total = await pg.fetchval("SELECT sum(record_count) FROM relay.delivery_ledger")
        return bool((total or 0) >= count)

    await eventually(known, within_seconds=60)


def environment(topic: str) -> dict[str, str]:
    return {
        "RELAY_FLOW_EVENTS_TOPIC": topic,
        "RELAY_PUBLISH_PAGE_ROWS": str(PAGE),
        "RELAY_PUBLISH_LEASE_SECONDS": "1",
        "RELAY_METRICS_ENABLED": "false",
    }


async def test_killed_twenty_times_it_sends_each_event_and_repeats_a_batch_at_most(
    pg: asyncpg.Connection,
    start: Any,
    relay_process: Any,
    relay_command: Any,
    topic: str,
    topics: Any,
    eventually: Any,
) -> None:
    count = 12_000
    await pg.execute(FILL, count)
    relay = start()
    await until_published(pg, count, eventually)
    relay.terminate()
    assert await asyncio.to_thread(relay.wait, 20) == 0
    planned = relay_command("replay", "--all", "--json", env=environment(topic))
    replay_id = json.loads(planned.stdout)["replay_id"]
    luck = random.Random(11)
    killed = 0
    while killed < KILLS:
        before = await pg.fetchval("SELECT sent_count FROM relay.replay_job")
        running = relay_process(
            "replay", "resume", replay_id, "--reason", "x", "--yes", "--no-wait", "--rate", "2000",
            env=environment(topic),
        )  # fmt: skip

        async def further(sent: int = before) -> bool:
            now = await pg.fetchval("SELECT sent_count FROM relay.replay_job")
            return bool(now > sent)

        await eventually(further, within_seconds=60)
        await asyncio.sleep(luck.random() * 0.2)
        running.kill()
        killed += 1
    done = relay_command(
        "replay", "resume", replay_id, "--yes", "--no-wait", "--rate", "0", "--json",
        env=environment(topic),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sent"] == count
    found = copies(topics.bootstrap_servers, topic, replay_id)
    times = Counter(seq for _, seq in found)
    assert set(times) == set(range(count))
    assert len(found) - count <= KILLS * PAGE
    first: dict[str, list[int]] = {}
    seen: set[int] = set()
    for key, seq in found:
        if seq not in seen:
            seen.add(seq)
            first.setdefault(key, []).append(seq)
    assert first == {f"order-{n}": list(range(n, count, 40)) for n in range(40)}


@pytest.mark.parametrize(
    "point", ["before_send", "after_send_before_checkpoint", "after_checkpoint"]
)
async def test_a_relay_that_is_killed_while_it_replays(
    pg: asyncpg.Connection, start: Any, topic: str, topics: Any, eventually: Any, point: str
) -> None:
    count = 4_000
    await pg.execute(FILL, count)
    relay = start()
    await until_published(pg, count, eventually)
    relay.terminate()
    assert await asyncio.to_thread(relay.wait, 20) == 0
    replay_id = str(uuid.uuid4())
    await pg.execute(
        "INSERT INTO relay.replay_job (replay_id, selection, plan, item_count, released_count,"
        " state, started_at) VALUES ($1, '{}', '{}', $2, $2, 'running', now())",
        replay_id,
        count,
    )
    await pg.execute(
        "INSERT INTO relay.replay_part"
        " SELECT $1, n / 1000, array_agg(id ORDER BY id)"
        "   FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM relay.outbox) AS o"
        "  GROUP BY n / 1000",
        uuid.UUID(replay_id),
    )
    for how_often in (1, 2):
        assert await asyncio.to_thread(start(point, how_often).wait, 60) == -9
    last = start()

    async def sent() -> bool:
        return bool(await pg.fetchval("SELECT sent_count = item_count FROM relay.replay_job"))

    await eventually(sent, within_seconds=60)
    last.kill()
    last.wait()
    found = copies(topics.bootstrap_servers, topic, replay_id)
    assert {seq for _, seq in found} == set(range(count))
    # A page of 1,600 for each kill.
    assert len(found) - count <= 2 * 1_600
