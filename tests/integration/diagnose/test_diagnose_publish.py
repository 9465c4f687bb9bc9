"""Hop 2 and the events topic: a relay dead, paused, refused or misled; records that vanish."""

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


async def test_a_killed_relay_delays_and_loses_nothing(wiring) -> None:
    relay = wiring.relay(**QUICK)
    wiring.processor(), wiring.consumer(**QUICK)
    await wiring.until_returned(await wiring.place())
    relay.kill()
    orders = await wiring.place(3)
    await wiring.until_overdue(orders)
    await until_named(wiring, orders, "publish", "not_published", "relay_down")
    wiring.relay(**QUICK)
    await wiring.until_returned(orders)
    found = wiring.diagnose(orders)
    assert {(one["verdict"], one["cause"]) for one in found} == {("returned", "late")}
    assert {(one["delay"]["hop"], one["delay"]["cause"]) for one in found} == {
        ("publish", "relay_down")
    }


async def test_a_paused_relay(wiring) -> None:
    relay = wiring.relay(**QUICK)
    first = await wiring.place()
    await wiring.until_published(first)
    wiring.pause(relay)
    orders = await wiring.place(2)
    await until_named(wiring, orders, "publish", "not_published", "relay_paused")


async def test_a_relay_whose_grant_was_revoked(wiring) -> None:
    login = await login_as(wiring, "relay_publisher")
    wiring.relay(DATABASE_URL=login, **QUICK)
    first = await wiring.place()
    await wiring.until_published(first)
    await wiring.pg.execute("REVOKE SELECT ON relay.outbox FROM relay_publisher")
    orders = await wiring.place(2)
    await wiring.until_overdue(orders)
    await until_named(wiring, orders, "publish", "not_published", "permission_denied")


async def test_the_events_topic_is_missing(wiring) -> None:
    wiring.topics.delete(wiring.events)
    wiring.relay(**QUICK)
    orders = await wiring.place(2)
    await wiring.until_overdue(orders)
    await until_named(wiring, orders, "publish", "not_published", "topic_missing")


async def test_a_checkpoint_that_was_moved_by_hand(wiring) -> None:
    relay = wiring.relay(**QUICK)
    await wiring.until_published(await wiring.place())
    relay.terminate()
    orders = await wiring.place(2)
    await wiring.pg.execute(
        "UPDATE relay.checkpoint SET prev = pg_current_snapshot(), cur = NULL, last_id = NULL"
    )
    wiring.relay(**QUICK)
    await wiring.until_published(await wiring.place())
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("publish", "not_published", "checkpoint_skipped")] * 2


async def test_a_checkpoint_from_another_time(wiring) -> None:
    await wiring.pg.execute("UPDATE relay.checkpoint SET prev = '900000000:900000000:'")
    orders = await wiring.place(2)
    relay = wiring.relay(**QUICK)
    assert relay.wait() != 0
    assert wiring.named(orders) == [("publish", "not_published", "rebaseline_needed")] * 2


async def test_the_events_topic_was_made_again_before_anyone_read_it(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    orders = await wiring.place(3)
    await wiring.until_published(orders)
    wiring.topics.recreate(wiring.events)
    after = await wiring.place(3)
    await wiring.until_published(after)
    wiring.processor()
    await wiring.until_returned(after, 60)
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("publish", "record_missing", "topic_recreated")] * 3


async def test_records_deleted_before_the_processor_read_them(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    processor = wiring.processor()
    await wiring.until_returned(await wiring.place_everywhere())
    processor.terminate()
    await wiring.until_group_is_empty(wiring.group)
    orders = await wiring.place_everywhere()
    await wiring.until_published(orders)
    wiring.delete_records(wiring.events)
    await wiring.until_overdue(orders)
    expected = ("publish", "record_missing", "records_deleted")
    assert wiring.named(orders) == [expected] * 3
    wiring.processor()
    await wiring.until_returned(await wiring.place_everywhere(), 60)
    await wiring.until_passed(wiring.group, wiring.events)
    await until_named(wiring, orders, *expected)
