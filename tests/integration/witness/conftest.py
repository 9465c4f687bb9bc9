"""A place to witness in: an outbox, a topic that a foreign producer fills, witnesses in process."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Producer

from relay.kafka.consumer.options import SessionOptions
from relay.publish.options import PublishOptions
from relay.publish.reading.proven import ProvenPosition
from relay.publish.service import RelayService
from relay.runtime.backoff import Backoff
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.process import ProcessRecord
from relay.telemetry.tracing import Tracing, configure
from relay.witness.observer import PublisherNames
from relay.witness.options import WitnessOptions
from relay.witness.service import WitnessService
from tests.patience import patience

WAIT_SECONDS = 40
QUICK = SessionOptions(
    client_id="relay-witness",
    batch_records=500,
    connections=2,
    poll_seconds=0.2,
    session_timeout_seconds=6.0,
    drain_seconds=2.0,
    stall_seconds=4.0,
    topic_check_seconds=0.5,
    truncated_seconds=1.0,
    stop_seconds=3.0,
    backoff=Backoff(0.05, 0.5),
)
ENTRIES = """
SELECT l.topic, l.partition, l.base_offset + u.n - 1 AS record_offset, u.id
  FROM relay.delivery_ledger AS l, unnest(l.outbox_ids) WITH ORDINALITY AS u (id, n)
 ORDER BY 1, 2, 3
"""


@dataclass
class Running:
    """One witness."""

    service: WitnessService
    task: "asyncio.Task[None]"

    async def stop(self) -> None:
        self.service.stop.set()
        async with asyncio.timeout(WAIT_SECONDS * patience()):
            await self.task

    async def kill(self) -> None:
        """End it as a crash of its host would."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@dataclass
class Lab:
    """An outbox, a topic and witnesses of one test."""

    dsn: str
    pg: asyncpg.Connection
    bootstrap_servers: str
    topic: str
    tracing: Tracing
    running: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.group = f"witness-{uuid.uuid4().hex[:8]}"
        self.flow = Flow(events={"order.placed": EventRoute(self.topic, 900.0)})
        self.kafka = KafkaConnection(self.bootstrap_servers)
        self._producer = Producer({"bootstrap.servers": self.bootstrap_servers, "linger.ms": 5})

    def witness(
        self, *, slot: str | None = None, connector: str | None = None,
        connect_url: str | None = None, **options: Any,
    ) -> Running:  # fmt: skip
        """Start a witness; it knows of the publisher what is given."""
        stop = asyncio.Event()
        leader = RelayService(
            self.dsn, self.kafka, [self.flow], PublishOptions(), self.tracing, stop,
            live=False, proven=ProvenPosition(), process=ProcessRecord("witness-leader"),
        )  # fmt: skip
        service = WitnessService(
            self.dsn, self.kafka, [self.flow],
            replace(WitnessOptions(group=self.group, session=QUICK), **options),
            PublisherNames(slot, connector, connect_url), stop, leader,
        )  # fmt: skip
        running = Running(service, asyncio.create_task(service.run()))
        self.running.append(running)
        return running

    async def fill(self, count: int) -> list[tuple[int, str, str]]:
        """Insert events, each in a transaction of its own; return id, event id and order."""
        rows = []
        for _ in range(count):
            order = str(uuid.uuid4())
            row = await self.pg.fetchrow(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
                " VALUES ('order', $1, 'order.placed', '{}') RETURNING id, event_id::text",
                order,
            )
            rows.append((row["id"], row["event_id"], order))
        return rows

    async def publish(
        self, rows: Sequence[tuple[int, str, str]], header: str = "id", quoted: bool = False
    ) -> None:
        """Send their records as a foreign publisher does."""
        for _, event_id, order in rows:
            value = f'"{event_id}"' if quoted else event_id
            self.send([(header, value.encode())], order)
        await self.sent()

    def send(self, headers: list[tuple[str, bytes]], key: str = "k", **more: Any) -> None:
        self._producer.produce(self.topic, key=key, value=b"{}", headers=headers, **more)
        self._producer.poll(0)

    async def sent(self) -> None:
        assert await asyncio.to_thread(self._producer.flush, 30) == 0

    async def entries(self) -> list[asyncpg.Record]:
        """Every event of the ledger, with its place."""
        found: list[asyncpg.Record] = await self.pg.fetch(ENTRIES)
        return found

    async def until(self, check: Callable[[], Any]) -> Any:
        async with asyncio.timeout(WAIT_SECONDS * patience()):
            while True:
                for one in self.running:
                    if one.task.done() and not one.task.cancelled():
                        one.task.result()
                found = check()
                found = await found if asyncio.iscoroutine(found) else found
                if found:
                    return found
                await asyncio.sleep(0.05)

    async def until_entries(self, count: int) -> list[asyncpg.Record]:
        async def enough() -> Any:
            found = await self.entries()
            return found if len(found) >= count else None

        found: list[asyncpg.Record] = await self.until(enough)
        assert len(found) == count
        return found

    async def until_some_entries(self) -> None:
        """Wait until something is witnessed."""

        async def some() -> bool:
            return len(await self.entries()) > 0

        await self.until(some)

    async def handed_over(self) -> list[int]:
        """The rows that the checkpoint says are published."""
        rows = await self.pg.fetch(
            "SELECT o.id FROM relay.outbox AS o, relay.checkpoint AS c"
            " WHERE c.shard = 0 AND pg_visible_in_snapshot(o.txid, c.prev) ORDER BY 1"
        )
        return [row["id"] for row in rows]

    async def close(self) -> None:
        for one in self.running:
            if not one.task.done():
                await one.kill()


@pytest.fixture(scope="session")
def untraced() -> Tracing:
    return configure(
        "relay", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id="t", install=False
    )


@pytest.fixture
async def lab(
    database: str, pg: asyncpg.Connection, topics: Any, untraced: Tracing
) -> AsyncIterator[Lab]:
    """A lab with a topic of three partitions."""
    one = Lab(database, pg, topics.bootstrap_servers, topics.create(partitions=3), untraced)
    yield one
    await one.close()
