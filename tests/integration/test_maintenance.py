"""Upkeep beside the partitions: the ledger stays exact when its rows are joined; old rows go."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from relay.publish.maintenance import duties, loop
from relay.publish.maintenance.duties import MaintenanceOptions, run_once
from relay.publish.maintenance.ledger_merge import merge_ledger
from relay.publish.maintenance.retention import BATCH_ROWS, forget
from relay.runtime.tasks import background, end

LEDGER = """
INSERT INTO relay.delivery_ledger (shard, epoch, topic, partition, base_offset, record_count,
                                   outbox_ids, id_range, replay_id, published_at)
VALUES ($1, $2, $3, $4, $5, cardinality($6::bigint[]), $6,
        int8range((SELECT min(i) FROM unnest($6::bigint[]) i),
                  (SELECT max(i) FROM unnest($6::bigint[]) i), '[]'), $7, $8)
"""
# Every event's place, whatever the rows are.
PLACES = """
SELECT id, topic, partition, base_offset + place - 1 AS place, shard, epoch, replay_id
  FROM relay.delivery_ledger, unnest(outbox_ids) WITH ORDINALITY AS ids (id, place)
 ORDER BY id, topic, partition, place, epoch
"""
REPLAY = "01890a5d-ac96-774b-bcce-b302099a8057"


async def merge(pg: asyncpg.Connection, **changes: Any) -> int:
    options = {"after_seconds": 60, "span_seconds": 10, "most_ids": 100, "most_slices": 10_000}
    return await merge_ledger(pg, **{**options, **changes})


class Ledger:
    """Writes rows as a relay would: offsets that go on, ids in some order, now and then a gap."""

    def __init__(self, pg: asyncpg.Connection, seed: int) -> None:
        self.pg, self.random = pg, random.Random(seed)
        self.next_id, self.ends = 1, dict[tuple[str, int], int]()

    async def write(self, rows: int) -> None:
        at = await self.pg.fetchval("SELECT clock_timestamp() - interval '1 hour'")
        for _ in range(rows):
            at += timedelta(seconds=self.random.choice((0, 0.1, 1, 15)))
            await self.pg.execute(LEDGER, *self._row(), at)

    def _row(self) -> tuple[object, ...]:
        draw = self.random
        series = (draw.choice("ab"), draw.randrange(2))
        count = draw.choice((1, 1, 2, 3, 120))
        ids = list(range(self.next_id, self.next_id + count))
        draw.shuffle(ids)
        self.next_id += count
        base = self.ends.get(series, 0) + draw.choice((0, 0, 0, 0, 5))
        self.ends[series] = base + count
        unknown = draw.random() < 0.1
        replay = REPLAY if draw.random() < 0.1 else None
        return (0, draw.choice((1, 1, 1, 2)), *series, None if unknown else base, ids, replay)


@pytest.mark.parametrize("seed", range(6))
async def test_joined_rows_say_the_same_of_every_event(pg: asyncpg.Connection, seed: int) -> None:
    await Ledger(pg, seed).write(150)
    before = await pg.fetch(PLACES)
    rows = await pg.fetchval("SELECT count(*) FROM relay.delivery_ledger")

    fewer = await merge(pg)

    assert fewer > 0
    assert await pg.fetchval("SELECT count(*) FROM relay.delivery_ledger") == rows - fewer
    assert await pg.fetch(PLACES) == before
    wrong = await pg.fetch(
        """SELECT * FROM relay.delivery_ledger
            WHERE id_range <> int8range((SELECT min(i) FROM unnest(outbox_ids) i),
                                        (SELECT max(i) FROM unnest(outbox_ids) i), '[]')"""
    )
    assert wrong == []
    assert await merge(pg) == 0


async def at(pg: asyncpg.Connection, seconds_ago: float) -> Any:
    return await pg.fetchval(
        "SELECT date_trunc('second', now()) - $1::interval", timedelta(seconds=seconds_ago)
    )


async def contents(pg: asyncpg.Connection) -> list[tuple[int | None, list[int]]]:
    rows = await pg.fetch(
        "SELECT base_offset, outbox_ids FROM relay.delivery_ledger ORDER BY 1 NULLS LAST, 2"
    )
    return [(row["base_offset"], row["outbox_ids"]) for row in rows]


async def test_neighbours_become_one_in_record_order(pg: asyncpg.Connection) -> None:
    when = await at(pg, 3600)
    for base, ids in ((7, [9, 8]), (5, [4, 6]), (9, [1])):
        await pg.execute(LEDGER, 0, 1, "t", 0, base, ids, None, when)
    assert await merge(pg) == 2
    assert await contents(pg) == [(5, [4, 6, 9, 8, 1])]
    row = await pg.fetchrow("SELECT * FROM relay.delivery_ledger")
    assert (row["record_count"], row["published_at"]) == (5, when)
    assert (row["id_range"].lower, row["id_range"].upper) == (1, 10)


@pytest.mark.parametrize(
    "other",
    [
        {"epoch": 2},
        {"topic": "u"},
        {"partition": 1},
        {"base": 3},
        {"base": None},
        {"replay": REPLAY},
        {"shard": 1},
    ],
)
async def test_what_does_not_touch_stays_apart(
    pg: asyncpg.Connection, other: dict[str, Any]
) -> None:
    when = await at(pg, 3600)
    row = {"shard": 0, "epoch": 1, "topic": "t", "partition": 0, "base": 2, "replay": None, **other}
    await pg.execute(LEDGER, 0, 1, "t", 0, 0, [1, 2], None, when)
    await pg.execute(
        LEDGER, row["shard"], row["epoch"], row["topic"], row["partition"], row["base"], [3],
        row["replay"], when,
    )  # fmt: skip
    assert await merge(pg) == 0


async def test_rows_far_apart_and_young_ones_stay(pg: asyncpg.Connection) -> None:
    for base, ago in enumerate((3600, 3580, 30, 29)):
        await pg.execute(LEDGER, 0, 1, "t", 0, base, [base + 1], None, await at(pg, ago))
    assert await merge(pg) == 0
    assert await merge(pg, after_seconds=10) == 1
    assert await contents(pg) == [(0, [1]), (1, [2]), (2, [3, 4])]


async def test_a_joined_row_does_not_grow_without_end(pg: asyncpg.Connection) -> None:
    when = await at(pg, 3600)
    for number in range(50):
        ids = [2 * number + 1, 2 * number + 2]
        await pg.execute(LEDGER, 0, 1, "t", 0, 2 * number, ids, None, when)
    assert await merge(pg, most_ids=10) == 40
    counts = await pg.fetch("SELECT record_count FROM relay.delivery_ledger")
    assert {row["record_count"] for row in counts} == {10}


async def test_a_run_goes_on_where_the_last_one_stopped(pg: asyncpg.Connection) -> None:
    for minute in range(5):
        for second in range(2):
            when = await at(pg, 3600 - 60 * minute - second)
            base = 2 * minute + 1 - second
            await pg.execute(LEDGER, 0, 1, "t", 0, base, [base + 1], None, when)
    assert await merge(pg, most_slices=3) == 2  # the slice between the two is empty
    done = await pg.fetchval("SELECT done_until FROM relay.maintenance WHERE duty = 'merge_ledger'")
    assert done is not None
    assert await merge(pg) == 3
    assert await merge(pg) == 0


@pytest.fixture
async def second(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    connection.terminate()


async def test_one_maintains_at_a_time(pg: asyncpg.Connection, second: asyncpg.Connection) -> None:
    epoch = await second.fetchval(duties._TAKE, 60.0)
    assert (await run_once(pg, MaintenanceOptions())).busy
    await second.execute(duties._RELEASE, epoch)
    assert not (await run_once(pg, MaintenanceOptions())).busy
    assert not (await run_once(second, MaintenanceOptions())).busy


async def test_many_at_once_join_each_row_once(
    pg: asyncpg.Connection, second: asyncpg.Connection
) -> None:
    await Ledger(pg, 1).write(150)
    before = await pg.fetch(PLACES)
    await asyncio.gather(*(run_once(c, MaintenanceOptions()) for c in (pg, second)))
    assert await pg.fetch(PLACES) == before


async def test_a_run_as_the_relay_s_role(pg: asyncpg.Connection) -> None:
    await Ledger(pg, 1).write(20)
    await pg.execute("SET ROLE relay_publisher")
    report = await run_once(pg, MaintenanceOptions(days_ahead=9))
    assert len(report.partitions.created) == 2
    assert report.merged_rows > 0


AGED = (
    "INSERT INTO relay.position (topic, partition, taken_at) SELECT 't', 0, now() - $1::interval",
    "INSERT INTO relay.process_record (process_id, kind, instance, version, heartbeat_at)"
    " SELECT gen_random_uuid(), 'relay', 'i', '1', now() - $1::interval",
    "INSERT INTO relay.outage_record (process_id, kind, resource, from_at, error)"
    " SELECT gen_random_uuid(), 'relay', 'broker', now() - $1::interval, 'e'",
    "INSERT INTO relay.inbox (event_id, aggregate_id, status, outcome, content_hash,"
    " consumer_group, topic, partition, record_offset, recorded_at, received_at)"
    " SELECT gen_random_uuid()::text, 'a', 's', 'applied', '', 'g', 't', 0, 0, now(),"
    " now() - $1::interval",
    "INSERT INTO relay.delivery_ledger (epoch, topic, partition, record_count, outbox_ids,"
    " id_range, published_at) SELECT 1, 't', 0, 1, '{1}', '[1,1]', now() - $1::interval",
)
TABLES = ("position", "process_record", "outage_record", "inbox", "delivery_ledger")


async def test_what_is_past_its_days_is_forgotten(pg: asyncpg.Connection) -> None:
    for statement in AGED:
        for days in (1, 9, 11):
            await pg.execute(statement, timedelta(days=days))
    deleted = await forget(
        pg, ledger_days=10, inbox_days=10, position_days=10, record_days=10, kept_days=10
    )
    assert deleted == dict.fromkeys(TABLES, 1)
    for table in TABLES:
        assert await pg.fetchval(f"SELECT count(*) FROM relay.{table}") == 2


async def test_more_than_a_batch_goes_in_batches(pg: asyncpg.Connection) -> None:
    rows = 2 * BATCH_ROWS + 1
    statement = AGED[0] + f" FROM generate_series(1, {rows})"
    await pg.execute(statement, timedelta(days=11))
    deleted = await forget(
        pg, ledger_days=10, inbox_days=10, position_days=10, record_days=10, kept_days=10
    )
    assert deleted == {"position": rows}


async def test_the_retention_runs_once_an_hour(pg: asyncpg.Connection) -> None:
    options = MaintenanceOptions(position_days=10)
    await run_once(pg, options)
    await pg.execute(AGED[0], timedelta(days=11))
    assert (await run_once(pg, options)).deleted_rows == {}
    await pg.execute("UPDATE relay.maintenance SET ran_at = ran_at - interval '2 hours'")
    assert (await run_once(pg, options)).deleted_rows == {"position": 1}


KEPT = """
INSERT INTO relay.kept (txid, id, event_id, aggregate_type, aggregate_id, event_type, payload,
                        created_at, kept_at, why)
SELECT '3', $1::int, gen_random_uuid(), 'order', 'o-' || $1::int, 'order.placed', '{}',
       timestamptz '2026-01-05 12:00Z' + $1::int * interval '1 day', now() - $2::interval, 'parked'
"""
HELD = """
INSERT INTO relay.quarantine (kind, reason, aggregate_id, outbox_id, state)
VALUES ('event', 'too_large', 'o-' || $1::int, $1::int, $2)
"""


async def test_kept_rows_have_a_retention_of_their_own_and_leave_by_name(
    pg: asyncpg.Connection,
) -> None:
    for number, days, state in ((1, 400, "held"), (2, 380, "release_requested"),
                                (3, 370, "released"), (4, 10, "held")):  # fmt: skip
        await pg.execute(KEPT, number, timedelta(days=days))
        await pg.execute(HELD, number, state)
    options = MaintenanceOptions(kept_days=365)
    report = await run_once(pg, options)
    assert report.deleted_rows == {"kept": 2}
    # One that somebody released is on its way, and stays until it is sent.
    assert await pg.fetchval("SELECT array_agg(id ORDER BY id) FROM relay.kept") == [2, 4]
    rows = await pg.fetch("SELECT outbox_id, state, resolved_by FROM relay.quarantine ORDER BY 1")
    assert [tuple(row) for row in rows] == [
        (1, "discarded", "retention"),
        (2, "release_requested", None),
        (3, "released", None),
        (4, "held", None),
    ]
    gone = await pg.fetchrow("SELECT * FROM relay.dropped_partition WHERE partition_name = 'kept'")
    assert (gone["row_count"], gone["id_range"].lower, gone["id_range"].upper) == (2, 1, 4)
    audit = await pg.fetchrow("SELECT * FROM relay.audit_log")
    assert (audit["action"], audit["result"]) == (
        "forget_kept",
        "2 rows can no longer be replayed",
    )
    # The range grows with what leaves later.
    await pg.execute("UPDATE relay.kept SET kept_at = now() - interval '2 years' WHERE id = 4")
    await pg.execute("UPDATE relay.maintenance SET ran_at = ran_at - interval '2 hours'")
    await run_once(pg, options)
    gone = await pg.fetchrow("SELECT * FROM relay.dropped_partition WHERE partition_name = 'kept'")
    assert (gone["row_count"], gone["id_range"].upper) == (3, 5)


async def test_the_relays_role_lets_go_of_kept_rows_by_that_function_only(
    pg: asyncpg.Connection,
) -> None:
    await pg.execute(KEPT, 1, timedelta(days=400))
    await pg.execute("SET ROLE relay_publisher")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pg.execute("DELETE FROM relay.kept")
    assert await pg.fetchval("SELECT relay.forget_kept(365, 10)") == 1
    with pytest.raises(asyncpg.RaiseError):
        await pg.fetchval("SELECT relay.forget_kept(0, 10)")


def test_an_inbox_that_forgets_before_the_outbox_is_refused() -> None:
    with pytest.raises(ValueError, match="inbox_days"):
        MaintenanceOptions(inbox_days=29)


FOR_EVER = MaintenanceOptions(
    outbox_days=2**31 - 1,
    ledger_days=2**31 - 1,
    inbox_days=2**31 - 1,
    position_days=2**31 - 1,
    record_days=2**31 - 1,
    kept_days=2**31 - 1,
)


async def test_what_is_kept_for_ever_needs_no_calendar(pg: asyncpg.Connection) -> None:
    report = await run_once(pg, FOR_EVER)
    assert not report.busy
    assert report.partitions.dropped == []
    assert report.deleted_rows == {}


async def test_upkeep_survives_whatever_fails_and_says_so(
    database: str, pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()
    completed = loop.run_once

    async def fails_once(*arguments: Any) -> Any:
        if not tried.is_set():
            tried.set()
            raise OverflowError("date value out of range")
        return await completed(*arguments)

    monkeypatch.setattr(loop, "run_once", fails_once)
    running = background(loop.maintain(database, MaintenanceOptions(every_seconds=0.2)), "upkeep")
    try:
        async with asyncio.timeout(30):
            await tried.wait()
            while (row := await _upkeep_record(pg)) is None or row["completed_at"] is None:
                assert row is None or "OverflowError" in row["error"]
                await asyncio.sleep(0.02)
        assert (row["failures"], row["error"]) == (0, None)
    finally:
        await end(running)


async def _upkeep_record(pg: asyncpg.Connection) -> asyncpg.Record | None:
    return await pg.fetchrow("SELECT * FROM relay.duty_record WHERE duty = 'upkeep'")
