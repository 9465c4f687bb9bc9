"""Order services whose clocks are wrong: the database's decides what is overdue."""

import json
import uuid

import pytest

from relay.diagnose.watch import overdue
from relay.diagnose.watch.overdue import find_open
from relay.orders.catalog import orders_table
from relay.runtime.flow import EventRoute, Flow

pytestmark = pytest.mark.timeout(180)

HOUR = {"order.placed": EventRoute("orders.events", deadline_seconds=3600.0)}


async def place(wiring, ahead, written="0 s"):
    """Place an order whose service's clock is ahead by an interval, its event of so long ago."""
    (order,) = await wiring.place()
    await wiring.pg.execute(
        "UPDATE orders SET submitted_at = now() - $3::text::interval + $2::text::interval"
        " WHERE order_id = $1::text::uuid",
        order,
        ahead,
        written,
    )
    await wiring.pg.execute(
        "UPDATE relay.outbox SET created_at = now() - $2::text::interval WHERE aggregate_id = $1",
        order,
        written,
    )
    return order


def data(wiring, *words, **env):
    done = wiring.command("--json", *words, **env)
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("ahead", ["5 hours", "20 minutes", "-5 hours", "3 days", "-30 hours"])
async def test_an_order_is_overdue_by_the_databases_clock(wiring, ahead) -> None:
    await wiring.pg.execute(
        "UPDATE relay.installation SET watched_since = now() - interval '3 hours'"
    )
    order = await place(wiring, ahead, "2 hours")
    await place(wiring, ahead, "0 s")
    flow = Flow(events=HOUR)
    assert [one.order_id for one in await find_open(wiring.pg, flow)] == [order]
    wiring.environment["RELAY_FLOW_EVENTS"] = json.dumps(
        {"order.placed": {"deadline_seconds": 3600}}
    )
    assert [one["order_id"] for one in data(wiring, "unreturned")["orders"]] == [order]
    told = data(wiring, "incidents")
    assert told["single_orders"] + sum(one["orders"] for one in told["incidents"]) == 1
    assert wiring.named([order]) == [("publish", "not_published", "relay_down")]
    assert data(wiring, "reconcile")["found"] == {}
    found = {one["name"]: one for one in data(wiring, "check")["checks"]}["place.clock"]
    word = "behind" if ahead.startswith("-") else "ahead"
    assert (found["state"], word in found["found"]) == ("warning", True)


async def test_an_order_without_an_event_is_found_though_its_time_is_still_to_come(wiring) -> None:
    await wiring.place()
    order = str(uuid.uuid4())
    await wiring.insert_these([order])
    await wiring.pg.execute(
        "UPDATE orders SET submitted_at = now() + interval '5 hours'"
        " WHERE order_id = $1::text::uuid",
        order,
    )
    listed = {one["order_id"]: one for one in data(wiring, "unreturned")["orders"]}
    assert listed[order]["cause"] == "outbox_bypassed"
    assert data(wiring, "reconcile")["found"] == {"order_without_event": 1}


async def test_clocks_that_agree_are_said_to(wiring) -> None:
    await wiring.place(3)
    found = {one["name"]: one for one in data(wiring, "check")["checks"]}["place.clock"]
    assert found["state"] == "ok"


async def test_fresh_orders_of_a_clock_that_is_behind_hide_nobody(wiring) -> None:
    for _ in range(6):
        await place(wiring, "-2 hours", "0 s")
    await wiring.pg.execute(
        "UPDATE relay.installation SET watched_since = now() - interval '5 hours'"
    )
    order = await place(wiring, "0 s", "90 minutes")
    found = await find_open(wiring.pg, Flow(events=HOUR), at_most=2)
    assert [one.order_id for one in found] == [order]


async def test_a_timestamp_without_zone_in_another_zone(wiring) -> None:
    await wiring.pg.execute(
        "ALTER TABLE orders ALTER submitted_at TYPE timestamp"
        " USING submitted_at AT TIME ZONE 'Asia/Tokyo'"
    )
    wiring.environment["RELAY_FLOW_COLUMNS"] = json.dumps({"table": "public.orders"})
    await wiring.pg.execute("ALTER TABLE orders ALTER submitted_at SET DEFAULT now()")
    await wiring.pg.execute("SET TIME ZONE 'Asia/Tokyo'")
    (order,) = await wiring.place()
    await wiring.pg.execute("RESET TIME ZONE")

    async def overdue():
        return [one["order_id"] for one in data(wiring, "unreturned")["orders"]] == [order]

    await wiring.eventually(overdue, 20)


@pytest.fixture
async def many(pg):
    """Orders of more than a day, whatever hour it is, with the index that `relay check` names."""
    await pg.execute(
        """INSERT INTO orders (order_id, customer_id, items, total, currency, status, submitted_at)
           SELECT gen_random_uuid(), 'c', '[]', 1, 'EUR',
                  CASE WHEN g % 100 = 0 THEN 'submitted' ELSE 'confirmed' END,
                  now() - make_interval(secs => 0.5 * g)
             FROM generate_series(1, 200000) AS g"""
    )
    await pg.execute(
        """INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, created_at)
           SELECT 'order', order_id::text, 'order.placed', '{}', submitted_at FROM orders"""
    )
    await pg.execute(
        "CREATE INDEX ON orders (submitted_at) WHERE status IN ('processing', 'submitted')"
    )
    await pg.execute("UPDATE relay.installation SET watched_since = now() - interval '2 days'")
    await pg.execute("VACUUM ANALYZE orders, relay.outbox")
    await pg.execute("SET plan_cache_mode = force_custom_plan")
    return pg


async def test_looking_for_them_reads_no_table_whole(many) -> None:
    flow = Flow(events=HOUR)
    table = await orders_table(many, flow)
    now = await many.fetchval("SELECT now()")
    start = await many.fetchval("SELECT now() - interval '2 days'")
    asked = (start, 3600.0, False, 100_000, "order", ["order.placed"], now, [])
    for query in (overdue._orders_query, overdue._elsewhere_query):
        text = query(table, "'processing', 'submitted'")
        plan = "\n".join(row[0] for row in await many.fetch(f"EXPLAIN ANALYZE {text}", *asked))
        assert "Seq Scan on orders" not in plan, plan
        assert f"Seq Scan on outbox_p{now:%Y%m%d}" not in plan, plan
        assert "Seq Scan on outbox_default" not in plan, plan
    assert len(await find_open(many, flow)) >= 1820
