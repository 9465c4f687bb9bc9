"""`relay trace` on a real database and broker."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest


@pytest.fixture
def flow(topics: Any) -> dict[str, str]:
    return {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events"),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns"),
        "RELAY_TRACE_URL": "http://viewer",
    }


async def placed(pg: asyncpg.Connection, traceparent: str | None = None) -> tuple[UUID, UUID]:
    order_id = uuid4()
    async with pg.transaction():
        await pg.execute(
            "INSERT INTO orders (order_id, customer_id, items, total, currency) "
            "VALUES ($1, 'c', '[]', 1, 'EUR')",
            order_id,
        )
        event_id = await pg.fetchval(
            "INSERT INTO relay.outbox "
            "(aggregate_type, aggregate_id, event_type, payload, traceparent) "
            "VALUES ('order', $1, 'order.placed', '{}', $2) RETURNING event_id",
            str(order_id),
            traceparent,
        )
    return order_id, event_id


async def test_an_order_that_nobody_published_has_its_gap_at_publish(
    pg: asyncpg.Connection, flow: dict[str, str], relay_command: Any
) -> None:
    order_id, event_id = await placed(pg)
    done = relay_command("trace", str(order_id), "--json", env=flow)
    told = json.loads(done.stdout)
    assert done.returncode == 3, done.stderr
    assert (told["order_id"], told["gap"]) == (str(order_id), "publish")
    assert told["hops"][0]["state"] == "ok"
    assert told["event_id"] == str(event_id)
    assert told["trace_id"] == event_id.hex, "a row without context has its event's id as trace"
    assert told["trace_url"] == f"http://viewer/trace/{event_id.hex}?uiFind=relay-watchdog"


async def test_the_trace_is_the_rows_own(
    pg: asyncpg.Connection, flow: dict[str, str], relay_command: Any
) -> None:
    trace_id = uuid4().hex
    order_id, _ = await placed(pg, f"00-{trace_id}-00f067aa0ba902b7-01")
    done = relay_command("trace", str(order_id), env=flow)
    assert f"http://viewer/trace/{trace_id}" in done.stdout
    assert "the gap is at `publish`" in done.stdout
    assert "\x1b" not in done.stdout


async def test_an_order_that_is_nowhere_is_found_missing(
    pg: asyncpg.Connection, flow: dict[str, str], relay_command: Any
) -> None:
    done = relay_command("trace", str(uuid4()), env=flow)
    assert done.returncode == 3
    assert "NO SUCH ORDER" in done.stdout


async def test_what_is_no_order_id_at_all_is_no_order(
    pg: asyncpg.Connection, flow: dict[str, str], relay_command: Any
) -> None:
    assert relay_command("trace", "not-a-uuid'; DROP TABLE orders", env=flow).returncode == 3
    assert await pg.fetchval("SELECT count(*) FROM orders") == 0


async def test_without_the_broker_the_database_still_tells(
    pg: asyncpg.Connection, relay_command: Any
) -> None:
    order_id, _ = await placed(pg)
    nowhere = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    done = relay_command("trace", str(order_id), "--json", env=nowhere)
    assert json.loads(done.stdout)["hops"][0]["state"] == "ok"
