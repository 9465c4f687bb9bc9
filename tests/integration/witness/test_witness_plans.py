"""A batch's cost goes by its records, also in a partition of which no statistics know yet.

Rows are counted, not milliseconds: they are the same on every machine.
"""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from relay.witness import ledger
from relay.witness.service import SESSION_SETTINGS

ROWS = 20_000
BATCH = 300
TOPIC = "orders.events"


@pytest.fixture
async def unknown(database: str, pg: asyncpg.Connection) -> Any:
    """A witness's connection whose statements were planned while the outbox was empty."""
    await pg.execute("ALTER TABLE relay.outbox_default SET (autovacuum_enabled = off)")
    partitions = await pg.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'relay.outbox'::regclass"
    )
    for (name,) in partitions:  # no statistics come meanwhile
        await pg.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")
    connection = await asyncpg.connect(database, server_settings=SESSION_SETTINGS)
    await ran(connection, *near([str(uuid.uuid4())]))
    await ran(connection, *everywhere([str(uuid.uuid4())]))
    await ran(connection, *late())
    await pg.execute(
        "INSERT INTO relay.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)"
        " SELECT gen_random_uuid(), 'order', 'o', 'order.placed', '{}'"
        " FROM generate_series(1, $1::int)",
        ROWS,
    )
    yield connection
    await connection.close()


def near(ids: list[str]) -> tuple[Any, ...]:
    now = datetime.now(UTC)
    return ledger._NEAR, f"{{{','.join(ids)}}}", now - timedelta(days=1), now + timedelta(days=1)


def everywhere(ids: list[str]) -> tuple[Any, ...]:
    return ledger._EVERYWHERE, f"{{{','.join(ids)}}}"


def late() -> tuple[Any, ...]:
    return ledger._RETRY, 0, TOPIC, *ledger._FROM_THE_FIRST, BATCH


async def ran(connection: asyncpg.Connection, statement: str, *values: Any) -> Any:
    found = await connection.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF, FORMAT JSON) {statement}", *values
    )
    return json.loads(found)[0]["Plan"]


def rows_looked_at(node: Any) -> Iterator[float]:
    for name in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter"):
        yield node.get(name, 0) * node["Actual Loops"]
    for one in node.get("Plans", ()):
        yield from rows_looked_at(one)


async def test_the_rows_of_a_batch_are_found_by_their_index(
    unknown: asyncpg.Connection, pg: asyncpg.Connection
) -> None:
    rows = await pg.fetch("SELECT event_id::text FROM relay.outbox ORDER BY id LIMIT $1", BATCH)
    ids = [row["event_id"] for row in rows]
    for look in (near(ids), everywhere(ids)):
        plan = await ran(unknown, *look)
        assert max(rows_looked_at(plan)) <= BATCH, plan


async def test_the_rows_that_came_late_are_found_by_their_index(
    unknown: asyncpg.Connection, pg: asyncpg.Connection
) -> None:
    await pg.execute(
        "INSERT INTO relay.unmatched_record (topic, partition, record_offset, event_id,"
        " recorded_at, reason, retry_until)"
        " SELECT $1, 0, id, event_id, now(), 'no_row', now() + '1 hour'"
        " FROM (SELECT id, event_id FROM relay.outbox ORDER BY id DESC LIMIT $2) AS o",
        TOPIC,
        BATCH,
    )
    plan = await ran(unknown, *late())
    assert max(rows_looked_at(plan)) <= BATCH, plan
