"""A real Kafka Connect publishes the outbox: witnessed, blamed only on proof, and taken over."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.diagnose.causes import Cause
from relay.diagnose.session import session
from relay.publish.options import PublishOptions
from relay.publish.service import RelayService
from relay.repair.take_over import take_over
from relay.runtime.publisher_record import PublisherActiveError
from relay.telemetry.tracing import Tracing
from relay.witness.connect_rest import connector_state
from tests.connect_worker import ConnectWorker
from tests.e2e.elsewhere import ORDER, connector_for, until_inactive
from tests.integration.witness.conftest import Lab


async def test_connect_publishes_is_witnessed_and_blamed_only_on_proof_and_taken_over(  # noqa: PLR0915 - one story
    database: str,
    pg: asyncpg.Connection,
    topics: Any,
    debezium_names: dict[str, str],
    untraced: Tracing,
    tmp_path: Path,
) -> None:
    topic, slot = topics.create(partitions=3), debezium_names["slot"]
    topics.make(f"__debezium-heartbeat.{slot}", 1)
    lab = Lab(database, pg, topics.bootstrap_servers, topic, untraced)
    config = connector_for(lab, debezium_names)
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

        await until_inactive(lab, slot)
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
        await until_inactive(lab, slot)
        await witness.stop()
    finally:
        await lab.close()
        await asyncio.to_thread(worker.stop)
    done = await take_over(lab.dsn, lab.kafka, [lab.flow], "somebody")
    assert done is not None
    assert done.unproven == 2
    relay = RelayService(
        lab.dsn, lab.kafka, [lab.flow], PublishOptions(), untraced, asyncio.Event()
    )
    task = asyncio.create_task(relay.run())
    entries = await lab.until_entries(25)
    assert {one["id"] for one in entries} == {one[0] for one in rows + lost + after}
    relay.stop.set()
    await task
    assert relay.progress.published == 2
