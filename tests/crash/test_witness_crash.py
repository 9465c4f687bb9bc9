"""Hop 2, witnessed: real witnesses killed, frozen and restarted: each record is accounted for once.

The truth is read from Kafka with another client: what stands there, by partition and offset.
"""

import asyncio
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.crash.foreign_publisher import ForeignPublisher, accounted, settings

AT_POINT = Path(__file__).parents[1] / "faults/dies_at_point.py"
WAIT_SECONDS = 25
# Two at once: a member that died is waited for by its group, once for both.
DEATHS = (
    (("rows_found", 1), ("before_commit", 1)),
    (("after_commit", 1), ("matched_late", 1)),
    (("before_commit", 4), ("after_commit", 6)),
    (("rows_found", 3), ("matched_late", 2)),
)


@pytest.fixture
async def publisher(
    database: str, pg: asyncpg.Connection, topics: Any
) -> AsyncIterator[ForeignPublisher]:
    topic, own = topics.create(partitions=3), await asyncpg.connect(database)
    yield await asyncio.to_thread(ForeignPublisher, own, topics.bootstrap_servers, topic)
    await own.close()


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(database: str, publisher: ForeignPublisher) -> Iterator[Start]:
    """Start a witness in a process of its own; with a point it dies there by its own hand."""
    group, started = f"witness-{uuid.uuid4().hex[:8]}", list[subprocess.Popen[bytes]]()
    env = settings(database, publisher.bootstrap_servers, publisher.topic, group)

    def one(*point: object) -> subprocess.Popen[bytes]:
        relay = [str(Path(sys.executable).with_name("relay")), "witness"]
        dying = [sys.executable, str(AT_POINT), "witness", *map(str, point)]
        started.append(subprocess.Popen(dying if point else relay, env=env))
        return started[-1]

    yield one
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


async def until_exact(pg: asyncpg.Connection, publisher: ForeignPublisher, eventually: Any) -> None:
    """Wait until all is accounted for, then ask once more: nothing is in it twice."""
    await publisher.finish()
    entries, aside = await asyncio.to_thread(publisher.account)

    async def whole() -> bool:
        found = await accounted(pg, publisher.topic)
        assert len(found[0]) <= len(entries), "an entry that stands for no record"
        return found == (entries, aside)

    await eventually(whole, WAIT_SECONDS)


async def handed_over(pg: asyncpg.Connection) -> int:
    found: int = await pg.fetchval(
        "SELECT count(*) FROM relay.outbox AS o, relay.checkpoint AS c"
        " WHERE c.shard = 0 AND pg_visible_in_snapshot(o.txid, c.prev)"
    )
    return found


@pytest.mark.timeout(400)
async def test_a_witness_that_dies_anywhere_leaves_each_record_accounted_for_once(
    pg: asyncpg.Connection, publisher: ForeignPublisher, start: Start, eventually: Any
) -> None:
    for points in DEATHS:
        dying = [start(*point) for point in points]
        async with publisher.publishing():
            await eventually(
                lambda some=dying: all(one.poll() is not None for one in some), WAIT_SECONDS
            )
        assert [one.returncode for one in dying] == [-signal.SIGKILL] * len(dying)
    start()
    await until_exact(pg, publisher, eventually)

    async def followed() -> bool:
        return await handed_over(pg) == publisher.rows

    await eventually(followed, WAIT_SECONDS)


@pytest.mark.timeout(400)
async def test_one_that_is_frozen_beyond_its_session_and_another_that_is_killed_double_nothing(
    pg: asyncpg.Connection, publisher: ForeignPublisher, start: Start, eventually: Any
) -> None:
    frozen, other = start(), start()

    async def owners() -> set[str]:
        rows = await pg.fetch("SELECT DISTINCT owner FROM relay.consumer_offset")
        return {row["owner"] for row in rows}

    async def shared() -> bool:
        return len(await owners()) == 2

    async with publisher.publishing():
        await eventually(shared, WAIT_SECONDS)
        frozen.send_signal(signal.SIGSTOP)

        async def taken() -> bool:
            return len(await owners()) == 1

        await eventually(taken, WAIT_SECONDS)  # beyond its session: it has lost its partitions
        await publisher.until_sent(3, eventually)
        frozen.send_signal(signal.SIGCONT)
        await eventually(shared, WAIT_SECONDS)  # it is back in the group
        other.kill()
        await eventually(taken, WAIT_SECONDS)
        start()
        await eventually(shared, WAIT_SECONDS)
    await until_exact(pg, publisher, eventually)
