"""A primary dies, its standby is promoted with a copy of the slot: Connect goes on there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from relay.diagnose.causes import Cause
from relay.embedded.folders import run_folder
from relay.runtime.migrations import migrate
from relay.telemetry.tracing import Tracing
from tests.connect_worker import ConnectWorker
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
from tests.replica import Replicated
from tests.worlds.world import WORLD

SLOT = "relay_outbox"
SETTINGS = {
    "wal_level": "logical",
    "fsync": "off",
    "hot_standby_feedback": "on",
    "sync_replication_slots": "on",
    # A primary has no use for it; its standby has the same settings.
    "primary_slot_name": "standby",
}
SET_UP = (
    "CREATE ROLE debezium LOGIN REPLICATION PASSWORD 'x'",
    "GRANT USAGE ON SCHEMA relay TO debezium",
    "GRANT SELECT ON relay.outbox TO debezium",
    "CREATE PUBLICATION relay_outbox FOR TABLE relay.outbox"
    " WITH (publish = 'insert', publish_via_partition_root = true)",
    f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput', false, false, true)",
    "SELECT pg_create_physical_replication_slot('standby')",
)
# What the copy has confirmed is at or past what the primary's had confirmed at that moment.
SYNCED = """
SELECT EXISTS (SELECT FROM pg_replication_slots
                WHERE slot_name = $1 AND synced AND NOT temporary AND invalidation_reason IS NULL
                  AND confirmed_flush_lsn >= $2::text::pg_lsn)
"""


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Replicated, Replicated]]:
    """A primary that Debezium can read, and its standby."""
    with run_folder() as folder, ExitStack() as started:
        primary = Replicated(folder / "primary", **WORLD.standby_options(SETTINGS))
        started.callback(primary.kill)
        await asyncio.to_thread(primary.start)
        await migrate(primary.dsn(), sample=True)
        connection = await asyncpg.connect(primary.dsn())
        for statement in SET_UP:
            await connection.execute(statement)
        await connection.close()
        standby = await asyncio.to_thread(primary.standby, folder / "standby")
        started.callback(standby.kill)
        await asyncio.to_thread(standby.start)
        yield primary, standby


async def configured(worker: ConnectWorker, lab: Lab, config: dict[str, str]) -> None:
    url = urlsplit(lab.dsn)
    here = config | {"database.hostname": str(url.hostname), "database.port": str(url.port)}
    await lab.until(lambda: worker.asked("/connectors/outbox/config", "PUT", here))


@pytest.mark.timeout(600)
async def test_a_promoted_standby_has_the_slot_and_nobody_is_blamed_for_what_was_sent(
    pair: tuple[Replicated, Replicated], topics: Any, untraced: Tracing, tmp_path: Path
) -> None:
    primary, standby = pair
    topics.make(f"__debezium-heartbeat.{SLOT}", 1)
    topic = topics.create(partitions=3)
    worker = ConnectWorker(tmp_path, topics.bootstrap_servers, f"connect-{topic}")
    pg, copy = await asyncpg.connect(primary.dsn()), await asyncpg.connect(standby.dsn())
    lab = Lab(primary.dsn(), pg, topics.bootstrap_servers, topic, untraced)
    after = Lab(standby.dsn(), copy, topics.bootstrap_servers, topic, untraced)
    after.group = lab.group
    config = connector_for(lab, {"login": "debezium", "slot": SLOT})
    try:
        await lab.until(lambda: worker.asked("/"))
        await configured(worker, lab, config)
        lab.witness(slot=SLOT)
        rows = await lab.fill(20)
        await until_sent(lab, rows)
        confirmed = await pg.fetchval(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", SLOT
        )
        await lab.until(lambda: copy.fetchval(SYNCED, SLOT, confirmed))
        # What the copy of the slot has not confirmed is sent again after the promotion.
        rows += await lab.fill(10)
        await until_sent(lab, rows)
        at = await pg.fetchval("SELECT pg_current_wal_flush_lsn()::text")
        await lab.until(
            lambda: copy.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", at)
        )
        await lab.close()
        await asyncio.to_thread(primary.kill)
        await copy.fetchval("SELECT pg_promote()")
        waiting = await after.fill(3)
        await make_overdue(after, waiting)
        after.witness(slot=SLOT)
        await after.until(lambda: after.running[0].service.ready)
        # Nobody reads the copy yet: that, and no more, is why they wait.
        await after.until(lambda: said(after, waiting))
        await configured(worker, after, config)
        await until_sent(after, waiting)
        assert await exact(after) >= len(rows) + 3
        assert Cause.PUBLISHER_SKIPPED not in await causes(after, waiting)
        await after.until(lambda: worker.asked("/connectors/outbox/stop", "PUT"))
        await until_inactive(after, SLOT)
        lost = await after.fill(2)
        await after.running[0].stop()
    finally:
        await lab.close()
        await after.close()
        await asyncio.to_thread(worker.stop)
    await taken_over(after, len(lost))
    pg.terminate()
    await copy.close()


async def said(lab: Lab, rows: Any) -> bool:
    """Say whether the slot is what is named."""
    return await causes(lab, rows) == {Cause.SLOT_INACTIVE}
