"""Whatever the order service wrote, the relay holds a page of it, and looks at little more."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.publish.reading.cursor import OutboxCursor

FILL = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, headers)
SELECT {} FROM generate_series(1, {}) AS n
"""
LARGE = 30_000_000
# The sizes that a hostile or careless order service can write; the last order must be sent.
ROWS = (
    (f"'order', 'type-' || n, 'e' || repeat('x', {LARGE}), '{{}}', NULL", 3),
    (f"'order', 'pay-' || n, 'order.placed', to_json(repeat('x', {LARGE})), NULL", 1),
    (f"'order', 'head-' || n, 'order.placed', '{{}}', to_json(repeat('x', {LARGE}))", 1),
    ("'order', 'mid-' || n, 'order.placed', to_json(repeat('x', 900000)), NULL", 20),
    (
        "'order', 'many-' || n, 'order.placed', '{}',"
        " (SELECT json_object_agg('h' || i, 'v') FROM generate_series(1, 60000) AS i)",
        1,
    ),
    ("repeat('t', 1000000), repeat('i', 200000) || n, 'order.placed', '{}', NULL", 100),
    ("'order', 'last', 'order.placed', '{}', NULL", 1),
)
LAST_IS_SENT = """
SELECT EXISTS (SELECT FROM relay.delivery_ledger AS l
                 JOIN relay.outbox AS o ON l.id_range @> o.id AND o.id = ANY (l.outbox_ids)
                WHERE o.aggregate_id = 'last')
"""


def most_memory_mb(pid: int) -> int:
    """Return the most that a process had resident so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.timeout(300)
async def test_the_worst_rows_leave_the_relay_small_and_what_comes_behind_them_is_sent(
    pg: asyncpg.Connection, topics: Any, relay_process: Callable[..., Any],
    relay_command: Callable[..., Any], eventually: Callable[..., Any],
) -> None:  # fmt: skip
    for columns, count in ROWS:
        await pg.execute(FILL.format(columns, count))
    env = {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.worst", 3),
        "RELAY_METRICS_ENABLED": "false",
        "RELAY_WATCH_INSIDE": "false",
    }
    relay = relay_process("run", env=env)
    await eventually(lambda: pg.fetchval(LAST_IS_SENT), 200)
    assert most_memory_mb(relay.pid) < 150
    assert relay.is_running()
    reasons = dict(await pg.fetch("SELECT reason, count(*) FROM relay.quarantine GROUP BY reason"))
    assert reasons == {"no_topic": 3, "too_large": 2}
    listed = relay_command("--json", "quarantine", "list", env=env)
    assert len(listed.stdout) < 30_000
    [first, *_] = json.loads(listed.stdout)["quarantine"]
    assert f"... ({LARGE + 1} bytes)" in first["detail"]


async def test_while_rows_are_large_few_are_looked_at(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    read = OutboxCursor._read

    async def noted(cursor: OutboxCursor, paging: Any, limit: int) -> Any:
        limits.append(limit)
        return await read(cursor, paging, limit)

    monkeypatch.setattr(OutboxCursor, "_read", noted)
    await lab.pg.execute(FILL.format(
        "'order', 'order-' || n, 'order.placed', to_json(repeat('x', 100000)), NULL", 60
    ))  # fmt: skip
    await lab.fill(2_000)
    async with lab.relaying(page_bytes=400_000, page_rows=200):
        await lab.until_published(2_060)
    assert limits[0] == 200
    assert limits[1:10] == [8] * 9
    assert max(limits[-3:]) == 200
