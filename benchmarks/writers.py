"""What the outbox costs the order service: its transaction with and without, and with NOTIFY.

The ordinary table has the outbox's columns, defaults and indexes and no partitions: the difference
is the relay's. Slices are short and take turns, since writers share the machine with everybody.
"""

from __future__ import annotations

import psycopg

from benchmarks import orders
from benchmarks.measure import Window, percentiles
from benchmarks.program import Program
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import OURS, TOPIC
from benchmarks.topic import Topic
from benchmarks.writer import Job, writing

_SLICE_SECONDS = 5
_PACED = 2000
_WARM = 5_000_000

_TABLES = """
CREATE TABLE public.ordinary (LIKE relay.outbox INCLUDING ALL);
CREATE TABLE public.notifying (LIKE relay.outbox INCLUDING ALL);
CREATE FUNCTION public.notify_relay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('relay', ''); RETURN NULL; END $$;
CREATE TRIGGER wake AFTER INSERT ON public.notifying
    FOR EACH STATEMENT EXECUTE FUNCTION public.notify_relay();
"""

_VARIANTS = {
    "order and a row in an ordinary table": orders.OUTBOX.replace("relay.outbox", "ordinary"),
    "order and its outbox row, no relay": orders.OUTBOX,
    "order and its outbox row, relay running": orders.OUTBOX,
    "order and its outbox row of bytes, no relay": orders.OUTBOX_BYTES,
    "order and a row, NOTIFY by a trigger": orders.OUTBOX.replace("relay.outbox", "notifying"),
}


def run(servers: Servers, settings: Settings) -> None:
    """An order's transaction: with the outbox, an ordinary table in its place, with NOTIFY."""
    about = f"16 connections, slices of {_SLICE_SECONDS} s; as fast as they commit, and {_PACED}/s."
    report = Report("writers", about)
    url = servers.database("bench_writers")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLES)
    start = 0
    for _ in range(settings.runs):
        for rate in (None, _PACED):
            for variant, insert in _VARIANTS.items():
                job = Job(url, orders.PLACED + insert, _SLICE_SECONDS, start, rate=rate)
                start += 10_000_000
                pace = "unpaced" if rate is None else f"{rate:,}/s"
                _write(servers, report, f"{variant}, {pace}", job)
    report.show()


def _write(servers: Servers, report: Report, what: str, job: Job) -> None:
    if "relay running" not in what:
        _measure(servers, report, what, job, [])
        return
    topic = Topic(servers.bootstrap_servers, TOPIC)
    with psycopg.connect(job.url, autocommit=True) as connection:
        orders.hand_over(connection)
    with OURS.start(servers, job.url) as program:
        OURS.warm_up(program, topic, job.url, start=job.start + _WARM)
        _measure(servers, report, what, job, [program])
    topic.close()


def _measure(
    servers: Servers, report: Report, what: str, job: Job, programs: list[Program]
) -> None:
    with writing(job) as writer:
        window = Window(servers, programs, [writer.pid])
        written = writer.join()
        used = window.end()
    report.add(what, orders_per_s=round(written.rate), **percentiles(written.took_ms), **used)
