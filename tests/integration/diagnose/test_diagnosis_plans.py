"""What the diagnosis reads of large tables: by index, whatever is kept. Plans, not times."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from relay.diagnose.evidence.order import Delivery
from relay.diagnose.gather import around, positions
from relay.diagnose.status import counts, traces
from relay.diagnose.watch.positions import Position, write_positions
from relay.runtime.flow import Flow

NOW = datetime.now(UTC)
GROUP, TOPIC, RETURNS = "order-processor", "orders.events", "orders.returns"


@pytest.fixture
async def large(pg: asyncpg.Connection) -> asyncpg.Connection:
    """A month of returns, a fortnight of positions of one group on two partitions."""
    await pg.execute(
        """INSERT INTO relay.inbox (event_id, aggregate_id, status, outcome, content_hash,
               consumer_group, topic, partition, record_offset, recorded_at, received_at)
           SELECT g, g, 'confirmed', 'applied', ''::bytea, 'order-confirmation',
                  'orders.returns', 0, g,
                  t, t
             FROM (SELECT g, now() - interval '30 days' + make_interval(secs => 12.9 * g) AS t
                     FROM generate_series(1, 200000) AS g) AS x"""
    )
    await pg.execute(
        """INSERT INTO relay.position (taken_at, topic, partition, consumer_group, log_start,
               log_end, committed_offset, members)
           SELECT now() - interval '14 days' + make_interval(secs => 20 * s), 'orders.events', p, g,
                  0, s, CASE g WHEN '' THEN NULL ELSE s END, CASE g WHEN '' THEN NULL ELSE 2 END
             FROM generate_series(1, 60000) AS s, generate_series(0, 1) AS p,
                  unnest(ARRAY['', 'order-processor']) AS g ORDER BY 1"""
    )
    await pg.execute("SELECT brin_summarize_new_values('relay.inbox_received_at')")
    await pg.execute("VACUUM ANALYZE relay.inbox, relay.position")
    await pg.execute("SET plan_cache_mode = force_custom_plan")
    return pg


async def plan(pg: asyncpg.Connection, query: str, *arguments: Any) -> str:
    lines = await pg.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) {query}", *arguments)
    return "\n".join(line[0] for line in lines)


async def test_rates_read_the_last_minute_of_a_month(large: asyncpg.Connection) -> None:
    since = NOW - timedelta(seconds=60)
    given = (60.0, 20_000, since, [TOPIC], [], "order", ["order.placed"], True)
    found = await plan(large, counts._RATES, *given)
    assert "Seq Scan on inbox" not in found, found
    assert "inbox_received_at" in found, found


async def test_answered_orders_are_the_newest_of_a_month(large: asyncpg.Connection) -> None:
    since = NOW - timedelta(minutes=1)
    given = (since, "order-confirmation", 200, [TOPIC])
    found = await plan(large, traces._ANSWERED, *given)
    assert "Seq Scan on inbox" not in found, found


async def test_a_passed_record_costs_the_positions_around_it(large: asyncpg.Connection) -> None:
    at = NOW - timedelta(days=10)
    offset = await large.fetchval(
        "SELECT max(committed_offset) FROM relay.position WHERE taken_at < $1", at
    )
    sent = [Delivery(TOPIC, 0, offset, at)]
    found = await positions.read_positions(large, (GROUP,), sent)
    (samples,) = found.values()
    assert 5 < len(samples) < 30
    assert samples[0].committed <= offset < samples[-1].committed
    given = ([0], [TOPIC], [0], [offset], [at], [at], [GROUP])
    passed = await plan(large, positions._PASSED, *given)
    assert "Seq Scan" not in passed, passed


async def test_a_group_that_is_stuck_is_two_rows_and_those_of_now(
    large: asyncpg.Connection,
) -> None:
    await large.execute("UPDATE relay.position SET committed_offset = 5, members = 0")
    await large.execute("VACUUM ANALYZE relay.position")
    at = NOW - timedelta(days=10)
    sent = [Delivery(TOPIC, 0, 9, at + timedelta(hours=hour)) for hour in range(50)]
    found = await positions.read_positions(large, (GROUP,), sent)
    (samples,) = found.values()
    assert {(one.committed, one.members) for one in samples} == {(5, 0)}
    assert samples[0].at < at < samples[-1].at
    assert len(samples) < 20


async def test_a_log_that_was_cut_is_found_without_reading_a_fortnight(
    large: asyncpg.Connection,
) -> None:
    log = [(0.0, ("", (TOPIC, 0)), Position(0, 7))]
    await write_positions(large, log)  # the last one that stands there ended at 60,000
    found = await around._shrinks(large, Flow(), NOW - timedelta(days=30))
    ((step,),) = found.values()
    assert step.before_end == 60_000
    given = ([TOPIC, RETURNS], NOW - timedelta(days=30))
    told = await plan(large, around._SHRINKS, *given)
    assert "position_shrank" in told, told
    assert "Seq Scan" not in told, told


async def test_a_log_that_was_cut_within_one_look_is_marked(pg: asyncpg.Connection) -> None:
    series = ("", (TOPIC, 0))
    await write_positions(pg, [(0.0, series, Position(0, 100))])
    await write_positions(pg, [(1.0, series, Position(0, 150)), (0.0, series, Position(0, 120))])
    marked = await pg.fetch("SELECT log_end FROM relay.position WHERE shrank")
    assert [row["log_end"] for row in marked] == [120]
    found = await around._shrinks(pg, Flow(), NOW - timedelta(days=1))
    assert [one.before_end for one in found[TOPIC]] == [150]
