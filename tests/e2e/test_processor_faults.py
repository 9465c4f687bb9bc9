"""What the sample processor does wrong on purpose, and what the whole loop makes of it.

The journal is the truth; the orders' rows and `relay diagnose` must agree with it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

Eventually = Callable[..., Awaitable[Any]]

FAULTS = ("lose", "skip", "corrupt", "conflict", "reorder", "duplicate", "delay", "none")


@pytest.fixture
def environment(topics: Any) -> dict[str, str]:
    return {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events"),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns"),
        "RELAY_FLOW_PROCESSOR_GROUPS": f"processor-{uuid4().hex[:8]}",
        "RELAY_FLOW_CONFIRM_GROUP": f"confirm-{uuid4().hex[:8]}",
        "RELAY_FLOW_EVENTS": '{"order.placed": {"deadline_seconds": 1}}',
        "RELAY_METRICS_PORT": "0",
        "RELAY_WATCH_POSITION_SECONDS": "1",
    }


async def place(pg: asyncpg.Connection, names: tuple[str, ...]) -> dict[str, str]:
    """Place one order for each name, by plain INSERT; return their ids."""
    placed = {}
    for name in names:
        order_id = uuid4()
        async with pg.transaction():
            await pg.execute(
                "INSERT INTO orders (order_id, customer_id, items, total, currency) "
                "VALUES ($1, $2, '[]', 1, 'EUR')",
                order_id,
                name,
            )
            await pg.execute(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload) "
                """VALUES ('order', $1, 'order.placed', '{"total": "1"}')""",
                str(order_id),
            )
        placed[name] = str(order_id)
    return placed


async def statuses(pg: asyncpg.Connection) -> dict[str, str]:
    rows = await pg.fetch("SELECT customer_id, status FROM orders")
    return {row["customer_id"]: row["status"] for row in rows}


async def history(pg: asyncpg.Connection, order_id: str) -> list[str]:
    rows = await pg.fetch(
        "SELECT new_status FROM order_status_history WHERE order_id = $1::text::uuid "
        "ORDER BY history_id",
        order_id,
    )
    return [row["new_status"] for row in rows]


async def test_each_fault_is_seen_for_what_it_is(
    environment: Mapping[str, str],
    pg: asyncpg.Connection,
    relay_process: Any,
    relay_command: Any,
    eventually: Eventually,
    tmp_path: Path,
) -> None:
    orders = await place(pg, FAULTS)
    journal = tmp_path / "journal.jsonl"
    options = [f"--{fault}-order={orders[fault]}" for fault in FAULTS if fault != "none"]
    relay_process("run", env=environment)
    relay_process("confirm", env=environment)
    processor = relay_process(
        *("sample", "processor", "--delay-seconds", "2", "--journal", str(journal)),
        *options,
        env=environment,
    )
    confirmed = {"conflict", "reorder", "duplicate", "delay", "none"}

    async def settled() -> bool:
        found = await statuses(pg)
        assert {name for name, status in found.items() if status == "confirmed"} == confirmed
        held = await pg.fetchval("SELECT count(*) FROM relay.quarantine WHERE state = 'held'")
        assert held == 2, "the corrupt return and the contradicting one"
        return True

    await eventually(settled, within_seconds=60)
    assert processor.terminate() == 0
    truth = {
        line["fault"]: line["order_id"]
        for line in map(json.loads, journal.read_text().splitlines())
    }
    assert truth == {fault: orders[fault] for fault in FAULTS if fault != "none"}

    assert {name for name, status in (await statuses(pg)).items() if status != "confirmed"} == {
        "lose",
        "skip",
        "corrupt",
    }
    for name in confirmed:
        assert await history(pg, orders[name]) == ["confirmed"], name
    done = relay_command("diagnose", *orders.values(), "--json", env=environment)
    told = {one["order_id"]: one for one in json.loads(done.stdout)["orders"]}
    found = {name: (told[order]["verdict"], told[order]["hop"]) for name, order in orders.items()}
    assert found == {
        "lose": ("no_return", "return"),
        "skip": ("no_return", "return"),
        "corrupt": ("return_quarantined", "confirm"),
        "conflict": ("returned", None),
        "reorder": ("returned", None),
        "duplicate": ("returned", None),
        "delay": ("returned", None),
        "none": ("returned", None),
    }


@pytest.mark.parametrize("point", ["received", "sent", "committed"])
async def test_a_crash_at_any_point_costs_no_order(
    environment: Mapping[str, str],
    pg: asyncpg.Connection,
    relay_process: Any,
    eventually: Eventually,
    tmp_path: Path,
    point: str,
) -> None:
    orders = await place(pg, tuple("abcdefgh"))
    relay_process("run", env=environment)
    relay_process("confirm", env=environment)
    arguments = (
        *("sample", "processor", "--crash-order", orders["d"], "--crash-at", point),
        *("--journal", str(tmp_path / "journal.jsonl")),
    )
    assert relay_process(*arguments, env=environment).wait(60) == 137
    relay_process(*arguments, env=environment)

    async def all_confirmed() -> bool:
        assert set((await statuses(pg)).values()) == {"confirmed"}
        return True

    await eventually(all_confirmed, within_seconds=60)
    for order_id in orders.values():
        assert await history(pg, order_id) == ["confirmed"], "a second return changes nothing"
