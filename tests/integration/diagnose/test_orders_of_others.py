"""Orders whose times say nothing, and other things than orders with an order's id."""

import json
import uuid
from datetime import UTC, datetime, timedelta

from relay.diagnose.gather.database import read_rows
from relay.diagnose.session import session
from relay.diagnose.status.counts import _without_event_query
from relay.diagnose.watch.overdue import find_open
from relay.orders.catalog import orders_table
from relay.replay.candidates import event_rows
from relay.replay.selection import Selection
from relay.runtime.database import connect
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection

FLOW = Flow(events={"order.placed": EventRoute("orders.events", deadline_seconds=0.001)})
EVENT = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ($1, $2, $3, '{}') RETURNING id
"""


async def place(pg, submitted_at="now", *, event=True):
    order = str(uuid.uuid4())
    await pg.execute(
        "INSERT INTO orders (order_id, customer_id, items, total, currency, submitted_at) "
        "VALUES ($1::text::uuid, 'c', '[]', 1, 'EUR', $2::text::timestamptz)",
        order,
        submitted_at,
    )
    if event:
        await pg.execute(EVENT, "order", order, "order.placed")
    return order


ODD = [
    "0001-01-01 00:00:00+00",
    "4713-01-01 BC",
    "-infinity",
    "infinity",
    "294276-12-31",
    "1970-01-01",
]


async def test_orders_of_odd_times_are_judged_by_their_events(database, pg):
    odd = [await place(pg, at) for at in ODD]
    bare = [await place(pg, at, event=False) for at in ODD]
    other = await place(pg)
    # What Kafka would say matters to no time: it is not there.
    async with session(database, KafkaConnection("127.0.0.1:1"), FLOW) as opened:
        waiting = {one.order_id: one.placed_at for one in await opened.open_orders()}
        found = {one.order_id: one for one in await opened.diagnose([*odd, *bare, other])}
    # A time that is still to come, and no event: that one bypassed the outbox needs no deadline.
    assert set(waiting) == {*odd, other, bare[3], bare[4]}
    assert all(abs(datetime.now(UTC) - at) < timedelta(minutes=9) for at in waiting.values())
    verdicts = {(found[one].verdict, found[one].cause) for one in odd}
    assert verdicts == {(found[other].verdict, found[other].cause)}
    assert [str(found[one].placed_at) for one in bare][2:4] == ["-infinity", "infinity"]
    for one in found.values():
        assert one.order_id in json.dumps(one.as_json(None), default=str)


async def test_an_order_whose_time_is_not_set_is_found_by_its_event(pg):
    await pg.execute("ALTER TABLE orders ALTER submitted_at DROP NOT NULL")
    order = await place(pg, None)
    assert [one.order_id for one in await find_open(pg, FLOW)] == [order]


async def test_an_order_that_was_closed_by_hand_stays_so(pg):
    order = await place(pg, "infinity")
    await pg.execute(
        "INSERT INTO relay.overdue (event_id, aggregate_id, event_type, placed_at, deadline_at, "
        "hop, verdict, cause, closed_at, closed_as, closed_by, closed_why) VALUES "
        "('e', $1, 'order.placed', now(), now(), 'place', 'unknown', 'not_watched', now(), "
        "'closed', 'ada', 'known')",
        order,
    )
    assert await find_open(pg, FLOW) == []


async def test_what_another_aggregate_did_is_not_the_orders(database, pg):
    order = await place(pg)
    await pg.execute(EVENT, "customer", order, "customer.renamed")
    later = await pg.fetchval(EVENT, "customer", order, "order.placed")
    for outbox_id in (later - 1, later):
        await pg.execute(
            "INSERT INTO relay.quarantine (kind, reason, outbox_id, aggregate_id) "
            "VALUES ('event', 'unmapped', $1, $2)",
            outbox_id,
            order,
        )
    connection = await connect(database, "test")
    try:
        async with connection.transaction():
            rows = await read_rows(connection, FLOW, [order, "a\0b", "c\ud800"])
    finally:
        await connection.close()
    assert [one.outbox_id for one in rows.events[order]] == [later - 2]
    assert [one.outbox_id for one in rows.held.get(order, [])] == [later]
    await pg.execute("UPDATE relay.checkpoint SET prev = pg_current_snapshot()")
    found = await event_rows(pg, FLOW, [later - 2], Selection(), None)
    assert found[later - 2].newer
    await pg.execute("DELETE FROM relay.outbox WHERE id = $1", later)
    found = await event_rows(pg, FLOW, [later - 2], Selection(), None)
    assert not found[later - 2].newer


async def test_an_event_of_another_aggregate_hides_no_missing_one(pg):
    order, spelt = await place(pg, event=False), await place(pg, event=False)
    await pg.execute(EVENT, "customer", order, "customer.renamed")
    await pg.execute(EVENT, "order", spelt.upper(), "order.placed")
    query = _without_event_query(await orders_table(pg, FLOW))
    long_ago = datetime.now(UTC) - timedelta(days=1)
    asked = ["submitted"], 10, "order", ["order.placed"], long_ago
    assert (await pg.fetchrow(query, *asked))[0] == 1


async def test_of_what_a_writer_made_huge_diagnosis_reads_the_beginning(database, pg):
    order = str(uuid.uuid4())
    huge = """
        INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, traceparent)
        VALUES ('order', $1, 'e' || repeat('x', 100000000), '{}', repeat('0', 1000000))"""
    await pg.execute(huge, order)
    rows = await read_rows(pg, FLOW, [order])
    [event] = rows.events[order]
    assert event.event_type == "e" + "x" * 99 + "... (100000001 bytes)"
    assert len(event.traceparent) == 256
    async with session(database, KafkaConnection("127.0.0.1:1"), FLOW) as opened:
        [found] = await opened.diagnose([order])
    assert len(str(found)) < 10_000
