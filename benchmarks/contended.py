"""Sixteen writers fight for 100 orders: do each order's events arrive as they were committed?"""

from __future__ import annotations

from benchmarks import orders
from benchmarks.measure import Window
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import NAIVE, OURS, TOPIC, WARM, System
from benchmarks.topic import Topic, verify
from benchmarks.writer import Job, writing

_AGGREGATES = 100


def run(servers: Servers, settings: Settings) -> None:
    """Order violations with 100 contended orders, as fast as they commit."""
    report = Report("contended", f"16 connections, {_AGGREGATES} orders, {settings.seconds} s.")
    for _ in range(settings.runs):
        for system in (OURS, NAIVE):
            _contend(servers, report, system, settings.seconds)
    report.show()


def _contend(servers: Servers, report: Report, system: System, seconds: int) -> None:
    url = servers.database("bench_contended")
    topic = Topic(servers.bootstrap_servers, TOPIC)
    job = Job(url, orders.CONTENDED + system.insert, seconds, 0, contended=_AGGREGATES)
    with system.start(servers, url) as program:
        warm = system.warm_up(program, topic, url)
        with writing(job) as writer:
            window = Window(servers, [program], [writer.pid])
            written = writer.join()
            used = window.end()
        behind = warm + written.count - topic.count()
        topic.wait_for(warm + written.count, 120, [program])
    verified = verify((one for one in topic.read() if one.seq < WARM), range(written.count))
    topic.close()
    report.add(
        system.name,
        orders_per_s=round(written.rate),
        behind_at_end=behind,
        **used,
        missing=verified.missing,
        duplicates=verified.duplicates,
        order_violations=verified.order_violations,
    )
