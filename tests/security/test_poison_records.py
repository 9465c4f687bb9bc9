"""Records that no honest client writes: they are refused one by one, and nothing stops for them."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import time
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from relay.kafka.records import AnyRecords
from relay.outbox import Item, NewOrder, place_order

NAME = "XYZW"  # a header's name, replaced by bytes that are no UTF-8
_LENGTH_UP_TO, _CRC_AT, _CHECKED_FROM, _RECORDS_FROM = 12, 17, 21, 61


def batch(key: bytes, value: bytes, name: bytes) -> bytes:
    """One record batch whose header has a name of any four bytes."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 100_000)
    builder.append(0, int(time.time() * 1000), key, value, [(NAME, b"x")])
    return with_checksum(bytes(builder.build()).replace(NAME.encode(), name))


def with_checksum(whole: bytes) -> bytes:
    crc = struct.pack(">I", calc_crc32c(whole[_CHECKED_FROM:]))
    return whole[:_CRC_AT] + crc + whole[_CHECKED_FROM:]


GZIP = 1


@pytest.mark.parametrize("codec", [0, GZIP])
def test_a_name_that_is_no_text_is_written_out_and_no_record_is_left_out(codec: int) -> None:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 100_000)
    for at, name in enumerate(("good", NAME, "later")):
        builder.append(at, 1000, b"k", b"v%d" % at, [(name, b"x")])
    whole = bytes(builder.build())
    if codec:
        whole = whole[:_RECORDS_FROM] + gzip.compress(
            gzip.decompress(whole[_RECORDS_FROM:]).replace(NAME.encode(), b"\xff\xfe\xfd\xfc")
        )
        length = struct.pack(">i", len(whole) - _LENGTH_UP_TO)
        whole = whole[:8] + length + whole[_LENGTH_UP_TO:]
    else:
        whole = whole.replace(NAME.encode(), b"\xff\xfe\xfd\xfc")
    records = AnyRecords(with_checksum(whole) + batch(b"k", b"v3", b"good"))
    read = []
    while records.has_next():
        read += list(records.next_batch())
    assert [one.value for one in read] == [b"v0", b"v1", b"v2", b"v3"]
    assert [one.headers[0][0] for one in read] == ["good", r"\xff\xfe\xfd\xfc", "later", "good"]


async def produce(bootstrap: str, topic: str, partition: int, body: bytes) -> None:
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    try:
        await client.bootstrap()
        await client._wait_on_metadata(topic)
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        request = ProduceRequest(
            transactional_id=None,
            required_acks=-1,
            timeout=10_000,
            topics=[(topic, [(partition, body)])],
        )
        answer = await client.send(leader, request)
        ((_topic, ((_partition, error, *_rest),)),) = answer.topics
        assert error == 0
    finally:
        await client.close()


@pytest.mark.parametrize("command", [("confirm",)])
async def test_header_names_that_are_no_text_stop_nobody(
    pg: asyncpg.Connection,
    topics: Any,
    kafka_bootstrap: str,
    relay_process: Callable[..., Any],
    eventually: Callable[..., Any],
    command: tuple[str, ...],
) -> None:
    events, returns = topics.create("orders.events", 1), topics.create("orders.returns", 1)
    async with pg.transaction():
        first = await place_order(pg, NewOrder("c", [Item("tea", 1, "9.95")], "EUR"))
        second = await place_order(pg, NewOrder("c", [Item("tea", 1, "9.95")], "EUR"))
    for order, name in ((first, b"\xff\xfe\xfd\xfc"), (second, b"good")):
        key = str(order.order_id)
        value = json.dumps({"order_id": key, "status": "confirmed"})
        await produce(kafka_bootstrap, returns, 0, batch(key.encode(), value.encode(), name))
    service = relay_process(
        *command,
        env={
            "RELAY_FLOW_EVENTS_TOPIC": events,
            "RELAY_FLOW_RETURNS_TOPIC": returns,
            "RELAY_FLOW_CONFIRM_GROUP": f"g-{uuid.uuid4().hex}",
            "RELAY_METRICS_ENABLED": "false",
        },
    )

    async def confirmed() -> bool:
        assert service.is_running(), service.stderr
        rows = await pg.fetch("SELECT status FROM orders")
        return [row[0] for row in rows] == ["confirmed", "confirmed"]

    await eventually(confirmed, 30)
    assert service.terminate() == 0


async def test_the_processor_answers_such_an_event_and_the_diagnosis_reads_past_it(
    pg: asyncpg.Connection,
    topics: Any,
    kafka_bootstrap: str,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    events, returns = topics.create("orders.events", 1), topics.create("orders.returns", 1)
    env = {
        "RELAY_FLOW_EVENTS_TOPIC": events,
        "RELAY_FLOW_RETURNS_TOPIC": returns,
        "RELAY_FLOW_PROCESSOR_GROUPS": f"p-{uuid.uuid4().hex}",
        "RELAY_FLOW_CONFIRM_GROUP": f"g-{uuid.uuid4().hex}",
        "RELAY_METRICS_ENABLED": "false",
    }
    await produce(kafka_bootstrap, events, 0, batch(b"somebody", b"{}", b"\xff\xfe\xfd\xfc"))
    async with pg.transaction():
        order = await place_order(pg, NewOrder("c", [Item("tea", 1, "9.95")], "EUR"))
    commands = (("run",), ("confirm",), ("sample", "processor"))
    services = [relay_process(*command, env=env) for command in commands]

    async def returned() -> bool:
        assert all(one.is_running() for one in services), [one.stderr for one in services]
        return bool(await pg.fetchval("SELECT status FROM orders") == "confirmed")

    await eventually(returned, 40)
    for one in services:
        assert one.terminate() == 0
    found = await asyncio.to_thread(relay_command, "reconcile", "--json", env=env)
    assert found.returncode in (0, 3), found.stderr
    told = await asyncio.to_thread(relay_command, "trace", str(order.order_id), env=env)
    assert "read back" in told.stdout, told.stdout + told.stderr
