"""The relay needs no more than relay_publisher may do: everything it does, done by that role."""

import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest


@pytest.fixture
async def publisher_dsn(lab: Any) -> AsyncIterator[str]:
    """A login role that is a member of relay_publisher and of nothing else."""
    name = f"publisher_{uuid.uuid4().hex[:12]}"
    await lab.pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p' IN ROLE relay_publisher")
    parts = urlsplit(lab.dsn)
    host = parts.netloc.rpartition("@")[2]
    yield urlunsplit(parts._replace(netloc=f"{name}:p@{host}"))
    for one in lab.running:
        if not one.task.done():
            await one.stop()
    await lab.pg.execute(f"DROP ROLE {name}")


async def test_it_publishes_parks_releases_and_takes_over(lab: Any, publisher_dsn: str) -> None:
    superuser_dsn, lab.dsn = lab.dsn, publisher_dsn
    await lab.fill(300)
    await lab.place(["parked"], "order.new")
    await lab.place(["parked"])
    await lab.pg.execute("UPDATE relay.checkpoint SET timeline = '00000000'")
    first = lab.relay(lease_seconds=1.0)
    await lab.until_published(300)

    async def parked() -> bool:
        return len(await lab.quarantine()) == 2

    await lab.until(parked)
    await first.kill()
    await lab.pg.execute("UPDATE relay.quarantine SET state = 'release_requested'")
    routes = {"order.placed": lab.topic, "order.new": lab.topic}
    second = lab.relay(events=routes, lease_seconds=1.0)
    await lab.until_published(302)
    await second.stop()
    lab.dsn = superuser_dsn
    found = await lab.pg.fetchrow(
        "SELECT (SELECT count(*) FROM relay.audit_log WHERE action = 'timeline_changed') AS audits,"
        "       (SELECT count(*) FROM relay.quarantine WHERE state = 'released') AS released,"
        "       (SELECT count(*) FROM relay.process_record WHERE stopped_at IS NOT NULL) AS stopped"
    )
    assert tuple(found) == (1, 2, 2)


async def test_it_ends_a_stale_backend_of_its_own_role(lab: Any, publisher_dsn: str) -> None:
    frozen = await asyncpg.connect(
        publisher_dsn, server_settings={"application_name": "relay-run-writer"}
    )
    await lab.pg.execute(
        "UPDATE relay.lease SET owner = 'frozen', epoch = 1, backend_pid = $1,"
        " expires_at = clock_timestamp() - interval '1 s' WHERE duty = 'relay'",
        frozen.get_server_pid(),
    )
    await frozen.execute("BEGIN")
    await frozen.execute("UPDATE relay.checkpoint SET epoch = 1")
    lab.dsn = publisher_dsn
    await lab.fill(10)
    async with lab.relaying():
        await lab.until_published(10)
    frozen.terminate()
