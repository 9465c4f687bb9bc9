"""A status that was written and does not stand is seen at once, and nothing of it is kept."""

import pytest

UNDO = """
CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {what}
    RETURN NEW;
END $$;
CREATE {kind} undo {when} UPDATE ON orders {deferred} FOR EACH ROW
  WHEN (NEW.customer_id = 'poison' AND NEW.status = 'confirmed') EXECUTE FUNCTION undo();
"""
BACK = "UPDATE orders SET status = OLD.status WHERE order_id = NEW.order_id;"
BEFORE = {"kind": "TRIGGER", "when": "BEFORE", "deferred": ""}
WAYS = {
    "put back": {"what": "NEW.status := OLD.status;"} | BEFORE,
    "swallowed": {"what": "RETURN NULL;"} | BEFORE,
    "another": {"what": "NEW.status := 'rejected';"} | BEFORE,
    "afterwards": {"what": BACK, "kind": "TRIGGER", "when": "AFTER", "deferred": ""},
    "at commit": {
        "what": BACK,
        "kind": "CONSTRAINT TRIGGER",
        "when": "AFTER",
        "deferred": "DEFERRABLE INITIALLY DEFERRED",
    },
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_trigger_undoes_is_held_with_its_name_and_applied_once_it_is_gone(lab, way):
    orders = await lab.place(200)
    poisoned = orders[::4]
    await lab.pg.execute(
        "UPDATE orders SET customer_id = 'poison' WHERE order_id = ANY ($1::uuid[])", poisoned
    )
    await lab.pg.execute(UNDO.format(**WAYS[way]))
    for order in orders:
        lab.send(order, headers={"ce_id": order.encode()})
    lab.sent()
    running = lab.start()
    await lab.until_handled(200)
    expected = ["submitted" if one in poisoned else "confirmed" for one in orders]
    assert await lab.statuses(orders) == expected
    rows = await lab.pg.fetch("SELECT reason, aggregate_id, detail FROM relay.quarantine")
    assert sorted(row["aggregate_id"] for row in rows) == sorted(poisoned)
    assert {row["reason"] for row in rows} == {"status_not_kept"}
    when = WAYS[way]["when"]
    assert all(f"trigger undo ({when} UPDATE, function undo)" in row["detail"] for row in rows)
    for table in ("relay.inbox", "order_status_history"):
        assert await lab.pg.fetchval(f"SELECT count(*) FROM {table}") == 150
    assert running.service.report.counts["status_not_kept"] == 50

    await lab.pg.execute("DROP TRIGGER undo ON orders")
    await lab.pg.execute("UPDATE relay.quarantine SET state = 'release_requested'")
    await lab.until_sql("SELECT count(*) = 200 FROM orders WHERE status = 'confirmed'")
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.inbox") == 200


async def test_a_trigger_that_minds_its_own_business_is_none(lab):
    await lab.pg.execute(
        """CREATE TABLE archive (LIKE orders);
           CREATE FUNCTION to_archive() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               WITH gone AS (DELETE FROM orders WHERE order_id = NEW.order_id RETURNING *)
               INSERT INTO archive SELECT * FROM gone;
               RETURN NULL;
           END $$;
           CREATE TRIGGER to_archive AFTER UPDATE ON orders FOR EACH ROW
             WHEN (NEW.status = 'confirmed') EXECUTE FUNCTION to_archive()"""
    )
    orders = await lab.place(20)
    for order in orders:
        lab.send(order, "processing", headers={"ce_id": f"{order}-1".encode()})
        lab.send(order, headers={"ce_id": f"{order}-2".encode()})
    lab.sent()
    lab.start()
    await lab.until_handled(40)
    assert await lab.pg.fetchval("SELECT count(*) FROM archive WHERE status = 'confirmed'") == 20
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0
