"""What witnessing costs, beside publishing the same rows: by our relay, and by Debezium Server.

Rows of one outbox each: `relay run` and Debezium Server publish them; then a foreign producer
(librdkafka) has sent them all, and one or two `relay witness` as users run it, with its leader,
write the ledger. At last 500 orders a second. Each run checks that each row is there exactly once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.measure import cpu_seconds
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from tests.connect_worker import documented_connector
from tests.debezium_server import DebeziumServer, server_folder

_RECORDS = 300_000
_PARTITIONS = 6
_STEADY_RATE = 500
_RELAY = Path(sys.executable).with_name("relay")
_ROWS = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', 'order-' || n %% 50000, 'order.placed',
       json_build_object('note', repeat('x', 300)) FROM generate_series(1, %s) AS n
RETURNING event_id::text, aggregate_id
"""
_WITNESSED = "SELECT coalesce(sum(record_count), 0)::bigint FROM relay.delivery_ledger"
_DISTINCT = """
SELECT count(DISTINCT u.id) FROM relay.delivery_ledger AS l, unnest(l.outbox_ids) AS u (id)
"""
_SLOT = (
    """CREATE PUBLICATION relay_outbox FOR TABLE relay.outbox
         WITH (publish = 'insert', publish_via_partition_root = true)""",
    "SELECT pg_create_logical_replication_slot('relay_outbox', 'pgoutput')",
)
_FREE = """
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active;
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active
"""


def run(servers: Servers, settings: Settings) -> None:
    """Records published and witnessed a second, and what that costs."""
    report = Report(
        "witness",
        f"{_RECORDS:,} rows of 300 bytes, {_PARTITIONS} partitions: from the start until the ledger"
        f" (Debezium: the topic) has all; then {_STEADY_RATE}/s.",
    )
    for _ in range(settings.runs):
        _published(servers, report)
        _by_debezium(servers, report)
        for witnesses in (1, 2):
            _witnessed(servers, report, witnesses)
        _steady(servers, report, settings.seconds)
    report.show()


class _Place:
    """A database with a topic of its own."""

    def __init__(self, servers: Servers) -> None:
        self.servers, self.name = servers, uuid4().hex[:8]
        self.url = servers.database(f"bench_witness_{self.name}")
        self.topic = f"orders.events.{self.name}"
        self.make(self.topic, _PARTITIONS)
        self.connection = psycopg.connect(self.url, autocommit=True)

    def make(self, topic: str, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers.bootstrap_servers})
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)

    def fill(self) -> Sequence[tuple[str, str]]:
        rows = self.connection.execute(_ROWS, (_RECORDS,)).fetchall()
        self.connection.execute("ANALYZE relay.outbox")
        return rows

    def environment(self, **more: str) -> Mapping[str, str]:
        return (
            os.environ
            | {
                "DATABASE_URL": self.url,
                "KAFKA_BOOTSTRAP_SERVERS": self.servers.bootstrap_servers,
                "RELAY_FLOW_EVENTS_TOPIC": self.topic,
                "RELAY_LOG_LEVEL": "error",
                "RELAY_WATCH_INSIDE": "false",
                "RELAY_METRICS_ENABLED": "false",
                "OTEL_TRACES_EXPORTER": "none",
            }
            | more
        )

    def witnesses(self, count: int) -> list[subprocess.Popen[bytes]]:
        environment = self.environment(
            RELAY_PUBLISHER_KIND="external", RELAY_PUBLISHER_WITNESS_GROUP=f"witness-{self.name}"
        )
        return [subprocess.Popen([_RELAY, "witness"], env=environment) for _ in range(count)]

    def in_ledger(self) -> int:
        row = self.connection.execute(_WITNESSED).fetchone()
        return 0 if row is None else int(row[0])

    def in_topic(self) -> int:
        consumer = Consumer(
            {"bootstrap.servers": self.servers.bootstrap_servers, "group.id": "bench-look"}
        )
        places = [TopicPartition(self.topic, number) for number in range(_PARTITIONS)]
        found = sum(consumer.get_watermark_offsets(one)[1] for one in places)
        consumer.close()
        return found

    def see_that_each_is_there_once(self) -> None:
        distinct = self.connection.execute(_DISTINCT).fetchone()
        if distinct != (_RECORDS,):
            raise RuntimeError(f"the ledger has {distinct} of {_RECORDS} rows")


@contextmanager
def _place(servers: Servers) -> Iterator[_Place]:
    place = _Place(servers)
    try:
        yield place
    finally:
        place.connection.close()
        servers.drop(f"bench_witness_{place.name}")


def _published(servers: Servers, report: Report) -> None:
    with _place(servers) as place:
        place.fill()
        relay = [subprocess.Popen([_RELAY, "run"], env=place.environment())]
        _measure(report, "relay run", relay, place, place.in_ledger)
        place.see_that_each_is_there_once()


def _by_debezium(servers: Servers, report: Report) -> None:
    server_folder()
    with _place(servers) as place, TemporaryDirectory() as folder:
        for statement in _SLOT:
            place.connection.execute(statement)
        place.fill()
        place.make(f"__debezium-heartbeat.{place.name}", 1)
        server = DebeziumServer(Path(folder), servers.bootstrap_servers, _connector(place))
        try:
            _measure(report, "Debezium Server", [server.process], place, place.in_topic)
        finally:
            server.kill()
            for statement in _FREE.split(";"):
                place.connection.execute(statement)


def _connector(place: _Place) -> dict[str, str]:
    url = urlsplit(place.url)
    return documented_connector() | {
        "database.hostname": str(url.hostname), "database.port": str(url.port),
        "database.user": str(url.username), "database.password": str(url.password),
        "database.dbname": url.path.removeprefix("/"), "topic.prefix": place.name,
        "transforms.outbox.route.topic.replacement": place.topic,
        "predicates.isOutbox.pattern": f"{place.name}\\.relay\\.outbox",
        "predicates.isEvent.pattern": place.topic.replace(".", "\\."),
    }  # fmt: skip


def _witnessed(servers: Servers, report: Report, witnesses: int) -> None:
    with _place(servers) as place:
        _send(servers, place.topic, place.fill())
        running = place.witnesses(witnesses)
        what = f"{witnesses} witness{'es' * (witnesses > 1)}"
        _measure(report, what, running, place, place.in_ledger)
        place.see_that_each_is_there_once()


def _measure(
    report: Report, what: str, running: Sequence[subprocess.Popen[bytes]], place: _Place,
    count: Callable[[], int],
) -> None:  # fmt: skip
    started, before = time.monotonic(), cpu_seconds(place.servers.postgres_pid)
    try:
        first = _until(count, 1, running)
        _until(count, _RECORDS, running)
        ended = time.monotonic()
        cost = sum(cpu_seconds(one.pid) for one in running)
        memory = max(_peak_mb(one.pid) for one in running)
        postgres = cpu_seconds(place.servers.postgres_pid) - before
    finally:
        _end(running)
    report.add(
        what,
        records_per_s=round(_RECORDS / max(ended - first, 0.001)),
        start_s=round(first - started, 2),
        cpu_s=round(cost, 2),
        pg_cpu_s=round(postgres, 2),
        peak_mb=round(memory),
    )


def _steady(servers: Servers, report: Report, seconds: int) -> None:
    """So many orders a second, sent by somebody else as they are placed."""
    with _place(servers) as place:
        running = place.witnesses(1)
        try:
            producer = _producer(servers)
            _second(place, producer)
            _until(place.in_ledger, _STEADY_RATE, running)
            before, postgres = cpu_seconds(running[0].pid), cpu_seconds(servers.postgres_pid)
            started = time.monotonic()
            for number in range(seconds):
                time.sleep(max(0.0, started + number - time.monotonic()))
                _second(place, producer)
            _until(place.in_ledger, (seconds + 1) * _STEADY_RATE, running)
            took = time.monotonic() - started
            report.add(
                f"1 witness at {_STEADY_RATE}/s",
                percent_of_a_core=round(100 * (cpu_seconds(running[0].pid) - before) / took, 1),
                peak_mb=round(_peak_mb(running[0].pid)),
                pg_percent_with_inserts=round(
                    100 * (cpu_seconds(servers.postgres_pid) - postgres) / took, 1
                ),
            )
        finally:
            _end(running)


def _second(place: _Place, producer: Producer) -> None:
    """Place a second's orders, spread over it, and send them."""
    began = time.monotonic()
    for number in range(10):
        rows = place.connection.execute(_ROWS, (_STEADY_RATE // 10,)).fetchall()
        _produce(producer, place.topic, rows)
        producer.flush(10)
        time.sleep(max(0.0, began + (number + 1) / 10 - time.monotonic()))


def _until(
    count: Callable[[], int], wanted: int, running: Sequence[subprocess.Popen[bytes]]
) -> float:
    """Wait until there are so many; return when there were."""
    while count() < wanted:
        if any(one.poll() is not None for one in running):
            raise RuntimeError("it ended by itself")
        time.sleep(0.05)
    return time.monotonic()


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return psutil.Process(pid).memory_info().rss / 1_048_576


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for one in running:
        one.terminate()
    for one in running:
        one.wait(60)


def _producer(servers: Servers) -> Producer:
    return Producer(
        {
            "bootstrap.servers": servers.bootstrap_servers,
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
        }
    )


def _send(servers: Servers, topic: str, rows: Sequence[tuple[str, str]]) -> None:
    producer = _producer(servers)
    _produce(producer, topic, rows)
    producer.flush(60)


def _produce(producer: Producer, topic: str, rows: Sequence[tuple[str, str]]) -> None:
    for event_id, key in rows:
        headers = [("id", event_id.encode()), ("ce_type", b"order.placed")]
        producer.produce(topic, key=key, value=b"x" * 300, headers=headers)
        producer.poll(0)
