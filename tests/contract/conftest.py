"""What the contract tests share: the relay as a program, and clients that know nothing of it."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from confluent_kafka import Consumer, Message, Producer
from psycopg import sql


@dataclass(frozen=True)
class Loop:
    """The topics of one test, and the relay's programs on them."""

    events: str
    returns: str
    partitions: int
    start: Callable[..., Any]
    bootstrap_servers: str

    @property
    def env(self) -> dict[str, str]:
        return {
            "RELAY_FLOW_EVENTS_TOPIC": self.events,
            "RELAY_FLOW_RETURNS_TOPIC": self.returns,
            "RELAY_FLOW_CONFIRM_GROUP": f"confirm-{self.returns}",
            "RELAY_METRICS_PORT": "0",
        }

    def run(self) -> Any:
        """Start `relay run`."""
        return self.start("run", env=self.env)

    def confirm(self) -> Any:
        """Start `relay confirm`."""
        return self.start("confirm", env=self.env)

    def records(self, count: int, within_seconds: float = 40) -> list["Record"]:
        """Read the events topic as a foreign client does, until it has `count` records."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": f"reader-{secrets.token_hex(4)}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        consumer.subscribe([self.events])
        found: list[Record] = []
        deadline = time.monotonic() + within_seconds
        try:
            while len(found) < count:
                message = consumer.poll(0.2)
                if message is not None:
                    assert message.error() is None, message.error()
                    found.append(Record.of(message))
                assert time.monotonic() < deadline, f"{len(found)} of {count} records"
        finally:
            consumer.close()
        return found

    def producer(self, **options: Any) -> Producer:
        """A foreign producer; librdkafka has Java's partitioner under this name."""
        return Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                **options,
            }
        )


@dataclass(frozen=True)
class Record:
    """A record as a foreign client sees it."""

    key: str
    value: bytes
    partition: int
    offset: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, message: Message) -> "Record":
        headers = [(name, value.decode()) for name, value in message.headers() or []]
        assert len(dict(headers)) == len(headers), f"a header twice: {headers}"
        return cls(
            message.key().decode(),
            message.value(),
            message.partition(),
            message.offset(),
            dict(headers),
        )


@pytest.fixture
def loop(topics: Any, relay_process: Callable[..., Any], kafka_bootstrap: str) -> Loop:
    """Topics of this test's own: events in seven partitions, returns in three."""
    return Loop(
        topics.create("orders.events", partitions=7),
        topics.create("orders.returns", partitions=3),
        7,
        relay_process,
        kafka_bootstrap,
    )


@pytest.fixture
def writer(database: str) -> Iterator[str]:
    """The URL of the database for an order service: a member of relay_writer, and no more."""
    name, password = f"order_service_{secrets.token_hex(4)}", secrets.token_hex(8)
    role = sql.Identifier(name)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE relay_writer")
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute(create.format(role, sql.Literal(password)))
        parts = urlsplit(database)
        netloc = f"{name}:{password}@{parts.netloc.rpartition('@')[2]}"
        yield urlunsplit(parts._replace(netloc=netloc))
        owner.execute(sql.SQL("DROP ROLE {}").format(role))
