"""The watchdog beside real services: cases, incidents, positions; two of them report once."""

import json
from urllib.parse import urlsplit, urlunsplit

import pytest

pytestmark = pytest.mark.timeout(180)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


async def cases(wiring) -> list[dict]:
    rows = await wiring.pg.fetch("SELECT * FROM relay.overdue ORDER BY placed_at")
    return [dict(row) for row in rows]


async def incidents(wiring) -> list[dict]:
    rows = await wiring.pg.fetch("SELECT * FROM relay.incident ORDER BY incident_id")
    return [dict(row) for row in rows]


async def test_positions_are_recorded(wiring) -> None:
    wiring.relay(**QUICK), wiring.processor()
    await wiring.place(2)

    async def recorded() -> bool:
        return await wiring.pg.fetchval(
            """SELECT count(*) > 0 FROM relay.position
                WHERE consumer_group = $1 AND members = 1 AND committed_offset > 0""",
            wiring.group,
        )

    await wiring.eventually(recorded, 40)
    logs = await wiring.pg.fetch(
        "SELECT DISTINCT topic, partition FROM relay.position WHERE consumer_group = ''"
    )
    assert {(row["topic"], row["partition"]) for row in logs} == {
        (topic, number) for topic in (wiring.events, wiring.returns) for number in range(3)
    }


async def test_a_dead_relay_is_one_incident_that_closes_when_the_orders_come_back(wiring) -> None:
    wiring.consumer(**QUICK), wiring.processor()
    orders = await wiring.place(4)

    async def opened() -> bool:
        found = await incidents(wiring)
        return len(found) == 1 and found[0]["order_count"] == 4

    await wiring.eventually(opened, 40)
    (found,) = await incidents(wiring)
    assert (found["hop"], found["verdict"], found["cause"]) == (
        "publish",
        "not_published",
        "relay_down",
    )
    wiring.relay(**QUICK)
    await wiring.until_returned(orders)

    async def closed() -> bool:
        return (await incidents(wiring))[0]["closed_at"] is not None

    await wiring.eventually(closed, 40)
    (found,) = await incidents(wiring)
    assert found["closed_by"] == "watchdog"
    assert {one["closed_as"] for one in await cases(wiring)} == {"returned"}
    assert "relay" in json.loads(found["story"])["text"]


async def test_two_watchdogs_open_a_case_once(wiring) -> None:
    wiring.start("watchdog", **QUICK), wiring.start("watchdog", **QUICK)
    orders = await wiring.place(3)

    async def opened() -> bool:
        return len(await cases(wiring)) == 3 and len(await incidents(wiring)) > 0

    await wiring.eventually(opened, 40)
    assert sorted(one["aggregate_id"] for one in await cases(wiring)) == sorted(orders)
    assert len(await incidents(wiring)) == 1


async def login_as(wiring, role: str) -> str:
    """A login of a role, and the DSN for it."""
    name = f"{role}_{wiring.topics.suffix}"
    await wiring.pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE {role}")
    parts = urlsplit(wiring.database)
    return urlunsplit(parts._replace(netloc=f"{name}:x@{parts.hostname}:{parts.port}"))


@pytest.mark.parametrize(
    ("command", "role"), [("run", "relay_publisher"), ("confirm", "relay_confirmer")]
)
async def test_it_watches_with_the_rights_of_the_service_it_is_in(wiring, command, role) -> None:
    login = await login_as(wiring, role)
    process = wiring.start(command, DATABASE_URL=login, **QUICK)
    orders = await wiring.place(2)

    async def opened() -> bool:
        found = await incidents(wiring)
        return len(await cases(wiring)) == 2 and len(found) == 1

    await wiring.eventually(opened, 40)
    assert sorted(one["aggregate_id"] for one in await cases(wiring)) == sorted(orders)
    assert process.terminate() == 0
    assert "watchdog_waits" not in process.stderr
    assert "watchdog_failed" not in process.stderr


async def test_an_observer_may_diagnose_and_nobody_is_accused_for_what_he_may_not_see(
    wiring,
) -> None:
    observer = await login_as(wiring, "relay_observer")
    wiring.relay(RELAY_WATCH_INSIDE="false")
    orders = await wiring.place(2)
    await wiring.until_published(orders)
    await wiring.until_overdue(orders)
    expected = ("process", "not_processed", "processor_down")
    assert wiring.named(orders, DATABASE_URL=observer) == [expected] * 2
    writer = await login_as(wiring, "relay_writer")
    found = wiring.diagnose(orders, DATABASE_URL=writer)
    assert {(one["verdict"], one["cause"]) for one in found} == {("unknown", "permission_denied")}


async def test_a_database_and_a_broker_that_cannot_be_reached_accuse_nobody(wiring) -> None:
    wiring.relay(RELAY_WATCH_INSIDE="false")
    orders = await wiring.place(2)
    await wiring.until_published(orders)
    await wiring.until_overdue(orders)
    nowhere = "postgresql://postgres@127.0.0.1:9/none"
    found = wiring.diagnose(orders, DATABASE_URL=nowhere)
    assert {(one["verdict"], one["cause"]) for one in found} == {
        ("unknown", "database_unreachable")
    }
    found = wiring.diagnose(orders, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9")
    assert {(one["verdict"], one["cause"]) for one in found} == {("unknown", "broker_unreachable")}
