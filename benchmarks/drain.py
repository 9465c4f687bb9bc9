"""A backlog: rows committed one by one while no relay ran, then the relay is started cold.

Rates are by the broker's append times, first to last. Beside it: the relay of the blog posts on the
same rows, and what PostgreSQL gives out and Kafka takes in by themselves.
"""

from __future__ import annotations

import time

from benchmarks import limits, orders
from benchmarks.collecting import collecting
from benchmarks.measure import Window
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import NAIVE, OURS, OURS_BYTES, TOPIC, System
from benchmarks.topic import Topic, verify

_WAIT_SECONDS = 300
_DATABASE = "bench_drain"


def run(servers: Servers, settings: Settings) -> None:
    """300,000 rows in 31 partitions: untraced, traced, of as many orders, and the peer."""
    report = Report("drain", f"{settings.rows:,} waiting rows, 31 partitions, relay started cold.")
    with collecting() as endpoint:
        for _ in range(settings.runs):
            drain(servers, report, OURS, settings.rows)
            drain(servers, report, OURS.traced(endpoint), settings.rows)
            drain(servers, report, NAIVE, settings.rows)
            drain(servers, report, OURS, settings.rows, keys=settings.rows, note="each order once")
            limits.measure(servers, report, settings.rows)
    report.show()


def run_bytes(servers: Servers, settings: Settings) -> None:
    """The same rows as JSON and as payload_bytes, in turn."""
    report = Report("drain-bytes", f"{settings.rows:,} waiting rows, relay started cold.")
    for _ in range(settings.runs):
        drain(servers, report, OURS, settings.rows)
        drain(servers, report, OURS_BYTES, settings.rows)
    report.show()


def run_behind(servers: Servers, settings: Settings) -> None:
    """The same behind ten million retained rows, with the same rows alone in the same run."""
    report = Report(
        "drain-behind", f"{settings.rows:,} rows behind {settings.retained:,} retained."
    )
    url = retained(servers, settings)
    for run_number in range(settings.runs):
        drain(servers, report, OURS, settings.rows, note="alone")
        start = (run_number + 1) * 10_000_000
        _drain(servers, report, OURS, url, settings.rows, start=start, note="behind retained rows")
    report.show()


def retained(servers: Servers, settings: Settings) -> str:
    """Return the database with the retained rows, made once a run of the benchmarks."""
    name = "bench_retained"
    if servers.has(name):
        return servers.url(name)
    url = servers.database(name)
    orders.retain(url, settings.retained)
    return url


def drain(
    servers: Servers,
    report: Report,
    system: System,
    rows: int,
    *,
    keys: int = orders.KEYS,
    note: str = "",
) -> None:
    """Drain a new database."""
    url = servers.database(_DATABASE)
    _drain(servers, report, system, url, rows, keys=keys, note=note)


def _drain(
    servers: Servers,
    report: Report,
    system: System,
    url: str,
    rows: int,
    *,
    start: int = 0,
    keys: int = orders.KEYS,
    note: str = "",
) -> None:
    orders.fill(url, system.insert, rows, start=start, keys=keys)
    topic = Topic(servers.bootstrap_servers, TOPIC)
    with system.start(servers, url) as program:
        window = Window(servers, [program])
        done = topic.wait_for(rows, _WAIT_SECONDS, [program])
        used = window.end()
        if not done:
            raise RuntimeError(f"{topic.count():,} of {rows:,} after {_WAIT_SECONDS} s")
        time.sleep(0.3)  # what comes beyond the expected would come now
    records = topic.read()
    topic.close()
    appended = [record.appended_ms for record in records]
    verified = verify(records, range(start, start + rows))
    report.add(
        f"{system.name}{note and f', {note}'}",
        rows_per_s=round(rows / ((max(appended) - min(appended)) / 1000)),
        start_to_first_s=round(min(appended) / 1000 - program.started_at, 2),
        start_to_last_s=round(max(appended) / 1000 - program.started_at, 2),
        peak_mb=round(program.peak_rss_bytes / 1e6, 1),
        **used,
        missing=verified.missing,
        duplicates=verified.duplicates,
        order_violations=verified.order_violations,
    )
