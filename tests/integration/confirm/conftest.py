"""A place to confirm returns in: orders in PostgreSQL, returns on Kafka, consumers in process."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from relay.consumers.confirm.options import ConfirmOptions
from relay.consumers.confirm.service import ConfirmService
from relay.kafka.consumer.options import SessionOptions
from relay.runtime.backoff import Backoff
from relay.runtime.database import connect
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.telemetry.metrics import Metrics
from relay.telemetry.tracing import Tracing, configure
from tests.patience import patience

WAIT_SECONDS = 40
QUICK = SessionOptions(
    poll_seconds=0.2,
    commit_seconds=0.1,
    session_timeout_seconds=6.0,
    drain_seconds=2.0,
    stall_seconds=4.0,
    topic_check_seconds=0.5,
    truncated_seconds=1.0,
    stop_seconds=3.0,
    backoff=Backoff(0.05, 0.5),
)
OPTIONS = ConfirmOptions(session=QUICK, blocked_backoff=Backoff(0.05, 0.5))


@dataclass
class Running:
    """One consumer."""

    service: ConfirmService
    stop_event: asyncio.Event
    task: "asyncio.Task[None]"

    async def stop(self) -> None:
        """Ask it to stop, as SIGTERM does, and see that it ends well."""
        self.stop_event.set()
        async with asyncio.timeout(WAIT_SECONDS * patience()):
            await self.task


@dataclass
class Lab:
    """Orders, returns and consumers of one test."""

    dsn: str
    pg: asyncpg.Connection
    bootstrap_servers: str
    topic: str
    tracing: Tracing
    running: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flow = Flow(returns_topic=self.topic, confirm_group=f"confirm-{uuid.uuid4().hex[:8]}")
        self._producer = Producer(
            {"bootstrap.servers": self.bootstrap_servers, "acks": "all", "linger.ms": 5}
        )

    async def place(self, count: int = 1) -> list[str]:
        """Insert orders as the order service does; returns their ids."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        await self.pg.execute(
            "INSERT INTO public.orders (order_id, customer_id, items, total, currency) "
            "SELECT i, 'c', '[]', 1, 'EUR' FROM unnest($1::uuid[]) i",
            ids,
        )
        return ids

    def send(
        self,
        order_id: str | None,
        status: object = "confirmed",
        *,
        value: bytes | None = None,
        headers: dict[str, bytes] | None = None,
        partition: int | None = None,
        topic: str | None = None,
        **more: Any,
    ) -> None:
        """Hand one return to the producer; `sent` waits for the broker."""
        body = {"order_id": order_id, "status": status, **more}
        place = {} if partition is None else {"partition": partition}
        self._producer.produce(
            topic or self.topic,
            key=order_id,
            value=json.dumps(body).encode() if value is None else value,
            headers=list((headers or {}).items()),
            **place,
        )
        self._producer.poll(0)

    def raw(self, key: bytes | None, value: bytes | None, **more: Any) -> None:
        """Hand over any bytes."""
        self._producer.produce(self.topic, key=key, value=value, **more)

    def sent(self) -> None:
        """Wait until the broker has everything."""
        assert self._producer.flush(30) == 0

    def start(
        self,
        options: ConfirmOptions = OPTIONS,
        *,
        flow: Flow | None = None,
        dsn: str | None = None,
        **more: Any,
    ) -> Running:
        """Start a consumer in this process."""
        stop = asyncio.Event()
        service = ConfirmService(
            dsn or self.dsn,
            KafkaConnection(more.pop("bootstrap_servers", self.bootstrap_servers)),
            flow or self.flow,
            options,
            self.tracing,
            stop,
            Metrics("confirm", "0", self.tracing.counts),
            **more,
        )
        running = Running(service, stop, asyncio.create_task(service.run()))
        self.running.append(running)
        return running

    async def elsewhere(self, dsn: str = "", bootstrap_servers: str = "") -> "Lab":
        """Return a lab on other servers, with a topic of the same name."""
        if bootstrap_servers:
            admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
            await admin.start()
            await admin.create_topics([NewTopic(self.topic, 3, 1)])
            await admin.close()
        other = Lab(
            dsn or self.dsn,
            self.pg,
            bootstrap_servers or self.bootstrap_servers,
            self.topic,
            self.tracing,
            self.running,
        )
        if dsn:
            await other.connect()
        return other

    def keep_batches(self) -> None:
        """Let the broker keep batches as they come, whatever compression is its own."""
        entry = ConfigEntry(
            "compression.type", "producer", incremental_operation=AlterConfigOpType.SET
        )
        topic = ConfigResource(ResourceType.TOPIC, self.topic, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        admin.incremental_alter_configs([topic])[topic].result(15)

    async def connect(self) -> None:
        """Connect to the lab's own database."""
        self.pg = await connect(self.dsn, "test")

    def session(self, **changes: Any) -> ConfirmOptions:
        """Quick options with some changes."""
        return replace(OPTIONS, session=replace(QUICK, **changes))

    async def until(self, fact: Callable[[], Awaitable[Any]], seconds: float = WAIT_SECONDS) -> Any:
        """Wait for a fact; a consumer that died says why."""
        async with asyncio.timeout(seconds * patience()):
            while True:
                found = await fact()
                if found:
                    return found
                for one in self.running:
                    if one.task.done() and not one.stop_event.is_set():
                        await one.task
                await asyncio.sleep(0.02)

    async def until_sql(self, sql: str, *values: Any, seconds: float = WAIT_SECONDS) -> Any:
        """Wait until a query returns something true."""
        return await self.until(lambda: self.pg.fetchval(sql, *values), seconds)

    async def until_confirmed(self, order_id: str) -> None:
        """Wait until an order is confirmed."""
        await self.until_sql(
            "SELECT status = 'confirmed' FROM public.orders WHERE order_id = $1", order_id
        )

    async def until_handled(self, count: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until the offsets have passed so many records."""
        await self.until_sql(
            "SELECT sum(next_offset) >= $2 FROM relay.consumer_offset WHERE consumer_group = $1",
            self.flow.confirm_group,
            count,
            seconds=seconds,
        )

    async def statuses(self, ids: Sequence[str]) -> list[str]:
        """Return the orders' statuses, in the order asked for."""
        rows = await self.pg.fetch(
            "SELECT order_id::text, status FROM public.orders WHERE order_id = ANY ($1::uuid[])",
            ids,
        )
        found = dict(rows)
        return [found[one] for one in ids]

    async def offsets(self) -> dict[int, int]:
        """Return how far each partition was handled, those at 0 left out."""
        rows = await self.pg.fetch(
            "SELECT partition, next_offset FROM relay.consumer_offset "
            "WHERE consumer_group = $1 AND next_offset > 0",
            self.flow.confirm_group,
        )
        return dict(rows)

    async def committed(self) -> dict[int, int]:
        """Return what the group has committed on Kafka."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            found = await admin.list_consumer_group_offsets(self.flow.confirm_group)
        finally:
            await admin.close()
        return {tp.partition: at.offset for tp, at in found.items() if at.offset > 0}

    def dsn_as(self, user: str, password: str) -> str:
        """Return the DSN for another role."""
        parts = urlsplit(self.dsn)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))

    async def column(self, sql: str, *values: Any) -> list[Any]:
        """Return the first column of a query."""
        return [row[0] for row in await self.pg.fetch(sql, *values)]


@pytest.fixture
async def lab(
    database: str, pg: asyncpg.Connection, topics: Any, kafka_bootstrap: str
) -> AsyncIterator[Lab]:
    """A place to confirm returns in; its consumers are stopped afterwards."""
    tracing = configure(
        "relay-confirm",
        {"OTEL_TRACES_EXPORTER": "none"},
        version="0",
        instance_id="test",
        install=False,
    )
    made = Lab(database, pg, kafka_bootstrap, topics.create("orders.returns", 3), tracing)
    yield made
    for one in made.running:
        if not one.task.done():
            await one.stop()
