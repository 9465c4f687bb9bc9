"""Losses at every hop, made by real processes, and what `relay diagnose` says of them."""

import pytest

pytestmark = pytest.mark.timeout(180)


async def test_an_order_that_went_all_the_way(wiring) -> None:
    wiring.relay(), wiring.processor(), wiring.consumer()
    first = await wiring.place()
    await wiring.until_returned(first)
    orders = await wiring.place(3)
    await wiring.until_returned(orders)
    assert wiring.named(orders) == [(None, "returned", "in_time")] * 3
    done = wiring.command("diagnose", *orders)
    assert done.returncode == 0, done.stderr


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


async def test_the_processor_loses_one_order_of_many(wiring) -> None:
    wiring.relay(), wiring.consumer()
    before = await wiring.place(5)
    (lost,) = await wiring.place()
    after = await wiring.place(5)
    wiring.processor("--lose-order", lost)
    await wiring.until_returned(before + after)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_overdue([lost])
    assert wiring.named([lost]) == [("return", "no_return", "return_never_sent")]


async def test_the_consumer_is_down(wiring) -> None:
    wiring.relay(), wiring.processor()
    orders = await wiring.place(3)
    await wiring.until_passed(wiring.group, wiring.events)
    # The processor may be done before the relay has written what it did, and that it lives.
    await wiring.eventually(
        lambda: wiring.pg.fetchval(
            "SELECT (SELECT sum(record_count) FROM relay.delivery_ledger) = 3"
            "   AND EXISTS (SELECT FROM relay.process_record WHERE kind = 'relay')"
        )
    )
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("confirm", "not_confirmed", "consumer_down")] * 3
