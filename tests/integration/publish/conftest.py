"""A place to publish in: an outbox in PostgreSQL, topics on Kafka, relays in this process."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from relay.publish.options import PublishOptions
from relay.publish.service import RelayService
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.testpoints import TestPoint, nothing
from relay.telemetry.tracing import Tracing, configure
from tests.patience import patience

WAIT_SECONDS = 30
OPTIONS = PublishOptions(lease_seconds=3.0, request_timeout_seconds=5.0, drain_seconds=5.0)


@dataclass(frozen=True)
class Record:
    """A record as a foreign client sees it."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: dict[str, str]

    @property
    def event_id(self) -> str:
        return self.headers["ce_id"]

    @property
    def body(self) -> Any:
        return json.loads(self.value)


def read_topic(bootstrap_servers: str, topic: str) -> list[Record]:
    """Read a topic from its beginning to its present end, with librdkafka."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = {}
        for number in partitions:
            _low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            if high:
                ends[number] = high
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        records: list[Record] = []
        while any(
            consumer.position([TopicPartition(topic, number)])[0].offset < end
            for number, end in ends.items()
        ):
            records += [_record(one) for one in consumer.consume(5000, 1.0)]
        return sorted(records, key=lambda one: (one.partition, one.offset))
    finally:
        consumer.close()


def _record(message: Any) -> Record:
    assert message.error() is None, message.error()
    headers = message.headers() or []
    assert len(dict(headers)) == len(headers), f"a header twice: {headers}"
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key().decode(),
        message.value(),
        {name: value.decode("utf-8", "replace") for name, value in headers},
    )


@dataclass
class Running:
    """One relay."""

    service: RelayService
    task: "asyncio.Task[None]"

    async def stop(self) -> None:
        """Ask it to stop, as SIGTERM does, and see that it ends well."""
        self.service.stop.set()
        async with asyncio.timeout(WAIT_SECONDS * patience()):
            await self.task

    async def kill(self) -> None:
        """End it as a crash of its host would: nothing is drained, released or written."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def first_occurrences(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Return for each order its bodies in the order of the log, repeats left out."""
    seen: set[str] = set()
    orders: dict[str, list[Any]] = {}
    for record in records:
        if record.event_id not in seen:
            seen.add(record.event_id)
            orders.setdefault(record.key, []).append(record.body)
    return orders


def assert_in_order(records: Sequence[Record], count: int, orders: int) -> None:
    """Check that what `Lab.fill` wrote is all there, and in order within each order."""
    found = first_occurrences(records)
    sequences = {key: [body["seq"] for body in bodies] for key, bodies in found.items()}
    expected = {f"order-{n}": list(range(n, count, orders)) for n in range(orders)}
    assert sequences == expected


@dataclass
class Lab:
    """An outbox, topics and relays of one test."""

    dsn: str
    pg: asyncpg.Connection
    bootstrap_servers: str
    topic: str
    tracing: Tracing
    running: list[Running] = field(default_factory=list)

    def relay(
        self,
        *,
        events: dict[str, str] | None = None,
        flows: Sequence[Flow] = (),
        test_point: TestPoint = nothing,
        live: bool = True,
        **options: Any,
    ) -> Running:
        """Start a relay; `events` maps event types to topics; not `live`: for replays only."""
        routes = {name: EventRoute(topic) for name, topic in (events or {}).items()}
        flow = Flow(events=routes or {"order.placed": EventRoute(self.topic)})
        service = RelayService(
            self.dsn,
            KafkaConnection(self.bootstrap_servers),
            flows or (flow,),
            OPTIONS.model_copy(update=options),
            self.tracing,
            asyncio.Event(),
            test_point,
            live=live,
        )
        running = Running(service, asyncio.create_task(service.run()))
        self.running.append(running)
        return running

    @asynccontextmanager
    async def relaying(self, **how: Any) -> AsyncIterator[Running]:
        """Run a relay around a block."""
        running = self.relay(**how)
        try:
            yield running
        finally:
            await running.stop()

    async def place(self, orders: Iterable[str], event_type: str = "order.placed") -> list[int]:
        """Insert one event for each order, by the four columns that the contract names."""
        return [
            await self.pg.fetchval(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
                " VALUES ('order', $1, $2, $3) RETURNING id",
                order,
                event_type,
                json.dumps({"order_id": order}),
            )
            for order in orders
        ]

    async def fill(self, count: int, *, start: int = 0, orders: int = 50) -> None:
        """Insert events number `start` to `count`, `seq` rising in each order, by hundreds."""
        for first in range(start, count, 100):
            await self.pg.execute(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
                " SELECT 'order', 'order-' || n % $3, 'order.placed',"
                "        json_build_object('seq', n, 'order', 'order-' || n % $3)"
                "   FROM generate_series($1::int, $2::int - 1) n",
                first,
                min(first + 100, count),
                orders,
            )

    async def read(self, topic: str | None = None) -> list[Record]:
        """Read a topic whole."""
        return await asyncio.to_thread(read_topic, self.bootstrap_servers, topic or self.topic)

    async def published(self) -> int:
        """Count the events that the ledger knows."""
        count: int = await self.pg.fetchval(
            "SELECT coalesce(sum(record_count), 0) FROM relay.delivery_ledger"
        )
        return count

    async def quarantine(self) -> list[asyncpg.Record]:
        """What was parked, in order."""
        rows: list[asyncpg.Record] = await self.pg.fetch(
            "SELECT * FROM relay.quarantine ORDER BY quarantine_id"
        )
        return rows

    async def until(self, check: Callable[[], Any], within_seconds: float = WAIT_SECONDS) -> Any:
        """Wait for a fact; a relay that ended meanwhile is a failure."""
        async with asyncio.timeout(within_seconds * patience()):
            while True:
                for one in self.running:
                    if one.task.done() and not one.task.cancelled() and one.task.exception():
                        one.task.result()
                found = check()
                found = await found if asyncio.iscoroutine(found) else found
                if found:
                    return found
                await asyncio.sleep(0.02)

    async def until_published(self, count: int, within_seconds: float = WAIT_SECONDS) -> None:
        """Wait until the ledger knows so many events."""

        async def enough() -> bool:
            return await self.published() >= count

        await self.until(enough, within_seconds)

    async def assert_published(self, count: int, orders: int = 50) -> list[Record]:
        """Check that what `fill` wrote is all in the topic, in order; return the records."""
        records = await self.read()
        assert_in_order(records, count, orders)
        return records

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


@pytest.fixture
def kafka_topic() -> Callable[[str, str], None]:
    """Make a topic on a broker of the test's own."""

    def make(bootstrap_servers: str, topic: str) -> None:
        admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(20)

    return make


@pytest.fixture
def grow_topic(kafka_bootstrap: str) -> Callable[[str, int], None]:
    """Give a topic more partitions."""

    def grow(topic: str, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
        admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(20)

    return grow
