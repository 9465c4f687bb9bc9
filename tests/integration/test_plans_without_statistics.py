"""What is asked of orders costs what the orders cost, also in a partition without statistics.

Each day's partition is one from midnight until autovacuum has looked at it. Rows are counted, not
milliseconds: they are the same on every machine. The asked ones are the last of the partition:
whoever reads it from its beginning reads all of it.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from relay.consumers.confirm import continuity, spans
from relay.diagnose.gather import database as gathered
from relay.diagnose.status import traces
from relay.diagnose.watch.overdue import find_open
from relay.publish.reading import outbox_sql, proven, replays
from relay.replay import candidates
from relay.runtime.flow import EventRoute, Flow

ROWS, ASKED = 20_000, 200
FLOW = Flow(events={"order.placed": EventRoute("orders.events", 0.001)})
KINDS = "order", ["order.placed"]
DIAGNOSIS = {"plan_cache_mode": "force_custom_plan", "jit": "off"}
CONSUMER = DIAGNOSIS | {"enable_hashjoin": "off", "enable_mergejoin": "off"}
READ = """
SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint
  FROM pg_stat_xact_all_tables
 WHERE relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'relay.outbox'::regclass)
"""
EVENTS = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', u, 'order.placed', '{}' FROM unnest($1::text[]) AS u
"""
ORDERS = """
INSERT INTO orders (order_id, customer_id, items, total, currency, submitted_at)
SELECT u::uuid, 'c-1', '[]', 1, 'EUR', now() - interval '1 minute' FROM unnest($1::text[]) AS u
"""
RETURNS = """
INSERT INTO relay.inbox (event_id, aggregate_id, status, outcome, content_hash, consumer_group,
       topic, partition, record_offset, recorded_at, received_at, traceparent)
SELECT u, u, 'confirmed', 'applied', ''::bytea, 'order-confirmation', 'orders.returns', 0, n, now(),
       now(), '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  FROM unnest($1::text[]) WITH ORDINALITY AS u (u, n)
"""


@dataclass
class Asked:
    """The newest of many orders, and a connection like each of those that ask."""

    pg: asyncpg.Connection
    orders: list[str]
    ids: list[int]
    events: list[str]
    first_txid: int
    consumer: asyncpg.Connection
    diagnosis: asyncpg.Connection
    reader: asyncpg.Connection


@pytest.fixture
async def asked(database: str, pg: asyncpg.Connection) -> AsyncIterator[Asked]:
    names = await pg.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'relay.outbox'::regclass"
    )
    for (name,) in names:
        await pg.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")
    orders = [str(uuid.uuid4()) for _ in range(ROWS)]
    await pg.execute(ORDERS, orders)
    await pg.execute("ANALYZE orders")
    await pg.execute(EVENTS, orders[:-ASKED])
    first_txid = await pg.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    for one in orders[-ASKED:]:
        await pg.execute(EVENTS, [one])
    rows = await pg.fetch(
        "SELECT aggregate_id, id, event_id::text FROM relay.outbox ORDER BY id DESC LIMIT $1", ASKED
    )
    given = [
        await asyncpg.connect(database, server_settings=settings)
        for settings in (CONSUMER, DIAGNOSIS, outbox_sql.READER_SETTINGS)
    ]
    yield Asked(pg, *(list(column) for column in zip(*rows, strict=True)), first_txid, *given)
    for one in given:
        await one.close()


async def looked_at(
    connection: asyncpg.Connection, work: Callable[[], Awaitable[Any]], found: int = ASKED
) -> int:
    """Return how many rows of the outbox were read for something that finds so many or more."""
    async with connection.transaction():
        before: int = await connection.fetchval(READ)
        assert len(await work()) >= found
        after: int = await connection.fetchval(READ)
    return after - before


async def open_orders(connection: asyncpg.Connection) -> Any:
    since = datetime.now(UTC) - timedelta(hours=1)
    return await find_open(connection, FLOW, since=since, unrecorded=True, at_most=ROWS)


async def test_a_batch_of_returns_finds_its_traces(asked: Asked) -> None:
    around = [datetime.now(UTC).timestamp()] * ASKED
    consumer, numbers = asked.consumer, list(range(ASKED))
    for statement, *given in (
        (spans._CONTEXTS, asked.orders, around),
        (continuity._STORED, numbers, asked.orders, [None] * ASKED, around),
        (continuity._STORED, numbers, asked.orders, asked.events, around),
    ):
        read = await looked_at(consumer, lambda s=statement, g=given: consumer.fetch(s, *g))
        assert read <= 2 * ASKED, statement


async def test_answered_orders_are_found_with_their_traces(asked: Asked) -> None:
    await asked.pg.execute(RETURNS, asked.orders)
    given = (datetime.now(UTC) - timedelta(hours=1), "order-confirmation", ASKED, ["orders.events"])
    read = await looked_at(asked.diagnosis, lambda: asked.diagnosis.fetch(traces._ANSWERED, *given))
    assert read <= 2 * ASKED


async def test_the_leader_and_a_replay_read_what_they_ask_for(asked: Asked) -> None:
    reader, everything = asked.reader, "3:3:"
    for statement, given in (
        (proven._LOOK, (asked.first_txid, 50_000, [3, 4])),
        (outbox_sql.BY_ID, (asked.ids, 100_000)),
        (replays.FORBIDDEN, (asked.ids, everything)),
    ):
        read = await looked_at(reader, lambda s=statement, g=given: reader.fetch(s, *g), found=1)
        assert read <= 2 * ASKED, statement


async def test_a_diagnosis_reads_a_partition_once_at_the_most(asked: Asked) -> None:
    diagnosis, now = asked.diagnosis, datetime.now(UTC)
    near = await looked_at(
        diagnosis,
        lambda: diagnosis.fetch(gathered._EVENTS_NEAR, asked.orders, *KINDS, [now] * ASKED),
    )
    assert near <= 2 * ASKED
    for work in (
        lambda: diagnosis.fetch(gathered._EVENTS, asked.orders, *KINDS),
        lambda: open_orders(diagnosis),
    ):
        assert await looked_at(diagnosis, work) <= 2 * ROWS
    newest = await looked_at(
        diagnosis, lambda: diagnosis.fetch(candidates._NEWEST, asked.orders, *KINDS), found=0
    )
    assert newest <= 2 * ROWS


async def test_orders_whose_clock_is_ahead_are_found_by_their_events(asked: Asked) -> None:
    await asked.pg.execute(
        "UPDATE orders SET submitted_at = now() + interval '1 hour'"
        " WHERE order_id = ANY ($1::text[]::uuid[])",
        asked.orders,
    )
    read = await looked_at(asked.diagnosis, lambda: open_orders(asked.diagnosis))
    assert read <= 4 * ROWS
