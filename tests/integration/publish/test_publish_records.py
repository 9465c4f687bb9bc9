"""What a foreign writer's row becomes, as a foreign client reads it."""

import json
import re
import uuid
from typing import Any

import pytest
from confluent_kafka import Producer

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


async def insert(lab: Any, **columns: Any) -> Any:
    row = {"aggregate_type": "order", "aggregate_id": "o-1", "event_type": "order.placed"}
    row |= {"payload": "{}"} | columns
    names = ", ".join(row)
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    return await lab.pg.fetchrow(
        f"INSERT INTO relay.outbox ({names}) VALUES ({places}) RETURNING *", *row.values()
    )


async def publish(lab: Any, count: int = 1, **options: Any) -> list[Any]:
    async with lab.relaying(**options):
        await lab.until_published(count)
    records: list[Any] = await lab.read()
    return records


async def test_a_row_of_four_columns_becomes_a_cloud_event(lab: Any) -> None:
    row = await insert(lab, payload='{"order_id": "o-1",  "n": 1.10, "é": "\\u00e9"}')
    (record,) = await publish(lab, dataschemas={"order.placed": "https://example.org/schema.json"})
    assert record.key == "o-1"
    assert record.value == '{"order_id": "o-1",  "n": 1.10, "é": "\\u00e9"}'.encode()
    created_at = row["created_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    event_id = str(row["event_id"])
    assert record.headers == {
        "ce_id": event_id,
        "ce_source": "/orders",
        "ce_specversion": "1.0",
        "ce_type": "order.placed",
        "ce_subject": "o-1",
        "ce_time": created_at,
        "ce_dataschema": "https://example.org/schema.json",
        "content-type": "application/json",
        "relay_epoch": "1",
        "traceparent": f"00-{row['event_id'].hex}-{row['event_id'].hex[16:]}-01",
    }


async def test_the_stored_context_travels_unchanged_sampled_or_not(lab: Any) -> None:
    await insert(lab, traceparent=PARENT, tracestate="vendor=1,other=2")
    (record,) = await publish(lab)
    assert record.headers["traceparent"] == PARENT
    assert record.headers["tracestate"] == "vendor=1,other=2"


@pytest.mark.parametrize(
    "bad", ["", "no", PARENT.upper(), "00-" + "0" * 32 + PARENT[35:], "é" * 55]
)
async def test_an_invalid_context_is_replaced_and_parks_nothing(lab: Any, bad: str) -> None:
    row = await insert(lab, traceparent=bad, tracestate="a=b\u2028")
    (record,) = await publish(lab)
    assert record.headers["traceparent"].startswith(f"00-{row['event_id'].hex}-")
    assert "tracestate" not in record.headers
    assert not await lab.quarantine()


async def test_a_rows_own_headers_travel_and_never_replace_ours(lab: Any) -> None:
    own = {
        "tenant": "a", "é": "ü", "": "empty name", "number": 1, "nested": {"a": "b"},
        "ce_id": "forged", "CE_Source": "forged", "traceparent": "forged", "Content-Type": "forged",
        "relay_epoch": "99", "replay_id": "forged", "lone": "\ud800",
    }  # fmt: skip
    row = await insert(lab, headers=json.dumps(own))
    (record,) = await publish(lab)
    assert record.headers["tenant"] == "a"
    assert record.headers["é"] == "ü"
    assert record.headers[""] == "empty name"
    assert record.headers["lone"] == "?"
    assert record.headers["ce_id"] == str(row["event_id"])
    assert not {"number", "nested", "CE_Source", "Content-Type", "replay_id"} & set(record.headers)
    assert "forged" not in record.headers.values()
    assert record.headers["relay_epoch"] == "1"


@pytest.mark.parametrize("document", ["[]", '"text"', "1", "null", '{"a":' * 500 + "1" + "}" * 500])
async def test_headers_of_another_shape_are_left_out(lab: Any, document: str) -> None:
    await insert(lab, headers=document)
    (record,) = await publish(lab)
    assert record.headers["ce_type"] == "order.placed"


async def test_keys_land_where_javas_partitioner_puts_them(lab: Any, topics: Any) -> None:
    topic = topics.create("orders.keys", partitions=7)
    keys = [str(uuid.uuid4()) for _ in range(50)] + [f"order-{n}" for n in range(50)]
    keys += ["a" * n for n in range(1, 20)] + ["é", "日本", "\U0001f600"]
    # librdkafka's murmur2 partitioner is Java's, for keys that are not empty.
    placed: dict[str, int] = {}
    producer = Producer({"bootstrap.servers": lab.bootstrap_servers, "partitioner": "murmur2"})
    for key in keys:
        producer.produce(
            topic,
            key=key,
            on_delivery=lambda _e, m: placed.update({m.key().decode(): m.partition()}),
        )
    producer.flush(20)
    await lab.place(keys)
    async with lab.relaying(events={"order.placed": topic}):
        await lab.until_published(len(keys))
    records = [record for record in await lab.read(topic) if record.headers]
    assert {record.key: record.partition for record in records} == placed


async def test_the_ledger_knows_the_offset_of_every_event(lab: Any) -> None:
    await lab.fill(2500)
    async with lab.relaying(page_rows=400):
        await lab.until_published(2500)
    rows = await lab.pg.fetch(
        "SELECT o.event_id::text AS event_id, l.partition,"
        "       l.base_offset + p.place - 1 AS record_offset"
        "  FROM relay.delivery_ledger l"
        " CROSS JOIN LATERAL unnest(l.outbox_ids) WITH ORDINALITY AS p(outbox_id, place)"
        "  JOIN relay.outbox o ON o.id = p.outbox_id"
        " WHERE o.id <@ l.id_range"
    )
    told = {row["event_id"]: (row["partition"], row["record_offset"]) for row in rows}
    found = {one.event_id: (one.partition, one.offset) for one in await lab.assert_published(2500)}
    assert told == found


async def test_large_payloads_and_headers_go_whole(lab: Any, topics: Any) -> None:
    topic = topics.create("orders.large", max_message_bytes="12000000")
    sizes = [10, 5_000, 200_000, 900_000, 5_000_000, 10, 900_000]
    for size in sizes:
        await insert(
            lab, payload=json.dumps("x" * size), headers=json.dumps({"h": "y" * (size // 10)})
        )
    async with lab.relaying(events={"order.placed": topic}, page_bytes=1_000_000):
        await lab.until_published(len(sizes))
    records = await lab.read(topic)
    assert [len(record.body) for record in records] == sizes
    assert [len(record.headers["h"]) for record in records] == [size // 10 for size in sizes]


async def test_times_that_rfc_3339_cannot_say_do_not_stop_the_relay(lab: Any) -> None:
    # As a superuser: the order service's role cannot write created_at.
    for moment in (
        "infinity",
        "-infinity",
        "4713-01-01 BC",
        "294276-01-01",
        "0001-01-01 00:00:00Z",
    ):
        await lab.pg.execute(
            "INSERT INTO relay.outbox"
            " (aggregate_type, aggregate_id, event_type, payload, created_at)"
            f" VALUES ('order', 'o', 'order.placed', '1', '{moment}')"
        )
    records = await publish(lab, 5)
    shape = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
    assert all(shape.fullmatch(record.headers["ce_time"]) for record in records)


@pytest.mark.parametrize("compression", ["gzip"])
async def test_compressed_batches_are_read_by_everyone(lab: Any, compression: str) -> None:
    await lab.fill(1000)
    async with lab.relaying(compression=compression):
        await lab.until_published(1000)
    await lab.assert_published(1000)
