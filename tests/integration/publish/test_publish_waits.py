"""Database, broker or topic away: the relay waits, says for what, and goes on."""

import asyncio
from typing import Any

import asyncpg

from relay.embedded import EmbeddedKafka, EmbeddedPostgres


def waiting_for(relay: Any) -> str:
    return relay.service.waiting_for or ""


async def outages(lab: Any) -> list[tuple[str, bool]]:
    rows = await lab.pg.fetch("SELECT resource, to_at FROM relay.outage_record ORDER BY from_at")
    return [(row["resource"], row["to_at"] is not None) for row in rows]


async def test_a_topic_that_does_not_exist_is_waited_for(lab: Any, topics: Any) -> None:
    missing = f"orders.later.{topics.suffix}"
    await lab.fill(100)
    async with lab.relaying(events={"order.placed": missing}) as relay:
        await lab.until(lambda: missing in waiting_for(relay) and "exist" in waiting_for(relay))
        assert relay.service.state == "waiting"
        assert not relay.service.ready
        made = topics.create("orders.later")
        assert made == missing
        await lab.until_published(100)
        await lab.until(lambda: relay.service.ready)
        assert relay.service.waiting_for is None
    assert not await lab.quarantine()


async def test_asked_to_stop_while_a_topic_is_missing_it_stops(lab: Any, topics: Any) -> None:
    await lab.fill(10)
    relay = lab.relay(events={"order.placed": f"never.{topics.suffix}"})
    await lab.until(lambda: "exist" in waiting_for(relay))
    await relay.stop()
    assert await lab.pg.fetchval(
        "SELECT released_at IS NOT NULL FROM relay.lease WHERE duty='relay'"
    )


async def test_a_broker_that_is_killed_and_comes_back_costs_nothing(
    lab: Any, private_kafka: EmbeddedKafka, kafka_topic: Any
) -> None:
    lab.bootstrap_servers = private_kafka.bootstrap_servers
    kafka_topic(private_kafka.bootstrap_servers, lab.topic)
    relay = lab.relay()
    await lab.fill(500)
    await lab.until_published(500)
    await asyncio.to_thread(private_kafka.kill)
    await lab.fill(1500, start=500)
    await lab.until(lambda: "broker" in waiting_for(relay))
    assert not relay.service.ready
    await asyncio.to_thread(private_kafka.start)
    await lab.until_published(1500, within_seconds=60)
    await lab.until(lambda: relay.service.ready)

    async def written() -> bool:
        return set(await outages(lab)) == {("broker", True)}

    await lab.until(written)
    await relay.stop()
    await lab.assert_published(1500)


async def test_started_before_its_broker_it_waits_and_keeps_its_lease(
    lab: Any, private_kafka: EmbeddedKafka, kafka_topic: Any
) -> None:
    lab.bootstrap_servers = private_kafka.bootstrap_servers
    kafka_topic(private_kafka.bootstrap_servers, lab.topic)
    await asyncio.to_thread(private_kafka.kill)
    await lab.fill(100)
    relay = lab.relay(lease_seconds=1.0)
    await lab.until(lambda: "broker" in waiting_for(relay))
    taken_at = await lab.pg.fetchval("SELECT expires_at FROM relay.lease WHERE duty = 'relay'")

    async def renewed() -> bool:
        later = await lab.pg.fetchval("SELECT expires_at FROM relay.lease WHERE duty = 'relay'")
        return (later - taken_at).total_seconds() > 1.5

    await lab.until(renewed)
    await asyncio.to_thread(private_kafka.start)
    await lab.until_published(100, within_seconds=60)
    await relay.stop()


async def test_with_the_broker_away_it_still_stops_in_time(
    lab: Any, private_kafka: EmbeddedKafka, kafka_topic: Any
) -> None:
    lab.bootstrap_servers = private_kafka.bootstrap_servers
    kafka_topic(private_kafka.bootstrap_servers, lab.topic)
    relay = lab.relay(drain_seconds=1.0)
    await lab.fill(100)
    await lab.until_published(100)
    await asyncio.to_thread(private_kafka.kill)
    await lab.fill(100)
    await lab.until(lambda: "broker" in waiting_for(relay))
    async with asyncio.timeout(15):
        await relay.stop()


async def test_a_database_that_restarts_is_waited_for(
    lab: Any, private_postgres: EmbeddedPostgres, private_database: str
) -> None:
    lab.dsn = private_database
    lab.pg = await asyncpg.connect(private_database)
    relay = lab.relay()
    await lab.fill(300)
    await lab.until_published(300)
    lab.pg.terminate()
    await asyncio.to_thread(private_postgres.kill)
    await lab.until(lambda: "database" in waiting_for(relay))
    assert not relay.service.ready
    await asyncio.to_thread(private_postgres.start)
    lab.pg = await asyncpg.connect(private_database)
    await lab.fill(500, start=300)
    await lab.until_published(500, within_seconds=60)

    async def written() -> bool:
        return ("database", True) in await outages(lab)

    await lab.until(written)
    await relay.stop()
    await lab.pg.close()
    await lab.assert_published(500)


async def test_connections_that_are_cut_are_made_anew_and_the_checkpoint_reread(lab: Any) -> None:
    await lab.fill(1000)
    relay = lab.relay(page_rows=100)
    for name in ("relay-run-reader", "relay-run-writer", "relay-run-reader"):
        await lab.until_published(1000)
        epoch = await lab.pg.fetchval("SELECT epoch FROM relay.checkpoint")
        cut = await lab.pg.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = $1 AND datname = current_database()",
            name,
        )
        assert cut == 1

        async def taken_again(before: int = epoch) -> bool:
            return await lab.pg.fetchval("SELECT epoch FROM relay.checkpoint") > before

        await lab.until(taken_again)
        await lab.until(lambda: relay.service.ready)
    await relay.stop()
    await lab.assert_published(1000)


async def test_a_topic_that_grows_keeps_every_event(lab: Any, topics: Any, grow_topic: Any) -> None:
    topic = topics.create("orders.growing", partitions=2)
    lab.topic = topic
    relay = lab.relay()
    await lab.fill(500)
    await lab.until_published(500)
    grow_topic(topic, 5)
    relay.service.stop.set()
    await relay.stop()
    await lab.place(["x"] * 10)
    async with lab.relaying():
        await lab.until_published(510)
    assert len({record.event_id for record in await lab.read()}) == 510


async def test_a_database_that_takes_no_proof_costs_few_repeats_however_long_it_lasts(
    lab: Any,
) -> None:
    """A full disk, a right that was taken away: each attempt sends again what has no proof."""
    await lab.pg.execute(
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE disk_full; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON relay.delivery_ledger"
        " FOR EACH STATEMENT EXECUTE FUNCTION public.refuse()"
    )
    await lab.fill(1000)
    relay = lab.relay(page_rows=100, pages_in_flight=3)
    attempts = 8

    async def tried() -> bool:
        found = await lab.pg.fetchval("SELECT epoch FROM relay.checkpoint")
        return bool(found >= attempts)

    await lab.until(tried, within_seconds=60)
    await lab.until(lambda: "disk" in waiting_for(relay))
    assert not relay.service.ready
    await lab.pg.execute("DROP TRIGGER refuse ON relay.delivery_ledger")
    await lab.until_published(1000, within_seconds=60)
    await lab.until(lambda: relay.service.ready)
    await relay.stop()
    records = await lab.assert_published(1000)
    repeated = len(records) - 1000
    # The pages of the first attempt, and one row for each of the others.
    assert repeated <= 300 + 2 * attempts, repeated
