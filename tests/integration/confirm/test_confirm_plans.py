"""Hop 5: what a batch costs does not grow with the orders' table, the inbox or the outbox."""

import uuid
from typing import NamedTuple

import pytest

from relay.consumers.apply import inbox
from relay.consumers.apply.inbox import step_values
from relay.consumers.apply.statements import column_statements
from relay.consumers.confirm import pending, spans
from relay.consumers.returns.fold import Change, Outcome, Step
from relay.consumers.returns.packing import packed
from relay.consumers.returns.reader import Return
from relay.orders.catalog import orders_table

ORDERS = 60_000
BATCH = 2000


@pytest.fixture
async def orders(lab):
    """Many orders, statistics fresh, on a connection set up as the consumer's."""
    ids = await lab.place(ORDERS)
    await lab.pg.execute("ANALYZE public.orders")
    await lab.pg.execute("SET plan_cache_mode = force_custom_plan")
    await lab.pg.execute("SET jit = off")
    await lab.pg.execute("SET enable_hashjoin = off")
    await lab.pg.execute("SET enable_mergejoin = off")
    if lab.pg.get_server_version().major < 17:
        # It hashes a batch's ids, and reads so small a table whole; one of millions it does not.
        await lab.pg.execute("SET enable_seqscan = off")
    return ids


async def plan(lab, statement, *values):
    rows = await lab.pg.fetch(f"EXPLAIN {statement}", *values)
    return "\n".join(row[0] for row in rows)


class Place(NamedTuple):
    offset: int
    topic: str = "t"
    partition: int = 0
    timestamp: int = 0


@pytest.mark.parametrize("count", [1, 20, BATCH])
async def test_orders_are_found_by_their_key(lab, orders, count):
    statements = column_statements(await orders_table(lab.pg, lab.flow))
    keys = packed(orders[:count])
    steps = [
        Step(
            f"/p/{order}",
            Return(Place(n), order, "confirmed", None, None, b"", None, None, None),
            Outcome.APPLIED,
            "submitted",
            "confirmed",
        )
        for n, order in enumerate(orders[:count])
    ]
    changes = [Change(n, 1) for n in range(count)]
    places = [
        str(place[0])
        for place in await lab.pg.fetch(
            "SELECT o.ctid::text FROM unnest($1::uuid[]) WITH ORDINALITY AS u (id, n)"
            "  JOIN public.orders o ON o.order_id = u.id ORDER BY n",
            orders[:count],
        )
    ]
    write = (*step_values(steps, changes, places, "g"), ["confirmed"])
    for statement, values in [
        (statements.lock, (keys,)),
        (statements.shown, (keys,)),
    ]:
        found = await plan(lab, statement, *values)
        assert "Seq Scan" not in found, found
        assert "orders_pkey" in found, found
    found = await plan(lab, statements.write, *write)
    assert "Tid Scan on orders" in found, found
    assert "Seq Scan" not in found.replace("Seq Scan on pg_trigger", ""), found


async def test_identities_are_found_by_their_key_also_when_the_inbox_was_empty_before(lab, orders):
    # Of 2,000 names, a look at all 60,000 rows is no worse; of 20, it must not be done.
    names = packed([f"/p/{one}" for one in orders[:20]])
    await lab.pg.fetch(inbox._KNOWN, names)
    await lab.pg.execute(
        "INSERT INTO relay.inbox (event_id, aggregate_id, status, outcome, content_hash, "
        "consumer_group, topic, partition, record_offset, recorded_at) "
        "SELECT '/p/' || o, o, 'confirmed', 'applied', '', 'g', 't', 0, 0, now() "
        "FROM unnest($1::text[]) o",
        orders,
    )
    found = await plan(lab, inbox._KNOWN, names)
    assert "Seq Scan" not in found, found
    assert "inbox_pkey" in found, found


async def test_waiting_returns_are_found_by_order_and_by_partition(lab, orders):
    await lab.pg.execute(
        "INSERT INTO relay.pending_return (consumer_group, topic, partition, record_offset, "
        "aggregate_id, recorded_at) SELECT 'g' || (n % 50), 't', n % 6, n, o, now() "
        "FROM unnest($1::text[]) WITH ORDINALITY AS u (o, n)",
        orders,
    )
    await lab.pg.execute("ANALYZE relay.pending_return")
    found = await plan(lab, pending._WAITING, "g1", packed(orders[:50]))
    assert "Seq Scan" not in found, found
    found = await plan(lab, pending._DUE, "g1", "t", [1, 2], 100)
    assert "Seq Scan" not in found, found


async def test_a_lost_context_is_looked_for_where_the_orders_day_is(lab):
    await lab.pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload) "
        "SELECT 'order', gen_random_uuid(), 'order.placed', '{}' FROM generate_series(1, 20000)"
    )
    await lab.pg.execute("ANALYZE relay.outbox")
    rows = await lab.pg.fetch(
        f"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) {spans._CONTEXTS}",
        [str(uuid.uuid4()) for _ in range(100)],
        [4_000_000_000.0] * 100,  # in 2096: DEFAULT is the only partition that can have it
    )
    found = "\n".join(row[0] for row in rows)
    partitions = await lab.pg.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'relay.outbox'::regclass"
    )
    assert partitions > 5
    assert found.count("never executed") >= partitions - 1, found
