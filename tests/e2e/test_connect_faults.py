"""What befalls a real Kafka Connect: each row without a record has its true cause."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.diagnose.causes import Cause
from relay.diagnose.check.publisher import check_publisher
from relay.diagnose.incidents.story import tell
from relay.telemetry.tracing import Tracing
from tests.connect_worker import ConnectWorker
from tests.e2e.elsewhere import (
    causes,
    connector_for,
    exact,
    make_overdue,
    taken_over,
    until_inactive,
    until_said,
    until_sent,
)
from tests.integration.witness.conftest import Lab

PUBLICATION = (
    "CREATE PUBLICATION relay_outbox FOR TABLE relay.outbox"
    " WITH (publish = 'insert', publish_via_partition_root = true)"
)
RUNS = "SELECT connector_state ->> 'state' = 'RUNNING' FROM relay.publisher"
OVER = """
SELECT EXISTS (SELECT FROM relay.outage_record WHERE resource = 'publisher'
                AND failure_code = 'publisher:connector_paused' AND to_at IS NOT NULL)
"""
CUT_OFF = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"
LARGE = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('order', $1, 'order.placed', json_build_object('note', repeat('x', 1200000)))
RETURNING id, event_id::text, aggregate_id
"""
LARGER = {"producer.override.max.request.size": "3000000"}
IMPATIENT = {"retriable.restart.connector.wait.ms": "500"}
EXACTLY_ONCE = {"exactly.once.support": "required"}


class Scene:
    """A lab whose outbox Kafka Connect publishes."""

    def __init__(self, lab: Lab, folder: Path, names: dict[str, str], topics: Any) -> None:
        self.lab, self.slot, self._folder = lab, names["slot"], folder
        topics.make(f"__debezium-heartbeat.{self.slot}", 1)
        self.config = connector_for(lab, names)
        self.worker = self._worker()

    def _worker(self) -> ConnectWorker:
        return ConnectWorker(self._folder, self.lab.bootstrap_servers, f"connect-{self.slot}")

    async def begin(self, more: dict[str, str]) -> None:
        await self.lab.until(lambda: self.worker.asked("/"))
        await self.ask("config", "PUT", self.config | more)
        self.lab.witness(slot=self.slot, connector="outbox", connect_url=self.worker.url)
        await until_sent(self.lab, await self.lab.fill(5))
        # The witness may have asked before Connect had begun.
        await self.lab.until(lambda: self.lab.pg.fetchval(RUNS))

    async def ask(self, what: str, method: str = "PUT", body: Any = None) -> None:
        await self.lab.until(lambda: self.worker.asked(f"/connectors/outbox/{what}", method, body))

    async def until_paused(self) -> None:
        """Wait until its task has let go: it is asked, and does so when it comes to it."""

        async def paused() -> bool:
            status = await self.worker.asked("/connectors/outbox/status")
            return bool(status) and [one["state"] for one in status["tasks"]] == ["PAUSED"]

        await self.lab.until(paused)

    async def kill_worker(self) -> None:
        """Kill -9, and a worker of the same group in its place."""
        await asyncio.to_thread(self.worker.stop)
        self.worker = self._worker()


@asynccontextmanager
async def scene(lab: Lab, folder: Path, names: dict[str, str], topics: Any) -> AsyncIterator[Scene]:
    one = Scene(lab, folder, names, topics)
    try:
        yield one
    finally:
        await lab.close()
        await asyncio.to_thread(one.worker.stop)


@pytest.fixture
def lab(database: str, pg: asyncpg.Connection, topics: Any, untraced: Tracing) -> Lab:
    return Lab(
        database,
        pg,
        topics.bootstrap_servers,
        topics.create(partitions=3, max_message_bytes="3000000"),
        untraced,
    )


async def paused(one: Scene) -> None:
    """It is paused; the night can be told when it is over."""
    lab = one.lab
    await one.ask("pause")
    await one.until_paused()
    rows = await lab.fill(2)
    await make_overdue(lab, rows)
    await until_said(lab, rows, Cause.CONNECTOR_PAUSED)
    await one.ask("resume")
    await until_sent(lab, rows)
    assert Cause.CONNECTOR_PAUSED not in await causes(lab, rows)
    await lab.until(lambda: lab.pg.fetchval(OVER))
    night = await lab.pg.fetchrow(
        "SELECT from_at, to_at FROM relay.outage_record WHERE resource = 'publisher'"
        "   AND error LIKE '%PAUSED%'"
    )
    kind = ("publish", "not_published", "connector_paused")
    story = await tell(lab.pg, lab.flow, kind, night["from_at"], night["to_at"], orders=2)
    assert any("the connector is PAUSED" in part for part in story["told"])


async def without_its_login(one: Scene) -> None:
    """Its login is taken away: connector and task stay RUNNING, and try again for ever."""
    lab = one.lab
    await lab.pg.execute(f"ALTER ROLE {one.slot} NOLOGIN")
    await lab.pg.execute(CUT_OFF, one.slot)
    await until_inactive(lab, one.slot)
    rows = await lab.fill(2)
    await make_overdue(lab, rows)
    await until_said(lab, rows, Cause.SLOT_INACTIVE)
    await lab.pg.execute(f"ALTER ROLE {one.slot} LOGIN")
    await until_sent(lab, rows)


async def too_large(one: Scene) -> None:
    """A row that is too large for its producer: the task fails, the connector stays RUNNING."""
    lab = one.lab
    large = await lab.pg.fetchrow(LARGE, str(uuid.uuid4()))
    rows = [(large["id"], large["event_id"], large["aggregate_id"]), *await lab.fill(2)]
    await make_overdue(lab, rows)
    await until_said(lab, rows, Cause.CONNECT_TASK_FAILED)
    said = json.loads(await lab.pg.fetchval("SELECT connector_state::text FROM relay.publisher"))
    assert said["state"] == "RUNNING"
    assert "RecordTooLarge" in said["tasks"][0]["trace"]
    await one.ask("config", "PUT", one.config | LARGER)
    await one.ask("restart?includeTasks=true", "POST")
    await until_sent(lab, rows)


async def without_its_publication(one: Scene) -> None:
    """PostgreSQL 18 says so in its log and goes on without the rows; older ones fail the task."""
    lab = one.lab
    await lab.pg.execute("DROP PUBLICATION relay_outbox")
    rows = await lab.fill(2)
    await make_overdue(lab, rows)
    goes_on = lab.pg.get_server_version().major >= 18
    await until_said(lab, rows, Cause.PUBLISHER_SKIPPED if goes_on else Cause.CONNECT_TASK_FAILED)
    # Made anew, the WAL of before is still read as without it: the usual fix lets the slot go on
    # behind it, and what stood there is lost for good.
    await lab.pg.execute(PUBLICATION)
    await one.ask("stop")
    await until_inactive(lab, one.slot)
    await lab.pg.execute(
        "SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", one.slot
    )
    await one.ask("offsets", "DELETE")
    await one.ask("resume")
    await until_sent(lab, await lab.fill(3))
    await until_said(lab, rows, Cause.PUBLISHER_SKIPPED)


@pytest.mark.timeout(600)
async def test_paused_failed_and_without_its_publication_each_row_has_its_true_cause(
    lab: Lab, topics: Any, debezium_names: dict[str, str], tmp_path: Path
) -> None:
    async with scene(lab, tmp_path, debezium_names, topics) as one:
        await one.begin(IMPATIENT)
        await paused(one)
        await without_its_login(one)
        await too_large(one)
        await without_its_publication(one)
        await exact(lab)
        await one.ask("stop")
        await until_inactive(lab, one.slot)
    await taken_over(lab, 2)


@pytest.mark.timeout(600)
async def test_exactly_once_through_kill_9_of_the_worker_nothing_is_lost_doubled_or_blamed(
    lab: Lab, topics: Any, debezium_names: dict[str, str], tmp_path: Path
) -> None:
    async with scene(lab, tmp_path, debezium_names, topics) as one:
        await one.begin(EXACTLY_ONCE)
        checked = {
            each.name.partition(":")[0]: each.found
            for each in await check_publisher(lab.pg, lab.kafka, lab.flow)
        }
        assert checked["publisher.topics"] == "the connector's own topics are there"
        assert checked["publisher.connector"] == "RUNNING, and its tasks"
        rows = await lab.fill(150)
        await one.kill_worker()
        rows += await lab.fill(50)
        late = await lab.fill(2)
        await make_overdue(lab, late)
        # Until it is back nobody knows more than the slot says.
        assert await causes(lab, late) <= {Cause.SLOT_INACTIVE, Cause.PUBLISHER_BEHIND,
                                           Cause.WITNESS_BEHIND}  # fmt: skip
        await until_sent(lab, rows + late)
        assert await exact(lab) == 5 + len(rows) + len(late)
        assert Cause.PUBLISHER_SKIPPED not in await causes(lab, late)
        await one.ask("stop")
        await until_inactive(lab, one.slot)
    await taken_over(lab, 0)
