"""Returns sent by a processor that knows nothing of us, and a whole loop between foreign ends."""

import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
import psycopg
import pytest

Eventually = Callable[..., Awaitable[Any]]


def insert_order(writer: str, order_id: str, *, event: bool = True) -> None:
    """An order service of somebody's, with plain INSERTs."""
    with psycopg.connect(writer) as connection:
        connection.execute(
            "INSERT INTO orders (order_id, customer_id, items, total, currency)"
            " VALUES (%s, 'c', '[]', 1, 'EUR')",
            (order_id,),
        )
        if event:
            connection.execute(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
                " VALUES ('order', %s, 'order.placed', %s)",
                (order_id, json.dumps({"order_id": order_id})),
            )


def send(
    loop: Any,
    value: bytes,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    producer = loop.producer()
    producer.produce(
        loop.returns,
        key=None if key is None else key.encode(),
        value=value,
        headers=[(name, text.encode()) for name, text in (headers or {}).items()],
    )
    assert producer.flush(30) == 0


ID = "{id}"
RETURNS = {
    "a key and a status": (ID, '{"status":"confirmed"}', {}),
    "an order_id and no key": (None, '{"order_id":"{id}","status":"confirmed"}', {}),
    "both": (ID, '{"order_id":"{id}","status":"confirmed","reason":null}', {}),
    "another key than the order": ("k", '{"order_id":"{id}","status":"confirmed"}', {}),
    "members of somebody's own": (
        ID,
        '{"status":"confirmed","score":123456789012345678901234567890,"x":[{}]}',
        {},
    ),
    "whitespace": (ID, ' {\n"status" : "confirmed" }\n', {}),
    "CloudEvents headers": (
        ID,
        '{"status":"confirmed"}',
        {"ce_id": "r-1", "ce_source": "/their-processor", "ce_type": "order.returned"},
    ),
    "a broken traceparent": (ID, '{"status":"confirmed"}', {"traceparent": "nonsense"}),
}


@pytest.mark.parametrize("name", RETURNS)
async def test_a_foreign_return_confirms_the_order(
    name: str, writer: str, loop: Any, pg: asyncpg.Connection, eventually: Eventually
) -> None:
    order_id = str(uuid.uuid4())
    insert_order(writer, order_id)
    consumer = loop.confirm()
    key, value, headers = RETURNS[name]
    send(loop, value.replace(ID, order_id).encode(), key and key.replace(ID, order_id), headers)

    async def confirmed() -> bool:
        return await pg.fetchval("SELECT status FROM orders") == "confirmed"

    await eventually(confirmed, within_seconds=40)
    row = await pg.fetchrow("SELECT version, returned_at, return_reason FROM orders")
    assert row["version"] == 2
    assert row["returned_at"] is not None
    history = await pg.fetch("SELECT old_status, new_status FROM order_status_history")
    assert [tuple(one) for one in history] == [("submitted", "confirmed")]
    inbox = await pg.fetchrow("SELECT aggregate_id, event_id FROM relay.inbox")
    assert inbox["aggregate_id"] == order_id
    if "ce_id" in headers:
        assert inbox["event_id"] == "/their-processor/r-1"
    assert consumer.terminate() == 0


async def test_what_is_no_return_is_kept_and_the_next_one_is_applied(
    writer: str, loop: Any, pg: asyncpg.Connection, eventually: Eventually
) -> None:
    order_id = str(uuid.uuid4())
    insert_order(writer, order_id)
    loop.confirm()
    hopeless = [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"status":"done"}',
        b'{"stat":"confirmed"}',
        b'{"status":NaN}',
        b'{"status":"\\ud800"}',
        b'{"status":["confirmed"]}',
    ]
    for value in hopeless:
        send(loop, value, order_id)
    send(loop, b'{"status":"confirmed"}', str(uuid.uuid4()))
    send(loop, b'{"status":"confirmed"}')
    send(loop, b'{"status":"rejected","reason":"out of stock"}', order_id)

    async def rejected() -> bool:
        return await pg.fetchval("SELECT status FROM orders") == "rejected"

    await eventually(rejected, within_seconds=40)

    async def all_kept() -> bool:
        kept = await pg.fetch("SELECT record_value FROM relay.quarantine WHERE kind = 'return'")
        assert len(kept) == len(hopeless) + 2
        return {row[0] for row in kept} >= set(hopeless)

    await eventually(all_kept, within_seconds=40)
    assert await pg.fetchval("SELECT return_reason FROM orders") == "out of stock"


async def test_a_loop_between_foreign_ends(
    writer: str, loop: Any, pg: asyncpg.Connection, eventually: Eventually
) -> None:
    """Plain INSERTs in; a confluent-kafka processor answers what it reads; the orders come back."""
    orders = [str(uuid.uuid4()) for _ in range(50)]
    for order_id in orders:
        insert_order(writer, order_id)
    loop.run()
    loop.confirm()
    for number, record in enumerate(loop.records(len(orders))):
        answer = {"status": "rejected" if number % 5 == 0 else "confirmed"}
        headers = {
            "ce_id": f"r-{number}",
            "ce_source": "/theirs",
            "ce_causationid": record.headers["ce_id"],
            "traceparent": record.headers["traceparent"],
        }
        for _ in range(1 + number % 2):  # every second answer twice
            send(loop, json.dumps(answer).encode(), record.key, headers)

    async def all_returned() -> bool:
        counted = await pg.fetch("SELECT status, count(*) FROM orders GROUP BY status")
        return {row[0]: row[1] for row in counted} == {"confirmed": 40, "rejected": 10}

    await eventually(all_returned, within_seconds=60)
    assert await pg.fetchval("SELECT count(*) FROM order_status_history") == len(orders)
    mismatched = await pg.fetchval(
        "SELECT count(*) FROM relay.inbox i JOIN relay.outbox e"
        " ON e.event_id::text = i.causation_id WHERE e.aggregate_id <> i.aggregate_id"
    )
    assert mismatched == 0
    assert await pg.fetchval("SELECT count(DISTINCT event_id) FROM relay.inbox") == len(orders)
