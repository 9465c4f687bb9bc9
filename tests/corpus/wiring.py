"""The whole loop with real processes of one test's own, and what faults do to it."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.session import session
from relay.outbox import Item, NewOrder, place_order
from relay.runtime.settings import load_settings
from tests.group_offsets import committed_offsets

DEADLINE_SECONDS = 2.0
HOME_MADE = Path(__file__).parents[1] / "home_made_relay.py"
_LEADER_SECONDS = 20.0
TEA = NewOrder("c-1", [Item("tea", 1, "9.95")], "EUR")


class HomeMade:
    """A shop's own relay and a witness, together where otherwise the relay is."""

    def __init__(self, wiring: "Wiring", env: dict[str, str]) -> None:
        # It is the shop's: settings of our relay's own are none of its business.
        self._both = (
            wiring.start_process(env=wiring.environment, program=(sys.executable, HOME_MADE)),
            wiring.start("witness", **env),
        )

    def terminate(self) -> int:
        return max(one.terminate() for one in self._both)

    def kill(self) -> None:
        for one in self._both:
            one.kill()

    def send_signal(self, number: signal.Signals) -> None:
        for one in self._both:
            one.send_signal(number)


@dataclass
class Wiring:
    """One test's own loop: database, topics, groups, and the processes that it starts."""

    database: str
    pg: asyncpg.Connection
    bootstrap: str
    topics: Any
    start_process: Callable[..., Any]
    run_command: Callable[..., Any]
    eventually: Callable[..., Awaitable[Any]]
    deadline_seconds: float = DEADLINE_SECONDS
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.events = self.topics.create("orders.events", 3)
        self.returns = self.topics.create("orders.returns", 3)
        self.group = f"order-processor-{self.topics.suffix}"
        self.confirm_group = f"order-confirmation-{self.topics.suffix}"
        due = {"order.placed": {"deadline_seconds": self.deadline_seconds}}
        self.environment |= {
            "RELAY_FLOW_EVENTS_TOPIC": self.events,
            "RELAY_FLOW_RETURNS_TOPIC": self.returns,
            "RELAY_FLOW_PROCESSOR_GROUPS": self.group,
            "RELAY_FLOW_CONFIRM_GROUP": self.confirm_group,
            "RELAY_FLOW_EVENTS": json.dumps(due),
            "RELAY_METRICS_ENABLED": "false",
        }

    def partition(self, events: int, returns: int) -> None:
        """Have topics of so many partitions instead."""
        for topic, count in ((self.events, events), (self.returns, returns)):
            if count != 3:
                self.topics.recreate(topic, count)

    @property
    def is_published_elsewhere(self) -> bool:
        """Whether a shop's own relay publishes."""
        return self.environment.get("RELAY_PUBLISHER_KIND") == "external"

    def published_elsewhere(self) -> None:
        """Have a shop's own relay publish, and a witness keep the ledger."""
        self.environment |= {
            "RELAY_PUBLISHER_KIND": "external",
            "RELAY_PUBLISHER_WITNESS_GROUP": f"relay-witness-{self.topics.suffix}",
        }

    # --- processes

    def start(self, *arguments: str, **env: str) -> Any:
        return self.start_process(*arguments, env=self.environment | env)

    def relay(self, **env: str) -> Any:
        if self.is_published_elsewhere:
            return HomeMade(self, env)
        return self.start("run", **env)

    def consumer(self, **env: str) -> Any:
        return self.start("confirm", **env)

    def processor(self, *arguments: str, **env: str) -> Any:
        return self.start("sample", "processor", *arguments, **env)

    def pause(self, process: Any) -> None:
        process.send_signal(signal.SIGSTOP)

    # --- orders

    async def place(self, count: int = 1) -> list[str]:
        placed = []
        for _ in range(count):
            async with self.pg.transaction():
                order = await place_order(self.pg, TEA)
            placed.append(str(order.order_id))
        return placed

    async def place_these(self, orders: Sequence[str], customer: str = "c-1") -> None:
        """Place orders of given ids, each in a transaction of its own."""
        for one in orders:
            order = NewOrder(customer, TEA.items, "EUR", order_id=UUID(one))
            async with self.pg.transaction():
                await place_order(self.pg, order)

    async def insert_these(self, orders: Sequence[str], customer: str = "c-2") -> None:
        """Insert orders as a writer does that knows of no outbox."""
        await self.pg.executemany(
            """INSERT INTO orders (order_id, customer_id, items, total, currency)
               VALUES ($1::text::uuid, $2,
                       '[{"sku": "tea", "quantity": 1, "price": "9.95"}]', 9.95, 'EUR')""",
            [(one, customer) for one in orders],
        )

    async def insert_event(self, aggregate_id: str, event_type: str, payload: str = "{}") -> None:
        """Write an outbox row as any language does: four columns."""
        await self.pg.execute(
            """INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
               VALUES ('order', $1, $2, $3::json)""",
            aggregate_id,
            event_type,
            payload,
        )

    async def place_everywhere(self) -> list[str]:
        """Place one order on each partition of the events topic."""
        left, placed = {0, 1, 2}, []
        while left:
            order_id = uuid4()
            partition = (murmur2(str(order_id).encode()) & 0x7FFFFFFF) % 3
            if partition in left:
                left.remove(partition)
                async with self.pg.transaction():
                    await place_order(self.pg, replace(TEA, order_id=order_id))
                placed.append(str(order_id))
        return placed

    async def statuses(self, orders: Sequence[str]) -> list[str]:
        rows = await self.pg.fetch(
            "SELECT order_id::text, status FROM orders WHERE order_id = ANY ($1::uuid[])", orders
        )
        found = dict(rows)
        return [found[one] for one in orders]

    async def login_as(self, role: str) -> str:
        """Make a login of a role; return the URL for it."""
        name = f"{role}_{self.topics.suffix}"
        await self.pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE {role}")
        parts = urlsplit(self.database)
        return urlunsplit(parts._replace(netloc=f"{name}:x@{parts.hostname}:{parts.port}"))

    async def until_silent(self, kinds: Sequence[str], seconds: float) -> None:
        """Wait until the last heartbeat of a kind of process is so old."""
        await self.eventually(
            lambda: self.pg.fetchval(
                """SELECT max(heartbeat_at) < clock_timestamp() - make_interval(secs => $2)
                     FROM relay.process_record WHERE kind = ANY ($1::text[])""",
                kinds,
                seconds,
            ),
            seconds + 20,
        )

    async def until_complaining(self, kind: str, word: str) -> None:
        """Wait until the last heartbeat of a kind of process says what it waits for.

        Where somebody else publishes, a witness says so in the relay's place.
        """
        if kind == "relay" and self.is_published_elsewhere:
            kind = "witness"
        await self.eventually(
            lambda: self.pg.fetchval(
                """SELECT coalesce(detail ->> 'waiting_for' ILIKE '%' || $2 || '%', false)
                     FROM relay.process_record WHERE kind = $1 ORDER BY heartbeat_at DESC LIMIT 1
                """,
                kind,
                word,
            ),
            40,
        )

    async def until_returned(self, orders: Sequence[str], within_seconds: float = 40) -> None:
        async def returned() -> bool:
            return set(await self.statuses(orders)) <= {"confirmed", "rejected"}

        await self.eventually(returned, within_seconds)

    async def until_published(self, orders: Sequence[str], within_seconds: float = 40) -> None:
        async def published() -> bool:
            count = await self.pg.fetchval(
                """SELECT count(*) FROM relay.outbox o JOIN relay.delivery_ledger l
                     ON l.id_range @> o.id AND o.id = ANY (l.outbox_ids)
                    WHERE o.aggregate_id = ANY ($1::text[])""",
                orders,
            )
            return bool(count >= len(orders))

        await self.eventually(published, within_seconds)

    async def until_up(self, within_seconds: float = 60) -> None:
        """Wait until relay, processor and consumer are all at work."""

        async def at_work() -> bool:
            active = await self.pg.fetchval("SELECT epoch > 0 FROM relay.checkpoint")
            joined = await self.pg.fetchval(
                "SELECT count(*) = 3 FROM relay.consumer_offset WHERE consumer_group = $1",
                self.confirm_group,
            )
            return bool(active and joined) and await asyncio.to_thread(self._has_members)

        await self.eventually(at_work, within_seconds)

    def _has_members(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        described = admin.describe_consumer_groups([self.group])[self.group].result(10)
        return any(one.assignment.topic_partitions for one in described.members)

    async def until_overdue(self, orders: Sequence[str]) -> None:
        async def overdue() -> bool:
            return bool(
                await self.pg.fetchval(
                    """SELECT coalesce(bool_and(submitted_at <
                                     clock_timestamp() - make_interval(secs => $2)), true)
                         FROM orders WHERE order_id = ANY ($1::uuid[])""",
                    orders,
                    self.deadline_seconds + 0.2,
                )
            )

        await self.eventually(overdue, self.deadline_seconds + 15)

    async def until_passed(self, group: str, topic: str, within_seconds: float = 40) -> None:
        """Wait until a group has committed up to the end of every partition that has records."""

        def passed() -> bool:
            committed = self.committed(group, topic)
            return all(
                committed.get(number, 0) >= end for number, end in self.ends(topic).items() if end
            )

        await self.eventually(lambda: asyncio.to_thread(passed), within_seconds)

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return where each partition's log begins and ends."""
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "look", "log_level": 0}
        )
        try:
            numbers = consumer.list_topics(topic, 10).topics[topic].partitions
            return {number: self._bounds(consumer, topic, number) for number in numbers}
        finally:
            consumer.close()

    @staticmethod
    def _bounds(consumer: Consumer, topic: str, number: int) -> tuple[int, int]:
        deadline = time.monotonic() + _LEADER_SECONDS
        while True:
            try:
                return consumer.get_watermark_offsets(TopicPartition(topic, number), 10)
            except KafkaException as error:
                # A topic that was just made has no leader yet, one made again another than before.
                moved = error.args[0].code() == KafkaError.NOT_LEADER_FOR_PARTITION
                if time.monotonic() > deadline or not (moved or error.args[0].retriable()):
                    raise
                consumer.list_topics(topic, 10)

    def ends(self, topic: str) -> dict[int, int]:
        """Return where each partition's log ends."""
        return {number: high for number, (_low, high) in self.bounds(topic).items()}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0}
        )
        try:
            numbers = consumer.list_topics(topic, 10).topics[topic].partitions
            asked = [TopicPartition(topic, number) for number in numbers]
            return committed_offsets(consumer, asked)
        finally:
            consumer.close()

    async def until_group_is_empty(self, group: str, within_seconds: float = 40) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

        def empty() -> bool:
            described = admin.describe_consumer_groups([group])[group].result(10)
            return not described.members

        await self.eventually(lambda: asyncio.to_thread(empty), within_seconds)

    def skip_to_end(self, group: str, topic: str) -> None:
        """What `kafka-consumer-groups --reset-offsets --to-latest` does."""
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0}
        )
        try:
            wanted = [
                TopicPartition(topic, number, end) for number, end in self.ends(topic).items()
            ]
            consumer.commit(offsets=wanted, asynchronous=False)
        finally:
            consumer.close()

    def delete_records(self, topic: str) -> None:
        """What `kafka-delete-records` does: everything up to the end."""
        ends = [TopicPartition(topic, number, end) for number, end in self.ends(topic).items()]
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for done in admin.delete_records(ends).values():
            done.result(15)

    async def until_position(self, group: str, members: int) -> None:
        """Wait until the watchdog has recorded a group with so many members, up to date."""

        async def recorded() -> bool:
            rows = await self.pg.fetch(
                """SELECT DISTINCT ON (partition) members, committed_offset, log_end
                     FROM relay.position WHERE consumer_group = $1 AND topic = $2
                    ORDER BY partition, taken_at DESC, position_id DESC""",
                group,
                self.events,
            )
            committed = await asyncio.to_thread(self.committed, group, self.events)
            ends = sorted(committed.values())
            return bool(rows) and (
                {row["members"] for row in rows} == {members}
                and sorted(row["committed_offset"] or 0 for row in rows) == ends
            )

        await self.eventually(recorded, 40)

    async def until_log_position(self, topic: str) -> None:
        """Wait until the watchdog has recorded where the topic's logs end now."""

        async def recorded() -> bool:
            rows = await self.pg.fetch(
                """SELECT DISTINCT ON (partition) partition, log_end FROM relay.position
                    WHERE consumer_group = '' AND topic = $1
                    ORDER BY partition, taken_at DESC, position_id DESC""",
                topic,
            )
            return dict(rows) == await asyncio.to_thread(self.ends, topic)

        await self.eventually(recorded, 40)

    def send(self, topic: str, key: str | None, value: bytes, **headers: str) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        producer.produce(
            topic,
            key=key,
            value=value,
            headers=[(name, text.encode()) for name, text in headers.items()],
        )
        assert producer.flush(15) == 0

    # --- diagnosis

    def command(self, *arguments: str, **env: str) -> Any:
        return self.run_command(*arguments, env=self.environment | env)

    def diagnose(self, orders: Sequence[str], *arguments: str, **env: str) -> list[dict[str, Any]]:
        done = self.command("diagnose", "--json", *arguments, *orders, **env)
        assert done.returncode in (0, 3), done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["orders"]
        return found

    async def told(self, orders: Sequence[str], **env: str) -> list[Diagnosis]:
        """Diagnose as the command line does, without the time it takes to start."""
        given = {"DATABASE_URL": self.database, "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap}
        settings = load_settings(None, given | self.environment | env)
        async with session(settings.database.dsn, settings.kafka, settings.flow) as opened:
            return await opened.diagnose(orders)

    def named(self, orders: Sequence[str], **env: str) -> list[tuple[str | None, str, str]]:
        found = self.diagnose(orders, **env)
        assert [one["order_id"] for one in found] == list(orders)
        return [(one["hop"], one["verdict"], one["cause"]) for one in found]
