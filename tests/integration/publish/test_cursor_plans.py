"""The plans of the reads, guarded: what they touch must not grow with what is retained.

Buffers are counted, not milliseconds: they are the same on every machine.
"""

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest

from relay.publish.reading import outbox_sql
from relay.publish.reading.outbox_sql import READER_SETTINGS
from relay.runtime.session_settings import PINNED

DAYS = 30
ROWS_A_DAY = 2_000
PARTITIONS = DAYS + 10  # and those that `relay migrate` made ahead
# An index probe of a partition: root, a leaf, perhaps the next one, visibility map, the row.
PROBE = 6

PLAIN_TIMES = "-c timezone=UTC -c datestyle=ISO"
PARTITION = """
DO $$
BEGIN
    FOR day IN 1..{days} LOOP
        EXECUTE format('CREATE TABLE IF NOT EXISTS relay.past_%s PARTITION OF relay.outbox'
                       ' FOR VALUES FROM (%L) TO (%L)', day,
                       date_trunc('day', now(), 'UTC') - make_interval(days => day),
                       date_trunc('day', now(), 'UTC') - make_interval(days => day - 1));
    END LOOP;
END $$
"""
FILL = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, created_at)
SELECT 'order', 'o-' || n, 'order.placed', '{}',
       date_trunc('day', now(), 'UTC') - make_interval(days => 1 + n % $1) + interval '1 hour'
  FROM generate_series(1, $2::int) n
"""


@pytest.fixture(scope="module", params=["fresh", "stale"])
def retained(
    postgres_url: str, template_database: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A month of retained rows; the statistics know of them, or were taken when it was empty."""
    name = f"plans_{request.param}_{uuid.uuid4().hex[:8]}"
    url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
        # The bounds of its partitions are texts.
        with psycopg.connect(url, autocommit=True, options=PLAIN_TIMES) as connection:
            fill_a_month(connection, analyze_first=request.param == "stale")
        yield url
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def fill_a_month(connection: psycopg.Connection, *, analyze_first: bool) -> None:
    connection.execute(PARTITION.format(days=DAYS))
    tables = connection.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'relay.outbox'::regclass"
    ).fetchall()
    for (table,) in tables:
        connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    if analyze_first:
        connection.execute("ANALYZE relay.outbox")
    # Many small transactions and a bulk one.
    fill = FILL.replace("$1", str(DAYS))
    for _ in range(DAYS):
        connection.execute(fill.replace("$2", str(ROWS_A_DAY // 2)))
    connection.execute(fill.replace("$2", str(DAYS * ROWS_A_DAY // 2)))
    if not analyze_first:
        connection.execute("ANALYZE relay.outbox")


@pytest.fixture
async def outbox(retained: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that may write; what tests add stays for the tests after them."""
    connection = await asyncpg.connect(retained)
    yield connection
    await connection.close()


@pytest.fixture(params=["force_generic_plan", "force_custom_plan", "auto"])
async def reader(
    retained: str, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection]:
    settings = {**PINNED, **READER_SETTINGS, "plan_cache_mode": request.param}
    connection = await asyncpg.connect(retained, server_settings=settings)
    yield connection
    await connection.close()


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, tuple):
        return "'{" + ",".join(map(str, value)) + "}'"
    return f"'{value}'"


async def plan(
    reader: asyncpg.Connection, sql: str, types: str, *arguments: Any, rounds: int = 7
) -> dict[str, Any]:
    """Execute as often as a plan may change, and return the last plan with what it touched."""
    await reader.execute("DEALLOCATE ALL")
    await reader.execute(f"PREPARE read{types and f'({types})'} AS {sql}")
    given = ", ".join(map(literal, arguments))
    call = f"EXECUTE read{given and f'({given})'}"
    for _ in range(rounds):
        text = await reader.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {call}")
    return json.loads(text)[0]["Plan"]  # type: ignore[no-any-return]


def nodes(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [found, *(node for child in found.get("Plans", ()) for node in nodes(child))]


def buffers(found: dict[str, Any]) -> int:
    return int(found["Shared Hit Blocks"] + found["Shared Read Blocks"])


def assert_cheap(found: dict[str, Any], most_buffers: int) -> None:
    kinds = {node["Node Type"] for node in nodes(found)}
    assert not kinds & {"Seq Scan", "Bitmap Heap Scan", "Gather", "Gather Merge"}, kinds
    assert buffers(found) <= most_buffers, (buffers(found), most_buffers)


async def snapshot(connection: asyncpg.Connection) -> tuple[int, str]:
    row = await connection.fetchrow(
        "SELECT pg_snapshot_xmax(s)::text::bigint, s::text FROM pg_current_snapshot() s"
    )
    assert row is not None
    return row[0], row[1]


@pytest.mark.parametrize("in_progress", [0, 16, 200])
@pytest.mark.parametrize("waiting", [0, 1, 40])
async def test_a_poll_touches_the_waiting_rows_and_each_partition_once(
    outbox: asyncpg.Connection, reader: asyncpg.Connection, in_progress: int, waiting: int
) -> None:
    xmax, _ = await snapshot(outbox)
    # Transactions that were in progress and wrote nothing: the dearest kind.
    xip = [
        await outbox.fetchval("SELECT pg_current_xact_id()::text::bigint")
        for _ in range(in_progress)
    ]
    xmax = max([xmax, *[number + 1 for number in xip]])
    for _ in range(waiting):
        await outbox.execute(FILL, 1, 1)
    found = await plan(
        reader, outbox_sql.WINDOW, "xid8, bigint, int, xid8[]", xmax, 1601, 4096, tuple(xip)
    )
    assert found["Actual Rows"] == waiting + 1
    probes = PARTITIONS * (1 + in_progress)
    assert_cheap(found, PROBE * probes + 3 * waiting + 50)


async def test_a_bulk_transaction_that_ended_costs_a_page(
    outbox: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    xmax, _ = await snapshot(outbox)
    bulk = await outbox.fetchval(
        "SELECT txid::text::bigint FROM relay.outbox GROUP BY txid ORDER BY count(*) DESC LIMIT 1"
    )
    found = await plan(
        reader, outbox_sql.WINDOW, "xid8, bigint, int, xid8[]", xmax, 101, 4096, (bulk,)
    )
    assert found["Actual Rows"] == 102
    assert_cheap(found, PROBE * PARTITIONS * 2 + 6 * 102)


async def test_a_bulk_transaction_still_in_progress_is_not_walked_through(
    outbox: asyncpg.Connection, reader: asyncpg.Connection, retained: str
) -> None:
    loader = await asyncpg.connect(retained)
    await loader.execute("BEGIN")
    await loader.execute(FILL, 1, 20_000)
    txid = await loader.fetchval("SELECT pg_current_xact_id()::text::bigint")
    found = await plan(
        reader, outbox_sql.WINDOW, "xid8, bigint, int, xid8[]", txid + 1, 101, 4096, (txid,)
    )
    assert found["Actual Rows"] == 1
    assert_cheap(found, PROBE * PARTITIONS + 50)
    await loader.close()


async def test_a_bulk_transaction_that_was_rolled_back_is_not_walked_through(
    outbox: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    transaction = outbox.transaction()
    await transaction.start()
    await outbox.execute(FILL, 1, 20_000)
    txid = await outbox.fetchval("SELECT pg_current_xact_id()::text::bigint")
    await transaction.rollback()
    found = await plan(
        reader, outbox_sql.WINDOW, "xid8, bigint, int, xid8[]", txid + 1, 101, 4096, (txid,)
    )
    assert found["Actual Rows"] == 1
    assert_cheap(found, PROBE * PARTITIONS + 50)


async def test_a_poll_without_transactions_in_progress_probes_each_partition_once(
    outbox: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    xmax, _ = await snapshot(outbox)
    found = await plan(reader, outbox_sql.WINDOW_OF_NEW, "xid8, bigint, int", xmax, 1601, 4096)
    assert found["Actual Rows"] == 1
    assert_cheap(found, PROBE * PARTITIONS)


@pytest.mark.parametrize("where", ["first", "middle", "last"])
async def test_a_page_of_a_large_window_costs_a_page(
    outbox: asyncpg.Connection, reader: asyncpg.Connection, where: str
) -> None:
    """All that is retained is one window: 100 rows of it cost 100 rows."""
    await outbox.execute(FILL, 1, 200)  # other tests leave gaps
    low = await outbox.fetchval("SELECT min(id) FROM relay.outbox")
    last = await outbox.fetchval("SELECT id FROM relay.outbox ORDER BY id DESC OFFSET 100 LIMIT 1")
    start = {"first": low - 1, "middle": low + DAYS * ROWS_A_DAY // 2, "last": last}[where]
    _, now = await snapshot(outbox)
    found = await plan(
        reader, outbox_sql.PAGE_OF_NEW, "bigint, bigint, xid8, text, bigint, int",
        start, start + 32_768, 3, now, 100, 4096,
    )  # fmt: skip
    assert found["Actual Rows"] == 100
    assert_cheap(found, PROBE * PARTITIONS + 6 * 100)


async def test_the_first_page_behind_retained_rows_does_not_walk_them(
    outbox: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    await outbox.execute(FILL, 1, 1)  # other tests leave gaps
    xmax, _ = await snapshot(outbox)
    hint = await outbox.fetchval("SELECT max(id) FROM relay.outbox")
    await outbox.execute(FILL, 1, 5_000)
    _, now = await snapshot(outbox)
    lowest = await plan(
        reader, outbox_sql.LOWEST_OF_NEW, "xid8, xid8, bigint", xmax, now.split(":")[1], hint
    )
    assert_cheap(lowest, PROBE * PARTITIONS + 60)  # the index entries of 5,000 rows, no row
    page = await plan(
        reader, outbox_sql.PAGE_OF_NEW, "bigint, bigint, xid8, text, bigint, int",
        hint, hint + 32_768, xmax, now, 100, 4096,
    )  # fmt: skip
    assert page["Actual Rows"] == 100
    assert_cheap(page, PROBE * PARTITIONS + 6 * 100)


async def test_rows_of_ended_transactions_are_found_by_transaction(
    outbox: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    numbers = await outbox.fetch("SELECT DISTINCT txid::text::bigint FROM relay.outbox ORDER BY 1")
    txids = tuple(row[0] for row in numbers[:16])
    low, high = await outbox.fetchrow("SELECT min(id) - 1, max(id) FROM relay.outbox")  # type: ignore[misc]
    found = await plan(
        reader,
        outbox_sql.PAGE_OF_ENDED,
        "bigint, bigint, xid8[], bigint, int",
        low,
        high,
        txids,
        10,
        4096,
    )
    assert found["Actual Rows"] == 10
    assert_cheap(found, PROBE * PARTITIONS * len(txids) + 10 * len(txids) * 4)
    lowest = await plan(reader, outbox_sql.LOWEST_OF_ENDED, "xid8[]", txids)
    assert_cheap(lowest, PROBE * PARTITIONS * len(txids) + 4 * len(txids))


async def test_the_bounds_are_two_probes_a_partition(
    outbox: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    assert_cheap(await plan(reader, outbox_sql.BOUNDS, ""), PROBE * PARTITIONS * 2)
    # Of a row: whatever tests rolled back before this one leaves a gap to be walked, until VACUUM.
    middle = await outbox.fetchval(
        "SELECT id FROM relay.outbox ORDER BY id"
        " OFFSET (SELECT count(*) / 2 FROM relay.outbox) LIMIT 1"
    )
    assert_cheap(await plan(reader, outbox_sql.NEXT_ID, "bigint", middle), PROBE * PARTITIONS)


async def test_without_a_hint_the_rows_before_the_window_are_not_walked_either(
    outbox: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    xmax, _ = await snapshot(outbox)
    highest = await outbox.fetchval("SELECT max(id) FROM relay.outbox")
    await outbox.execute(FILL, 1, 5_000)
    found = await plan(reader, outbox_sql.LAST_BEFORE, "xid8", xmax)
    assert_cheap(found, PROBE * PARTITIONS + 6 * 1000)
    assert await outbox.fetchval(outbox_sql.LAST_BEFORE, xmax) == highest
