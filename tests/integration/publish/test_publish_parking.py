"""An event that cannot be sent parks its order, and only its order, until somebody releases it."""

import asyncio
import json
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from relay.publish.sending.topics import Topics


async def place_large(lab: Any, order: str, size: int) -> None:
    await lab.pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('order', $1, 'order.placed', $2)",
        order,
        json.dumps({"order_id": order, "fill": "x" * size}),
    )


def grow(bootstrap_servers: str, topic: str, largest_batch_bytes: str) -> None:
    entry = ConfigEntry(
        "max.message.bytes",
        largest_batch_bytes,
        incremental_operation=AlterConfigOpType.SET,
    )
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    admin.incremental_alter_configs([resource])[resource].result(20)


async def ask_release(lab: Any, where: str = "true") -> None:
    await lab.pg.execute(
        "UPDATE relay.quarantine SET state = 'release_requested', resolved_by = 'ann',"
        f" resolved_why = 'test' WHERE state = 'held' AND {where}"
    )


async def states(lab: Any) -> list[tuple[str, str, str]]:
    return [(row["aggregate_id"], row["reason"], row["state"]) for row in await lab.quarantine()]


async def until_parked(lab: Any, count: int) -> None:
    async def enough() -> bool:
        return len(await lab.quarantine()) >= count

    await lab.until(enough)


async def test_an_event_without_a_topic_parks_its_order_and_no_other(lab: Any) -> None:
    await lab.place(["a", "b"])
    await lab.place(["b"], "order.unheard_of")
    await lab.place(["a", "b", "c"])
    async with lab.relaying():
        await lab.until_published(4)
        await until_parked(lab, 2)
        await lab.place(["b", "c"])
        await lab.until_published(5)
        await until_parked(lab, 3)
    assert await states(lab) == [
        ("b", "no_topic", "held"),
        ("b", "order_parked", "held"),
        ("b", "order_parked", "held"),
    ]
    assert [record.key for record in await lab.read()].count("b") == 1
    row = (await lab.quarantine())[0]
    assert "order.unheard_of" in row["detail"]
    assert row["event_id"] == str(
        await lab.pg.fetchval("SELECT event_id FROM relay.outbox WHERE id = $1", row["outbox_id"])
    )


async def test_a_parked_order_stays_parked_after_a_restart(lab: Any) -> None:
    await lab.place(["a"], "order.unheard_of")
    async with lab.relaying():
        await until_parked(lab, 1)
    await lab.place(["a", "b"])
    async with lab.relaying():
        await lab.until_published(1)
        await until_parked(lab, 2)
    assert [record.key for record in await lab.read()] == ["b"]


async def test_a_released_order_leaves_in_its_order_before_anything_newer(lab: Any) -> None:
    await lab.place(["a"], "order.new")
    placed = await lab.place(["a", "a", "b"])
    async with lab.relaying():
        await until_parked(lab, 3)
    routes = {"order.placed": lab.topic, "order.new": lab.topic}
    async with lab.relaying(events=routes):
        await ask_release(lab, "reason = 'no_topic'")
        await lab.until_published(4)

        async def released() -> bool:
            return all(state == "released" for *_, state in await states(lab))

        await lab.until(released)
        newer = await lab.place(["a"])
        await lab.until_published(5)
    of_a = [record for record in await lab.read() if record.key == "a"]
    ids = await lab.pg.fetch("SELECT id, event_id::text FROM relay.outbox WHERE aggregate_id = 'a'")
    by_event = {row["event_id"]: row["id"] for row in ids}
    assert [by_event[record.event_id] for record in of_a] == [placed[0] - 1, *placed[:2], *newer]
    assert {row["resolved_at"] is not None for row in await lab.quarantine()} == {True}
    # The ledger has them too: hop 2 is proven like any other.
    known = await lab.pg.fetchval(
        "SELECT count(*) FROM relay.delivery_ledger WHERE id_range @> $1::bigint", placed[0] - 1
    )
    assert known == 1


async def test_a_release_stops_at_an_event_that_is_held_for_its_own_sake(lab: Any) -> None:
    await lab.place(["a"], "order.new")
    await lab.place(["a"])
    await lab.place(["a"], "order.other")
    await lab.place(["a"])
    async with lab.relaying():
        await until_parked(lab, 4)
    # The third is waiting behind the first, but has no topic either: found out when it is its turn.
    async with lab.relaying(events={"order.placed": lab.topic, "order.new": lab.topic}):
        await ask_release(lab, "reason = 'no_topic'")
        await lab.until_published(2)

        async def held_again() -> bool:
            return [state for *_, state in await states(lab)] == [
                "released",
                "released",
                "held",
                "held",
            ]

        await lab.until(held_again)
    assert [reason for _, reason, _ in await states(lab)][2:] == ["no_topic", "order_parked"]


async def test_an_order_whose_held_event_was_discarded_flows_again(lab: Any) -> None:
    await lab.place(["a"], "order.unheard_of")
    async with lab.relaying():
        await until_parked(lab, 1)
        await lab.pg.execute("UPDATE relay.quarantine SET state = 'discarded'")
        await lab.place(["a"])
        await lab.until_published(1)
    assert await states(lab) == [("a", "no_topic", "discarded")]


async def test_a_record_larger_than_its_topic_takes_is_parked_without_being_sent(
    lab: Any, topics: Any
) -> None:
    topic = topics.create("orders.small", max_message_bytes="5000")
    for order in ("a", "b", "c"):
        await place_large(lab, order, 100)
    await place_large(lab, "b", 6_000)
    for order in ("a", "b", "c"):
        await place_large(lab, order, 100)
    async with lab.relaying(events={"order.placed": topic}) as relay:
        await lab.until_published(5)
        await until_parked(lab, 2)
        assert relay.service.epoch == 1  # no producer was lost for it
    assert await states(lab) == [("b", "too_large", "held"), ("b", "order_parked", "held")]


@pytest.fixture
def unknown_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker whose topic settings this user may not read."""

    async def unknown(*_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(Topics, "largest_batch_bytes", unknown)


@pytest.mark.usefixtures("unknown_limits")
async def test_a_refused_batch_is_bisected_to_its_record(lab: Any, topics: Any) -> None:
    topic = topics.create("orders.refusing", partitions=2, max_message_bytes="20000")
    for n in range(60):
        await place_large(lab, f"o-{n}", 30_000 if n == 31 else 50)
    for n in range(60):
        await place_large(lab, f"o-{n}", 50)
    async with lab.relaying(events={"order.placed": topic}):
        await lab.until_published(118)
        await until_parked(lab, 2)
    assert await states(lab) == [("o-31", "too_large", "held"), ("o-31", "order_parked", "held")]
    found: dict[str, list[str]] = {}
    for record in await lab.read(topic):
        events = found.setdefault(record.key, [])
        if record.event_id not in events:
            events.append(record.event_id)
    rows = await lab.pg.fetch("SELECT aggregate_id, event_id::text FROM relay.outbox ORDER BY id")
    expected: dict[str, list[str]] = {}
    for row in rows:
        expected.setdefault(row["aggregate_id"], []).append(row["event_id"])
    del expected["o-31"]
    assert found == expected


@pytest.mark.usefixtures("unknown_limits")
async def test_a_topic_that_takes_only_small_batches_gets_small_batches(
    lab: Any, topics: Any
) -> None:
    topic = topics.create("orders.tiny", partitions=1, max_message_bytes="3000")
    await lab.fill(200)
    async with lab.relaying(events={"order.placed": topic}):
        await lab.until_published(200)
    assert not await lab.quarantine()


async def test_a_payload_larger_than_any_record_is_parked_without_being_read(lab: Any) -> None:
    await place_large(lab, "a", 3_000_000)
    await place_large(lab, "b", 10)
    async with lab.relaying(largest_record_bytes=1_000_000):
        await lab.until_published(1)
        await until_parked(lab, 1)
    assert await states(lab) == [("a", "too_large", "held")]


async def test_a_large_record_is_released_once_its_topic_takes_it(lab: Any, topics: Any) -> None:
    topic = topics.create("orders.grown", max_message_bytes="5000")
    routes = {"order.placed": topic}
    await place_large(lab, "a", 10_000)
    await place_large(lab, "a", 10)
    async with lab.relaying(events=routes):
        await until_parked(lab, 2)
        await ask_release(lab)

        async def refused_again() -> bool:
            rows = await lab.quarantine()
            return [row["state"] for row in rows] == ["held", "held"] and rows[0]["seen_count"] == 2

        await lab.until(refused_again)
    await asyncio.to_thread(grow, lab.bootstrap_servers, topic, "50000")
    async with lab.relaying(events=routes):
        await ask_release(lab)
        await lab.until_published(2)
    sizes = [len(record.body["fill"]) for record in await lab.read(topic)]
    assert sizes == [10_000, 10]


async def test_many_events_behind_a_parked_one_leave_in_order_page_by_page(lab: Any) -> None:
    await lab.place(["a"], "order.new")
    for _ in range(3):
        await lab.place(["a"] * 100 + ["b"])
    async with lab.relaying():
        await until_parked(lab, 301)
    routes = {"order.placed": lab.topic, "order.new": lab.topic}
    async with lab.relaying(events=routes, page_rows=40):
        await ask_release(lab, "reason = 'no_topic'")
        await lab.until_published(304)
    rows = await lab.pg.fetch(
        "SELECT event_id::text FROM relay.outbox WHERE aggregate_id = 'a' ORDER BY id"
    )
    of_a = [record.event_id for record in await lab.read() if record.key == "a"]
    assert of_a == [row["event_id"] for row in rows]
