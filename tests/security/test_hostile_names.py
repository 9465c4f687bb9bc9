"""Names and texts from data and settings: bound or quoted in SQL, printable on a screen."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
from confluent_kafka import Consumer, Producer

TABLE = 'Bestell;ung "é"'
KEY, STATUS, AT = 'näme "k"', "st'atus;--", 'at" COLLATE "C'

ORDERS = [
    "plain",
    "\x1b[2J\x1b[1;1H owned",
    "a\n ok 5 confirm  forged",
    "\u202eevil\u2066",
    "'; DROP TABLE relay.outbox; --",
    "$(touch owned)`id`",
    "--help",
    "{order} %s",
    "",
    "x" * 3000,
    "\x9b31m",
]
TYPES = ["order.placed", "order.placed\x1b[31m", "order.placed\nforged", "", "é" * 300]
HEADERS = [
    None,
    '{"a": 1e400, "b": [1], "c": null, "d": "\\r\\nInjected: yes", "é": "ü"}',
    '{"ce_id": "mine", "Traceparent": "mine", "relay_epoch": "9", "x": "kept"}',
    "[1, 2]",
    '"text"',
    "1" + "0" * 5000,
    "[" * 2000 + "]" * 2000,
]
PARENTS = ["", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "\x00-junk", "é" * 55, "x" * 10_000]


async def test_a_table_of_any_name_takes_its_returns(
    pg: asyncpg.Connection,
    topics: Any,
    kafka_bootstrap: str,
    relay_process: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    quoted = [f'"{one.replace(chr(34), chr(34) * 2)}"' for one in (TABLE, KEY, STATUS, AT)]
    table, key, status, at = quoted
    await pg.execute(
        f"CREATE TABLE public.{table} ({key} text PRIMARY KEY, {status} text NOT NULL"
        f" DEFAULT 'submitted', {at} timestamptz NOT NULL DEFAULT now())"
    )
    orders = [one for one in ORDERS if one and len(one) < 1000]
    await pg.executemany(
        f"INSERT INTO public.{table} ({key}) VALUES ($1)", [(one,) for one in orders]
    )
    returns = topics.create("orders.returns", 1)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    for one in orders:
        said = {"order_id": one, "status": "confirmed", "reason": "\x1b[2J\nforged"}
        producer.produce(returns, key=one.encode(), value=json.dumps(said))
    assert producer.flush(15) == 0
    columns = {
        "table": f"public.{table}",
        "key_column": KEY,
        "key_type": "text",
        "status_column": STATUS,
        "submitted_at_column": AT,
    }
    service = relay_process(
        "confirm",
        env={
            "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events", 1),
            "RELAY_FLOW_RETURNS_TOPIC": returns,
            "RELAY_FLOW_CONFIRM_GROUP": f"g-{uuid.uuid4().hex}",
            "RELAY_FLOW_COLUMNS": json.dumps(columns),
            "RELAY_METRICS_ENABLED": "false",
            "RELAY_LOG_FORMAT": "text",
            "RELAY_LOG_LEVEL": "debug",
        },
    )

    async def applied() -> bool:
        assert service.is_running(), service.stderr
        rows = await pg.fetch(f"SELECT {status} FROM public.{table}")
        return {row[0] for row in rows} == {"confirmed"}

    await eventually(applied, 40)
    assert service.terminate() == 0
    assert service.stderr.replace("\n", "").isprintable()
    assert not any(line.startswith("forged") for line in service.stderr.splitlines())


async def test_any_row_of_a_foreign_writer_is_published_or_parked_and_shown_harmlessly(
    pg: asyncpg.Connection,
    topics: Any,
    kafka_bootstrap: str,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    events = topics.create("orders.events", 1)
    env = {
        "RELAY_FLOW_EVENTS_TOPIC": events,
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns", 1),
        "RELAY_FLOW_PROCESSOR_GROUPS": f"p-{uuid.uuid4().hex}",
        "RELAY_FLOW_EVENTS": json.dumps({"order.placed": {"deadline_seconds": 0.1}}),
        "RELAY_METRICS_ENABLED": "false",
        "RELAY_LOG_FORMAT": "text",
        "RELAY_LOG_LEVEL": "debug",
    }
    insert = """INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload,
                                          headers, traceparent, tracestate)
                VALUES ('order', $1, $2, $3::text::json, $4::text::json, $5, $5)"""
    rows = [(one, "order.placed", '{"n": 1e400}', None, None) for one in ORDERS]
    rows += [(f"type-{n}", one, "{}", None, None) for n, one in enumerate(TYPES)]
    rows += [(f"headers-{n}", "order.placed", "null", h, None) for n, h in enumerate(HEADERS)]
    rows += [
        (f"parent-{n}", "order.placed", "[]", None, one)
        for n, one in enumerate(PARENTS)
        if "\x00" not in one
    ]
    for row in rows:
        await pg.execute(insert, *row)
    relay = relay_process("run", env=env)

    async def handled() -> bool:
        assert relay.is_running(), relay.stderr
        sent = await pg.fetchval("SELECT sum(record_count)::int FROM relay.delivery_ledger")
        parked = await pg.fetchval("SELECT count(*) FROM relay.quarantine")
        return bool((sent or 0) + parked == len(rows))

    await eventually(handled, 40)
    parked = await pg.fetch("SELECT aggregate_id FROM relay.quarantine ORDER BY outbox_id")
    assert [row[0] for row in parked] == [f"type-{n}" for n in range(1, len(TYPES))]
    records = await asyncio.to_thread(consumed, kafka_bootstrap, events, len(rows) - len(parked))
    keys = [record.key() for record in records]
    assert keys == [row[0].encode() for row in rows if row[1] == "order.placed"]
    for record in records:
        names = [name for name, _value in record.headers()]
        assert len(names) == len({name.lower() for name in names}), names
        parent = dict(record.headers())["traceparent"].decode()
        assert len(parent) == 55
        assert "mine" not in parent
    assert relay.terminate() == 0
    texts = [relay.stderr]
    for command in (
        ("diagnose",),
        ("diagnose", "--", *[one for one in ORDERS if one and len(one) < 100]),
        ("trace", "--", ORDERS[1]),
        ("trace", "--", ORDERS[2]),
        ("unreturned",),
        ("unreturned", "--json"),
        ("status",),
        ("quarantine", "list"),
        ("reconcile",),
    ):
        done = await asyncio.to_thread(relay_command, *command, env=env)
        assert done.returncode in (0, 3), (command, done.stderr)
        texts += [done.stdout, done.stderr]
    for text in texts:
        assert text.replace("\n", "").isprintable(), text
        for line in text.splitlines():
            assert not line.startswith((" ok 5 confirm  forged", "forged")), text


def consumed(bootstrap: str, topic: str, count: int) -> list[Any]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([topic])
        found: list[Any] = []
        while len(found) < count:
            got = consumer.consume(count - len(found), 20)
            assert got, f"{len(found)} of {count} records"
            found += got
        return found
    finally:
        consumer.close()
