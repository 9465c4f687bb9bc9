"""How far the orders of a minute have come: counted where each stage leaves its proof."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from relay.diagnose.watch import completeness
from relay.diagnose.watch.completeness import Completeness, minutes
from relay.runtime.flow import Flow

FLOW = Flow()  # a deadline of 900 seconds

# Orders of a minute, a row each: how far each has come.
ORDERS = (
    ("confirmed", 5),
    ("returned", 1),  # in quarantine
    ("processed", 2),
    ("published", 3),
    ("parked", 1),
    ("placed", 4),
)
EXPECTED = {"placed": 16, "published": 11, "processed": 8, "returned": 6, "confirmed": 5}

INSERT = """
WITH o AS (INSERT INTO orders (order_id, customer_id, items, total, currency, status, submitted_at)
           VALUES ($1, 'c', '[]', 1, 'EUR', $2, $3))
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, created_at)
SELECT 'order', $1::text, 'order.placed', '{}', $3 RETURNING id
"""
PUBLISHED = "UPDATE relay.checkpoint SET prev = pg_current_snapshot(), cur = NULL"
LEDGER = """
INSERT INTO relay.delivery_ledger
    (epoch, topic, partition, base_offset, record_count, outbox_ids, id_range)
VALUES (1, $1, 0, $2, cardinality($3::bigint[]), $3, int8range($4, $5, '[]'))
"""
POSITION = """
INSERT INTO relay.position (taken_at, topic, partition, consumer_group, committed_offset, members)
VALUES (clock_timestamp(), $1, 0, $2, $3, 1)
"""
HELD = """
INSERT INTO relay.quarantine (kind, reason, detail, aggregate_id, outbox_id, consumer_group, topic,
                              partition, record_offset)
VALUES ($1, 'malformed', 'x', $2, $3, $4, 't', 0, 1)
"""


@pytest.fixture
async def now(pg: asyncpg.Connection) -> datetime:
    await pg.execute("UPDATE relay.installation SET watched_since = now() - interval '1 day'")
    found: datetime = await pg.fetchval("SELECT clock_timestamp()")
    return found


async def _insert(
    pg: asyncpg.Connection, at: datetime, status: str = "submitted"
) -> tuple[str, int]:
    order = uuid4()
    return str(order), await pg.fetchval(INSERT, order, status, at)


async def _a_minute(pg: asyncpg.Connection, at: datetime) -> None:
    """Place the orders; those that are only placed come after the checkpoint."""
    ids: dict[str, list[int]] = {}
    for stage, count in ORDERS:
        if stage == "placed":
            await pg.execute(PUBLISHED)
        for _ in range(count):
            order, row = await _insert(pg, at, "confirmed" if stage == "confirmed" else "submitted")
            ids.setdefault(stage, []).append(row)
            if stage in ("returned", "parked"):
                kind, group = ("return", "g") if stage == "returned" else ("event", None)
                await pg.execute(HELD, kind, order, row if kind == "event" else None, group)
    sent = [one for stage in ("confirmed", "returned", "processed") for one in ids[stage]]
    await pg.execute(LEDGER, FLOW.events_topic, 100, sent, sent[0], sent[-1])
    behind = ids["published"]
    await pg.execute(LEDGER, FLOW.events_topic, 108, behind, behind[0], behind[-1])
    for group in FLOW.processor_groups:
        await pg.execute(POSITION, FLOW.events_topic, group, 108)


@pytest.mark.parametrize("age", ["1m", "5m", "due"])
async def test_each_stage_is_counted_where_its_proof_is(
    pg: asyncpg.Connection, now: datetime, age: str
) -> None:
    end = minutes(now, FLOW)[age]
    await _insert(pg, end - timedelta(minutes=1, microseconds=1))  # the minute before
    await _a_minute(pg, end - timedelta(seconds=30))
    await _insert(pg, end)
    found = await Completeness(FLOW).look(pg)
    assert {stage: found[age, stage] for stage in EXPECTED} == EXPECTED


async def test_of_a_busy_minute_some_are_looked_at_and_the_ratio_is_true(
    pg: asyncpg.Connection, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completeness, "LOOKED_AT", 20)
    at = minutes(now, FLOW)["1m"] - timedelta(seconds=30)
    for number in range(80):
        await _insert(pg, at, "confirmed" if number % 8 < 4 else "submitted")
    found = await Completeness(FLOW).look(pg)
    assert found["1m", "placed"] == 20
    assert found["1m", "confirmed"] == 10


async def test_what_nobody_watched_and_what_nobody_knows_has_no_count(
    pg: asyncpg.Connection, now: datetime
) -> None:
    at = minutes(now, FLOW)["5m"] - timedelta(seconds=30)
    await _insert(pg, at)
    found = await Completeness(FLOW).look(pg)
    assert found["5m", "placed"] == 1
    assert ("5m", "processed") not in found, "no position was recorded"
    await pg.execute("UPDATE relay.installation SET watched_since = $1", at)
    assert ("5m", "placed") not in await Completeness(FLOW).look(pg)


async def test_a_minute_is_counted_once(pg: asyncpg.Connection, now: datetime) -> None:
    at = minutes(now, FLOW)["5m"] - timedelta(seconds=30)
    await _insert(pg, at)
    subject = Completeness(FLOW)
    first = await subject.look(pg)
    await _insert(pg, at)
    again = await subject.look(pg)
    later: datetime = await pg.fetchval("SELECT clock_timestamp()")
    if minutes(later, FLOW) == minutes(now, FLOW):
        assert again == first
