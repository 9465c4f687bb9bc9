"""What the consumer set aside without an order's id may be any order's return of its time."""

import asyncio
import json

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from relay.diagnose.reconcile.reconciliation import Range, reconcile
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.settings import load_settings
from tests.integration.confirm.test_confirm_hostile import bomb, produce

pytestmark = pytest.mark.timeout(300)


def take(wiring, count: int, topic: str | None = None) -> None:
    """Take events and commit, and answer nothing."""
    consumer = Consumer(
        {
            "bootstrap.servers": wiring.bootstrap,
            "group.id": wiring.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    consumer.subscribe([topic or wiring.events])
    try:
        taken = 0
        while taken < count:
            record = consumer.poll(0.5)
            taken += record is not None and record.error() is None
        consumer.commit(asynchronous=False)
    finally:
        consumer.close()


def keep_batches(wiring) -> None:
    """Let the broker keep batches as they come, whatever compression is its own."""
    entry = ConfigEntry("compression.type", "producer", incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ResourceType.TOPIC, wiring.returns, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": wiring.bootstrap, "log_level": 0})
    admin.incremental_alter_configs([topic])[topic].result(15)


async def test_an_unreadable_batch_may_be_the_return_of_its_time_and_of_no_later_order(
    wiring,
) -> None:
    keep_batches(wiring)
    wiring.relay()
    (early,) = await wiring.place()
    await wiring.until_published([early], 90)
    await asyncio.to_thread(take, wiring, 1)
    await produce(wiring.bootstrap, wiring.returns, 0, bomb(20_000_000))
    await wiring.until_overdue([early])

    # Nobody has handled it: it is seen on Kafka.
    assert wiring.named([early]) == [("return", "unknown", "codec_missing")]
    assert f"{wiring.returns}[0], offsets 0 to 0: cannot be read" in json.dumps(
        wiring.diagnose([early])
    )

    wiring.consumer()

    async def set_aside() -> bool:
        return await wiring.pg.fetchval(
            "SELECT EXISTS (SELECT FROM relay.quarantine WHERE reason = 'unreadable')"
        )

    await wiring.eventually(set_aside, 90)
    (later,) = await wiring.place()
    await wiring.until_published([later], 90)
    await asyncio.to_thread(take, wiring, 1)
    await wiring.until_overdue([later])
    early_named, later_named = wiring.named([early, later])
    assert early_named == ("return", "unknown", "codec_missing")
    assert later_named[:2] == ("return", "no_return")
    wiring.delete_records(wiring.returns)
    early_named, later_named = wiring.named([early, later])
    assert early_named == ("return", "unknown", "codec_missing")
    assert later_named[:2] == ("return", "no_return")


async def test_a_return_of_which_only_the_place_was_kept_is_quarantined_while_kafka_has_it(
    wiring,
) -> None:
    wiring.relay()
    wiring.consumer(RELAY_CONFIRM_QUARANTINE_ROWS="1")
    refused, silent = orders = await wiring.place(2)
    await wiring.until_published(orders, 90)
    await asyncio.to_thread(take, wiring, 2)
    body = json.dumps({"order_id": refused, "status": "nobody's word"}).encode()
    for number in range(20):
        wiring.send(wiring.returns, "k", b"no JSON %d" % number)
    wiring.send(wiring.returns, refused, body)

    async def handled() -> bool:
        return await wiring.pg.fetchval(
            "SELECT coalesce(sum(seen_count), 0) = 21 FROM relay.quarantine WHERE kind = 'return'"
        )

    await wiring.eventually(handled, 90)
    assert await wiring.pg.fetchval(
        "SELECT aggregate_id IS NULL AND kept = 'place' FROM relay.quarantine"
        " WHERE reason = 'unknown_status'"
    )
    await wiring.until_overdue(orders)
    named, other = wiring.named([refused, silent])
    assert named == ("confirm", "return_quarantined", "return_unknown_status")
    assert other[:2] == ("return", "no_return")
    flow = load_settings(None, wiring.environment).flow
    done = await reconcile(wiring.database, KafkaConnection(wiring.bootstrap), flow, Range())
    assert not [one for one in done.tally.findings if "no table knows it" in str(one)]

    wiring.delete_records(wiring.returns)
    assert wiring.named([refused, silent]) == [("return", "unknown", "past_retention")] * 2


async def test_who_may_only_look_sees_that_a_return_waits_for_a_locked_order(wiring) -> None:
    wiring.relay()
    (order,) = await wiring.place()
    await wiring.until_published([order], 90)
    await asyncio.to_thread(take, wiring, 1)
    await wiring.pg.execute(
        "INSERT INTO relay.pending_return (consumer_group, topic, partition, record_offset,"
        " aggregate_id, recorded_at) VALUES ($1, $2, 0, 0, $3, now())",
        wiring.confirm_group,
        wiring.returns,
        order,
    )
    observer = await wiring.login_as("relay_observer")
    for env in ({}, {"DATABASE_URL": observer}):
        (found,) = wiring.diagnose([order], **env)
        assert (found["hop"], found["verdict"]) == ("confirm", "not_confirmed")
