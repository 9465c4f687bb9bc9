"""Hop 5: returns that wait on Kafka are applied: status, history, inbox and offset.

Rates are by the inbox's clock, first to last. Beside it a consumer as one would write it first: one
transaction a return, with the same four effects. The sample's orders have a partial index on their
status, for `relay unreturned`: each update then writes into every index of the table. Without it,
and with room on the pages, PostgreSQL updates in place (HOT).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import psycopg
from confluent_kafka import Producer

from benchmarks.measure import Window
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import RELAY, System
from benchmarks.topic import Topic

_TOPIC = "orders.returns"
_NAIVE_ROWS = 20_000
_WAIT_SECONDS = 300

_VALUE = b'{"order_id": "ORDER", "status": "confirmed", "returned_at": "2026-11-22T00:00:00Z"}'

_ORDERS = """
INSERT INTO public.orders (order_id, customer_id, items, total, currency)
SELECT md5('order' || i)::uuid, 'customer-' || mod(i, 9973), '[]', 89.48, 'EUR'
  FROM generate_series(1, %s) AS i
"""
# Room for a second version of each row; the benchmark's rows are updated once, all of them.
_NO_STATUS_INDEX = """
DROP INDEX public.orders_unreturned;
ALTER TABLE public.orders SET (fillfactor = 50);
"""
_NAMES = "SELECT order_id FROM public.orders ORDER BY customer_id"
_DONE = """
SELECT (SELECT count(*) FROM public.orders WHERE status = 'confirmed'),
       (SELECT count(*) FROM public.order_status_history),
       (SELECT count(*) FROM relay.inbox),
       (SELECT extract(epoch FROM max(received_at) - min(received_at)) FROM relay.inbox)
"""
_APPLIED = "SELECT coalesce(sum(next_offset), 0) FROM relay.consumer_offset"


def run(servers: Servers, settings: Settings) -> None:
    """Returns applied a second, one return an order, and a transaction for each beside it."""
    report = Report("returns", "Returns waiting in 6 partitions, consumer started cold.")
    for _ in range(settings.runs):
        _apply(servers, report, OURS, settings.rows)
        _apply(servers, report, IN_PLACE, settings.rows, _NO_STATUS_INDEX)
        _apply(servers, report, NAIVE, min(_NAIVE_ROWS, settings.rows))
    report.show()


OURS = System("relay confirm", "", [RELAY, "confirm"])
IN_PLACE = replace(OURS, name="relay confirm, orders without an index on status")
NAIVE = System(
    "one transaction a return",
    "",
    [sys.executable, str(Path(__file__).parent / "peers/naive_confirm.py")],
)


@dataclass(frozen=True, slots=True)
class _Outcome:
    confirmed: int
    history: int
    inbox: int
    seconds: float


def _apply(servers: Servers, report: Report, system: System, rows: int, prepare: str = "") -> None:
    url = servers.database("bench_returns")
    with psycopg.connect(url, autocommit=True) as connection:
        if prepare:
            connection.execute(prepare)
        connection.execute(_ORDERS, (rows,))
        connection.execute("VACUUM ANALYZE public.orders")
        names = [name for (name,) in connection.execute(_NAMES)]
    topic = Topic(servers.bootstrap_servers, _TOPIC)
    _send(servers.bootstrap_servers, names)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        with system.start(servers, url) as program:
            window = Window(servers, [program])
            deadline = time.monotonic() + _WAIT_SECONDS
            while connection.execute(_APPLIED).fetchall() != [(rows,)]:
                if not program.alive or time.monotonic() > deadline:
                    raise RuntimeError(f"{system.name} did not apply everything: {program.log}")
                time.sleep(0.05)
            used = window.end()
        [row] = connection.execute(_DONE).fetchall()
    outcome = _Outcome(*row)
    assert outcome.confirmed == outcome.history == outcome.inbox == rows, outcome
    topic.close()
    report.add(
        system.name,
        returns_per_s=round(rows / float(outcome.seconds)),
        returns=rows,
        peak_mb=round(program.peak_rss_bytes / 1e6, 1),
        **used,
    )


def _send(bootstrap_servers: str, names: list[UUID]) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "enable.idempotence": True,
            "queue.buffering.max.messages": 2_000_000,
        }
    )
    for number, name in enumerate(names):
        key = str(name)
        producer.produce(
            _TOPIC,
            key=key.encode(),
            value=_VALUE.replace(b"ORDER", key.encode()),
            headers=[
                ("ce_id", f"return-{number}".encode()),
                ("ce_source", b"/processor"),
                ("ce_type", b"order.returned"),
                ("traceparent", b"00-" + name.hex.encode() + b"-00000000000000a1-01"),
            ],
        )
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("not all returns were sent")
