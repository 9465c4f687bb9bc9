"""What witnessing costs: a backlog of somebody else's records, by one witness and by two.

A row for each record stands in the outbox; a foreign producer (librdkafka) has sent them all before
the witnesses start. They are `relay witness` as users run it, with its leader. Each run checks that
the ledger has each row exactly once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.measure import cpu_seconds
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings

_RECORDS = 300_000
_PARTITIONS = 6
_RELAY = Path(sys.executable).with_name("relay")
_ROWS = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'order', 'order-' || n %% 50000, 'order.placed', '{}' FROM generate_series(1, %s) AS n
"""
_SENT = "SELECT event_id::text, aggregate_id FROM relay.outbox ORDER BY id"
_WITNESSED = "SELECT coalesce(sum(record_count), 0)::bigint FROM relay.delivery_ledger"
_DISTINCT = """
SELECT count(DISTINCT u.id) FROM relay.delivery_ledger AS l, unnest(l.outbox_ids) AS u (id)
"""


def run(servers: Servers, settings: Settings) -> None:
    """Records witnessed a second, and what they cost, with one witness and with two."""
    report = Report(
        "witness",
        f"{_RECORDS:,} records of a foreign producer, {_PARTITIONS} partitions, two headers each:"
        " from the start of `relay witness` until the ledger has all.",
    )
    for _ in range(settings.runs):
        for witnesses in (1, 2):
            _measure(servers, report, witnesses)
    report.show()


def _measure(servers: Servers, report: Report, witnesses: int) -> None:
    name = uuid4().hex[:8]
    url, topic = servers.database(f"bench_witness_{name}"), f"orders.events.{name}"
    made = AdminClient({"bootstrap.servers": servers.bootstrap_servers})
    made.create_topics([NewTopic(topic, _PARTITIONS, 1)])[topic].result(30)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_ROWS, (_RECORDS,))
        connection.execute("ANALYZE relay.outbox")
        _send(servers, topic, connection.execute(_SENT).fetchall())
        environment = os.environ | {
            "DATABASE_URL": url,
            "KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
            "RELAY_FLOW_EVENTS_TOPIC": topic,
            "RELAY_PUBLISHER_KIND": "external",
            "RELAY_PUBLISHER_WITNESS_GROUP": f"witness-{name}",
            "RELAY_LOG_LEVEL": "error",
            "RELAY_WATCH_INSIDE": "false",
            "OTEL_TRACES_EXPORTER": "none",
        }
        before = cpu_seconds(servers.postgres_pid)
        started = time.monotonic()
        running = [subprocess.Popen([_RELAY, "witness"], env=environment) for _ in range(witnesses)]
        try:
            first = _until(connection, 1)
            _until(connection, _RECORDS)
            ended = time.monotonic()
            cost = sum(cpu_seconds(one.pid) for one in running)
            postgres = cpu_seconds(servers.postgres_pid) - before
        finally:
            for one in running:
                one.terminate()
            for one in running:
                one.wait(30)
        distinct = connection.execute(_DISTINCT).fetchone()
        if distinct != (_RECORDS,):
            raise RuntimeError(f"the ledger has {distinct} of {_RECORDS} rows")
    report.add(
        f"{witnesses} witness{'es' * (witnesses > 1)}",
        records_per_s=round(_RECORDS / (ended - first)),
        start_s=round(first - started, 2),
        witness_cpu_s=round(cost, 2),
        pg_cpu_s=round(postgres, 2),
    )


def _until(connection: psycopg.Connection, count: int) -> float:
    """Wait until the ledger has so many; return when it had."""
    while True:
        row = connection.execute(_WITNESSED).fetchone()
        if row is not None and row[0] >= count:
            return time.monotonic()
        time.sleep(0.05)


def _send(servers: Servers, topic: str, rows: Sequence[tuple[str, str]]) -> None:
    producer = Producer(
        {
            "bootstrap.servers": servers.bootstrap_servers,
            "linger.ms": 50,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    for event_id, key in rows:
        headers = [("id", event_id.encode()), ("ce_type", b"order.placed")]
        producer.produce(topic, key=key, value=b"x" * 300, headers=headers)
        producer.poll(0)
    producer.flush(60)
