"""The share of orders that are one trace, in `relay status` and in the consumer's metrics."""

import asyncio
import json
import urllib.request
from typing import Any

from tests.corpus.wiring import Wiring

OTHER = f"00-{'b' * 32}-{'c' * 16}-01"


def continuity(wiring: Wiring) -> dict[str, Any]:
    done = wiring.command("status", "--json")
    found: dict[str, Any] = json.loads(done.stdout)["trace_continuity"]
    return found


async def answer(wiring: Wiring, order_id: str, **headers: str) -> None:
    """Answer as a foreign processor would, with its own idea of a trace."""
    value = json.dumps({"order_id": order_id, "status": "confirmed"}).encode()
    await asyncio.to_thread(wiring.send, wiring.returns, order_id, value, **headers)


async def test_whole_traces_and_each_way_to_break_one(wiring: Wiring) -> None:
    wiring.relay()
    wiring.consumer()
    orders = await wiring.place(5)
    await wiring.until_published(orders)
    # Rows without a context have the one that the relay derives from their event.
    events = dict(await wiring.pg.fetch("SELECT aggregate_id, event_id FROM relay.outbox"))
    for one in orders[:3]:
        span = f"00-{events[one].hex}-{'d' * 16}-01"
        await answer(wiring, one, traceparent=span)
    await answer(wiring, orders[3], traceparent=OTHER)
    await answer(wiring, orders[4])
    await wiring.until_returned(orders)
    found = continuity(wiring)
    assert (found["orders"], found["whole"], found["share"]) == (5, 3, 0.6)
    assert found["breaks"] == {"record_breaks": 0, "return_other": 1, "return_without": 1}
    assert found["records_not_read"] == 0
    # The record says what the row said when it was published.
    await wiring.pg.execute(
        "UPDATE relay.outbox SET traceparent = $2 WHERE aggregate_id = $1", orders[0], OTHER
    )
    assert continuity(wiring)["breaks"]["record_breaks"] == 1
    assert (
        "traces: 40% of the newest 5 answered orders are whole" in wiring.command("status").stdout
    )


async def test_records_of_a_topic_that_was_made_again_break_no_trace(wiring: Wiring) -> None:
    """Where an order's record stood another event's stands now: that says nothing of the order."""
    wiring.relay(), wiring.processor(), wiring.consumer()
    await wiring.until_up()
    before = await wiring.place(12)
    await wiring.until_returned(before)
    assert (continuity(wiring)["share"], continuity(wiring)["records_not_read"]) == (1.0, 0)
    await asyncio.to_thread(wiring.topics.recreate, wiring.events)
    await wiring.until_log_position(wiring.events)
    after = await wiring.place(12)
    await wiring.until_published(after)
    found = continuity(wiring)
    assert found["breaks"]["record_breaks"] == 0, found
    assert found["records_not_read"] >= 12, found


async def test_a_row_without_a_context_is_whole_by_the_derived_one(wiring: Wiring) -> None:
    wiring.relay()
    wiring.processor()
    wiring.consumer()
    await wiring.pg.execute(
        """WITH o AS (INSERT INTO orders (order_id, customer_id, items, total, currency)
                      VALUES (gen_random_uuid(), 'c', '[]', 1, 'EUR') RETURNING order_id)
           INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
           SELECT 'order', order_id::text, 'order.placed', '{}' FROM o"""
    )
    await wiring.until_returned([await wiring.pg.fetchval("SELECT order_id::text FROM orders")])
    found = continuity(wiring)
    assert (found["orders"], found["share"], found["records_not_read"]) == (1, 1.0, 0)


async def test_the_consumer_counts_a_sample(wiring: Wiring) -> None:
    wiring.relay()
    consumer = wiring.consumer(RELAY_METRICS_ENABLED="true", RELAY_METRICS_PORT="0")

    def port() -> str | None:
        lines = [json.loads(x) for x in consumer.stderr.splitlines() if x.startswith("{")]
        return next((str(x["port"]) for x in lines if x.get("message") == "listening"), None)

    where = await wiring.eventually(port, 40)
    (order,) = await wiring.place(1)
    await wiring.until_published([order])
    await answer(wiring, order, traceparent=OTHER)

    def counted() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{where}/metrics", timeout=5) as answered:
            sample = 'relay_trace_continuity_total{flow="orders",result="return_other"} 1.0'
            return sample in answered.read().decode()

    await wiring.eventually(lambda: asyncio.to_thread(counted), 40)
