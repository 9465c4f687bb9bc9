"""All events of a selection are stored a page at a time: each once, in order, along the keys."""

import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from relay.publish.reading.replays import PART_ITEMS
from relay.replay.candidates import conditions
from relay.replay.everything import ALONG_KEYS, STORE, store_everything
from relay.replay.selection import Selection
from relay.runtime.flow import Flow

ALL = Selection(everything=True)
ROWS = 3_500
KINDS = ["order.placed"]

FILL = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, created_at)
SELECT 'order', 'o-' || n % 100, 'order.placed', '{}', now() + make_interval(days => n % 5)
  FROM generate_series(1, $1::int) AS n
"""
KEEP = """
WITH gone AS (DELETE FROM relay.outbox WHERE id % 50 = 0 RETURNING *)
INSERT INTO relay.kept (txid, id, event_id, aggregate_type, aggregate_id,
    aggregate_version, event_type, payload, headers, traceparent, tracestate, created_at,
    payload_bytes, content_type, kept_at, why)
SELECT gone.*, clock_timestamp(), 'parked' FROM gone
"""
PUBLISHED = "UPDATE relay.checkpoint SET prev = pg_current_snapshot() WHERE shard = 0"


@pytest.fixture
async def published(pg: asyncpg.Connection) -> asyncpg.Connection:
    """Rows of five days, some of them moved to those kept; one more is not yet published."""
    await pg.execute(FILL, ROWS)
    await pg.execute(KEEP)
    await pg.execute(PUBLISHED)
    await pg.execute(FILL, 1)
    return pg


async def stored(
    pg: asyncpg.Connection, selection: Selection, orders: list[str] | None
) -> list[int]:
    """Store with pages of one part; check the parts; return their items."""
    replay_id = str(uuid.uuid4())
    async with pg.transaction():
        await pg.execute(
            "INSERT INTO relay.replay_job (replay_id, selection, plan) VALUES ($1, '{}', '{}')",
            replay_id,
        )
        count = await store_everything(pg, replay_id, selection, orders, Flow(), page_parts=1)
    parts = await pg.fetch(
        "SELECT number, outbox_ids FROM relay.replay_part WHERE replay_id = $1 ORDER BY number",
        replay_id,
    )
    assert [part["number"] for part in parts] == list(range(len(parts)))
    assert all(len(part["outbox_ids"]) == PART_ITEMS for part in parts[:-1])
    items = [one for part in parts for one in part["outbox_ids"]]
    assert (items, len(items)) == (sorted(set(items)), count)
    return items


async def test_each_published_event_once_over_many_pages(published: asyncpg.Connection) -> None:
    ids = [
        row[0]
        for row in await published.fetch(
            "SELECT id FROM relay.outbox UNION ALL SELECT id FROM relay.kept ORDER BY id"
        )
    ]
    unpublished = ids.pop()
    assert await stored(published, ALL, None) == ids
    some = await stored(published, ALL, ["o-7", "o-50"])
    assert some == [one for one in ids if one % 100 in (7, 50)]
    ranged = Selection(everything=True, from_id=100, to_id=unpublished)
    assert await stored(published, ranged, None) == ids[99:]


async def test_whole_pages_and_none_at_all(published: asyncpg.Connection) -> None:
    first = (await published.fetchval("SELECT min(id) FROM relay.outbox")) - 1
    whole = Selection(everything=True, from_id=first + 1, to_id=first + 2 * PART_ITEMS)
    assert len(await stored(published, whole, None)) == 2 * PART_ITEMS
    past = Selection(everything=True, until=datetime.now(UTC) - timedelta(days=9))
    assert await stored(published, past, None) == []


async def test_it_is_merged_along_the_keys_and_sorts_nothing(published: asyncpg.Connection) -> None:
    await published.execute("VACUUM ANALYZE relay.outbox, relay.kept")
    values = (str(uuid.uuid4()), *conditions(ALL), None, KINDS, 10, 0, 200 * PART_ITEMS)
    values = (*values, "order", False, KINDS, [])
    async with published.transaction():
        await published.execute(ALONG_KEYS)
        lines = await published.fetch(f"EXPLAIN {STORE}", *values)
    plan = "\n".join(line[0] for line in lines)
    assert "Merge Append" in plan, plan
    assert "Sort  (" not in plan, plan
    assert "Seq Scan on outbox" not in plan, plan
