"""A relay without work, and its memory with little and with a lot of it."""

from __future__ import annotations

import time

import psycopg

from benchmarks import orders
from benchmarks.drain import retained
from benchmarks.measure import Window
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import NAIVE, OURS, TOPIC, System
from benchmarks.topic import Topic
from benchmarks.writer import Job, write

_SETTLE_SECONDS = 5
_HUGE_SECONDS = 20
_LITTLE = 1000

# Everything retained becomes a backlog.
_FROM_THE_START = """
UPDATE relay.checkpoint SET prev = '3:3:', cur = NULL, last_id = NULL, high_id = -1
"""


def run(servers: Servers, settings: Settings) -> None:
    """CPU of an idle relay, in percent of a core."""
    report = Report("idle", f"{settings.seconds} s without rows, after a few orders.")
    for _ in range(settings.runs):
        for system in (OURS, NAIVE):
            _idle(servers, report, system, settings.seconds)
    report.show()


def _idle(servers: Servers, report: Report, system: System, seconds: int) -> None:
    url = servers.database("bench_idle")
    topic = Topic(servers.bootstrap_servers, TOPIC)
    with system.start(servers, url) as program:
        written = write(Job(url, orders.PLACED + system.insert, 1, 0, rate=10, connections=1))
        topic.wait_for(written.count, 60, [program])
        time.sleep(_SETTLE_SECONDS)
        window = Window(servers, [program])
        time.sleep(seconds)
        used = window.end()
        report.add(system.name, **used, rss_mb=round(program.rss_bytes / 1e6, 1))
    topic.close()


def run_memory(servers: Servers, settings: Settings) -> None:
    """Memory with a backlog of a thousand rows and of all the retained ones."""
    report = Report("memory", f"Peak memory; the huge backlog for {_HUGE_SECONDS} s of its drain.")
    for _ in range(settings.runs):
        url = servers.database("bench_memory")
        orders.fill(url, orders.OUTBOX, _LITTLE)
        _memory(servers, report, url, f"{_LITTLE:,} rows", _LITTLE)
        url = retained(servers, settings)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_FROM_THE_START)
        _memory(servers, report, url, f"{settings.retained:,} rows", settings.retained)
        with psycopg.connect(url, autocommit=True) as connection:
            orders.hand_over(connection)
    report.show()


def _memory(servers: Servers, report: Report, url: str, what: str, rows: int) -> None:
    topic = Topic(servers.bootstrap_servers, TOPIC)
    with OURS.start(servers, url) as program:
        topic.wait_for(1, 60, [program])
        started = time.perf_counter()
        topic.wait_for(rows, _HUGE_SECONDS, [program])
        seconds = time.perf_counter() - started
        sent = topic.count()
        report.add(
            f"backlog of {what}",
            peak_mb=round(program.peak_rss_bytes / 1e6, 1),
            sent=sent,
            rows_per_s=round(sent / seconds),
        )
    topic.close()
