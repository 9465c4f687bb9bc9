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

from tests.crash.foreign_publisher import Account, ForeignPublisher, accounted, settings

AT_POINT = Path(__file__).parents[1] / "faults/dies_at_point.py"
WAIT_SECONDS = 25
# Two at once: a member that died is waited for by its group, once for both.
DEATHS = (
    (("rows_found", 1), ("before_commit", 1)),
    (("after_commit", 1), ("matched_late", 1)),
    (("before_commit", 4), ("after_commit", 6)),
    (("rows_found", 3), ("matched_late", 2)),
)
DEATHS_IN_ANOTHER_TOPIC = (
    (("rows_found", 1), ("before_commit", 1)),
    (("after_commit", 1), ("before_commit", 2)),
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


NOTHING: tuple[list[Account], list[Account]] = ([], [])


async def until_exact(
    pg: asyncpg.Connection,
    publisher: ForeignPublisher,
    eventually: Any,
    before: tuple[list[Account], list[Account]] = NOTHING,
) -> None:
    """Wait until all is accounted for, then ask once more: nothing is in it twice.

    `before` is what the topic of this name had that is there no more.
    """
    await publisher.finish()
    there = await asyncio.to_thread(publisher.account)
    entries, aside = (sorted(was + now) for was, now in zip(before, there, strict=True))

    async def whole() -> bool:
        found = await accounted(pg, publisher.topic)
        assert len(found[0]) <= len(entries), "an entry that stands for no record"
        return found == (entries, aside)

    await eventually(whole, WAIT_SECONDS)


async def is_in_group(pg: asyncpg.Connection, witness: subprocess.Popen[bytes]) -> bool:
    found: bool = await pg.fetchval(
        "SELECT EXISTS (SELECT FROM relay.consumer_offset WHERE owner LIKE '%:' || $1)",
        str(witness.pid),
    )
    return found


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


@pytest.mark.timeout(400)
async def test_a_topic_made_anew_while_witnesses_are_killed_is_accounted_for_once(
    pg: asyncpg.Connection,
    publisher: ForeignPublisher,
    start: Start,
    topics: Any,
    eventually: Any,
) -> None:
    first = start()
    await publisher.burst()
    await publisher.burst()
    await until_exact(pg, publisher, eventually)
    before = await accounted(pg, publisher.topic)
    first.kill()
    second = start()  # it has read all, and dies while its topic goes and comes
    recreating = asyncio.create_task(asyncio.to_thread(topics.recreate, publisher.topic))
    await eventually(lambda: is_in_group(pg, second), WAIT_SECONDS)
    second.kill()
    await recreating
    for points in DEATHS_IN_ANOTHER_TOPIC:
        dying = [start(*point) for point in points]
        async with publisher.publishing():
            await eventually(
                lambda some=dying: all(one.poll() is not None for one in some), WAIT_SECONDS
            )
    start()
    await until_exact(pg, publisher, eventually, before)
    # Each partition was begun anew once, whoever died over it.
    gaps = await pg.fetch(
        "SELECT partition FROM relay.offset_gap WHERE reason = 'topic_recreated' ORDER BY 1"
    )
    assert [row["partition"] for row in gaps] == [0, 1, 2]
