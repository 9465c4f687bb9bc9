"""Hop 5: what becomes of returns, on real PostgreSQL and Kafka."""

import json


async def test_a_return_is_applied_with_history_inbox_and_offset(lab):
    (order,) = await lab.place()
    lab.start()
    lab.send(order, reason="paid", headers={"ce_id": b"r-1", "ce_source": b"/processor"})
    lab.sent()
    await lab.until_sql("SELECT status = 'confirmed' FROM orders WHERE order_id = $1", order)
    row = await lab.pg.fetchrow("SELECT * FROM orders WHERE order_id = $1", order)
    assert (row["version"], row["return_reason"]) == (2, "paid")
    assert row["returned_at"] is not None
    inbox = await lab.pg.fetchrow("SELECT * FROM relay.inbox")
    assert inbox["event_id"] == "/processor/r-1"
    assert (inbox["aggregate_id"], inbox["status"]) == (order, "confirmed")
    assert (inbox["old_status"], inbox["new_status"]) == ("submitted", "confirmed")
    assert (inbox["outcome"], inbox["consumer_group"]) == ("applied", lab.flow.confirm_group)
    history = await lab.pg.fetchrow("SELECT * FROM order_status_history")
    assert (str(history["order_id"]), history["event_id"]) == (order, "/processor/r-1")
    offset = await lab.pg.fetchval(
        "SELECT next_offset FROM relay.consumer_offset WHERE partition = $1", inbox["partition"]
    )
    assert offset == inbox["record_offset"] + 1
