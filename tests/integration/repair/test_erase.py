"""`relay erase`: what is stored of a person is blank, audited, and Kafka is named."""

import json
import uuid

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

ORDER = """
INSERT INTO orders (order_id, customer_id, items, total, currency)
VALUES (gen_random_uuid(), $1, '[]', 1, 'EUR') RETURNING order_id::text
"""
PAYLOADS = "SELECT aggregate_id, payload::text, content_type FROM relay.outbox ORDER BY id"


def compact(bootstrap: str, topic: str) -> None:
    policy = ConfigEntry(
        "cleanup.policy", "compact,delete", incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[policy])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(20)


def values_of(bootstrap: str, topic: str, key: str) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex})
    numbers = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
    found = []
    while (one := consumer.poll(1.5)) is not None:
        if one.key() == key.encode():
            found.append(one.value())
    consumer.close()
    return found


async def test_a_customers_data_is_blank_and_nobody_elses(shop) -> None:
    compact(shop.bootstrap, shop.events)
    theirs = await shop.pg.fetchval(ORDER, "ada")
    other = await shop.pg.fetchval(ORDER, "bob")
    for order in (theirs, other):
        await shop.append(order)
    shop.start("run")
    shop.start("confirm")
    for order in (theirs, other):
        shop.send_return(order, b"Ada Lovelace, 12 St James's Square")
    await shop.until_quarantined(2)
    await shop.until("SELECT sum(record_count) = 2 FROM relay.delivery_ledger")
    before = await shop.pg.fetch(PAYLOADS)

    planned = shop.data("erase", "--customer", "ada")
    assert (planned["orders"], planned["executed"]) == ([theirs], False)
    assert await shop.pg.fetch(PAYLOADS) == before
    asked = ("erase", "--customer", "ada", "--execute", "--reason", "request 17")
    observer = await shop.login("relay_observer")
    refused = shop.command(*asked, dsn=observer)
    assert refused.returncode == 1
    assert await shop.pg.fetch(PAYLOADS) == before

    operator = await shop.login("relay_operator", "pg_read_all_data")
    done = shop.data(*asked, "--by", "eve", dsn=operator)
    assert {name: done["erased"][name] for name in ("outbox", "quarantine")} == {
        "outbox": 1,
        "quarantine": 1,
    }
    rows = {row[0]: tuple(row)[1:] for row in (await shop.pg.fetch(PAYLOADS))[:2]}
    assert rows[theirs] == ("null", "application/x-relay-erased")
    assert rows[other] == (before[1]["payload"], None)
    held = await shop.pg.fetch(
        "SELECT aggregate_id, record_value, state FROM relay.quarantine ORDER BY quarantine_id"
    )
    by_order = {row[0]: (row[1], row[2]) for row in held}
    assert by_order[theirs][0].startswith(b"erased ")
    assert by_order[theirs][1] == "discarded"
    assert by_order[other] == (b"Ada Lovelace, 12 St James's Square", "held")
    (noted,) = await shop.audits("erase")
    assert (noted["who"], noted["why"]) == ("eve", "request 17")
    (events,) = (one for one in done["in_kafka"] if one["topic"] == shop.events)
    assert events["compacted"]
    assert events["expires_at"] is not None

    # The tombstone goes the relay's own way.
    assert done["tombstones"] == [theirs]
    await shop.until("SELECT sum(record_count) = 3 FROM relay.delivery_ledger")
    assert values_of(shop.bootstrap, shop.events, theirs)[-1] is None
    assert None not in values_of(shop.bootstrap, shop.events, other)
    again = shop.data(*asked, dsn=operator)
    assert again["erased"]["outbox"] == again["erased"]["quarantine"] == 0


async def test_each_compacted_topic_of_the_flow_gets_a_tombstone(shop, topics) -> None:
    """Also in Debezium's wire form, and where event types have topics of their own."""
    second = topics.create("orders.sent", 3)
    compact(shop.bootstrap, shop.events)
    compact(shop.bootstrap, second)
    shop.environment |= {
        "RELAY_FLOW_WIRE": "debezium",
        "RELAY_FLOW_EVENTS": json.dumps({"order.placed": {}, "order.sent": {"topic": second}}),
    }
    order = await shop.order()
    await shop.append(order)
    await shop.append(order, "order.sent")
    shop.start("run")
    await shop.until("SELECT sum(record_count) = 2 FROM relay.delivery_ledger")
    operator = await shop.login("relay_operator", "pg_read_all_data")
    done = shop.data("erase", "--order", order, "--execute", "--reason", "request 18", dsn=operator)
    assert done["tombstones"] == [order]
    await shop.until("SELECT sum(record_count) = 4 FROM relay.delivery_ledger")
    for topic in (shop.events, second):
        values = values_of(shop.bootstrap, topic, order)
        assert len(values) == 2
        assert values[1] is None, topic
