"""Orders from before the order service wrote events, and where it never wrote one."""

import json
import uuid

import pytest

pytestmark = pytest.mark.timeout(180)

UNKNOWN = ("place", "unknown", "before_events")


@pytest.fixture
async def shop(wiring):
    """A shop that was migrated a day ago, in production."""
    await wiring.pg.execute(
        "UPDATE relay.installation SET kind = 'production',"
        " watched_since = now() - interval '1 day'"
    )
    return wiring


async def insert(wiring, ago="0 s", count=1):
    orders = [str(uuid.uuid4()) for _ in range(count)]
    await wiring.insert_these(orders)
    await wiring.pg.execute(
        "UPDATE orders SET submitted_at = now() - $2::text::interval"
        " WHERE order_id = ANY ($1::uuid[])",
        orders,
        ago,
    )
    return orders


def data(wiring, *words, **env):
    done = wiring.command("--json", *words, **env)
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)


def listed(wiring, *words, **env):
    return {one["order_id"]: one for one in data(wiring, "unreturned", *words, **env)["orders"]}


async def test_between_the_migration_and_the_first_event_nobody_is_at_fault(shop) -> None:
    early = await insert(shop, "3 hours", 3)
    await shop.place()
    late = await insert(shop)
    await shop.until_overdue(late)
    assert shop.named([*early, *late]) == [UNKNOWN] * 3 + [
        ("place", "no_outbox_row", "outbox_bypassed")
    ]
    assert late[0] in listed(shop)
    assert not set(early) & set(listed(shop))
    asked = listed(shop, "--since", "12h")
    assert {asked[one]["cause"] for one in early} == {"before_events"}
    assert data(shop, "reconcile")["found"]["order_without_event"] == 1
    assert data(shop, "status")["hops"]["place"]["waiting"] == 1
    chosen = [f"--order={one}" for one in early]
    done = shop.command("--json", "replay", *chosen, "--write-missing")
    plan = json.loads(done.stdout)
    assert (plan["missing"], plan["events"], plan["orders_not_judged"]) == ([], 0, 3)
    assert data(shop, "incidents")["single_orders"] <= 2


async def test_a_clock_that_is_ahead_makes_no_order_younger_than_the_first_event(shop) -> None:
    (early,) = await insert(shop, "-3 hours")
    await shop.place()
    await shop.pg.execute("SELECT 1")
    assert shop.named([early]) == [UNKNOWN]


async def test_the_settings_name_the_moment(shop) -> None:
    early = await insert(shop, "3 hours", 2)
    await shop.place()
    since = await shop.pg.fetchval("SELECT (now() - interval '4 hours')::text")
    known = {"RELAY_FLOW_EVENTS_SINCE": since.replace(" ", "T").replace("+00", "Z")}
    assert shop.named(early, **known) == [("place", "no_outbox_row", "outbox_bypassed")] * 2
    assert set(early) <= set(listed(shop, **known))


async def test_where_no_event_was_ever_written_nothing_is_called_fine_or_lost(shop) -> None:
    orders = await insert(shop, "1 hour", 4)
    assert shop.named(orders) == [UNKNOWN] * 4
    for words in (["unreturned"], ["incidents"], ["diagnose"]):
        done = shop.command(*words)
        assert done.returncode == 1, (words, done.stdout)
        assert "4 orders were placed and no event was ever written" in done.stderr
        assert "no order is overdue" not in done.stdout
    told = data(shop, "reconcile")
    assert not told["proven"]
    assert any("no event was ever written" in one for one in told["not_looked_at"])
    place = data(shop, "status")["hops"]["place"]
    assert (place["waiting"], place["note"]) == (
        4,
        "no event was ever written: does the order service write to relay.outbox?",
    )
    found = {one["name"]: one for one in data(shop, "check")["checks"]}["place.events"]
    assert found["state"] == "warning"


async def test_a_service_that_deletes_its_rows_at_once_never_had_one(shop) -> None:
    (order,) = await insert(shop)
    async with shop.pg.transaction():
        await shop.insert_event(order, "order.placed")
        await shop.pg.execute("DELETE FROM relay.outbox WHERE aggregate_id = $1", order)
    await shop.until_overdue([order])
    assert shop.named([order]) == [UNKNOWN]
