"""Hop 5: bytes that no honest client writes cost a batch or a record, and stop nobody."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.codec import lz4_encode, snappy_encode, zstd_encode
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer

from relay.runtime.backoff import Backoff
from tests.integration.confirm.conftest import OPTIONS

# A hundred megabytes of a value, which gzip makes a hundred kilobytes of.
BOMB_BYTES = 100_000_000
MOST_BYTES = 150_000_000

REFUSE_RECORDS = """
CREATE FUNCTION refuse_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF {when} THEN RAISE EXCEPTION 'not here'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_row BEFORE INSERT ON relay.quarantine
   FOR EACH ROW EXECUTE FUNCTION refuse_row();
"""


CODECS = {
    "gzip": (1, lambda data: gzip.compress(data, 9)),
    "snappy": (2, snappy_encode),
    "lz4": (3, lz4_encode),
    "zstd": (4, zstd_encode),
}


def bomb(size: int = BOMB_BYTES, codec: str = "gzip", headers: int = 0) -> bytes:
    """One compressed batch of one record, whose value is far larger than what is read."""
    number, compress = CODECS[codec]
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2 * size + 10 * headers)
    builder.append(0, 1000, b"key", bytes(size), [("", b"")] * headers)
    plain = bytes(builder.build())
    head = bytearray(plain[:61])
    struct.pack_into(">h", head, 21, number)
    whole = bytes(head) + compress(plain[61:])
    whole = whole[:8] + struct.pack(">i", len(whole) - 12) + whole[12:]
    return whole[:17] + struct.pack(">I", calc_crc32c(whole[21:])) + whole[21:]


async def produce(bootstrap: str, topic: str, partition: int, batch: bytes) -> None:
    """Send a batch as it is."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    try:
        await client.bootstrap()
        await client._wait_on_metadata(topic)
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        request = ProduceRequest(
            transactional_id=None,
            required_acks=-1,
            timeout=10_000,
            topics=[(topic, [(partition, batch)])],
        )
        answer = await client.send(leader, request)
        ((_topic, ((_partition, error, *_rest),)),) = answer.topics
        assert error == 0
    finally:
        await client.close()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_returns_of_every_codec_are_read(lab: Any, codec: str) -> None:
    (order,) = await lab.place()
    producer = Producer(
        {"bootstrap.servers": lab.bootstrap_servers, "compression.type": codec, "linger.ms": 0}
    )
    body = {"order_id": order, "status": "confirmed", "reason": "x" * 3000}
    producer.produce(lab.topic, key=order, value=json.dumps(body))
    assert producer.flush(30) == 0
    lab.start()
    await lab.until_confirmed(order)


async def test_a_batch_that_cannot_be_read_is_set_aside_with_its_offsets(lab: Any) -> None:
    before, behind, beside = await lab.place(3)
    lab.send(before, partition=0)
    lab.sent()
    lab.keep_batches()
    await produce(lab.bootstrap_servers, lab.topic, 0, bomb())
    lab.send(behind, partition=0)
    lab.send(beside, partition=1)
    lab.sent()
    running = lab.start()
    for order in (before, behind, beside):
        await lab.until_confirmed(order)
    row = await lab.pg.fetchrow("SELECT * FROM relay.quarantine")
    assert (row["reason"], row["kept"], row["aggregate_id"]) == ("unreadable", "part", None)
    assert (row["from_offset"], row["record_offset"]) == (1, 1)
    assert row["whole_bytes"] == len(bomb())
    assert len(row["record_value"]) <= 65536
    assert "too_large" in row["detail"]
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.offset_gap") == 0
    await running.stop()
    # Whoever goes on from there has nothing to compare with, and needs nothing.
    (later,) = await lab.place()
    lab.start()
    lab.send(later, partition=0)
    lab.sent()
    await lab.until_confirmed(later)
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 1


async def test_what_the_database_does_not_keep_is_set_aside_by_its_place(lab: Any) -> None:
    (good,) = await lab.place()
    await lab.pg.execute(REFUSE_RECORDS.format(when="NEW.record_value <> ''"))
    lab.raw(b"key", b"no JSON \xf0\x9f\x98\x80", partition=0, headers=[("\U0001f600", b"1")])
    lab.send(good, partition=0)
    lab.sent()
    lab.start()
    await lab.until_confirmed(good)
    row = await lab.pg.fetchrow("SELECT * FROM relay.quarantine")
    assert (row["reason"], row["kept"], row["record_offset"]) == ("malformed", "part", 0)
    assert (row["record_value"], row["record_key"], row["record_headers"]) == (b"", None, None)
    assert row["whole_bytes"] == len(b"no JSON \xf0\x9f\x98\x80")
    assert row["detail"].isascii()


async def test_where_not_even_the_place_is_taken_that_partition_waits_alone(lab: Any) -> None:
    behind, beside = await lab.place(2)
    await lab.pg.execute(REFUSE_RECORDS.format(when="true"))
    lab.raw(None, b"no JSON", partition=0)
    lab.send(behind, partition=0)
    lab.sent()
    running = lab.start()
    running.service.blocked.backoff = Backoff(0.1, 0.5)

    async def blocked() -> bool:
        return bool(running.service.blocked.reasons())

    await lab.until(blocked)
    lab.send(beside, partition=1)
    lab.sent()
    await lab.until_confirmed(beside)
    assert list(running.service.detail()["blocked_partitions"]) == [f"{lab.topic}-0"]
    assert await lab.statuses([behind]) == ["submitted"]
    await lab.pg.execute("DROP TRIGGER refuse_row ON relay.quarantine")
    await lab.until_confirmed(behind)

    async def free() -> bool:
        return not running.service.blocked.reasons()

    await lab.until(free)


async def test_as_many_values_as_the_database_refuses_are_no_outage(lab: Any) -> None:
    orders = await lab.place(30)
    (good,) = await lab.place()
    await lab.pg.execute("UPDATE orders SET customer_id = 'poison' WHERE order_id <> $1", good)
    await lab.pg.execute(
        "ALTER TABLE orders ADD CONSTRAINT no_poison"
        " CHECK (customer_id <> 'poison' OR status = 'submitted') NOT VALID"
    )
    for order in [*orders, good]:
        lab.send(order, partition=0)
    lab.sent()
    lab.start()
    await lab.until_confirmed(good)
    rows = await lab.pg.fetch("SELECT reason, detail FROM relay.quarantine")
    assert {row["reason"] for row in rows} == {"apply_failed"}
    assert len(rows) == 30
    # The constraint's DETAIL is the order's whole row.
    assert not [row["detail"] for row in rows if "EUR" in row["detail"]]


async def test_a_full_quarantine_keeps_the_places(lab: Any) -> None:
    (good,) = await lab.place()
    for number in range(50):
        lab.raw(b"key", b"no JSON %d" % number, partition=0)
    lab.send(good, partition=0)
    lab.sent()
    running = lab.start(replace(OPTIONS, quarantine_rows=10))
    await lab.until_confirmed(good)
    rows = await lab.pg.fetch("SELECT * FROM relay.quarantine ORDER BY record_offset")
    assert sum(row["seen_count"] for row in rows) == 50
    assert len(rows) < 20
    last = rows[-1]
    assert (last["kept"], last["record_offset"], last["record_value"]) == ("place", 49, b"")
    assert running.service.detail()["quarantine_full"]


async def test_what_a_record_holds_is_in_no_summary_and_in_no_log(
    lab: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (order,) = await lab.place()
    lab.raw(None, json.dumps({"order_id": "Jane SECRET", "status": "confirmed"}).encode())
    lab.raw(None, json.dumps({"order_id": order, "status": "patient SECRET"}).encode())
    lab.raw(None, b'{"status": SECRET')
    lab.sent()
    lab.start()
    await lab.until_handled(3)
    found = await lab.pg.fetch("SELECT * FROM relay.quarantine_summary")
    assert len(found) == 3
    assert "SECRET" not in str([dict(row) for row in found])
    shown = capfd.readouterr()
    assert "return_refused" in shown.out + shown.err
    assert "SECRET" not in shown.out + shown.err


async def test_the_memory_of_the_consumer_is_bounded(lab: Any, relay_process: Any) -> None:
    (order,) = await lab.place()
    lab.keep_batches()
    # Snappy and lz4 make a megabyte of far less: what is larger the broker does not take.
    batches = [
        bomb(),
        bomb(15_000_000),
        bomb(15_000_000, "snappy"),
        bomb(100_000_000, "lz4"),
        bomb(100_000_000, "zstd"),
        bomb(15_000_000, "zstd"),
        bomb(1_000, "zstd", headers=400_000),
        bomb(1_000, "gzip", headers=200_000),
    ]
    for partition in range(3):
        for batch in batches:
            await produce(lab.bootstrap_servers, lab.topic, partition, batch)
        for _ in range(16):
            lab.raw(b"k" * 70_000, b"{" + b" " * 900_000, partition=partition)
    lab.send(order, partition=0)
    lab.sent()
    process = relay_process(
        "confirm",
        env={
            "RELAY_FLOW_RETURNS_TOPIC": lab.topic,
            "RELAY_FLOW_CONFIRM_GROUP": lab.flow.confirm_group,
            "RELAY_METRICS_ENABLED": "false",
        },
    )
    await lab.until_handled(3 * (len(batches) + 16) + 1, seconds=150)
    peak_bytes = peak_of(process.popen.pid)
    assert process.terminate() == 0
    assert peak_bytes < MOST_BYTES


def peak_of(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
