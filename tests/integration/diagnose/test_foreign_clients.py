"""What other people's programs write, and how they read: diagnosis looks at all of it, or says so.

Processors and returns here are librdkafka's: transactions left open, record times that are early or
in microseconds, keys in capitals and braces, the group protocol of KIP-848.
"""

import asyncio
import json
import threading
import time
import uuid
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, Producer, ShareConsumer, TopicPartition
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
from tests.worlds.world import WORLD

pytestmark = pytest.mark.timeout(300)

ZEROS = f"00-{'0' * 32}-{'0' * 16}-00"


@pytest.fixture
def take(wiring):
    """A foreign processor: takes events, commits, and answers nothing."""

    def take(count: int, group: str | None = None, **config) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": wiring.bootstrap,
                "group.id": group or wiring.group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 0,
                **config,
            }
        )
        consumer.subscribe([wiring.events])
        try:
            _poll(consumer, count)
            consumer.commit(asynchronous=False)
        finally:
            consumer.close()

    return take


def _poll(consumer: Consumer, count: int) -> None:
    taken, deadline = 0, time.monotonic() + 90
    while taken < count:
        record = consumer.poll(0.5)
        taken += record is not None and record.error() is None
        assert time.monotonic() < deadline, f"{taken} of {count} events came"


@pytest.fixture
def answer(wiring):
    """Send a return."""
    producer = Producer({"bootstrap.servers": wiring.bootstrap, "log_level": 0})

    def send(key: str | None, value: object, **more) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(wiring.returns, key=key, value=body, **more)
        assert producer.flush(10) == 0

    return send


@contextmanager
def transaction(wiring, topic: str, key: str, value: bytes, partition: int):
    """Begin a transaction, write one record, and leave it open until the block ends."""
    producer = Producer(
        {
            "bootstrap.servers": wiring.bootstrap,
            "transactional.id": f"tx-{wiring.topics.suffix}",
            "log_level": 0,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, key=key, value=value, partition=partition)
    assert producer.flush(10) == 0
    yield
    producer.commit_transaction(30)


async def compared(wiring):
    flow = load_settings(None, wiring.environment).flow
    return await reconcile(wiring.database, KafkaConnection(wiring.bootstrap), flow, Range())


async def test_a_return_with_an_early_time_and_foreign_spellings_waits_for_the_consumer(
    wiring, take, answer
) -> None:
    wiring.relay()
    orders = await wiring.place(4)
    await wiring.until_published(orders, 90)
    await asyncio.to_thread(take, 4)
    early, capitals, braces, subject = orders
    answer(early, {"status": "confirmed"}, timestamp=int((time.time() - 7200) * 1000))
    answer(capitals.upper(), {"status": "confirmed"})
    answer(f"{{{braces}}}", {"status": "confirmed"})
    answer(None, {"status": "confirmed"}, headers=[("ce_subject", subject.upper().encode())])
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("confirm", "not_confirmed", "consumer_down")] * 4
    wiring.consumer()
    await wiring.until_returned(orders, 90)


async def test_returns_behind_an_open_transaction_are_delayed_and_nothing_is_proven(
    wiring, take, answer
) -> None:
    wiring.relay(), wiring.consumer()
    inside, behind = orders = await wiring.place(2)
    await wiring.until_published(orders, 90)
    await asyncio.to_thread(take, 2)
    body = b'{"status": "confirmed"}'
    with transaction(wiring, wiring.returns, inside, body, 0):
        answer(behind, {"status": "confirmed"}, partition=0)
        await wiring.until_overdue(orders)
        found = wiring.diagnose(orders)
        named = {(one["hop"], one["verdict"], one["cause"]) for one in found}
        assert named == {("confirm", "not_confirmed", "transaction_open")}
        assert f"tx-{wiring.topics.suffix}" in json.dumps(found)
        assert not any("replay" in command for one in found for command in one["next"])
        done = await compared(wiring)
        assert not done.proven
        assert any("2 records stand behind an open transaction" in one for one in done.unlooked)
        status = wiring.command("status").stdout
        assert "open transaction" in status
        check = json.loads(wiring.command("check", "--json").stdout)
        (held_up,) = [
            one for one in check["checks"] if one["name"].startswith("kafka.transactions:")
        ]
        assert held_up["name"] == f"kafka.transactions:{wiring.returns}[0]"
    await wiring.until_returned(orders, 90)


async def test_an_aborted_return_is_no_return(wiring, take) -> None:
    wiring.relay(), wiring.consumer()
    (order,) = await wiring.place()
    await wiring.until_published([order], 90)
    await asyncio.to_thread(take, 1)
    producer = Producer(
        {"bootstrap.servers": wiring.bootstrap, "transactional.id": f"t-{wiring.topics.suffix}"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(wiring.returns, key=order, value=b'{"status": "confirmed"}', partition=0)
    producer.flush(10)
    producer.abort_transaction(30)
    await wiring.until_overdue([order])
    ((_hop, verdict, _cause),) = wiring.named([order])
    assert verdict == "no_return"


async def test_a_processor_before_an_open_transaction_is_not_stuck(wiring, take) -> None:
    wiring.relay(), wiring.consumer()
    first = await wiring.place_everywhere()
    await wiring.until_published(first, 90)
    with transaction(wiring, wiring.events, "another team", b"{}", 0):
        orders = await wiring.place_everywhere()
        await wiring.until_published(orders, 90)
        consumer = Consumer(
            {
                "bootstrap.servers": wiring.bootstrap,
                "group.id": wiring.group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        consumer.subscribe([wiring.events])
        try:
            await asyncio.to_thread(_poll, consumer, 5)
            consumer.commit(asynchronous=False)
            await wiring.until_overdue(orders)
            named = await asyncio.to_thread(wiring.named, orders)
        finally:
            consumer.close()
    assert named.count(("process", "not_processed", "transaction_open")) == 1
    assert sum(verdict == "no_return" for _hop, verdict, _cause in named) == 2


async def test_a_processor_of_the_new_group_protocol_has_members(wiring) -> None:
    wiring.relay(), wiring.consumer()
    (order,) = await wiring.place()
    await wiring.until_published([order], 90)
    consumer = Consumer(
        {
            "bootstrap.servers": wiring.bootstrap,
            "group.id": wiring.group,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    consumer.subscribe([wiring.events])
    try:
        await asyncio.to_thread(_poll, consumer, 1)
        await wiring.until_overdue([order])
        ((hop, verdict, cause),) = await asyncio.to_thread(wiring.named, [order])
        assert (hop, verdict) == ("process", "not_processed")
        assert cause in ("processor_lagging", "processor_stuck")
        check = json.loads((await asyncio.to_thread(wiring.command, "check", "--json")).stdout)
        (group,) = [one for one in check["checks"] if one["name"] == f"kafka.group:{wiring.group}"]
        assert (group["state"], group["found"]) == ("ok", "has members [1, Stable]")
        status = await asyncio.to_thread(wiring.command, "status")
        assert f"group {wiring.group}: 1 member" in status.stdout.replace("\n", " ")
    finally:
        consumer.close()


def answer_as_share_group(wiring, mute, leave) -> None:
    """A processor of KIP-932: it accepts record by record, and commits no offset."""
    admin = AdminClient({"bootstrap.servers": wiring.bootstrap, "log_level": 0})
    begins = ConfigEntry(
        "share.auto.offset.reset", "earliest", incremental_operation=AlterConfigOpType.SET
    )
    group = ConfigResource(ResourceType.GROUP, wiring.group, incremental_configs=[begins])
    admin.incremental_alter_configs([group])[group].result(15)
    asked = {"bootstrap.servers": wiring.bootstrap, "group.id": wiring.group, "log_level": 0}
    consumer = ShareConsumer(asked)
    consumer.subscribe([wiring.events])
    while not leave.is_set():
        for record in consumer.poll(0.2) or ():
            key = record.key().decode()
            if key not in mute:
                wiring.send(wiring.returns, key, b'{"status": "confirmed"}')
    consumer.close()


async def test_what_a_share_group_accepted_and_never_answered_is_lost_at_the_return(wiring) -> None:
    if WORLD.kafka in ("3.9", "4.0", "4.1"):
        pytest.skip("share groups are new in Kafka 4.2")
    wiring.relay(), wiring.consumer()
    mute, leave = set(), threading.Event()
    thread = threading.Thread(target=answer_as_share_group, args=(wiring, mute, leave))
    thread.start()
    try:
        first = await wiring.place_everywhere()
        await wiring.until_returned(first, 90)
        (lost,) = [str(uuid.uuid4())]
        mute.add(lost)
        await wiring.place_these([lost])
        # What a look brought is accepted with the next one that brings something: the first of
        # these may have come together with the one that is lost.
        for _ in range(2):
            await wiring.until_returned(await wiring.place_everywhere(), 90)
        await wiring.until_overdue([lost])
        never_sent = [("return", "no_return", "return_never_sent")]
        await wiring.eventually(
            lambda: asyncio.to_thread(lambda: wiring.named([lost]) == never_sent), 60
        )
        status = await asyncio.to_thread(wiring.command, "status", "--json")
        # Of each partition the last one is accepted with the next look.
        assert json.loads(status.stdout)["hops"]["process"]["waiting"] <= 3
    finally:
        leave.set()
        await asyncio.to_thread(thread.join, 60)


async def test_a_reader_that_assigns_its_partitions_moved_by_no_hand(wiring) -> None:
    """Its group never has a member: an offset that moves there is no reset by somebody."""
    wiring.relay(), wiring.consumer()
    (order,) = await wiring.place()
    await wiring.until_published([order], 90)

    async def recorded(offset: int) -> bool:
        return await wiring.pg.fetchval(
            """SELECT EXISTS (SELECT FROM relay.position WHERE consumer_group = $1 AND members = 0
                                 AND log_end = 1 AND coalesce(committed_offset, 0) = $2)""",
            wiring.group,
            offset,
        )

    await wiring.eventually(lambda: recorded(0), 90)
    reader = Consumer(
        {"bootstrap.servers": wiring.bootstrap, "group.id": wiring.group, "log_level": 0}
    )
    reader.assign([TopicPartition(wiring.events, number, 0) for number in range(3)])
    try:
        await asyncio.to_thread(_poll, reader, 1)
        reader.commit(asynchronous=False)
        await wiring.eventually(lambda: recorded(1), 90)
        await wiring.until_overdue([order])
        named = await asyncio.to_thread(wiring.named, [order])
    finally:
        reader.close()
    assert named == [("return", "no_return", "return_never_sent")]


async def test_a_trace_of_zeros_names_nobody_and_an_odd_time_stops_nothing(
    wiring, take, answer
) -> None:
    wiring.relay(), wiring.consumer()
    order = str(uuid.uuid4())
    await wiring.insert_these([order])
    await wiring.pg.execute(
        """INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, traceparent)
           VALUES ('order', $1, 'order.placed', '{}', $2)""",
        order,
        ZEROS,
    )
    await wiring.until_published([order], 90)
    await asyncio.to_thread(take, 1)
    answer(None, b"<xml/>", headers=[("traceparent", ZEROS.encode())])
    settings = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    other = wiring.topics.create("somebody.metrics", 1, **settings)
    wiring.send(other, "cpu", b"17")
    producer = Producer({"bootstrap.servers": wiring.bootstrap, "log_level": 0})
    producer.produce(other, key="cpu", value=b"17", timestamp=int(time.time() * 1e6))
    assert producer.flush(10) == 0
    await wiring.until_overdue([order])
    ((hop, verdict, _cause),) = wiring.named([order])
    assert (hop, verdict) == ("return", "no_return")


async def test_what_was_deleted_unread_on_any_partition_is_not_called_absent(
    wiring, take, answer
) -> None:
    wiring.relay()
    consumer = wiring.consumer()
    orders = await wiring.place_everywhere()
    await wiring.until_published(orders, 90)
    answer("nobody", {"status": "processing"}, partition=2)

    async def read() -> bool:
        return await wiring.pg.fetchval(
            """SELECT next_offset = 1 FROM relay.consumer_offset
                WHERE consumer_group = $1 AND partition = 2""",
            wiring.confirm_group,
        )

    await wiring.eventually(read, 90)
    consumer.terminate()
    await asyncio.to_thread(take, 3)
    answer("nobody", {"status": "processing"}, partition=2)
    end = wiring.ends(wiring.returns)[2]
    admin = AdminClient({"bootstrap.servers": wiring.bootstrap, "log_level": 0})
    for done in admin.delete_records([TopicPartition(wiring.returns, 2, end)]).values():
        done.result(15)
    await wiring.until_overdue(orders)
    named = set(wiring.named(orders))
    # On the partition where its key belongs it is known; on the others it may have been.
    assert named == {
        ("return", "no_return", "records_deleted"),
        ("return", "unknown", "records_deleted"),
    }
