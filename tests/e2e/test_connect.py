"""A real Kafka Connect publishes the outbox: witnessed, blamed only on proof, and taken over."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from relay.diagnose.causes import Cause
from relay.diagnose.session import session
from relay.publish.options import PublishOptions
from relay.publish.service import RelayService
from relay.repair.take_over import take_over
from relay.runtime.publisher_record import PublisherActiveError
from relay.telemetry.tracing import configure
from relay.witness.connect_rest import connector_state
from tests.connect_worker import ConnectWorker, documented_connector
from tests.integration.witness.conftest import Lab

ORDER = (
    "INSERT INTO public.orders (order_id, customer_id, items, total, currency, submitted_at)"
    " SELECT aggregate_id::uuid, 'c', '[]', 1, 'EUR', now() - interval '2 hours'"
    "   FROM relay.outbox WHERE id = ANY ($1::bigint[])"
)
INACTIVE = """
SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active)
"""
SET_UP = (
    "CREATE PUBLICATION relay_outbox FOR TABLE relay.outbox"
    " WITH (publish = 'insert', publish_via_partition_root = true)",
    "GRANT USAGE ON SCHEMA relay TO {login}",
    "GRANT SELECT ON relay.outbox TO {login}",
)


@pytest.fixture
async def names(pg: asyncpg.Connection, eventually: Any) -> AsyncIterator[dict[str, str]]:
    """A login with the rights that the page names, and a slot; both belong to the whole server."""
    name = f"debezium_{uuid.uuid4().hex[:8]}"
    await pg.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'x'")
    for statement in SET_UP:
        await pg.execute(statement.format(login=name))
    await pg.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", name)
    yield {"login": name, "slot": name}
    await pg.execute(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
        " WHERE slot_name = $1 AND active", name,
    )  # fmt: skip
    await eventually(lambda: pg.fetchval(INACTIVE, name))
    await pg.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1",
        name,
    )
    await pg.execute(f"DROP OWNED BY {name}")
    await pg.execute(f"DROP ROLE {name}")


async def test_connect_publishes_is_witnessed_and_blamed_only_on_proof_and_taken_over(  # noqa: PLR0915 - one story
    database: str, pg: asyncpg.Connection, topics: Any, names: dict[str, str], tmp_path: Path
) -> None:
    topic, slot = topics.create(partitions=3), names["slot"]
    topics.make(f"__debezium-heartbeat.{slot}", 1)
    url = urlsplit(database)
    config = documented_connector() | {
        "database.hostname": str(url.hostname), "database.port": str(url.port),
        "database.user": names["login"], "database.password": "x",
        "database.dbname": url.path.removeprefix("/"), "topic.prefix": slot, "slot.name": slot,
        "transforms.outbox.route.topic.replacement": topic,
        "predicates.isOutbox.pattern": f"{slot}\\.relay\\.outbox",
        "predicates.isEvent.pattern": topic.replace(".", "\\."),
    }  # fmt: skip
    tracing = configure(
        "relay", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id="t", install=False
    )
    lab = Lab(database, pg, topics.bootstrap_servers, topic, tracing)
    worker = ConnectWorker(tmp_path, topics.bootstrap_servers, f"connect-{slot}")
    try:
        await lab.until(lambda: worker.asked("/"))
        await lab.until(lambda: worker.asked("/connectors/outbox/config", "PUT", config))
        rows = await lab.fill(20)
        witness = lab.witness(slot=slot)
        entries = await lab.until_entries(20)
        assert {one["id"] for one in entries} == {one[0] for one in rows}

        async def followed() -> bool:
            return len(await lab.handed_over()) == 20

        await lab.until(followed)
        with pytest.raises(PublisherActiveError):
            await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
        assert connector_state(worker.url, "outbox")["state"] == "RUNNING"
        assert connector_state(worker.url, "inbox")["state"] == "ABSENT"
        # The usual "fix" of a connector: its slot dropped and made anew, its offsets deleted.
        await lab.until(lambda: worker.asked("/connectors/outbox/stop", "PUT"))

        async def inactive() -> bool:
            return bool(await pg.fetchval(INACTIVE, slot))

        await lab.until(inactive)
        lost = await lab.fill(2)
        ids = [one[0] for one in lost]
        await pg.execute("UPDATE relay.installation SET watched_since = '2020-01-01'")
        await pg.execute(
            "UPDATE relay.outbox SET created_at = created_at - interval '2 hours'"
            " WHERE id = ANY ($1)", ids,
        )  # fmt: skip
        await pg.execute(ORDER, ids)

        async def causes() -> set[Cause]:
            async with session(lab.dsn, lab.kafka, lab.flow) as opened:
                return {one.cause for one in await opened.diagnose([one[2] for one in lost])}

        assert await causes() == {Cause.SLOT_INACTIVE}
        await pg.execute("SELECT pg_drop_replication_slot($1)", slot)
        assert await causes() == {Cause.SLOT_MISSING}
        await pg.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
        await lab.until(lambda: worker.asked("/connectors/outbox/offsets", "DELETE"))
        await lab.until(lambda: worker.asked("/connectors/outbox/resume", "PUT"))
        after = await lab.fill(3)
        await lab.until_entries(23)

        async def skipped() -> bool:
            return await causes() == {Cause.PUBLISHER_SKIPPED}

        await lab.until(skipped)
        await lab.until(lambda: worker.asked("/connectors/outbox/stop", "PUT"))
        await lab.until(inactive)
        await witness.stop()
    finally:
        await lab.close()
        await asyncio.to_thread(worker.stop)
    done = await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    assert done is not None
    assert done.unproven == 2
    relay = RelayService(lab.dsn, lab.kafka, [lab.flow], PublishOptions(), tracing, asyncio.Event())
    task = asyncio.create_task(relay.run())
    entries = await lab.until_entries(25)
    assert {one["id"] for one in entries} == {one[0] for one in rows + lost + after}
    relay.stop.set()
    await task
    assert relay.progress.published == 2
