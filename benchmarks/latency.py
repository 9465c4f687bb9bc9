"""Steady load: from an order's commit to the broker's append.

`from INSERT` counts from the clock inside the statement to the broker's append time, as the peers'
harness does: it holds the commit's own fsync. `from commit` counts from when the writer was told
that its commit is done. The broker's time has a resolution of a millisecond.
"""

from __future__ import annotations

from benchmarks import orders
from benchmarks.measure import Window, percentiles
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import NAIVE, OURS, TOPIC, WARM, System
from benchmarks.topic import Topic, verify
from benchmarks.writer import Job, writing

RATES = (500, 2000)
_WARM_SECONDS = 5
_WAIT_SECONDS = 60


def run(servers: Servers, settings: Settings) -> None:
    """Commit to broker append at 500 and 2,000 orders a second, 31 partitions."""
    report = Report("latency", f"{settings.seconds} s at each rate, 16 connections, 31 partitions.")
    for _ in range(settings.runs):
        for rate in RATES:
            for system in (OURS, NAIVE):
                steady(servers, report, system, rate, settings.seconds)
    report.show()


def steady(servers: Servers, report: Report, system: System, rate: int, seconds: int) -> None:
    """Measure one system at one rate."""
    url = servers.database("bench_latency")
    statement = orders.PLACED + system.insert
    topic = Topic(servers.bootstrap_servers, TOPIC)
    with system.start(servers, url) as program:
        warm = system.warm_up(program, topic, url, _WARM_SECONDS)
        with writing(Job(url, statement, seconds, 0, rate=rate)) as writer:
            window = Window(servers, [program], [writer.pid])
            written = writer.join()
        used = window.end()
        topic.wait_for(warm + written.count, _WAIT_SECONDS, [program])
    records = [one for one in topic.read() if one.seq < WARM]
    topic.close()
    verified = verify(records, range(written.count))
    since_commit = percentiles(one.appended_ms - written.committed_ms[one.seq] for one in records)
    report.add(
        f"{system.name}, {rate:,}/s",
        orders_per_s=round(written.rate),
        **percentiles(one.appended_ms - one.at_ms for one in records),
        **{f"{name} from commit": value for name, value in since_commit.items()},
        **used,
        rss_mb=round(program.peak_rss_bytes / 1e6, 1),
        missing=verified.missing,
        duplicates=verified.duplicates,
        order_violations=verified.order_violations,
    )
