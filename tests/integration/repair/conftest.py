"""A loop of real processes, and people with logins of their own who mend it."""

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition


@dataclass
class Shop:
    """Database, topics, processes; `relay` commands as whoever is asked for."""

    database: str
    pg: asyncpg.Connection
    bootstrap: str
    events: str
    returns: str
    start_process: Callable[..., Any]
    run_command: Callable[..., Any]
    eventually: Callable[..., Awaitable[Any]]
    logins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.group = f"confirm-{uuid.uuid4().hex[:8]}"
        self.environment = {
            "RELAY_FLOW_EVENTS_TOPIC": self.events,
            "RELAY_FLOW_RETURNS_TOPIC": self.returns,
            "RELAY_FLOW_CONFIRM_GROUP": self.group,
            "RELAY_METRICS_ENABLED": "false",
            "RELAY_WATCH_INSIDE": "false",
        }

    def types(self, *names: str) -> dict[str, str]:
        """The setting that maps these event types to the events topic."""
        return {"RELAY_FLOW_EVENTS": json.dumps({name: {} for name in names})}

    def start(self, *arguments: str, **env: str) -> Any:
        return self.start_process(*arguments, env=self.environment | env)

    def command(self, *arguments: str, dsn: str = "", env: Mapping[str, str] | None = None) -> Any:
        own = {"DATABASE_URL": dsn} if dsn else {}
        return self.run_command(*arguments, env=self.environment | own | dict(env or {}))

    def data(self, *arguments: str, dsn: str = "", codes: tuple[int, ...] = (0,)) -> Any:
        """Run a command with --json and return what it printed."""
        done = self.command(*arguments, "--json", dsn=dsn)
        assert done.returncode in codes, done.stderr
        return json.loads(done.stdout)

    async def login(self, *roles: str) -> str:
        """Make a login with these roles and nothing else; return its URL."""
        name = f"person_{uuid.uuid4().hex[:10]}"
        granted = f"IN ROLE {', '.join(roles)}" if roles else ""
        await self.pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p' {granted}")
        self.logins.append(name)
        parts = urlsplit(self.database)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{name}:p@{host}"))

    async def append(self, order: str, event_type: str = "order.placed") -> str:
        """Insert an event as any order service does; return its event id."""
        return str(
            await self.pg.fetchval(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
                " VALUES ('order', $1, $2, $3) RETURNING event_id",
                order,
                event_type,
                json.dumps({"order_id": order}),
            )
        )

    async def order(self) -> str:
        """Insert an order alone; return its id."""
        return str(
            await self.pg.fetchval(
                "INSERT INTO orders (order_id, customer_id, items, total, currency)"
                " VALUES (gen_random_uuid(), 'c', '[]', 1, 'EUR') RETURNING order_id"
            )
        )

    async def status(self, order: str) -> str:
        found: str = await self.pg.fetchval("SELECT status FROM orders WHERE order_id = $1", order)
        return found

    def send_return(
        self, key: str | bytes | None, value: bytes | None, headers: Any = (), partition: int = 0
    ) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "message.max.bytes": 9_000_000})
        producer.produce(
            self.returns, key=key, value=value, headers=list(headers), partition=partition
        )
        assert producer.flush(20) == 0

    async def until(self, sql: str, *values: Any, within_seconds: float = 40) -> None:
        """Wait until a query says true."""
        await self.eventually(lambda: self.pg.fetchval(sql, *values), within_seconds)

    async def until_at_work(self, kind: str) -> None:
        """Wait until one `relay` or `confirm` runs, and none that was asked to stop."""
        at_work = """
            SELECT count(*) = 1 AND (SELECT expires_at > clock_timestamp() AND released_at IS NULL
                                        OR $1 <> 'relay' FROM relay.lease WHERE duty = 'relay')
              FROM relay.process_record WHERE kind = $1 AND stopped_at IS NULL
        """
        await self.until(at_work, kind)

    async def until_quarantined(self, count: int) -> None:
        await self.until("SELECT count(*) = $1 FROM relay.quarantine", count)

    def published(self) -> list[tuple[str, str]]:
        """Read the events topic: (order, event id), in the order of each partition."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"reader-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
            }
        )
        try:
            numbers = consumer.list_topics(self.events, 10).topics[self.events].partitions
            ends = {
                n: consumer.get_watermark_offsets(TopicPartition(self.events, n), 10)[1]
                for n in numbers
            }
            consumer.assign([TopicPartition(self.events, n, 0) for n in numbers])
            found: list[Any] = []
            while len(found) < sum(ends.values()):
                found += consumer.consume(500, 1.0)
            found.sort(key=lambda one: (one.partition(), one.offset()))
            return [(one.key().decode(), dict(one.headers())["ce_id"].decode()) for one in found]
        finally:
            consumer.close()

    async def audits(self, action: str) -> list[dict[str, Any]]:
        rows = await self.pg.fetch(
            "SELECT * FROM relay.audit_log WHERE action = $1 ORDER BY audit_id", action
        )
        return [{**dict(row), "detail": json.loads(row["detail"])} for row in rows]


@pytest.fixture
async def shop(
    database: str,
    pg: asyncpg.Connection,
    kafka_bootstrap: str,
    topics: Any,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Awaitable[Any]],
) -> AsyncIterator[Shop]:
    """A shop of this test's own."""
    events = topics.create("orders.events", 3)
    returns = topics.create("orders.returns", 3, max_message_bytes="8000000")
    one = Shop(
        database, pg, kafka_bootstrap, events, returns, relay_process, relay_command, eventually
    )
    yield one
    for name in one.logins:
        await pg.execute(f"DROP OWNED BY {name}")
        await pg.execute(f"DROP ROLE {name}")
