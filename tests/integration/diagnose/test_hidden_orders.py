"""Row-level security hides orders from the services: they are found by their events, and named."""

import json

import pytest

pytestmark = pytest.mark.timeout(240)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}
HIDE = """ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON orders USING (customer_id = current_setting('shop.tenant', true))"""


async def test_orders_that_the_watchdog_may_not_see_are_overdue_all_the_same(wiring) -> None:
    watchdog = await wiring.login_as("relay_publisher")
    wiring.relay(**QUICK, DATABASE_URL=watchdog), wiring.processor()
    consumer = await wiring.login_as("relay_confirmer")
    wiring.consumer(**QUICK, DATABASE_URL=consumer)
    await wiring.until_up()
    seen = await wiring.place(2)
    await wiring.until_returned(seen, 60)
    await wiring.pg.execute(HIDE)
    hidden = await wiring.place(2)
    said = ("confirm", "return_quarantined", "order_hidden")

    async def recorded() -> bool:
        rows = await wiring.pg.fetch(
            "SELECT aggregate_id, hop, verdict, cause FROM relay.overdue WHERE closed_at IS NULL"
        )
        return {tuple(row) for row in rows} == {(one, *said) for one in hidden}

    await wiring.eventually(recorded, 90)
    assert wiring.named(hidden) == [said] * 2
    for role in (watchdog, consumer):
        assert wiring.named(hidden, DATABASE_URL=role) == [said] * 2
    status = json.loads(wiring.command("status", "--json").stdout)
    assert (status["healthy"], status["overdue"]) == (False, {"confirm": 2})
    incidents = json.loads(wiring.command("incidents", "--json").stdout)
    told = sum(one["orders"] for one in incidents["incidents"]) + incidents["single_orders"]
    assert told == 2
    # Of an id without any row, this role cannot say that there is no such order.
    ((hop, verdict, cause),) = wiring.named(["7f1f2c2e-0000-4000-8000-000000000000"])
    assert (hop, verdict) == ("place", "no_such_order")
    ((hop, verdict, cause),) = wiring.named(
        ["7f1f2c2e-0000-4000-8000-000000000000"], DATABASE_URL=watchdog
    )
    assert (hop, verdict, cause) == ("place", "unknown", "permission_denied")
    await wiring.pg.execute("ALTER TABLE orders DISABLE ROW LEVEL SECURITY")
    done = wiring.command("quarantine", "release", "--held-for", "unknown_order", "--reason", "x")
    assert done.returncode == 0, done.stderr
    await wiring.until_returned(hidden, 60)
