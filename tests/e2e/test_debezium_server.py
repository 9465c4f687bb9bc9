"""A real Debezium Server publishes: witnessed exactly, whatever it repeats, and taken over."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.diagnose.causes import Cause
from relay.telemetry.tracing import Tracing
from tests.debezium_server import DebeziumServer, server_folder
from tests.e2e.elsewhere import (
    causes,
    connector_for,
    exact,
    make_overdue,
    taken_over,
    until_inactive,
    until_sent,
)
from tests.integration.witness.conftest import Lab

KILLED_AFTER = 100


@pytest.mark.timeout(600)
async def test_debezium_server_is_witnessed_through_a_kill_and_taken_over(
    database: str, pg: asyncpg.Connection, topics: Any, untraced: Tracing,
    debezium_names: dict[str, str], tmp_path: Path,
) -> None:  # fmt: skip
    await asyncio.to_thread(server_folder)
    slot = debezium_names["slot"]
    lab = Lab(database, pg, topics.bootstrap_servers, topics.create(partitions=3), untraced)
    topics.make(f"__debezium-heartbeat.{slot}", 1)
    config = connector_for(lab, debezium_names)
    server = DebeziumServer(tmp_path, lab.bootstrap_servers, config)
    try:
        rows = await lab.fill(KILLED_AFTER)
        witness = lab.witness(slot=slot)
        await lab.until(server.is_running)
        await until_sent(lab, rows)
        # Rows go on being placed; it dies among them, and says some of them again.
        rows += await lab.fill(KILLED_AFTER)
        await asyncio.to_thread(server.kill)
        await until_inactive(lab, slot)
        rows += await lab.fill(20)
        server = DebeziumServer(tmp_path, lab.bootstrap_servers, config)
        await until_sent(lab, rows)
        assert await exact(lab) >= len(rows)
        await asyncio.to_thread(server.stop)
        await until_inactive(lab, slot)
        lost = await lab.fill(3)
        await make_overdue(lab, lost)
        assert await causes(lab, lost) == {Cause.SLOT_INACTIVE}
        await exact(lab)
        await witness.stop()
    finally:
        await lab.close()
        await asyncio.to_thread(server.kill)
    await taken_over(lab, 3)
