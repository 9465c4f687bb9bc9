"""`relay diagnose` as a command: what it prints, what it can be asked, what it says is missing.

That every loss is named right is the business of tests/corpus.
"""

import uuid

import pytest

from relay.outbox import Item, NewOrder, place_order

pytestmark = pytest.mark.timeout(180)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


async def test_no_relay_runs(wiring) -> None:
    (order,) = await wiring.place()
    assert wiring.named([order]) == [("publish", "not_published", "relay_down")]
    done = wiring.command("diagnose", order)
    assert done.returncode == 3
    assert "DELAYED at 2 publish" in done.stdout.splitlines()[0]
    assert "relay run" in done.stdout
    assert len(done.stdout.splitlines()) <= 24


async def test_the_processor_never_ran(wiring) -> None:
    wiring.relay()
    orders = await wiring.place(2)
    await wiring.until_published(orders)
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("process", "not_processed", "processor_down")] * 2


async def test_the_setting_names_a_group_that_nobody_uses(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    real = f"real-{wiring.group}"
    fine = await wiring.place_everywhere()
    lost = await wiring.place(2)
    wiring.processor("--group", real, *[part for one in lost for part in ("--lose-order", one)])
    await wiring.until_returned(fine)
    await wiring.until_passed(real, wiring.events)
    await wiring.until_overdue(lost)
    found = wiring.diagnose(lost)
    assert {(one["verdict"], one["cause"]) for one in found} == {("unknown", "group_unknown")}
    missing = [fact["found"] for fact in found[0]["evidence"] if fact["what"] == "missing"]
    assert real in missing[0]
    (first, second) = wiring.named(lost, RELAY_FLOW_PROCESSOR_GROUPS=real)
    assert first == second == ("return", "no_return", "return_never_sent")


async def insert_order(wiring) -> str:
    """An order as a foreign writer inserts it, without its event."""
    order_id = str(uuid.uuid4())
    await wiring.pg.execute(
        """INSERT INTO orders (order_id, customer_id, items, total, currency)
           VALUES ($1::uuid, 'c-2', '[]', 1, 'EUR')""",
        order_id,
    )
    return order_id


async def test_a_submission_that_is_known_under_its_key(wiring) -> None:
    wiring.relay(), wiring.processor(), wiring.consumer()
    order = NewOrder("c-9", [Item("tea", 1, "9.95")], "EUR", idempotency_key="k-1")
    async with wiring.pg.transaction():
        placed = await place_order(wiring.pg, order)
    first = str(placed.order_id)
    await wiring.until_returned([first])
    found = wiring.diagnose([], "--customer", "c-9", "--key", "k-1")
    assert [(one["order_id"], one["verdict"]) for one in found] == [(first, "returned")]
    missing = wiring.diagnose([], "--customer", "c-9", "--key", "k-2")
    assert [one["verdict"] for one in missing] == ["no_such_order"]
    (by_event,) = wiring.diagnose([], "--event", str(placed.event_id))
    assert (by_event["order_id"], by_event["event_id"]) == (first, str(placed.event_id))


async def test_an_id_that_was_never_used_is_known_as_the_first_submission(wiring) -> None:
    order = NewOrder("c-9", [Item("tea", 1, "9.95")], "EUR", idempotency_key="k-1")
    async with wiring.pg.transaction():
        first = str((await place_order(wiring.pg, order)).order_id)
    second = str(uuid.uuid4())
    found = wiring.diagnose([second], "--customer", "c-9", "--key", "k-1")
    assert [one["order_id"] for one in found] == [second, first]
    assert (found[0]["verdict"], found[0]["cause"]) == ("no_such_order", "duplicate_submission")
    assert found[0]["next"] == [f"relay diagnose {first}"]


async def test_the_missing_row_is_printed_as_an_insert_that_mends(wiring) -> None:
    wiring.relay(), wiring.processor(), wiring.consumer()
    order = await insert_order(wiring)
    (found,) = wiring.diagnose([order])
    mend = next(one["found"] for one in found["evidence"] if one["what"] == "mend")
    await wiring.pg.execute(mend)
    await wiring.until_returned([order])


async def test_every_id_that_was_asked_for_gets_an_answer(wiring) -> None:
    orders = [await insert_order(wiring) for _ in range(60)]
    done = wiring.command("diagnose", *orders)
    assert done.returncode == 3
    assert done.stdout.splitlines()[0].startswith("60 orders: 60 lost")
    assert all(f" {one}  LOST at 1 place" in done.stdout for one in orders)
