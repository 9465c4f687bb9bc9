"""Daily partitions are made and dropped while orders come in and reports read for a long time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import asyncpg
import pytest

from relay.publish.maintenance.duties import MaintenanceOptions, run_once
from relay.publish.maintenance.partition_days import keep_partitions, partition_name
from relay.runtime.database import connect

Eventually = Callable[..., Awaitable[Any]]

INSERT = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('order', $1, 'order.placed', '{}')
"""
INSERT_ON = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, created_at)
VALUES ('order', $1, 'order.placed', '{}', $2) RETURNING id
"""
OPTIONS = MaintenanceOptions(lock_attempts=3)


async def today(pg: asyncpg.Connection) -> date:
    return await pg.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


async def partitions(pg: asyncpg.Connection) -> set[str]:
    rows = await pg.fetch(
        "SELECT inhrelid::regclass::text AS n FROM pg_inherits"
        " WHERE inhparent = 'relay.outbox'::regclass"
    )
    return {row["n"].removeprefix("relay.") for row in rows}


async def hand_over_all(pg: asyncpg.Connection) -> None:
    await pg.execute("UPDATE relay.checkpoint SET prev = pg_current_snapshot()")


@asynccontextmanager
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    settings = {"synchronous_commit": "off"}  # waits are for locks, not for this disk
    connection = await connect(database, "another", server_settings=settings)
    try:
        yield connection
    finally:
        connection.terminate()


async def old_partition(pg: asyncpg.Connection, days: int = 40) -> tuple[date, str]:
    day = await today(pg) - timedelta(days=days)
    while True:
        try:
            await pg.execute("SELECT relay.create_partition($1)", day)
        except asyncpg.LockNotAvailableError:
            continue
        return day, partition_name(day)


async def test_the_first_migrate_makes_today_and_a_week(pg: asyncpg.Connection) -> None:
    day = await today(pg)
    wanted = {partition_name(day + timedelta(days=n)) for n in range(8)}
    assert await partitions(pg) == wanted | {"outbox_default"}


async def test_a_day_without_a_partition_goes_to_default_and_is_moved_whole(
    pg: asyncpg.Connection,
) -> None:
    day = await today(pg) - timedelta(days=3)
    for order in range(100):
        await pg.execute(INSERT_ON, str(order), noon(day))
    before = await pg.fetch("SELECT * FROM relay.outbox_default ORDER BY id")
    assert len(before) == 100

    report = await run_once(pg, OPTIONS)

    assert report.partitions.moved_rows == 100
    assert report.partitions.created == [day]
    assert await pg.fetch(f"SELECT * FROM relay.{partition_name(day)} ORDER BY id") == before
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox_default") == 0
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox") == 100


async def test_todays_rows_in_default_are_moved_while_orders_come_in(
    pg: asyncpg.Connection, database: str, eventually: Eventually
) -> None:
    day = await today(pg)
    await pg.execute(f"DROP TABLE relay.{partition_name(day)}")
    stop = asyncio.Event()
    written: list[int] = []

    async def write() -> None:
        async with other(database) as connection:
            while not stop.is_set():
                written.append(await connection.fetchval(INSERT + " RETURNING id", "o"))

    writers = [asyncio.create_task(write()) for _ in range(4)]
    await eventually(lambda: len(written) > 500)
    report = await keep_partitions(pg, days_ahead=1, keep_days=30, attempts=50)
    at_the_move = len(written)
    await eventually(lambda: len(written) > at_the_move + 200)
    stop.set()
    await asyncio.gather(*writers)

    assert report.created == [day]
    assert report.moved_rows >= 500
    found = await pg.fetch(f"SELECT id FROM relay.{partition_name(day)}")
    assert sorted(row["id"] for row in found) == sorted(written)
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox_default") == 0


async def test_a_reader_with_an_older_snapshot_sees_every_moved_row_once(
    pg: asyncpg.Connection, database: str
) -> None:
    day = await today(pg) - timedelta(days=3)
    for order in range(50):
        await pg.execute(INSERT_ON, str(order), noon(day))
    async with other(database) as reader, reader.transaction(isolation="repeatable_read"):
        # A snapshot without a lock on the outbox: the next statement meets the new partition.
        await reader.fetchval("SELECT pg_current_snapshot()")
        await pg.execute("CALL relay.empty_default()")
        assert partition_name(day) in await partitions(pg)
        assert await reader.fetchval("SELECT count(*) FROM relay.outbox") == 50
        assert await reader.fetchval("SELECT count(DISTINCT id) FROM relay.outbox") == 50


async def test_a_day_is_dropped_once_its_rows_are_handed_over(pg: asyncpg.Connection) -> None:
    day, name = await old_partition(pg)
    first = await pg.fetchval(INSERT_ON, "a", noon(day))
    last = await pg.fetchval(INSERT_ON, "b", noon(day))

    report = await run_once(pg, OPTIONS)
    assert report.partitions.refused == {name: "not_handed_over"}
    assert name in await partitions(pg)

    await hand_over_all(pg)
    report = await run_once(pg, OPTIONS)
    assert report.partitions.dropped == [day]
    assert name not in await partitions(pg)
    gone = await pg.fetchrow("SELECT * FROM relay.dropped_partition")
    assert (gone["partition_name"], gone["row_count"], gone["kept_count"]) == (name, 2, 0)
    assert (gone["id_range"].lower, gone["id_range"].upper) == (first, last + 1)
    assert gone["from_at"] == datetime(day.year, day.month, day.day, tzinfo=UTC)


async def test_a_row_of_a_transaction_that_was_in_progress_at_the_checkpoint_stays(
    pg: asyncpg.Connection, database: str
) -> None:
    day, name = await old_partition(pg)
    async with other(database) as writer:
        open_transaction = writer.transaction()
        await open_transaction.start()
        await writer.execute(INSERT_ON, "late", noon(day))
        await hand_over_all(pg)  # its txid is in progress in this snapshot, and below its xmax
        await pg.execute("SELECT pg_current_xact_id()")
        await hand_over_all(pg)
        await open_transaction.commit()

    assert await pg.fetchval("SELECT relay.drop_partition($1)", name) == "not_handed_over"
    await hand_over_all(pg)
    assert await pg.fetchval("SELECT relay.drop_partition($1)", name) == "dropped"


async def test_a_row_written_while_the_lock_was_awaited_is_seen_by_the_recheck(
    pg: asyncpg.Connection, database: str, eventually: Eventually
) -> None:
    """The first look finds everything handed over; a late row commits before the lock is got."""
    day, name = await old_partition(pg)
    await hand_over_all(pg)
    await pg.execute("ALTER FUNCTION relay.drop_partition(text, bigint) SET lock_timeout = '20s'")
    async with other(database) as writer, other(database) as dropper:
        late = writer.transaction()
        await late.start()
        await writer.execute(INSERT_ON, "late", noon(day))
        dropping = asyncio.create_task(dropper.fetchval("SELECT relay.drop_partition($1)", name))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await eventually(lambda: pg.fetchval(waiting))
        await late.commit()
        assert await dropping == "not_handed_over"
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox") == 1


async def test_a_foreign_txid_ahead_of_the_cluster_is_never_dropped(pg: asyncpg.Connection) -> None:
    day, name = await old_partition(pg)
    row = await pg.fetchval(INSERT_ON, "restored", noon(day))
    await pg.execute("UPDATE relay.outbox SET txid = '9000000000' WHERE id = $1", row)
    await hand_over_all(pg)
    assert await pg.fetchval("SELECT relay.drop_partition($1)", name) == "not_handed_over"


async def test_no_checkpoint_no_drop(pg: asyncpg.Connection) -> None:
    _, name = await old_partition(pg)
    await pg.execute("DELETE FROM relay.checkpoint")
    assert await pg.fetchval("SELECT relay.drop_partition($1)", name) == "not_handed_over"


async def test_parked_rows_and_open_overdue_ones_are_kept(pg: asyncpg.Connection) -> None:
    day, name = await old_partition(pg)
    parked = await pg.fetchval(INSERT_ON, "parked", noon(day))
    resolved = await pg.fetchval(INSERT_ON, "resolved", noon(day))
    overdue = await pg.fetchval(INSERT_ON, "overdue", noon(day))
    await pg.fetchval(INSERT_ON, "fine", noon(day))
    for row, state in ((parked, "held"), (resolved, "released")):
        await pg.execute(
            "INSERT INTO relay.quarantine (kind, reason, outbox_id, state)"
            " VALUES ('event', 'too_large', $1, $2)",
            row,
            state,
        )
    await pg.execute(
        """INSERT INTO relay.overdue (event_id, aggregate_id, event_type, placed_at, deadline_at,
                                      hop, verdict, cause)
           SELECT event_id::text, aggregate_id, event_type, created_at, created_at, 'return',
                  'no_return', 'unknown' FROM relay.outbox WHERE id = $1""",
        overdue,
    )
    before = await pg.fetch("SELECT * FROM relay.outbox WHERE id = ANY ($1)", [parked, overdue])
    await hand_over_all(pg)

    assert await pg.fetchval("SELECT relay.drop_partition($1, 4)", name) == "dropped"

    kept = await pg.fetch("SELECT * FROM relay.kept ORDER BY id")
    assert [(row["id"], row["why"]) for row in kept] == [(parked, "parked"), (overdue, "overdue")]
    for old, new in zip(sorted(before), sorted(kept), strict=True):
        assert {name: new[name] for name in old.keys()} == dict(old)  # noqa: SIM118 - a record's
    assert await pg.fetchval("SELECT kept_count FROM relay.dropped_partition") == 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("outbox_default", "not_a_partition"),
        ("outbox", "not_a_partition"),
        ("checkpoint", "not_a_partition"),
        ("outbox_p20000101", "not_a_partition"),
        ('outbox_p20000101"; DROP TABLE relay.kept; --', "not_a_partition"),
    ],
)
async def test_nothing_but_our_own_partitions_can_be_dropped(
    pg: asyncpg.Connection, name: str, why: str
) -> None:
    assert await pg.fetchval("SELECT relay.drop_partition($1)", name) == why


async def test_todays_partition_cannot_be_dropped(pg: asyncpg.Connection) -> None:
    await hand_over_all(pg)
    name = partition_name(await today(pg))
    assert await pg.fetchval("SELECT relay.drop_partition($1)", name) == "not_over"


async def test_dropping_needs_read_committed(pg: asyncpg.Connection) -> None:
    _, name = await old_partition(pg)
    await hand_over_all(pg)
    async with pg.transaction(isolation="repeatable_read"):
        with pytest.raises(asyncpg.RaiseError, match="READ COMMITTED"):
            await pg.fetchval("SELECT relay.drop_partition($1)", name)


async def test_made_by_two_at_once(pg: asyncpg.Connection, database: str) -> None:
    day = await today(pg) + timedelta(days=100)
    async with other(database) as a, other(database) as b:
        made = await asyncio.gather(
            *(keep_partitions(c, days_ahead=120, keep_days=30, attempts=200) for c in (a, b))
        )
    assert [day in report.created for report in made].count(True) == 1
    assert partition_name(day) in await partitions(pg)
    assert not made[0].blocked
    assert not made[1].blocked


async def test_a_long_reader_blocks_only_the_drop_and_is_named(
    pg: asyncpg.Connection, database: str
) -> None:
    day, name = await old_partition(pg)
    await hand_over_all(pg)
    async with other(database) as reader, reader.transaction():
        await reader.execute("SET application_name = 'long-report'")
        await reader.fetch("SELECT count(*) FROM relay.outbox")
        report = await run_once(pg, OPTIONS)
    assert report.partitions.dropped == []
    assert "long-report" in report.partitions.blocked[name]
    report = await run_once(pg, OPTIONS)
    assert report.partitions.dropped == [day]


class Load:
    """Orders at full speed, a poller, and a report that holds its locks most of the time."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.waits: list[float] = []
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        work = (self._write(), self._write(), self._write(), self._poll(), self._read_long())
        self._tasks = [asyncio.create_task(each) for each in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _write(self) -> None:
        async with other(self.database) as connection:
            while not self._stop.is_set():
                began = time.perf_counter()
                await connection.execute(INSERT, "o")
                self.waits.append(time.perf_counter() - began)

    async def _poll(self) -> None:
        async with other(self.database) as connection:
            while not self._stop.is_set():
                await connection.fetch("SELECT id FROM relay.outbox WHERE txid > '9000000000'")

    async def _read_long(self) -> None:
        async with other(self.database) as connection:
            while not self._stop.is_set():
                async with connection.transaction():
                    await connection.fetchval("SELECT count(*) FROM relay.outbox")
                    await connection.execute("SELECT pg_sleep(0.2)")
                await asyncio.sleep(0.1)


async def come_and_go(pg: asyncpg.Connection, database: str, run: int) -> float:
    """Make and drop partitions under load; return an order's longest wait, in seconds."""
    dropped: list[date] = []
    async with Load(database) as load:
        for number in range(run * 4, run * 4 + 4):
            day, _ = await old_partition(pg, days=60 + number)
            await pg.execute(INSERT_ON, "old", noon(day))
            await hand_over_all(pg)
            report = await keep_partitions(pg, days_ahead=9 + number, keep_days=30, attempts=40)
            dropped += report.dropped
            assert report.created
    assert len(dropped) == 4
    assert len(load.waits) > 100
    return max(load.waits)


async def test_orders_wait_less_than_200_ms_while_partitions_come_and_go(
    pg: asyncpg.Connection, database: str
) -> None:
    # Locks make orders wait in every run; a neighbour's load on this machine's disk does not.
    await pg.execute("SET synchronous_commit = off")
    longest = [await come_and_go(pg, database, run) for run in range(3)]
    assert min(longest) < 0.2, f"longest waits {longest}"


FILL = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, created_at)
SELECT 'order', n::text, 'order.placed',
       json_build_object('text', (SELECT string_agg(md5(n::text || i), '')
                                    FROM generate_series(1, 50) i)), $1
  FROM generate_series(1, 20000) n
"""


async def test_a_large_default_is_emptied_without_making_orders_wait(
    pg: asyncpg.Connection, database: str
) -> None:
    """The relay was away for weeks: DEFAULT holds past days, today has its partition again."""
    longest = []
    for ago in (5, 6, 7):
        day = await today(pg) - timedelta(days=ago)
        await pg.execute(FILL, noon(day))
        assert await pg.fetchval("SELECT relay.default_is_large()")
        async with Load(database) as load:
            report = await keep_partitions(pg, days_ahead=7, keep_days=30, attempts=40)
        assert (report.created, report.moved_rows) == ([day], 20000)
        assert await pg.fetchval(f"SELECT count(*) FROM relay.{partition_name(day)}") == 20000
        longest.append(max(load.waits))
    assert min(longest) < 0.2, f"longest waits {longest}"


async def test_a_large_default_that_orders_still_go_to_is_left_until_tomorrow(
    pg: asyncpg.Connection,
) -> None:
    day = await today(pg)
    tomorrow = day + timedelta(days=1)
    for gone in (day, tomorrow):
        await pg.execute(f"DROP TABLE relay.{partition_name(gone)}")
    await pg.execute(FILL, noon(day - timedelta(days=5)))
    await pg.execute(INSERT, "today")

    report = await keep_partitions(pg, days_ahead=30, keep_days=30, attempts=3)

    assert report.created == [tomorrow]
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox_default") == 20001


async def test_the_oldest_day_of_default_is_emptied_first_one_a_call(
    pg: asyncpg.Connection,
) -> None:
    day = await today(pg)
    for ago in (3, 9, 5):
        await pg.execute(INSERT_ON, "x", noon(day - timedelta(days=ago)))
    emptied = [await pg.fetchval("CALL relay.empty_default()") for _ in range(4)]
    assert emptied == [*(day - timedelta(days=ago) for ago in (9, 5, 3)), None]
