"""Events sent where today's settings do not look: a wrong file for a minute, a renaming."""

import signal

import pytest
from confluent_kafka import Consumer

pytestmark = pytest.mark.timeout(180)


def read_all(wiring, topic: str, count: int) -> None:
    """Take records as the group, commit, and answer nothing: a foreign processor."""
    consumer = Consumer(
        {
            "bootstrap.servers": wiring.bootstrap,
            "group.id": wiring.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    got = 0
    while got < count:
        message = consumer.poll(0.5)
        got += message is not None and message.error() is None
    consumer.commit(asynchronous=False)
    consumer.close()


async def test_a_wrong_settings_file_sent_them_to_another_topic(wiring) -> None:
    wrong = wiring.topics.create("orders.evnets", 1)
    relay = wiring.relay(RELAY_FLOW_EVENTS_TOPIC=wrong)
    orders = await wiring.place(2)
    await wiring.until_published(orders)
    relay.send_signal(signal.SIGTERM)
    relay.wait(20)
    wiring.relay()
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("publish", "not_published", "sent_to_other_topic")] * 2
    (found,) = wiring.diagnose(orders[:1])
    assert any(wrong in fact["found"] for fact in found["evidence"] if fact["what"] == "publish")
    wiring.processor(), wiring.consumer()
    for order in orders:
        assert (
            wiring.command("replay", "--order", order, "--execute", "--reason", "t").returncode == 0
        )
    await wiring.until_returned(orders)


async def test_a_renamed_topic_does_not_accuse_what_the_processor_read_before(wiring) -> None:
    old = wiring.topics.create("orders.old", 1)
    relay = wiring.relay(RELAY_FLOW_EVENTS_TOPIC=old)
    orders = await wiring.place(2)
    await wiring.until_published(orders)
    read_all(wiring, old, 2)
    relay.send_signal(signal.SIGTERM)
    relay.wait(20)
    await wiring.until_overdue(orders)
    assert {one[:2] for one in wiring.named(orders)} == {("return", "no_return")}
