"""Hop 5 and the returns topic: a consumer that is dead, paused, refused or misled."""

from urllib.parse import urlsplit, urlunsplit

import pytest

pytestmark = pytest.mark.timeout(240)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


async def until_named(wiring, orders, *expected, within_seconds: float = 60) -> None:
    """Wait until the diagnosis of each order is the expected one."""
    await wiring.eventually(
        lambda: wiring.named(orders) == [expected] * len(orders), within_seconds
    )


async def login_as(wiring, role: str) -> str:
    """A login of a role, and the DSN for it."""
    name = f"{role}_{wiring.topics.suffix}"
    await wiring.pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE {role}")
    parts = urlsplit(wiring.database)
    return urlunsplit(parts._replace(netloc=f"{name}:x@{parts.hostname}:{parts.port}"))


async def test_a_killed_consumer(wiring) -> None:
    wiring.relay(**QUICK), wiring.processor()
    consumer = wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place())
    consumer.kill()
    orders = await wiring.place(3)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_overdue(orders)
    await until_named(wiring, orders, "confirm", "not_confirmed", "consumer_down")
    wiring.consumer(**QUICK)
    await wiring.until_returned(orders)
    assert {one["delay"]["hop"] for one in wiring.diagnose(orders)} == {"confirm"}


async def test_a_paused_consumer(wiring) -> None:
    wiring.relay(**QUICK), wiring.processor()
    consumer = wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place())
    wiring.pause(consumer)
    orders = await wiring.place(2)
    await wiring.until_passed(wiring.group, wiring.events)
    await until_named(wiring, orders, "confirm", "not_confirmed", "consumer_paused")


async def test_a_consumer_whose_grant_was_revoked(wiring) -> None:
    login = await login_as(wiring, "relay_confirmer")
    wiring.relay(**QUICK), wiring.processor()
    wiring.consumer(DATABASE_URL=login, **QUICK)
    await wiring.until_returned(await wiring.place())
    await wiring.pg.execute("REVOKE UPDATE ON orders FROM relay_confirmer")
    await wiring.pg.execute(
        "REVOKE UPDATE (status, version, returned_at, return_reason) ON orders FROM relay_confirmer"
    )
    orders = await wiring.place(2)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_overdue(orders)
    await until_named(wiring, orders, "confirm", "not_confirmed", "permission_denied")


async def test_a_consumer_offset_that_was_moved_by_hand(wiring) -> None:
    wiring.relay(**QUICK), wiring.processor()
    consumer = wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place_everywhere())
    consumer.terminate()
    orders = await wiring.place_everywhere()
    await wiring.until_passed(wiring.group, wiring.events)
    for number, end in wiring.ends(wiring.returns).items():
        await wiring.pg.execute(
            "UPDATE relay.consumer_offset SET next_offset = $2 WHERE partition = $1", number, end
        )
    wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place_everywhere())
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("confirm", "return_skipped", "offset_moved")] * 3


async def test_returns_deleted_before_they_were_applied(wiring) -> None:
    wiring.relay(**QUICK), wiring.processor()
    consumer = wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place_everywhere())
    consumer.terminate()
    orders = await wiring.place_everywhere()
    await wiring.until_passed(wiring.group, wiring.events)
    wiring.delete_records(wiring.returns)
    await wiring.until_overdue(orders)
    expected = ("return", "no_return", "records_deleted")
    assert wiring.named(orders) == [expected] * 3
    wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place_everywhere())
    assert wiring.named(orders) == [expected] * 3


async def test_the_returns_topic_was_made_again_before_it_was_read(wiring) -> None:
    wiring.relay(**QUICK)
    processor = wiring.processor()
    consumer = wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place_everywhere())
    consumer.terminate()
    orders = await wiring.place_everywhere()
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_log_position(wiring.returns)
    processor.terminate()
    wiring.topics.recreate(wiring.returns)
    await wiring.until_log_position(wiring.returns)
    wiring.processor(), wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place_everywhere(), 60)
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("return", "no_return", "topic_recreated")] * 3
