"""`relay unreturned` and `relay close`, with a watchdog and without."""

import json

import pytest

pytestmark = pytest.mark.timeout(180)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


def unreturned(wiring, *arguments: str) -> dict:
    done = wiring.command("unreturned", "--json", *arguments)
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)


async def test_nothing_is_overdue(wiring) -> None:
    done = wiring.command("unreturned")
    assert (done.returncode, done.stdout) == (0, "no order is overdue\n")
    assert unreturned(wiring) == {"orders": [], "by_hop": {}, "unknown_statuses": {}}


async def test_overdue_orders_by_hop_before_any_watchdog_came(wiring) -> None:
    wiring.relay(RELAY_WATCH_INSIDE="false")
    orders = await wiring.place(3)
    await wiring.until_published(orders)
    bypassed = await wiring.pg.fetchval(
        """INSERT INTO orders (order_id, customer_id, items, total, currency)
           VALUES (gen_random_uuid(), 'c', '[]', 1, 'EUR') RETURNING order_id::text"""
    )
    await wiring.until_overdue([*orders, bypassed])
    found = unreturned(wiring)
    assert found["by_hop"] == {"process": 3, "place": 1}
    assert {one["order_id"] for one in found["orders"]} == {*orders, bypassed}
    causes = {one["order_id"]: one["cause"] for one in found["orders"]}
    assert causes[bypassed] == "outbox_bypassed"
    done = wiring.command("unreturned")
    assert done.returncode == 3
    assert done.stdout.splitlines()[0].startswith("4 orders are overdue")
    ids = wiring.command("unreturned", "--ids", "--hop", "place")
    assert ids.stdout == f"{bypassed}\n"


async def test_what_the_watchdog_recorded_is_shown_with_its_incident(wiring) -> None:
    wiring.relay(**QUICK)
    orders = await wiring.place(3)
    await wiring.until_published(orders)

    def recorded() -> bool:
        found = unreturned(wiring)["orders"]
        return [one["incident"] for one in found] == ["I-1"] * 3

    await wiring.eventually(recorded, 60)
    found = unreturned(wiring)["orders"]
    assert {(one["hop"], one["verdict"], one["cause"]) for one in found} == {
        ("process", "not_processed", "processor_down")
    }
    assert all(one["trace_id"] and one["evidence"] for one in found)


async def test_closing_orders_and_an_incident_by_hand(wiring) -> None:
    orders = await wiring.place(3)
    await wiring.until_overdue(orders)
    assert wiring.command("close", orders[0]).returncode == 2
    done = wiring.command("close", orders[0], "--reason", "refunded", "--by", "ana")
    assert done.returncode == 0, done.stderr
    (found,) = wiring.diagnose([orders[0]])
    assert (found["verdict"], found["cause"]) == ("closed", "closed_by_hand")
    assert wiring.command("close", orders[0], "--reason", "again").returncode == 1
    assert {one["order_id"] for one in unreturned(wiring)["orders"]} == set(orders[1:])
    assert wiring.command("incidents").returncode == 3
    done = wiring.command("close", "I-1", "--reason", "all refunded", "--by", "ana")
    assert done.returncode == 0, done.stderr
    assert unreturned(wiring)["orders"] == []
    assert wiring.command("incidents").returncode == 0
    rows = await wiring.pg.fetch("SELECT who, action, subject, why FROM relay.audit_log ORDER BY 1")
    said = {(row["who"], row["action"], row["subject"], row["why"]) for row in rows}
    assert ("ana", "close", orders[0], "refunded") in said
    assert ("ana", "close", "I-1", "all refunded") in said
    # Whatever still comes is applied, and the order is returned all the same.
    wiring.relay(**QUICK), wiring.processor(), wiring.consumer(**QUICK)
    await wiring.until_returned(orders)
    assert {one["verdict"] for one in wiring.diagnose(orders)} == {"returned"}
    assert wiring.command("close", orders[0], "--reason", "returned").returncode == 1
