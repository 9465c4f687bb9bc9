"""Facts of a topic that change while the relay runs: what it takes, and its partitions."""

import asyncio
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from relay.publish.sending import known_topics
from tests.integration.publish.test_publish_parking import (
    ask_release,
    grow,
    place_large,
    states,
    until_parked,
)
from tests.integration.publish.test_publish_replays import ids, start_job, until_sent


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a topic takes is asked each time, and not once a second at most."""
    monkeypatch.setattr(known_topics, "_LIMIT_SECONDS", 0.0)


async def test_a_raised_limit_reaches_the_running_relay(lab: Any, topics: Any) -> None:
    topic = topics.create("orders.raised", max_message_bytes="5000")
    await place_large(lab, "a", 10_000)
    await place_large(lab, "a", 10)
    async with lab.relaying(events={"order.placed": topic}) as relay:
        await until_parked(lab, 2)
        await asyncio.to_thread(grow, lab.bootstrap_servers, topic, "50000")
        await place_large(lab, "b", 10_000)
        await lab.until_published(1)
        await ask_release(lab)
        await lab.until_published(3)
        assert relay.service.epoch == 1
    assert [state for _, _, state in await states(lab)] == ["released", "released"]


async def test_a_raised_limit_is_also_seen_where_the_payload_was_not_read(
    lab: Any, topics: Any
) -> None:
    """One of megabytes is not read for a topic that does not take it; then it is."""
    topic = topics.create("orders.raised.far")
    await place_large(lab, "a", 2_000_000)
    async with lab.relaying(events={"order.placed": topic}):
        await until_parked(lab, 1)
        await place_large(lab, "c", 2_000_000)
        await until_parked(lab, 2)
        await asyncio.to_thread(grow, lab.bootstrap_servers, topic, "5000000")
        await ask_release(lab)
        await place_large(lab, "b", 2_000_000)
        await lab.until_published(3)
    assert {len(record.body["fill"]) for record in await lab.read(topic)} == {2_000_000}


async def test_a_lowered_limit_is_learned_from_the_refusal(lab: Any, topics: Any) -> None:
    topic = topics.create("orders.lowered", max_message_bytes="100000")
    await place_large(lab, "a", 50_000)
    async with lab.relaying(events={"order.placed": topic}):
        await lab.until_published(1)
        await asyncio.to_thread(grow, lab.bootstrap_servers, topic, "5000")
        for n in range(40):
            await place_large(lab, f"o-{n}", 1_000)
        await place_large(lab, "a", 50_000)
        await lab.until_published(41)
        await until_parked(lab, 1)
    assert await states(lab) == [("a", "too_large", "held")]


async def test_a_replay_takes_what_the_topic_takes_by_now(lab: Any, topics: Any) -> None:
    topic = topics.create("orders.replayed", max_message_bytes="5000")
    other = topics.create("orders.replayed.large", max_message_bytes="5000")
    await place_large(lab, "a", 3_000)
    await place_large(lab, "b", 10)
    async with lab.relaying(events={"order.placed": topic}):
        await lab.until_published(2)
        await asyncio.to_thread(grow, lab.bootstrap_servers, other, "50000")
        replay_id = await start_job(lab, await ids(lab), topic=other)
        await until_sent(lab, replay_id, 2)
    assert len(await lab.read(other)) == 2
    assert not await lab.pg.fetch("SELECT * FROM relay.replay_refused")


async def test_a_topic_made_anew_with_fewer_partitions(lab: Any, topics: Any) -> None:
    topic = topics.create("orders.anew", partitions=6)
    await lab.fill(100)
    async with lab.relaying(events={"order.placed": topic}, request_timeout_seconds=10.0):
        await lab.until_published(100)
        admin = AdminClient({"bootstrap.servers": lab.bootstrap_servers})
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result, 20)

        def made() -> bool:
            try:
                admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(20)
            except Exception:  # noqa: BLE001 - it is still being deleted
                return False
            return True

        async def is_made() -> bool:
            return await asyncio.to_thread(made)

        await lab.until(is_made)
        await lab.fill(300, start=100)
        async with asyncio.timeout(15):
            await lab.until_published(300)
    assert len({record.event_id for record in await lab.read(topic)}) == 200


async def test_a_lease_that_never_ends_is_taken_over(lab: Any) -> None:
    """No relay takes it for so long: somebody wrote it by hand."""
    await lab.place(["a"])
    await lab.pg.execute(
        "UPDATE relay.lease SET owner = 'a stranger', expires_at = 'infinity', released_at = NULL"
        " WHERE duty = 'relay'"
    )
    async with lab.relaying():
        await lab.until_published(1)
