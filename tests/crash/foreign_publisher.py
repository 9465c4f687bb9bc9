"""A publisher that is not ours, with all that real ones do, and what its records come to."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

ROWS = 20
INSERT = """
INSERT INTO relay.outbox (event_id, aggregate_type, aggregate_id, event_type, payload)
SELECT e, 'order', e::text, 'order.placed', '{}' FROM unnest($1::uuid[]) AS e
"""
ENTRIES = """
SELECT l.partition, l.base_offset + u.n - 1 AS record_offset, o.event_id::text
  FROM relay.delivery_ledger AS l
 CROSS JOIN unnest(l.outbox_ids) WITH ORDINALITY AS u (id, n)
  LEFT JOIN relay.outbox AS o USING (id)
 WHERE l.topic = $1 ORDER BY 1, 2, 3
"""
ASIDE = """
SELECT partition, record_offset, reason FROM relay.unmatched_record WHERE topic = $1 ORDER BY 1, 2
"""
SET_ASIDE = """
SELECT event_id::text AS id FROM relay.unmatched_record
 WHERE topic = $1 AND event_id = ANY ($2::uuid[])
"""
Account = tuple[int, int, str | None]


@dataclass
class ForeignPublisher:
    """Sends rows, copies, records of nobody, markers, and records before their rows are visible."""

    pg: asyncpg.Connection
    bootstrap_servers: str
    topic: str
    rows: int = 0
    bursts: int = 0
    _stopping: bool = False
    _late: list[str] = field(default_factory=list)
    _awaited: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = {"bootstrap.servers": self.bootstrap_servers, "linger.ms": 2}
        self._plain = Producer(settings)
        self._atomic = Producer(settings | {"transactional.id": f"t-{self.topic}"})
        self._atomic.init_transactions(60)

    async def burst(self) -> None:
        """Send one of everything; two records go before their rows.

        Of one the row follows with the next burst, of the other when its record was set aside.
        """
        ids = [str(uuid.uuid4()) for _ in range(ROWS)]
        aside = {row["id"] for row in await self.pg.fetch(SET_ASIDE, self.topic, self._awaited)}
        late = [*self._late, *aside]
        self._late, self._awaited = [ids[-2]], [*(set(self._awaited) - aside), ids[-1]]
        await self.pg.execute(INSERT, ids[:-2] + late)
        self.rows += ROWS - 2 + len(late)
        await asyncio.to_thread(self._send, ids)
        self.bursts += 1

    async def finish(self) -> None:
        """Let the rows become visible whose records are there already."""
        late = [*self._late, *self._awaited]
        await self.pg.execute(INSERT, late)
        self.rows += len(late)
        self._late, self._awaited = [], []

    def _send(self, ids: Sequence[str]) -> None:
        plain, atomic = ids[::2], ids[1::2]
        for one in [*plain, plain[0]]:  # the first is sent twice
            self._produce(self._plain, [("id", one.encode())])
        self._produce(self._plain, [])
        self._produce(self._plain, [("id", b"order-7")])
        self._produce(self._plain, [("ce_id", plain[0].encode()), ("relay_epoch", b"9"),
                                    ("replay_id", b"x")])  # fmt: skip
        assert self._plain.flush(60) == 0
        self._transaction(atomic, commit=False)
        self._transaction(atomic, commit=True)

    def _transaction(self, ids: Sequence[str], *, commit: bool) -> None:
        self._atomic.begin_transaction()
        for one in ids:
            self._produce(self._atomic, [("ce_id", f'"{one}"'.encode())])
        assert self._atomic.flush(60) == 0
        (self._atomic.commit_transaction if commit else self._atomic.abort_transaction)(60)

    def _produce(self, producer: Producer, headers: list[tuple[str, bytes]]) -> None:
        producer.produce(self.topic, key=uuid.uuid4().hex, value=b"{}", headers=headers)
        producer.poll(0)

    async def until_sent(self, bursts: int, eventually: Any) -> None:
        """Wait until so many more bursts are sent."""
        wanted = self.bursts + bursts
        await eventually(lambda: self.bursts >= wanted, 60)

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Send burst after burst meanwhile."""
        task = asyncio.create_task(self._on_and_on())
        try:
            yield
        finally:
            self._stopping = True
            await task

    async def _on_and_on(self) -> None:
        self._stopping = False
        while not self._stopping:
            await self.burst()

    def account(self) -> tuple[list[Account], list[Account]]:
        """Return what has to stand in the ledger, and what has to be set aside."""
        entries: list[Account] = []
        aside: list[Account] = []
        for record in read(self.bootstrap_servers, self.topic):
            headers = dict(record.headers() or ())
            place = record.partition(), record.offset()
            if "replay_id" in headers:
                continue
            said = (headers.get("ce_id") or headers.get("id") or b"").decode().strip('"')
            if len(said) == 36:
                entries.append((*place, said))
            else:
                aside.append((*place, "no_id"))
        return sorted(entries), sorted(aside)


def read(bootstrap_servers: str, topic: str) -> list[Any]:
    """Return every committed record that stands in the topic now."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": uuid.uuid4().hex,
         "enable.partition.eof": True, "isolation.level": "read_committed",
         "auto.offset.reset": "earliest"}
    )  # fmt: skip
    try:
        numbers = consumer.list_topics(topic, 30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, one) for one in numbers])
        found, at_end = [], set[int]()
        while len(at_end) < len(numbers):
            for record in consumer.consume(500, 1):
                if record.error() is None:
                    found.append(record)
                else:
                    assert record.error().code() == KafkaError._PARTITION_EOF
                    at_end.add(record.partition())
        return found
    finally:
        consumer.close()


async def accounted(pg: asyncpg.Connection, topic: str) -> tuple[list[Account], list[Account]]:
    """Return what stands in the ledger, and what is set aside; nothing left out, nothing merged."""
    entries = [tuple(row) for row in await pg.fetch(ENTRIES, topic)]
    return entries, [tuple(row) for row in await pg.fetch(ASIDE, topic)]


def settings(database: str, bootstrap_servers: str, topic: str, group: str) -> dict[str, str]:
    """Return the environment of a witness's process."""
    foreign = ("TEST_", "RELAY_", "OTEL_", "KAFKA_", "PG", "DATABASE_URL")
    kept = {name: one for name, one in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "DATABASE_URL": database,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "OTEL_TRACES_EXPORTER": "none",
        "RELAY_METRICS_ENABLED": "false",
        "RELAY_FLOW_EVENTS_TOPIC": topic,
        "RELAY_PUBLISHER_KIND": "external",
        "RELAY_PUBLISHER_WITNESS_GROUP": group,
    }
